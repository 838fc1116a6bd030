use std::{fs, io, path::PathBuf};

use semisam_shared::{
    clock,
    ids::RoundNumber,
    plan::{Student, Unit},
};
use tempfile::TempDir;

use super::*;
use crate::{
    data::{
        cache::Cache,
        synth::{Style, SynthSpec, write_cohort},
    },
    model::layout,
    privacy::tests::plan,
};

/// A site with synthetic scans, a model and a plan for it.
pub(in crate::participant) struct Site {
    folder: TempDir,
    pub(in crate::participant) plan: Plan,
}

impl Site {
    pub(in crate::participant) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (shape, spacing_mm) = ([24; 3], [2.0; 3]);
        let spec =
            SynthSpec { style: Style::from_seed(3), shape, spacing_mm, patients: 4, labelled_patients: 2, seed: 5 };
        write_cohort(&spec, &folder.path().join("scans")).expect("written");
        let mut plan = plan(4.0, 8, Unit::Patient);
        let model = layout::initial(&VNetConfig { groups: 1, ..VNetConfig::binary(1) }, 1);
        plan.student = Student { base_filters: 1, groups: 1, architecture: model.architecture(), ..plan.student };
        plan.privacy.release = ReleaseSpace::All { coordinates: model.count() as u64 };
        plan.scans.patch = [16; 3];
        plan.training.local_steps = 1;
        fs::write(folder.path().join("model"), model.to_safetensors().expect("bytes")).expect("written");
        Self { folder, plan }
    }

    pub(in crate::participant) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(in crate::participant) fn contributor(&self, cached: bool, memory_bytes: u64) -> Contributor {
        let cache =
            cached.then(|| Arc::new(Cache::open(&self.path("cache"), 1 << 30, Box::new(clock::now)).expect("a cache")));
        Contributor::new(self.path("scans"), Device::Cpu, Storage { cache, memory_bytes })
    }

    pub(in crate::participant) fn round(
        &self,
        contributor: &Contributor,
        round: u32,
    ) -> Result<Vec<Vec<u64>>, ContributionError> {
        let query = Query { plan: Digest::ZERO, round: RoundNumber(round), model: Digest::of(b"model") };
        let contributions = contributor.contributions(&self.plan, query, &self.path("model"), None)?;
        Ok(contributions.iter().map(|values| values.iter().map(|value| value.to_bits()).collect()).collect())
    }

    fn images(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.path("scans/images")).expect("a folder");
        let mut images: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        images.sort();
        images
    }

    fn entries(&self) -> usize {
        let files = fs::read_dir(self.path("cache")).expect("a folder");
        files.filter(|file| file.as_ref().is_ok_and(|file| file.path().extension().is_some())).count()
    }
}

#[test]
fn contributions_do_not_depend_on_where_scans_are_kept() {
    let site = Site::new();
    let rounds = |contributor: &Contributor| [1, 2].map(|round| site.round(contributor, round).expect("sound"));
    let expected = rounds(&site.contributor(false, 1 << 30));
    assert_eq!((expected[0].len(), expected[0] == expected[1]), (4, false));
    assert!(expected == rounds(&site.contributor(true, 0)), "prepared and kept");
    assert_eq!(site.entries(), site.images().len());
    assert!(expected == rounds(&site.contributor(true, 0)), "kept before");
    assert!(expected == rounds(&site.contributor(false, 0)), "prepared each time");
}

#[test]
fn a_second_round_needs_no_file_of_a_scan() {
    let site = Site::new();
    let contributor = site.contributor(true, 0);
    site.round(&contributor, 1).expect("sound");
    fs::rename(site.path("scans"), site.path("elsewhere")).expect("renamed");
    site.round(&contributor, 2).expect("all scans are in the cache");
}

/// Whoever takes a scan out of the folder wants it gone.
#[test]
fn a_scan_that_was_removed_leaves_the_cache_at_the_next_start() {
    let site = Site::new();
    let scans = site.images().len();
    assert_eq!((site.contributor(true, 0).prepare(&site.plan.scans).expect("sound"), site.entries()), (4, scans));
    let last = site.images().remove(scans - 1);
    let name = last.file_name().expect("a file").to_str().expect("text").replace(".nii.gz", "");
    fs::remove_file(&last).expect("removed");
    let table = fs::read_to_string(site.path("scans/patients.csv")).expect("a table");
    let rows: Vec<&str> = table.lines().filter(|line| !line.starts_with(&name)).collect();
    fs::write(site.path("scans/patients.csv"), rows.join("\n")).expect("written");
    site.contributor(true, 0).prepare(&site.plan.scans).expect("sound");
    assert_eq!(site.entries(), scans - 1);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_is_told_of_a_scan_that_cannot_be_used() {
    let site = Site::new();
    let (log, images) = (Log::default(), site.images());
    fs::write(&images[0], "no scan").expect("written");
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let contributor = site.contributor(true, 0);
    let patients = tracing::subscriber::with_default(subscriber.finish(), || {
        site.contributor(true, 0).prepare(&site.plan.scans).expect("others are usable");
        // Tests beside this one, which have no log, may have decided for all that these words are not wanted.
        tracing::callsite::rebuild_interest_cache();
        log.0.lock().expect("nobody panics").clear();
        contributor.prepare(&site.plan.scans).expect("others are usable")
    });
    let told = String::from_utf8(log.0.lock().expect("nobody panics").clone()).expect("text");
    assert!(told.contains("left out") && told.contains("100 %"), "{told}");
    assert!(patients == 3 || patients == 4, "a second scan of the patient may be usable");
    let silent = |text: &str| {
        let name = |path: &PathBuf| path.file_name().expect("a file").to_string_lossy().replace(".nii.gz", "");
        assert!(images.iter().all(|image| !text.contains(&name(image))), "{text}");
    };
    silent(&told);
    let without = site.contributor(false, 0);
    without.prepare(&site.plan.scans).expect("others are usable");
    fs::remove_file(&images[1]).expect("removed");
    let error = site.round(&without, 1).expect_err("a scan is gone");
    assert!(matches!(error, ContributionError::ScanLost(_)), "{error}");
    silent(&error.to_string());
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source, None, "causes are printed too");
}

