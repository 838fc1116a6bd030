//! What would break the bound, and that it does not happen here: the checklist of spec/privacy.md, section 4, one test an
//! item and in its order. Most items are also tested where they are built; here they are met from outside, on scans on
//! disk, plans and ledgers.
//!
//! P6, that no message has a field for anything private, is tested beside the messages (`shared/src/message.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use semisam_shared::{
    accounting::{Adjacency, Rho},
    chain::{Head, file},
    fold::{Folded, fold, no_momentum},
    ids::{Digest, RoundNumber, SiteId, UnixMillis},
    ledger::{LedgerEvent, LedgerViolation, MECHANISM, Query},
    plan::{Method, Plan, ReleaseSpace, SignedPlan, Unit},
    release_space::Projection,
    signing::{Domain, SigningKey},
    weights::{Tensor, Weights},
};
use serde_json::Value;
use tempfile::TempDir;

use super::contribution::{
    ContributionError, Contributor,
    tests::{Site, asking, checkpoint, embeddings},
};
use crate::{
    data::synth::{Style, SynthSpec, write_cohort},
    privacy::{
        Book,
        release::{Release, ReleaseError, payload_path, release, resume},
        tests::{number, plan, policy, signed},
    },
};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// Each patient's contribution, bit by bit.
type Contributions = BTreeMap<String, Vec<u64>>;

fn by_patient(site: &Site, contributor: &Contributor, round: u32) -> Contributions {
    let ids: BTreeSet<String> = rows(site).into_iter().map(|(_, patient)| patient).collect();
    let contributions = site.round(contributor, round).expect("sound");
    assert_eq!(contributions.len(), ids.len(), "one contribution for each patient, however many scans");
    ids.into_iter().zip(contributions).collect()
}

fn fresh(site: &Site) -> Contributor {
    let contributor = site.contributor(false, 1 << 30);
    fs::create_dir_all(site.path("generalists")).expect("a folder");
    fs::copy(checkpoint(), site.path("generalists/tiny.pth")).expect("copied");
    contributor.with_generalists(site.path("generalists"), embeddings(site))
}

fn rows(site: &Site) -> Vec<(String, String)> {
    let table = fs::read_to_string(site.path("scans/patients.csv")).expect("a table");
    let row = |line: &str| line.split_once(',').map(|(name, patient)| (name.to_owned(), patient.to_owned()));
    table.lines().skip(1).filter_map(row).collect()
}

fn write_rows(site: &Site, rows: &[(String, String)]) {
    let lines: String = rows.iter().map(|(name, patient)| format!("{name},{patient}\n")).collect();
    fs::write(site.path("scans/patients.csv"), format!("name,patient\n{lines}")).expect("written");
}

/// Takes a patient out of the folder.
fn discharge(site: &Site, patient: &str) {
    let (gone, stay): (Vec<_>, Vec<_>) = rows(site).into_iter().partition(|(_, of)| of == patient);
    for (name, _) in gone {
        fs::remove_file(site.path(&format!("scans/images/{name}.nii.gz"))).expect("removed");
        let _ = fs::remove_file(site.path(&format!("scans/labels/{name}.nii.gz")));
    }
    write_rows(site, &stay);
}

/// The scans of strangers, in a folder of their own.
fn strangers(shape: [usize; 3]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (style, spacing_mm) = (Style::from_seed(77), [2.0; 3]);
    let spec = SynthSpec { style, shape, spacing_mm, patients: 2, labelled_patients: 1, seed: 99 };
    write_cohort(&spec, folder.path()).expect("written");
    folder
}

/// Brings two strangers in, before and behind everybody in the order of names.
fn admit_strangers(site: &Site) {
    let (folder, mut all) = (strangers([24; 3]), rows(site));
    for (from, patient, labelled) in [("p000_v1", "a-stranger", true), ("p001_v1", "z-stranger", false)] {
        let image = |root: &std::path::Path, kind: &str, name: &str| root.join(format!("{kind}/{name}.nii.gz"));
        let scans = site.path("scans");
        fs::copy(image(folder.path(), "images", from), image(&scans, "images", patient)).expect("copied");
        if labelled {
            fs::copy(image(folder.path(), "labels", from), image(&scans, "labels", patient)).expect("copied");
        }
        all.push((patient.to_owned(), patient.to_owned()));
    }
    write_rows(site, &all);
}

