//! What people write: `node.toml` and `policy.toml`. Unknown keys are refused and everything that is wrong with a file is
//! reported together, each with its line.

use std::path::{Path, PathBuf};

use semisam_shared::{decimal::Decimal, ids::Digest, policy::Policy};

mod document;

use document::Document;

use crate::device::DeviceChoice;

/// The keys of `node.toml`.
const NODE_KEYS: [&str; 7] = ["name", "coordinator", "server_name", "data", "device", "cache_gib", "approver"];

/// Room for prepared scans, unless a site says otherwise.
pub const DEFAULT_CACHE_GIB: u32 = 10;

/// The keys of `policy.toml`.
const POLICY_KEYS: [&str; 6] =
    ["epsilon_max", "delta", "noise_multiplier_min", "patients_min", "rounds_max", "architectures"];

/// A configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read `{}`: `semisam-node init` writes it; `--dir` says in which folder it is", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Everything that is wrong with it.
    #[error("`{}` cannot be used; known keys are {known}{}", path.display(), problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
    Content {
        /// Where.
        path: PathBuf,
        /// The keys that may stand in it.
        known: String,
        /// One sentence each.
        problems: Vec<String>,
    },
}

/// `node.toml`: how this site runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// What people call the site.
    pub name: String,
    /// `host:port` of the coordinator.
    pub coordinator: String,
    /// A name or address in the coordinator's certificate.
    pub server_name: String,
    /// The folder of scans, an absolute path.
    pub data: PathBuf,
    /// Where the site trains.
    pub device: DeviceChoice,
    /// How much room prepared scans may take on disk; 0 keeps none.
    pub cache_gib: u32,
    /// Who approves plans here, unless the command line names somebody.
    pub approver: Option<String>,
}

impl NodeConfig {
    /// Reads `node.toml`. A relative `data` is relative to where the user stands.
    ///
    /// # Errors
    /// Everything that is wrong with the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &read(path)?)
    }

    /// Reads the text of a `node.toml`; `path` is for messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut document = Document::parse(path, text, &NODE_KEYS)?;
        let coordinator = document.text("coordinator");
        let mut host = None;
        if let Some(address) = &coordinator {
            match split_address(address) {
                Some(found) => host = Some(found.to_owned()),
                None => document.complain("coordinator", &format!("`{address}` must read `host:port`")),
            }
        }
        let device = document.optional_text("device").unwrap_or_else(|| "auto".into());
        let choice = DeviceChoice::from_name(&device);
        if choice.is_none() {
            let names: Vec<&str> = DeviceChoice::ALL.iter().map(|choice| choice.name()).collect();
            document.complain("device", &format!("`{device}` must be one of {}", names.join(", ")));
        }
        let config = Self {
            name: document.text("name").unwrap_or_default(),
            server_name: document.optional_text("server_name").or(host).unwrap_or_default(),
            coordinator: coordinator.unwrap_or_default(),
            data: document.text("data").map(PathBuf::from).unwrap_or_default(),
            device: choice.unwrap_or_default(),
            cache_gib: document.optional_count("cache_gib", DEFAULT_CACHE_GIB),
            approver: document.optional_text("approver"),
        };
        document.finish()?;
        Ok(config)
    }

    /// The text of a `node.toml`.
    pub fn to_text(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut lines = vec![
            "# How this hospital's node runs. Unknown keys are refused.".to_owned(),
            String::new(),
            format!("name = {}", quoted(&self.name)),
            format!("coordinator = {}", quoted(&self.coordinator)),
            "# A name or address in the coordinator's certificate.".to_owned(),
            format!("server_name = {}", quoted(&self.server_name)),
            "# images/, labels/, patients.csv".to_owned(),
            format!("data = {}", quoted(&self.data.to_string_lossy())),
            "# auto, cpu or cuda".to_owned(),
            format!("device = {}", quoted(self.device.name())),
            "# Room for prepared scans in `cache/`, in GiB; 0 keeps none, and prepares them anew where memory is short.".to_owned(),
            format!("cache_gib = {}", self.cache_gib),
        ];
        match &self.approver {
            Some(approver) => lines.push(format!("approver = {}", quoted(approver))),
            None => lines.push("# Who approves plans: approver = \"name of the data protection officer\"".to_owned()),
        }
        lines.join("\n") + "\n"
    }
}

/// The host of `host:port` or `[address]:port`.
pub fn split_address(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bracketed.unwrap_or(host);
    let plain = !host.is_empty() && !host.contains(char::is_whitespace) && (bracketed.is_some() || !host.contains(':'));
    plain.then_some(host)
}

/// The policy that `semisam-node init` writes.
pub const DEFAULT_POLICY: &str = "\
# What this hospital allows, whatever a consortium signs. Edit it, then put it into force: semisam-node policy set

