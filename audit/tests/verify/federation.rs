//! A small federation on disk, made with the shared rules alone: a coordinator's folder and three hospitals' ledgers,
//! three rounds, of which `east` misses the second because of a crash.

use std::{
    fs,
    path::{Path, PathBuf},
};

use semisam_audit::verify::{Finding, Verdict, verify};
use semisam_shared::{
    chain::{Head, file::ChainFile},
    decimal::Decimal,
    fold::{Folded, add_update, fold, no_momentum, update_to_bytes},
    ids::{Digest, RoundNumber, SiteId, UnixMillis},
    ledger::{Ledger, LedgerEvent, Query},
    plan::*,
    policy::Policy,
    receipt::{Receipt, SignedReceipt},
    release_space::{BASIS, Projection},
    round::{Command, Due, Event, Federation},
    signing::{Domain, SigningKey},
    weights::{Tensor, Weights},
};
use tempfile::TempDir;

/// The hospitals.
pub(crate) const SITES: [&str; 3] = ["north", "south", "east"];
const WEIGHTS: usize = 5;

/// What somebody does against the rules, with valid signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cheat {
    Nobody,
    /// The coordinator publishes another model in round 2 than the fold of the updates.
    WrongModel,
    /// The coordinator begins with a momentum of its own.
    WrongMomentum,
}

/// What people wrote where they may write anything.
pub(crate) struct Names {
    plan: String,
    hospital: String,
    cohort: String,
    approver: String,
    reason: String,
}

impl Names {
    fn usual() -> Self {
        let [plan, hospital, cohort] = ["test", "", "cohort"].map(str::to_owned);
        Self { plan, hospital, cohort, approver: "dpo".into(), reason: "the machine was switched off".into() }
    }

    /// `text` everywhere; it follows the names of the hospitals, which must differ.
    pub(crate) fn all(text: &str) -> Self {
        let [plan, hospital, cohort, approver, reason] = [(); 5].map(|()| text.to_owned());
        Self { plan, hospital, cohort, approver, reason }
    }
}

/// A folder that is removed at the end.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    pub(crate) fn verify(&self) -> Verdict {
        verify(self.0.path()).expect("readable")
    }

    /// The findings, of which there must be some.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let findings = self.verify().findings;
        assert!(!findings.is_empty(), "nothing was found");
        findings
    }

    pub(crate) fn expect_sound(&self) -> Verdict {
        let verdict = self.verify();
        assert_eq!(verdict.findings, [], "a false alarm");
        verdict
    }

    pub(crate) fn lines(&self, below: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(below)).expect("text");
        text.split_inclusive('\n').map(str::to_owned).collect()
    }

    pub(crate) fn write_lines(&self, below: &str, lines: &[String]) {
        fs::write(self.path(below), lines.concat()).expect("written");
    }
}

pub(crate) fn number(value: f64) -> Decimal {
    Decimal::new(value).expect("finite")
}

fn weights(name: &str, shape: &[usize], first: f32) -> Weights {
    let values = (0..shape.iter().product::<usize>()).map(|i| first + 0.125 * i as f32).collect();
    Weights::new([(name.to_owned(), Tensor { shape: shape.to_vec(), values })]).expect("fits")
}

fn plan(name: &str, model: &Weights, release: ReleaseSpace) -> Plan {
    let bytes = model.to_safetensors().expect("written");
    Plan {
        name: name.into(),
        rounds: 3,
        quorum: 2,
        round_seconds: 60,
        student: Student { base_filters: 4, groups: 4, classes: 2, architecture: model.architecture() },
        initial_model: Digest::of(&bytes),
        scans: Scans { spacing_mm: [number(2.0); 3], patch: [16; 3] },
        training: Training {
            method: Method::Supervised,
            local_steps: 1,
            batch: 1,
            learning_rate: number(0.01),
            momentum: number(0.9),
            consistency_weight: number(0.1),
            pseudo_label_threshold: number(0.9),
            weight_decay: number(1e-4),
            noise: number(0.1),
            augment: false,
            guidance: None,
        },
        privacy: Privacy {
            unit: Unit::Patient,
            clip_norm: number(1.0),
            noise_multiplier: number(3.3),
            delta: number(1e-5),
            expected_patients: 7,
            release,
        },
        server: Server { learning_rate: number(0.7), momentum: number(0.5), decay: Decay::Cosine },
    }
}

/// One hospital and its ledger.
pub(crate) struct Hospital {
    pub(crate) site: SiteId,
    pub(crate) name: String,
    short: String,
    pub(crate) key: SigningKey,
    file: ChainFile<LedgerEvent>,
    state: Ledger,
    clock: u64,
}