/// Exchanges the image of a patient's first scan for a stranger's.
fn perturb(site: &Site, patient: &str) {
    let folder = strangers([24; 3]);
    let (name, _) = rows(site).into_iter().find(|(_, of)| of == patient).expect("a scan");
    fs::copy(folder.path().join("images/p001_v1.nii.gz"), site.path(&format!("scans/images/{name}.nii.gz")))
        .expect("copied");
}

fn with_method(method: Method) -> Site {
    let mut site = asking();
    site.plan.training.method = method;
    if !method.asks_generalists() {
        site.plan.training.guidance = None;
    }
    site.plan.training.local_steps = 2;
    site
}

const METHODS: [Method; 5] =
    [Method::Supervised, Method::MeanTeacher, Method::UaMt, Method::Semisam, Method::SemisamPlus];

/// P1, P4 and P7, every method: what a patient contributes is the same, bit by bit, whoever else is there.
#[test]
fn p1_p4_p7_a_contribution_is_bit_identical_whoever_else_is_there() {
    for method in METHODS {
        let site = with_method(method);
        let before = by_patient(&site, &fresh(&site), 1);
        let moved = |bits: &Vec<u64>| bits.iter().any(|bits| f64::from_bits(*bits) != 0.0);
        assert!(before.values().any(moved), "{method:?} learns something");

        perturb(&site, "p001");
        let after = by_patient(&site, &fresh(&site), 1);
        for (patient, bits) in &before {
            assert!((after[patient] == *bits) == (patient != "p001" || !moved(bits)), "{method:?}: {patient}");
        }
        admit_strangers(&site);
        let with = by_patient(&site, &fresh(&site), 1);
        assert_eq!(with.len(), before.len() + 2);
        assert!(after.iter().all(|(patient, bits)| with[patient] == *bits), "{method:?}: strangers changed somebody");

        discharge(&site, "p000");
        discharge(&site, "p002");
        let without = by_patient(&site, &fresh(&site), 1);
        assert!(without.iter().all(|(patient, bits)| with[patient] == *bits), "{method:?}: who left changed somebody");
    }
}

/// P2: a model that carries statistics over patients is refused, even where the plan names its architecture.
#[test]
fn p2_batch_norm_is_refused() {
    let mut site = Site::new();
    let model = Weights::from_safetensors(&fs::read(site.path("model")).expect("a model")).expect("weights");
    let statistics = ("block_one.conv.1.running_mean".to_owned(), Tensor { shape: vec![1], values: vec![0.0] });
    let tensors = model.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).chain([statistics]);
    let normed = Weights::new(tensors).expect("shapes");
    site.plan.student.architecture = normed.architecture();
    site.plan.privacy.release = ReleaseSpace::All { coordinates: normed.count() as u64 };
    fs::write(site.path("model"), normed.to_safetensors().expect("bytes")).expect("written");
    let error = site.round(&fresh(&site), 1).expect_err("refused");
    assert!(error.to_string().contains("BatchNorm"), "{error}");
    // And a model other than the plan's is refused before anything is computed.
    let other = Site::new();
    fs::copy(site.path("model"), other.path("model")).expect("copied");
    assert!(matches!(other.round(&fresh(&other), 1), Err(ContributionError::Architecture)));
}

/// A hospital's ledger with an approved plan.
struct Ledger {
    folder: TempDir,
    book: Book,
}

