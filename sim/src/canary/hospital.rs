//! The release path as an attacker sees it: contributions go in, bytes come out. [`Hospital`] is the real one: a ledger on
//! disk, a policy, a signed plan that is approved, and `privacy::release`, asked as the node asks it.

use std::path::{Path, PathBuf};

use semisam_node::privacy::{
    book::Book,
    release::{release, resume},
};
use semisam_shared::{
    accounting::{Adjacency, Rho},
    decimal::Decimal,
    ids::{Digest, RoundNumber, SiteId, UnixMillis},
    ledger::Query,
    plan::{Decay, Method, Plan, Privacy, ReleaseSpace, Scans, Server, SignedPlan, Student, Training, Unit},
    policy::Policy,
    signing::SigningKey,
};

use super::{CLIP_NORM, CanaryError, Options};

/// The least noise multiplier that a plan may have.
pub(crate) const LEAST_NOISE: f64 = 0.1;

/// The largest.
pub(crate) const MOST_NOISE: f64 = 10_000.0;

/// What is audited.
pub(crate) trait Mechanism {
    /// The payload for `round`. Asked again about the same round, a sound mechanism gives the same bytes.
    fn answer(&mut self, round: u32, contributions: &[Vec<f64>]) -> Result<Vec<u8>, CanaryError>;

    /// The program ends and starts again.
    fn restart(&mut self) -> Result<(), CanaryError>;

    /// What the ledger says that all answers have cost.
    fn charged(&self) -> Rho;
}

/// A hospital of which nothing is there but the door.
pub(crate) struct Hospital {
    folder: PathBuf,
    key: SigningKey,
    plan: Digest,
    /// Closed only while the hospital starts again.
    book: Option<Book>,
    now: fn() -> UnixMillis,
}

impl Hospital {
    /// Starts a ledger in `folder` and approves `plan`, under a policy that allows just that.
    pub(crate) fn found(folder: &Path, name: &str, plan: Plan, now: fn() -> UnixMillis) -> Result<Self, CanaryError> {
        let write = |source| CanaryError::Write { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(write)?;
        let (key, consortium) = (SigningKey::generate()?, SigningKey::generate()?);
        let policy = Policy {
            epsilon_max: number(plan.rho_in_all().epsilon(plan.privacy.delta.get(), Adjacency::AddRemove) + 1e-3),
            delta: plan.privacy.delta,
            noise_multiplier_min: plan.privacy.noise_multiplier,
            patients_min: 1,
            rounds_max: plan.rounds,
            architectures: Vec::new(),
        };
        let owner = (SiteId(Digest::of(name.as_bytes()).0), name, "synthetic");
        let mut book = Book::create(&ledger(folder), SigningKey::from_hex(&key.to_hex())?, owner, policy, now())?;
        let coordinator = SigningKey::generate()?.public();
        let plan = book.approve(SignedPlan::sign(plan, &consortium)?, coordinator, "semisam-sim audit", now())?;
        Ok(Self { folder: folder.to_owned(), key, plan, book: Some(book), now })
    }
}

impl Mechanism for Hospital {
    fn answer(&mut self, round: u32, contributions: &[Vec<f64>]) -> Result<Vec<u8>, CanaryError> {
        let book = self.book.as_mut().expect("open between restarts");
        let model = Digest::of(format!("the model before round {round}").as_bytes());
        let query = Query { plan: self.plan, round: RoundNumber(round), model };
        let payloads = self.folder.join("payloads");
        if let Some(kept) = resume(book, &payloads, query)? {
            return Ok(kept.bytes().to_vec());
        }
        Ok(release(book, &payloads, query, contributions, self.now)?.bytes().to_vec())
    }

    fn restart(&mut self) -> Result<(), CanaryError> {
        // The lock on the file goes before it is taken again.
        drop(self.book.take());
        self.book = Some(Book::open(&ledger(&self.folder), SigningKey::from_hex(&self.key.to_hex())?)?);
        Ok(())
    }

    fn charged(&self) -> Rho {
        self.book.as_ref().expect("open between restarts").ledger().spent
    }
}

fn ledger(folder: &Path) -> PathBuf {
    folder.join("ledger.jsonl")
}

fn number(value: f64) -> Decimal {
    Decimal::new(value).expect("options are finite")
}

/// The plan of an audited hospital. What is not about privacy is never used: nobody trains.
pub(crate) fn plan(options: &Options, rounds: u32) -> Plan {
    Plan {
        name: "empirical-audit".into(),
        rounds,
        quorum: 1,
        round_seconds: 60,
        student: Student { base_filters: 4, groups: 4, classes: 2, architecture: Digest::of(b"none") },
        initial_model: Digest::of(b"none"),
        scans: Scans { spacing_mm: [number(2.5); 3], patch: [16; 3] },
        training: Training {
            method: Method::Supervised,
            local_steps: 1,
            batch: 1,
            learning_rate: number(0.01),
            momentum: number(0.0),
            weight_decay: number(0.0),
            consistency_weight: number(0.0),
            pseudo_label_threshold: number(1.0),
            noise: number(0.0),
            augment: false,
            guidance: None,
        },
        privacy: Privacy {
            unit: Unit::Patient,
            clip_norm: number(CLIP_NORM),
            noise_multiplier: number(options.noise_multiplier),
            delta: number(options.delta),
            expected_patients: 100,
            release: ReleaseSpace::All { coordinates: options.coordinates as u64 },
        },
        server: Server { learning_rate: number(1.0), momentum: number(0.0), decay: Decay::Constant },
    }
}