impl Hospital {
    fn open(root: &Path, short: &str, names: &Names, plan: &SignedPlan, coordinator: &SigningKey) -> Self {
        let (folder, key) = (root.join(short), SigningKey::generate().expect("entropy"));
        let name = &format!("{short}{}", names.hospital);
        fs::create_dir_all(&folder).expect("folder");
        let (site, public) = (SiteId(Digest::of(name.as_bytes()).0), key.public());
        let (file, _) =
            ChainFile::open(&folder.join("ledger.jsonl"), Domain::Ledger, move |_| Ok(public)).expect("new");
        let mut hospital = Self {
            site,
            name: name.to_owned(),
            short: short.to_owned(),
            key,
            file,
            state: Ledger::default(),
            clock: 0,
        };
        let policy = Policy {
            epsilon_max: number(10.0),
            delta: number(1e-5),
            noise_multiplier_min: number(1.0),
            patients_min: 3,
            rounds_max: 100,
            architectures: vec![],
        };
        let digest = plan.plan.digest().expect("canonical");
        let (approver, plan) = (names.approver.clone(), Box::new(plan.clone()));
        hospital.add(LedgerEvent::Genesis { site, name: name.into(), key: public, cohort: names.cohort.clone() });
        hospital.add(LedgerEvent::Policy { policy });
        hospital.add(LedgerEvent::Approved { digest, approver, plan, coordinator: coordinator.public() });
        hospital
    }

    fn add(&mut self, event: LedgerEvent) -> u64 {
        self.state.permits(self.file.head().length, &event).expect("permitted");
        self.add_against_the_rules(event)
    }

    /// Appends without asking, as a cheating site with its own program would.
    pub(crate) fn add_against_the_rules(&mut self, event: LedgerEvent) -> u64 {
        self.clock += 1000;
        let seq = self.file.append(event.clone(), UnixMillis(self.clock), &self.key).expect("appended").seq;
        self.state.evolve(seq, &event);
        seq
    }

    /// The head of the ledger.
    pub(crate) fn head(&self) -> Head {
        self.file.head()
    }

    /// The query of the first release.
    pub(crate) fn first_query(&self) -> Query {
        *self.state.releases.keys().min_by_key(|query| query.round).expect("released")
    }

    /// A reservation by the rules.
    pub(crate) fn reservation(&self, query: Query) -> semisam_shared::ledger::Reserve {
        self.state.reservation(query).expect("within budget")
    }

    fn reserve(&mut self, query: Query) -> u64 {
        let reserve = self.reservation(query);
        self.add(LedgerEvent::Reserve(reserve))
    }

    fn release(&mut self, query: Query, bytes: &[u8]) -> (u64, Receipt) {
        let reserve = self.reserve(query);
        let (payload, length) = (Digest::of(bytes), bytes.len() as u64);
        let (clip_check, noise) = ("integer-exact".to_owned(), "getrandom".to_owned());
        let commit = self.add(LedgerEvent::Commit { reserve, payload, bytes: length, clip_check, noise });
        let (Query { plan, round, .. }, ledger) = (query, self.file.head());
        (commit, Receipt { plan, round, site: self.site, payload, bytes: length, ledger })
    }
}

/// A coordinator and its folder.
pub(crate) struct Coordinator {
    pub(crate) key: SigningKey,
    file: ChainFile<Event>,
    state: Federation,
    folder: PathBuf,
    now: UnixMillis,
}

impl Coordinator {
    fn keep(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let name = digest.to_string();
        let shelf = self.folder.join("store").join(&name[..2]);
        fs::create_dir_all(&shelf).expect("folder");
        fs::write(shelf.join(name), bytes).expect("written");
        digest
    }

    fn keep_weights(&self, weights: &Weights) -> Digest {
        self.keep(&weights.to_safetensors().expect("written"))
    }

    fn write(&mut self, event: Event) {
        self.file.append(event.clone(), self.now, &self.key).expect("appended");
        self.state.evolve(&event);
    }

    fn act(&mut self, command: Command) {
        for event in self.state.decide(self.now, command).expect("permitted") {
            self.write(event);
        }
    }

    fn receive(&mut self, receipt: Receipt, bytes: &[u8]) -> SignedReceipt {
        self.act(Command::Announce { receipt });
        self.keep(bytes);
        self.act(Command::Submit { receipt });
        receipt.sign(&self.key).expect("canonical")
    }
}

/// Everybody, still at work.
pub(crate) struct World {
    pub(crate) folder: Folder,
    pub(crate) coordinator: Coordinator,
    pub(crate) hospitals: Vec<Hospital>,
    plan: SignedPlan,
    projection: Projection,
    newest: Folded,
    cheat: Cheat,
    reason: String,
}

/// A federation that has finished.
pub(crate) fn finished() -> Folder {
    World::finished(Cheat::Nobody, false).folder
}

impl World {
    pub(crate) fn finished(cheat: Cheat, in_a_basis: bool) -> Self {
        Self::finished_with(cheat, in_a_basis, &Names::usual())
    }

    pub(crate) fn finished_with(cheat: Cheat, in_a_basis: bool, names: &Names) -> Self {
        let mut world = World::founded(cheat, in_a_basis, names);
        for round in 1..=3 {
            world.play(round);
        }
        world.coordinator.act(Command::Tick);
        assert!(world.coordinator.state.finished);
        world
    }