impl Ledger {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = SigningKey::from_hex(&"07".repeat(32)).expect("hex");
        let site = (SiteId([1; 32]), "hospital", "cohort");
        let book = Book::create(&folder.path().join("ledger.jsonl"), key, site, policy(), NOW).expect("new");
        Self { folder, book }
    }

    fn approve(&mut self, plan: Plan) -> Query {
        let (model, coordinator) = (plan.initial_model, self.book.key());
        let plan = self.book.approve(signed(plan), coordinator, "dpo", NOW).expect("within policy");
        Query { plan, round: RoundNumber(1), model }
    }

    fn release(&mut self, query: Query, contributions: &[Vec<f64>]) -> Result<Release, ReleaseError> {
        let payloads = self.folder.path().join("payloads");
        release(&mut self.book, &payloads, query, contributions, || NOW)
    }

    /// The events from RESERVE on, without what differs in each release: the digest of noised bytes.
    fn paid(&self) -> Vec<Value> {
        let key = self.book.key();
        let read = file::read::<LedgerEvent>(self.book.path(), Domain::Ledger, move |_| Ok(key)).expect("read");
        let events = read.records.iter().map(|record| serde_json::to_value(&record.event).expect("json"));
        let mut events: Vec<Value> =
            events.filter(|event| event["type"] == "RESERVE" || event["type"] == "COMMIT").collect();
        events.iter_mut().filter_map(|event| event.get_mut("payload")).for_each(|payload| *payload = Value::Null);
        events
    }
}

/// P3: labelled and unlabelled scans of one patient are one contribution, clipped once.
#[test]
fn p3_a_patient_in_both_lists_contributes_once() {
    let mut site = with_method(Method::MeanTeacher);
    // The second patient comes twice; the first of these scans keeps its labels, the other one has none.
    let own: Vec<String> =
        rows(&site).into_iter().filter(|(_, patient)| patient == "p001").map(|(name, _)| name).collect();
    assert_eq!(own.len(), 2);
    fs::remove_file(site.path(&format!("scans/labels/{}.nii.gz", own[1]))).expect("removed");
    let both = by_patient(&site, &fresh(&site), 1);
    assert_eq!(both.len(), 4);
    discharge_all_but(&site, "p001");
    site.plan.privacy.clip_norm = number(1e-3);
    let alone = site.round(&fresh(&site), 1).expect("sound");
    assert!(alone.len() == 1 && alone[0] == both["p001"]);
    let values: Vec<f64> = alone[0].iter().map(|bits| f64::from_bits(*bits)).collect();
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!(norm(&values) > 1e-3, "the clip has something to do");
    // Without noise to speak of (the mean over many releases) this patient's part is no longer than the clip norm.
    let plan = Plan { privacy: site.plan.privacy.clone(), ..plan(4.0, values.len(), Unit::Patient) };
    let clip = crate::privacy::clip::Clip::of_plan(&plan);
    let longest = clip.longest(&[values]).expect("one patient");
    assert!(longest <= plan.sensitivity() as f64, "{longest}");
}

fn discharge_all_but(site: &Site, patient: &str) {
    let others: BTreeSet<String> = rows(site).into_iter().map(|(_, of)| of).filter(|of| of != patient).collect();
    others.iter().for_each(|other| discharge(site, other));
}

/// P4: prototypes, votes and memory banks cross patients (SemiSAM-O1): no plan can ask for them.
#[test]
fn p4_no_plan_can_name_a_method_that_crosses_patients() {
    let text = serde_json::to_string(&plan(4.0, 8, Unit::Patient)).expect("json");
    assert!(text.contains("\"method\":\"supervised\""));
    for method in ["semisam-o1", "prototypes", "mixup", "cutmix", "memory-bank"] {
        let asked = text.replace("\"method\":\"supervised\"", &format!("\"method\":\"{method}\""));
        assert!(serde_json::from_str::<Plan>(&asked).is_err(), "{method}");
    }
}