# The most that may ever be spent on this cohort, over all plans: epsilon (add/remove), at this delta.
epsilon_max = 10
delta = 1e-5

# No plan with less noise, for fewer patients, or with more rounds is accepted.
noise_multiplier_min = 1.0
patients_min = 3
rounds_max = 1000

# Digests of architectures that may be trained; an empty list allows every one.
architectures = []
";

/// Reads `policy.toml`.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_policy(path: &Path) -> Result<Policy, ConfigError> {
    parse_policy(path, &read(path)?)
}

/// Reads the text of a `policy.toml`; `path` is for messages.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_policy(path: &Path, text: &str) -> Result<Policy, ConfigError> {
    let mut document = Document::parse(path, text, &POLICY_KEYS)?;
    let policy = Policy {
        epsilon_max: document.number("epsilon_max", (1e-3, 1e3)),
        delta: document.number("delta", (1e-15, 1e-2)),
        noise_multiplier_min: document.number("noise_multiplier_min", (0.1, 1e4)),
        patients_min: document.count("patients_min"),
        rounds_max: document.count("rounds_max"),
        architectures: document.digests("architectures"),
    };
    document.finish()?;
    Ok(policy)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(error: ConfigError) -> String {
        match error {
            ConfigError::Content { .. } => error.to_string(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_shipped_samples_are_read_and_the_default_policy_is_the_sample() {
        let sample = |name: &str| format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR"));
        let config = NodeConfig::load(Path::new(&sample("node.toml"))).expect("sample");
        assert_eq!((config.name.as_str(), config.device.name()), ("hospital-a", "auto"));
        assert_eq!(config.cache_gib, DEFAULT_CACHE_GIB);
        let shipped = load_policy(Path::new(&sample("policy.toml"))).expect("sample");
        assert_eq!(parse_policy(Path::new("policy.toml"), DEFAULT_POLICY).expect("default"), shipped);
        assert_eq!(shipped, crate::privacy::tests::policy());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = NodeConfig {
            name: "St. \"Mary\"".into(),
            coordinator: "[::1]:7443".into(),
            server_name: "::1".into(),
            data: "/srv/scans \\ odd".into(),
            device: DeviceChoice::Cpu,
            cache_gib: 3,
            approver: Some("Dr. Näß".into()),
        };
        assert_eq!(NodeConfig::parse(Path::new("node.toml"), &config.to_text()).expect("own text"), config);
        let none = NodeConfig { approver: None, ..config };
        assert_eq!(NodeConfig::parse(Path::new("node.toml"), &none.to_text()).expect("own text"), none);
        let older = none.to_text().replace("cache_gib = 3", "");
        let read = NodeConfig::parse(Path::new("node.toml"), &older).expect("of an earlier version");
        assert_eq!(read.cache_gib, DEFAULT_CACHE_GIB);
    }

    #[test]
    fn everything_wrong_is_reported_together_with_its_line() {
        let text = "name = 7\ncordinator = \"x\"\ncoordinator = \"nowhere\"\ndevice = \"abacus\"\ncache_gib = -1\n";
        let message = problems(NodeConfig::parse(Path::new("n/node.toml"), text).expect_err("wrong"));
        for part in [
            "`n/node.toml`",
            "line 1: `name` must be a text",
            "line 2: unknown key `cordinator`",
            "line 3: `coordinator`: `nowhere` must read `host:port`",
            "line 4: `device`: `abacus` must be one of auto, cpu, cuda",
            "line 5: `cache_gib`: a whole number from 0 on",
            "`data` is missing",
            "known keys are `name`, `coordinator`",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let message =
            problems(NodeConfig::parse(Path::new("node.toml"), "device = \"cpu\"\nname = = 1").expect_err("no TOML"));
        assert!(message.contains("line 2: this is not TOML"), "{message}");
    }

    #[test]
    fn policies_outside_reason_are_refused() {
        let text = "epsilon_max = -1\ndelta = \"1e-5\"\nnoise_multiplier_min = nan\npatients_min = 2.5\narchitectures = [\"x\"]";
        let message = problems(parse_policy(Path::new("policy.toml"), text).expect_err("wrong"));
        for part in ["line 1: `epsilon_max`", "line 3:", "line 4: `patients_min`", "line 5:", "`rounds_max` is missing"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!message.contains("line 2"), "a decimal may be a text: {message}");
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        assert_eq!(split_address("a.b:7443"), Some("a.b"));
        assert_eq!(split_address("[::1]:7443"), Some("::1"));
        for bad in ["", "a", "a:", ":1", "a:0", "a:70000", "::1", "a b:1", "::1:7443"] {
            assert_eq!(split_address(bad), None, "{bad}");
        }
    }
}