    fn founded(cheat: Cheat, in_a_basis: bool, names: &Names) -> Self {
        let folder = Folder(tempfile::tempdir().expect("folder"));
        let own = folder.path("coordinator");
        fs::create_dir_all(&own).expect("folder");
        let (model, basis) = (weights("w", &[WEIGHTS], 1.0), weights(BASIS, &[2, WEIGHTS], 0.3));
        let release = match in_a_basis {
            true => {
                let digest = Digest::of(&basis.to_safetensors().expect("written"));
                ReleaseSpace::Basis { basis: digest, coordinates: 2 }
            }
            false => ReleaseSpace::All { coordinates: WEIGHTS as u64 },
        };
        let consortium = SigningKey::generate().expect("entropy");
        let plan = SignedPlan::sign(plan(&names.plan, &model, release), &consortium).expect("sound");
        fs::write(own.join("plan.json"), serde_json::to_string_pretty(&plan).expect("json")).expect("written");
        let key = SigningKey::generate().expect("entropy");
        let public = key.public();
        let (file, _) = ChainFile::open(&own.join("journal.jsonl"), Domain::Journal, move |_| Ok(public)).expect("new");
        let (state, now) = (Federation::default(), UnixMillis(1_700_000_000_000));
        let mut coordinator = Coordinator { key, file, state, folder: own, now };
        coordinator.keep_weights(&model);
        coordinator.keep_weights(&basis);
        let projection =
            Projection::new(&plan.plan.privacy.release, &model, in_a_basis.then_some(basis)).expect("fits");
        let mut momentum = no_momentum(projection.coordinates()).expect("fits");
        if cheat == Cheat::WrongMomentum {
            momentum = momentum.with_flat(&vec![1.0; projection.coordinates()]).expect("fits");
        }
        let digest = coordinator.keep_weights(&momentum);
        coordinator.write(Event::Founded { plan: Box::new(plan.clone()), coordinator: public, momentum: digest });
        let hospitals: Vec<Hospital> =
            SITES.iter().map(|name| Hospital::open(&folder.path(""), name, names, &plan, &coordinator.key)).collect();
        for hospital in &hospitals {
            let (site, name, ledger_key) = (hospital.site, hospital.name.clone(), hospital.key.public());
            coordinator.act(Command::Join { site, name, ledger_key });
            coordinator.act(Command::Contact { site });
        }
        let newest = Folded { model, momentum };
        let reason = names.reason.clone();
        Self { folder, coordinator, hospitals, plan, projection, newest, cheat, reason }
    }

    fn play(&mut self, round: u32) {
        let coordinator = &mut self.coordinator;
        for hospital in &self.hospitals {
            coordinator.act(Command::Contact { site: hospital.site });
        }
        coordinator.act(Command::Tick);
        let open = coordinator.state.open.clone().expect("open");
        let plan = self.plan.plan.digest().expect("canonical");
        let query = Query { plan, round: RoundNumber(round), model: open.model };
        let mut sum = vec![0; self.projection.coordinates()];
        for (index, hospital) in self.hospitals.iter_mut().enumerate() {
            if round == 2 && hospital.short == "east" {
                let reserve = hospital.reserve(query);
                hospital.add(LedgerEvent::Abandoned { reserve, reason: self.reason.clone() });
                let reason = "too few patients".to_owned();
                hospital.add(LedgerEvent::Refused {
                    plan,
                    round: Some(query.round),
                    reason,
                    requested: None,
                    remaining: None,
                });
                continue;
            }
            let values: Vec<i64> =
                (0..sum.len()).map(|i| 1000 * (i as i64 - 2) * (index as i64 + i64::from(round))).collect();
            let bytes = update_to_bytes(&values);
            let (commit, receipt) = hospital.release(query, &bytes);
            let signed = coordinator.receive(receipt, &bytes);
            add_update(&mut sum, &bytes).expect("length");
            // The answer to `south` is lost in round 1: it never learns that its update was accepted.
            if round != 1 || hospital.short != "south" {
                hospital.add(LedgerEvent::Acked { commit, receipt: signed });
            }
        }
        self.close(round, &sum);
    }

    fn close(&mut self, round: u32, sum: &[i64]) {
        let coordinator = &mut self.coordinator;
        let open = coordinator.state.open.clone().expect("open");
        coordinator.now = coordinator.now.plus_seconds(60);
        assert_eq!(coordinator.state.due(coordinator.now), Due::Fold);
        let (number, count) = (RoundNumber(round), open.accepted.len());
        self.newest = fold(&self.plan.plan, number, &self.newest, &self.projection, sum, count).expect("folded");
        if self.cheat == Cheat::WrongModel && round == 2 {
            let mut flat = self.newest.model.to_flat();
            flat[3] = flat[3].next_up();
            self.newest.model = self.newest.model.with_flat(&flat).expect("fits");
        }
        let (model, momentum) =
            (coordinator.keep_weights(&self.newest.model), coordinator.keep_weights(&self.newest.momentum));
        let contributors = open.accepted.keys().copied().collect();
        coordinator.act(Command::Close { round: number, contributors, model, momentum });
    }
}
