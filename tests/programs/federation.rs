//! A federation on disk, made with the commands of the guide: `init`, `enroll`, `serve`, `policy approve`, `run`. As small
//! as it can be: two filters, scans of 16 voxels a side, one step for each patient.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::running::{Running, audit, coordinator, node, until};

/// Six numbers: the least that can be released.
pub(crate) const OUTPUT: &str = "out_conv.weight";
/// Thousands of numbers, whose noise takes a while: there is time to strike between RESERVE and COMMIT.
pub(crate) const DEEPEST: &str = "block_five.conv.0.weight";

/// A plan for the model of [`initial_model`], in the release space of one tensor.
pub(crate) fn plan(rounds: u32, quorum: u32, tensor: &str) -> String {
    format!(
        "name = \"black box\"\nrounds = {rounds}\nquorum = {quorum}\nround_seconds = 600\n\
         [student]\nbase_filters = 2\ngroups = 2\nclasses = 2\n\
         [scans]\nspacing_mm = [4.0, 4.0, 4.0]\npatch = [16, 16, 16]\n\
         [training]\nmethod = \"mean-teacher\"\nlocal_steps = 1\nbatch = 1\nlearning_rate = 0.05\nmomentum = 0.9\n\
         weight_decay = 1e-4\nconsistency_weight = 0.1\npseudo_label_threshold = 0.9\nnoise = 0.1\naugment = false\n\
         [privacy]\nunit = \"patient\"\nclip_norm = 0.01\nnoise_multiplier = 3.0\ndelta = 1e-5\nexpected_patients = 3\n\
         [privacy.release]\nspace = \"tensors\"\nnames = [\"{tensor}\"]\n\
         [server]\nlearning_rate = 1.0\nmomentum = 0.5\ndecay = \"cosine\"\n"
    )
}

/// Writes a synthetic hospital: three patients, two of them labelled.
pub(crate) fn scans(folder: &Path, seed: u32) {
    let seed = seed.to_string();
    let sizes = ["--shape", "16", "16", "16", "--spacing", "4", "4", "4"];
    let [a, b, c, d, e, f, g, h] = sizes;
    node!(
        "data",
        "synth",
        "--out",
        folder,
        "--patients",
        "3",
        "--labelled",
        "2",
        "--seed",
        seed,
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h
    )
    .done();
}

/// A student after one step, as `semisam-node train` makes it.
pub(crate) fn initial_model() -> &'static [u8] {
    static MODEL: OnceLock<Vec<u8>> = OnceLock::new();
    MODEL.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        let (data, out) = (folder.path().join("public"), folder.path().join("student"));
        scans(&data, 99);
        train(&data, &out, "1");
        fs::read(out.join("model.safetensors")).expect("a model")
    })
}

/// Trains the smallest student for `steps`.
pub(crate) fn train(data: &Path, out: &Path, steps: &str) -> crate::running::Ended {
    let (patch, spacing) = ("16,16,16", "4");
    node!(
        "--format",
        "json",
        "train",
        "--data",
        data,
        "--out",
        out,
        "--steps",
        steps,
        "--base-filters",
        "2",
        "--patch",
        patch,
        "--spacing",
        spacing,
        "--device",
        "cpu"
    )
    .done()
}

/// The events of a journal or ledger, in order. A line that is being written is left out.
pub(crate) fn events(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let event = |line| serde_json::from_str::<Value>(line).expect("a record")["event"].clone();
    whole.lines().map(event).collect()
}

/// Those of one kind.
pub(crate) fn events_of(log: &Path, kind: &str) -> Vec<Value> {
    events(log).into_iter().filter(|event| event["type"] == kind).collect()
}

/// A federation in a folder of its own.
pub(crate) struct Federation {
    folder: TempDir,
    /// The plan's digest, as the consortium tells it.
    pub(crate) plan: String,
    /// Where the coordinator listens.
    pub(crate) address: String,
    server: Option<Running>,
}

impl Federation {
    /// Founds it and starts the coordinator on a free port.
    pub(crate) fn found(plan: &str) -> Self {
        Self::found_with(plan, initial_model())
    }

    /// The same with another student to start from.
    pub(crate) fn found_with(plan: &str, student: &[u8]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let [draft, model] = ["plan.toml", "initial.safetensors"].map(|name| folder.path().join(name));
        fs::write(&draft, plan).expect("written");
        fs::write(&model, student).expect("written");
        let dir = folder.path().join("coordinator");
        let listen = "127.0.0.1:0";
        let init = coordinator!(
            "--format", "json", "init", "--dir", dir, "--plan", draft, "--model", model, "--listen", listen
        );
        let digest = init.done().json()["plan"].as_str().expect("a digest").to_owned();
        let mut federation = Self { folder, plan: digest, address: listen.into(), server: None };
        federation.serve();
        federation
    }