/// Each number, word and switch of a JSON value changed by itself.
fn changed(value: &Value) -> Vec<Value> {
    match value {
        Value::Bool(held) => vec![Value::Bool(!held)],
        Value::Number(held) => vec![Value::from(held.as_f64().unwrap_or(0.0) as u64 + 1)],
        Value::String(held) if held.parse::<f64>().is_ok() => vec![Value::from("0.123")],
        Value::String(held) if held.len() == 64 => vec![Value::from("ab".repeat(32))],
        Value::String(held) => vec![Value::from(format!("{held}x"))],
        Value::Array(items) => (0..items.len())
            .flat_map(|at| {
                changed(&items[at]).into_iter().map(move |new| {
                    let mut items = items.clone();
                    items[at] = new;
                    Value::Array(items)
                })
            })
            .collect(),
        Value::Object(fields) => fields
            .keys()
            .flat_map(|key| {
                changed(&fields[key]).into_iter().map(move |new| {
                    let mut fields = fields.clone();
                    fields.insert(key.clone(), new);
                    Value::Object(fields)
                })
            })
            .collect(),
        Value::Null => Vec::new(),
    }
}

/// P5: thresholds, ramps, rounds and everything else stand in the plan, and the approval is of its digest: whatever is
/// changed, after the approval or after round 1, is another plan.
#[test]
fn p5_a_changed_plan_is_not_the_approved_one() {
    let mut ledger = Ledger::new();
    let approved = plan(4.0, 8, Unit::Patient);
    let query = ledger.approve(approved.clone());
    ledger.release(query, &patients(4, 8, 0.01)).expect("round 1");
    let document = serde_json::to_value(&approved).expect("json");
    let (mut tried, mut readable) = (0, 0);
    for other in changed(&document) {
        tried += 1;
        // What is no plan at all cannot be approved either.
        let Ok(other) = serde_json::from_value::<Plan>(other) else { continue };
        readable += 1;
        let digest = other.digest().expect("canonical");
        assert_ne!(digest, query.plan, "{other:?}");
        let asked = Query { plan: digest, round: RoundNumber(2), ..query };
        let refused = ledger.book.ledger().reservation(asked).expect_err("not approved");
        assert!(matches!(refused, LedgerViolation::NotApproved(_)), "{refused}");
        // Nor does the consortium's signature hold for it.
        let SignedPlan { key, signature, .. } = signed(approved.clone());
        assert!(SignedPlan { plan: other, key, signature }.verify(key).is_err());
    }
    assert!(tried >= 30 && readable >= 25, "{tried} {readable}");
}

fn patients(count: usize, coordinates: usize, size: f64) -> Vec<Vec<f64>> {
    (0..count).map(|patient| (0..coordinates).map(|at| ((at + patient) % 3) as f64 * size - size).collect()).collect()
}

/// P8: the clip norm is the plan's. Contributions a thousand times longer or shorter are charged alike.
#[test]
fn p8_the_clip_norm_does_not_follow_the_data() {
    let records = [1e-6, 1.0, 1e6].map(|size| {
        let mut ledger = Ledger::new();
        let query = ledger.approve(plan(4.0, 8, Unit::Patient));
        ledger.release(query, &patients(4, 8, size)).expect("released");
        ledger.paid()
    });
    assert!(records[0] == records[1] && records[1] == records[2]);
    assert_eq!(records[0][0]["sensitivity"], 1 << 18);
    assert_eq!(records[0][1]["clip_check"], "integer-exact");
}

/// P9: one clip over the whole vector, however long, and however it is cut up for drawing.
#[test]
fn p9_one_clip_covers_the_whole_vector() {
    for coordinates in [1, 8, 16_384, 16_385, 100_000] {
        let plan = plan(4.0, coordinates, Unit::Patient);
        let clip = crate::privacy::clip::Clip::of_plan(&plan);
        for size in [1e-3, 1.0, 1e30] {
            let longest = clip.longest(&patients(3, coordinates, size)).expect("lengths");
            assert!(longest <= plan.sensitivity() as f64, "{coordinates} {size}: {longest}");
        }
    }
}