pub(in crate::participant) fn checkpoint() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d/sam_med3d_tiny.pth"))
}

/// A site whose plan asks the fixture's generalist, whatever it draws, and whose model sees an object in every scan.
pub(in crate::participant) fn asking() -> Site {
    let mut site = Site::new();
    let decimal = |value: f64| semisam_shared::decimal::Decimal::new(value).expect("finite");
    site.plan.training.method = Method::Semisam;
    site.plan.training.guidance = Some(plan::Guidance {
        generalists: vec![digest_of_file(&checkpoint()).expect("a fixture")],
        weight: decimal(1.0),
        consensus: decimal(0.0),
        share: decimal(0.5),
        deference: decimal(0.85),
        agreement: decimal(0.0),
        confidence: decimal(0.5),
    });
    let model = read_weights(&site.path("model")).expect("weights");
    let unbiased = model.iter().map(|(name, tensor)| {
        let mut tensor = tensor.clone();
        // features are never negative: where there is one, the object is likelier, elsewhere nothing is
        match name {
            "out_conv.bias" => tensor.values.fill(0.0),
            "out_conv.weight" => tensor.values.copy_from_slice(&[-1.0, 1.0]),
            _ => {}
        }
        (name.to_owned(), tensor)
    });
    let model = Weights::new(unbiased).expect("its own shapes");
    fs::write(site.path("model"), model.to_safetensors().expect("bytes")).expect("written");
    site
}

pub(in crate::participant) fn embeddings(site: &Site) -> Store {
    let cache = Cache::open(&site.path("embeddings"), 1 << 30, Box::new(clock::now));
    Store::on_disk(cache.expect("a folder"))
}

#[test]
fn a_plan_that_asks_a_generalist_needs_its_very_file() {
    let site = asking();
    let folder = site.path("generalists");
    let missing = |contributor: Contributor| {
        let error = site.round(&contributor, 1).expect_err("nobody to ask").to_string();
        assert!(error.contains(&digest_of_file(&checkpoint()).expect("a fixture").to_string()), "{error}");
    };
    missing(site.contributor(false, 1 << 30));
    let with = || site.contributor(false, 1 << 30).with_generalists(folder.clone(), embeddings(&site));
    missing(with());
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("other.pth"), "something else").expect("written");
    missing(with());
    fs::copy(checkpoint(), folder.join("any name")).expect("copied");
    let expected = site.round(&with(), 1).expect("sound");
    let kept = || fs::read_dir(site.path("embeddings")).expect("a folder").count();
    let count = kept();
    assert!(count > 1 && site.round(&with(), 1).expect("sound") == expected && kept() == count);
    let mut idle = asking();
    (idle.plan.training.method, idle.plan.training.guidance) = (Method::MeanTeacher, None);
    assert!(idle.round(&idle.contributor(false, 1 << 30), 1).expect("sound") != expected);
    // a scan that is gone leaves no embedding
    let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
    let labelled = |image: &PathBuf| site.path("scans/labels").join(name(image)).exists();
    let (rows, gone): (Vec<PathBuf>, Vec<PathBuf>) = site.images().into_iter().partition(|image| labelled(image));
    assert!(!rows.is_empty() && !gone.is_empty());
    gone.iter().for_each(|image| fs::remove_file(image).expect("removed"));
    let stays: Vec<String> = rows.iter().map(|image| name(image).replace(".nii.gz", "")).collect();
    let table = fs::read_to_string(site.path("scans/patients.csv")).expect("a table");
    let lines = table.lines().enumerate();
    let lines: Vec<&str> = lines
        .filter(|(number, line)| *number == 0 || stays.iter().any(|name| line.starts_with(&format!("{name},"))))
        .map(|(_, line)| line)
        .collect();
    fs::write(site.path("scans/patients.csv"), lines.join("\n")).expect("written");
    site.round(&with(), 1).expect("sound");
    assert!(kept() < count, "{} of {count}", kept());
}