    /// Starts the coordinator, where it listened before if it did.
    pub(crate) fn serve(&mut self) {
        let dir = self.coordinator();
        let address = dir.join("address");
        let _ = fs::remove_file(&address); // what a killed coordinator left
        let arguments: [&dyn AsRef<std::ffi::OsStr>; 6] =
            [&"serve", &"--dir", &dir, &"--listen", &self.address, &"--until-done"];
        let mut server = Running::start("coordinator", &arguments, &self.log("coordinator"));
        self.address = until("the coordinator listens", || {
            assert!(server.runs(), "{}", server.words());
            let text = fs::read_to_string(&address).ok()?;
            text.trim().parse::<std::net::SocketAddr>().ok().map(|address| address.to_string())
        });
        self.server = Some(server);
    }

    /// The coordinator's process.
    pub(crate) fn server(&self) -> &Running {
        self.server.as_ref().expect("it serves")
    }

    /// Takes the coordinator's process, to kill it or to await its end.
    pub(crate) fn take_server(&mut self) -> Running {
        self.server.take().expect("it serves")
    }

    /// Everything is in here.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// The coordinator's folder.
    pub(crate) fn coordinator(&self) -> PathBuf {
        self.root().join("coordinator")
    }

    /// The coordinator's journal.
    pub(crate) fn journal(&self) -> PathBuf {
        self.coordinator().join("journal.jsonl")
    }

    /// A hospital's folder.
    pub(crate) fn site(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// A hospital's ledger.
    pub(crate) fn ledger(&self, name: &str) -> PathBuf {
        self.site(name).join("ledger.jsonl")
    }

    /// Where a party's words go.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root().join(format!("{name}.log"))
    }

    /// A hospital with scans and a folder, that has sent its request and no more.
    pub(crate) fn hospital(&self, name: &str, seed: u32) {
        let data = self.root().join(format!("{name}-scans"));
        scans(&data, seed);
        node!(
            "init",
            "--dir",
            self.site(name),
            "--name",
            name,
            "--coordinator",
            self.address,
            "--data",
            data,
            "--device",
            "cpu"
        )
        .done();
    }

    /// Exchanges request and certificate.
    pub(crate) fn enrol(&self, name: &str) {
        let (issued, authority) =
            (self.root().join(format!("{name}.pem")), self.coordinator().join("consortium/authority.pem"));
        let request = self.site(name).join("tls/request.csr");
        let enrolled = coordinator!(
            "--format",
            "json",
            "enroll",
            "--dir",
            self.coordinator(),
            "--request",
            request,
            "--out",
            issued
        );
        assert_eq!(enrolled.done().json()["name"], name);
        node!("enroll", "--dir", self.site(name), "--certificate", issued, "--authority", authority).done();
    }

    /// Has the data protection officer approve the plan.
    pub(crate) fn approve(&self, name: &str) -> crate::running::Ended {
        node!("policy", "approve", self.plan, "--dir", self.site(name), "--approver", "the officer")
    }

    /// A hospital that is ready to take part.
    pub(crate) fn ready(&self, name: &str, seed: u32) {
        self.hospital(name, seed);
        self.enrol(name);
        self.approve(name).done();
    }

    /// Starts a hospital's node.
    pub(crate) fn run(&self, name: &str) -> Running {
        Running::start("node", &[&"run", &"--dir", &self.site(name)], &self.log(name))
    }

    /// Waits until nodes and coordinator have ended, all well.
    #[track_caller]
    pub(crate) fn ends_well(&mut self, nodes: Vec<Running>) {
        for node in nodes {
            let words = node.words();
            assert_eq!(node.ended(), Some(0), "{words}");
        }
        let server = self.take_server();
        let words = server.words();
        assert_eq!(server.ended(), Some(0), "{words}");
    }

    /// What the auditor says about all of it, and with which exit code.
    pub(crate) fn verdict(&self) -> (Option<i32>, Value) {
        let ended = audit!("--format", "json", "verify", self.root());
        (ended.code, ended.json())
    }

    /// The auditor finds nothing, and computed all `rounds` again.
    #[track_caller]
    pub(crate) fn is_sound(&self, rounds: u32) -> Value {
        let (code, verdict) = self.verdict();
        assert_eq!((code, &verdict["verdict"]), (Some(0), &"sound".into()), "{verdict:#}");
        assert_eq!((&verdict["rounds"], &verdict["rounds_recomputed"]), (&rounds.into(), &rounds.into()));
        verdict
    }

    /// A node's own check of its ledger.
    #[track_caller]
    pub(crate) fn ledger_is_sound(&self, name: &str) {
        node!("ledger", "verify", "--dir", self.site(name)).done();
    }
}