/// P10: no count divides or weighs anything. A patient of zeros changes no bit before the noise, and the server divides by
/// the plan's constant.
#[test]
fn p10_nothing_is_divided_by_a_count() {
    let mut plan = plan(4.0, 8, Unit::Patient);
    let clip = crate::privacy::clip::Clip::of_plan(&plan);
    let mut cohort = patients(5, 8, 0.01);
    let sums = |cohort: &[Vec<f64>]| clip.bare_sum(cohort).expect("lengths");
    let before = sums(&cohort);
    cohort.insert(2, vec![0.0; 8]);
    assert_eq!(sums(&cohort), before);
    cohort.extend(vec![vec![0.0; 8]; 500]);
    assert_eq!(sums(&cohort), before);
    // The server moves by sum / expected patients, whoever contributed how much.
    plan.privacy.release = ReleaseSpace::All { coordinates: 2 };
    let model = Weights::new([("w".to_owned(), Tensor { shape: vec![2], values: vec![0.0; 2] })]).expect("shapes");
    let projection = Projection::new(&plan.privacy.release, &model, None).expect("fits");
    let moved = |expected_patients| {
        let mut plan = plan.clone();
        plan.privacy.expected_patients = expected_patients;
        let start = Folded { model: model.clone(), momentum: no_momentum(2).expect("fits") };
        fold(&plan, RoundNumber(1), &start, &projection, &[1 << 20, 0], 1).expect("folded").model.to_flat()[0]
    };
    assert!((moved(10) / moved(20) - 2.0).abs() < 1e-6 && moved(10) > 0.0);
}

/// P11: there is no sampling: everybody takes part in every round, and that is what a reservation says it pays for.
#[test]
fn p11_every_patient_takes_part_in_every_round() {
    let site = Site::new();
    let contributor = fresh(&site);
    for round in 1..=3 {
        assert_eq!(by_patient(&site, &contributor, round).len(), 4);
    }
    let mut ledger = Ledger::new();
    let query = ledger.approve(plan(4.0, 8, Unit::Patient));
    let mut reserve = ledger.book.ledger().reservation(query).expect("within budget");
    assert!(reserve.mechanism == MECHANISM && MECHANISM.contains("full participation"));
    reserve.mechanism = "integer clip, discrete Gaussian, Poisson sampling".into();
    assert!(ledger.book.append(LedgerEvent::Reserve(reserve), NOW).is_err());
}

/// P12: what is sent again are the same bytes; the same question never gets fresh noise.
#[test]
fn p12_a_retry_sends_the_same_bytes() {
    let mut ledger = Ledger::new();
    let query = ledger.approve(plan(4.0, 8, Unit::Patient));
    let sent = ledger.release(query, &patients(4, 8, 0.01)).expect("released");
    let payloads = ledger.folder.path().join("payloads");
    for _ in 0..3 {
        assert!(matches!(ledger.release(query, &patients(4, 8, 0.01)), Err(ReleaseError::Twice { .. })));
        let again = resume(&ledger.book, &payloads, query).expect("kept").expect("committed");
        assert_eq!(again.bytes(), sent.bytes());
    }
    assert_eq!(fs::read(payload_path(&payloads, sent.digest())).expect("a payload"), sent.bytes());
    assert_eq!(ledger.paid().len(), 2, "paid once");
}

/// P13: one budget of the cohort, whatever job asks: rounds of two plans add up, and stop at the ceiling.
#[test]
fn p13_two_plans_share_one_budget() {
    let mut ledger = Ledger::new();
    let one = ledger.approve(plan(2.0, 8, Unit::Patient));
    let other = ledger.approve(Plan { name: "another job".into(), ..plan(1.8, 8, Unit::Patient) });
    let mut spent = Rho::default();
    let (mut released, mut refused) = (0, None);
    for round in 1..=10 {
        for (query, z) in [(one, 2.0), (other, 1.8)] {
            let before = ledger.book.ledger().spent;
            match ledger.release(Query { round: RoundNumber(round), ..query }, &patients(4, 8, 0.01)) {
                Ok(_) => {
                    released += 1;
                    spent = spent.plus(plan(z, 8, Unit::Patient).rho_per_round());
                    assert_eq!(ledger.book.ledger().spent, spent);
                    assert!(ledger.book.ledger().epsilon(Adjacency::AddRemove) <= 10.0);
                }
                Err(error) => {
                    assert_eq!(ledger.book.ledger().spent, before);
                    refused = Some(error.to_string());
                }
            }
        }
    }
    assert!((6..20).contains(&released), "each plan alone would fit: {released}");
    assert!(refused.expect("too much").contains("the budget is exhausted"));
    let refusals = fs::read_to_string(ledger.book.path()).expect("a ledger").matches("REFUSED").count();
    assert!(refusals > 0, "a refusal is a signed record");
}

