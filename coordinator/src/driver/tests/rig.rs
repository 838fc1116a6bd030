//! A coordinator, its folder and the time; sites are a number each.

use std::{fs, io::Write as _};

use semisam_shared::{
    decimal::Decimal,
    fold::update_to_bytes,
    plan::{Decay, Method, Privacy, Scans, Server, SignedPlan, Student, Training, Unit},
    receipt::SignedReceipt,
    weights::{Tensor, Weights},
};

use super::*;
use crate::{found, spool::Finish};

/// How many coordinates the updates of these tests have.
pub(super) const COORDINATES: u64 = 2;

/// A plan in which the next model is the last one plus the mean of the integers that were sent.
pub(crate) fn example_plan(coordinates: u64) -> Plan {
    let decimal = |value: f64| Decimal::new(value).expect("finite");
    let model = model(coordinates);
    Plan {
        name: "bits".into(),
        rounds: 3,
        quorum: 2,
        round_seconds: 60,
        student: Student { base_filters: 4, groups: 4, classes: 2, architecture: model.architecture() },
        initial_model: Digest::of(&model.to_safetensors().expect("written")),
        scans: Scans { spacing_mm: [decimal(2.5); 3], patch: [16; 3] },
        training: Training {
            method: Method::Supervised,
            local_steps: 1,
            batch: 1,
            learning_rate: decimal(0.01),
            momentum: decimal(0.0),
            weight_decay: decimal(0.0),
            consistency_weight: decimal(0.0),
            pseudo_label_threshold: decimal(0.9),
            noise: decimal(0.0),
            augment: false,
            guidance: None,
        },
        privacy: Privacy {
            unit: Unit::Patient,
            clip_norm: decimal(f64::from(1 << 20)),
            noise_multiplier: decimal(1.0),
            delta: decimal(1e-5),
            expected_patients: 1,
            release: ReleaseSpace::All { coordinates },
        },
        server: Server { learning_rate: decimal(1.0), momentum: decimal(0.0), decay: Decay::Constant },
    }
}

fn model(coordinates: u64) -> Weights {
    let tensor = Tensor { shape: vec![coordinates as usize], values: vec![0.0; coordinates as usize] };
    Weights::new([("w".to_owned(), tensor)]).expect("fits")
}

/// A site as the coordinator sees it.
pub(super) fn site(number: u8) -> SiteId {
    SiteId([number + 1; 32])
}

/// What site `number` sends in each round: its own bit, in every coordinate.
pub(super) fn update(number: u8) -> Vec<u8> {
    update_to_bytes(&vec![1_i64 << number; COORDINATES as usize])
}

/// A coordinator and the time.
pub(super) struct Rig {
    pub(super) root: tempfile::TempDir,
    pub(super) driver: Driver,
    pub(super) now: UnixMillis,
}

impl Rig {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().expect("folder");
        let folder = Folder::new(root.path());
        let (consortium, key) = [(); 2].map(|()| SigningKey::generate().expect("entropy")).into();
        fs::write(folder.signing_key(), key.to_hex().as_bytes()).expect("written");
        let plan = SignedPlan::sign(example_plan(COORDINATES), &consortium).expect("sound");
        let bytes = model(COORDINATES).to_safetensors().expect("written");
        found::begin(&folder, plan, &bytes, None, &key, UnixMillis(0)).expect("founded");
        Self::open(root)
    }

    pub(super) fn open(root: tempfile::TempDir) -> Self {
        let driver = Driver::open(&Folder::new(root.path())).expect("recovered");
        let now = UnixMillis(1_000).max(driver.last());
        Self { root, driver, now }
    }

    pub(super) fn reopen(self) -> Self {
        let Self { root, driver, .. } = self;
        drop(driver);
        Self::open(root)
    }

    pub(super) fn ask(&mut self, number: u8, request: Request) -> Response {
        match self.driver.handle(self.now, site(number), "north", request) {
            Answer::Reply(response) => response,
            other => panic!("not a plain answer: {other:?}"),
        }
    }

    pub(super) fn hello(&mut self, number: u8) -> Response {
        let ledger_key = PublicKey([number; 32]);
        let software = "test".into();
        let hello = Request::Hello { oldest: 1, newest: 1, software, ledger_key, ledger: Head::EMPTY };
        let welcome = self.ask(number, hello);
        self.ask(number, Request::Task);
        welcome
    }

    pub(super) fn task(&mut self, number: u8) -> Task {
        match self.ask(number, Request::Task) {
            Response::Task(task) => task,
            other => panic!("no task: {other:?}"),
        }
    }

    pub(super) fn receipt(&self, number: u8, round: u32, bytes: &[u8]) -> Receipt {
        Receipt {
            plan: example_plan(COORDINATES).digest().expect("digest"),
            round: RoundNumber(round),
            site: site(number),
            payload: Digest::of(bytes),
            bytes: bytes.len() as u64,
            ledger: Head { length: u64::from(round) * 3, hash: Digest::of(bytes) },
        }
    }

    /// Announces `receipt` and sends `bytes`, in pieces.
    pub(super) fn send(&mut self, number: u8, receipt: Receipt, bytes: &[u8]) -> Response {
        match self.driver.handle(self.now, site(number), "north", Request::Submit { receipt }) {
            Answer::Reply(response) => return response,
            Answer::Upload(announced) => assert_eq!(announced, receipt),
            Answer::Blob { .. } => panic!("a blob"),
        }
        let mut part = self.driver.spool().part(receipt).expect("opened");
        for piece in bytes[part.length() as usize..].chunks(3) {
            part.write_all(piece).expect("written");
        }
        match part.finish().expect("synced") {
            Finish::Verified(update) => self.driver.accept(self.now, "north", update),
            Finish::WrongDigest => self.driver.wrong_digest(site(number), "north"),
        }
    }

    pub(super) fn submit(&mut self, number: u8, round: u32) -> Response {
        let bytes = update(number);
        self.send(number, self.receipt(number, round, &bytes), &bytes)
    }

    pub(super) fn accepted(&mut self, number: u8, round: u32) -> SignedReceipt {
        match self.submit(number, round) {
            Response::Accepted(receipt) => receipt,
            other => panic!("not accepted: {other:?}"),
        }
    }

    pub(super) fn rejected(&mut self, number: u8, round: u32) -> Rejection {
        match self.submit(number, round) {
            Response::Rejected(rejection) => rejection,
            other => panic!("not rejected: {other:?}"),
        }
    }

    /// Does what is due, until nothing is.
    pub(super) fn settle(&mut self) {
        loop {
            match self.driver.due(self.now) {
                Due::Nothing(_) => return,
                Due::Tick => self.driver.tick(self.now).expect("ticked"),
                Due::Fold => {
                    let job = self.driver.begin_fold().expect("a round is open");
                    let done = job.run(self.driver.store()).expect("folded");
                    self.driver.finish_fold(self.now, done).expect("closed");
                }
            }
        }
    }

    pub(super) fn open_round(&self) -> Option<u32> {
        self.driver.open_round().map(|open: &OpenRound| open.round.0)
    }

    pub(super) fn presence(&self, number: u8) -> Presence {
        self.driver.federation().members[&site(number)].presence
    }

    pub(super) fn models(&self) -> Vec<Digest> {
        self.driver.federation().closed.iter().map(|closed| closed.model).collect()
    }

    /// Which sites' bits each closed round added to the model. Panics if the numbers are not those of whole updates.
    pub(super) fn masks(&self) -> Vec<u32> {
        let mut before = vec![0.0_f32; COORDINATES as usize];
        let federation = self.driver.federation();
        let read =
            |digest| Weights::from_safetensors(&self.driver.store().get(digest).expect("stored")).expect("model");
        let mut masks = Vec::new();
        for closed in &federation.closed {
            let after = read(closed.model).to_flat();
            let sums: Vec<f32> =
                after.iter().zip(&before).map(|(a, b)| (a - b) * closed.accepted.len() as f32).collect();
            assert!(sums.iter().all(|sum| (sum - sums[0].round()).abs() < 1e-3), "{sums:?}");
            masks.push(sums[0].round() as u32);
            before = after;
        }
        masks
    }
}