/// P14: neither a payload's length nor any word of the ledger tells how many patients there are.
#[test]
fn p14_lengths_and_records_do_not_tell_the_number_of_patients() {
    let told = [3, 4, 30, 300].map(|count| {
        let mut ledger = Ledger::new();
        let query = ledger.approve(plan(4.0, 8, Unit::Patient));
        let sent = ledger.release(query, &patients(count, 8, 0.01)).expect("released");
        (sent.bytes().len(), ledger.paid(), fs::metadata(ledger.book.path()).expect("a ledger").len())
    });
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
}

/// P15: nothing that was trained here comes back: the same round gives the same bits, whatever was computed before.
#[test]
fn p15_earlier_rounds_leave_no_trace_in_a_contribution() {
    let site = with_method(Method::UaMt);
    let contributor = fresh(&site);
    let first = by_patient(&site, &contributor, 1);
    let second = by_patient(&site, &contributor, 2);
    assert_ne!(first, second, "rounds draw other crops");
    assert_eq!(by_patient(&site, &contributor, 1), first);
    assert_eq!(by_patient(&site, &fresh(&site), 2), second, "a new process knows nothing of round 1");
}

/// P16: the noise is there before a contribution is looked at. The compiler holds the order: what sums contributions takes
/// noise that was drawn, nothing else does, and only a draw makes noise.
#[test]
fn p16_contributions_are_summed_into_noise_that_was_drawn() {
    use crate::privacy::{
        clip::{Clip, ClipError},
        noise::{Noise, NoiseError, Purpose, draw},
    };
    type Sums = fn(&Clip, Noise, &[Vec<f64>]) -> Result<zeroize::Zeroizing<Vec<i64>>, ClipError>;
    let sums: Sums = Clip::noised;
    let draws: fn(usize, u64, &Purpose) -> Result<Noise, NoiseError> = draw;
    let query = Query { plan: Digest::ZERO, round: RoundNumber(1), model: Digest::ZERO };
    let purpose = Purpose { site: SiteId([1; 32]), query, reserve: 0, head: Head::EMPTY };
    let clip = Clip::of_plan(&plan(4.0, 8, Unit::Patient));
    let noise = draws(8, 1 << 20, &purpose).expect("drawn, and no contribution is anywhere near");
    assert_eq!(sums(&clip, noise, &patients(4, 8, 0.01)).expect("lengths").len(), 8);
}

/// P17: what is not a number counts as zero, for this patient and this coordinate alone.
#[test]
fn p17_hostile_deltas_are_bounded() {
    let plan = plan(4.0, 4, Unit::Patient);
    let clip = crate::privacy::clip::Clip::of_plan(&plan);
    let sound = vec![0.1, -0.2, 0.0, 0.3];
    for hostile in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let poisoned = vec![hostile, -0.2, hostile, 0.3];
        let (with, zeroed) = (clip.bare_sum(&[sound.clone(), poisoned]), vec![0.0, -0.2, 0.0, 0.3]);
        assert_eq!(with.expect("lengths"), clip.bare_sum(&[sound.clone(), zeroed]).expect("lengths"));
    }
    for huge in [f64::MAX, f64::MIN, 1e300, 5e-324] {
        assert!(clip.longest(&[vec![huge; 4]]).expect("lengths") <= plan.sensitivity() as f64);
    }
    let mut ledger = Ledger::new();
    let query = ledger.approve(plan);
    let poisoned = vec![vec![f64::NAN; 4], vec![f64::INFINITY; 4], vec![f64::MAX; 4]];
    let sent = ledger.release(query, &poisoned).expect("released like any other");
    assert_eq!(sent.bytes().len(), 16);
    assert!(sent.digest() != Digest::ZERO);
}
