//! `coordinator.toml`: one file, unknown keys refused with their line; `SEMISAM__LISTEN` overrides (spec/operations.md, 6.2).

use std::{net::SocketAddr, path::Path};

use serde::{Deserialize, de::DeserializeOwned};

use crate::disk::DiskError;

/// The environment variable that overrides `listen`.
pub const LISTEN_VARIABLE: &str = "SEMISAM__LISTEN";

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A line is wrong.
    #[error("`{path}`, {problem}")]
    Line {
        /// Which file.
        path: String,
        /// Which line, and what is wrong with it.
        problem: String,
    },
    /// The environment variable is wrong.
    #[error("`{LISTEN_VARIABLE}` is `{0}`, but it must be an address like `0.0.0.0:7443`")]
    Variable(String),
}

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The UDP address on which the coordinator listens.
    pub listen: SocketAddr,
}

impl Config {
    /// Reads the file; `listen` is the environment's override, if any.
    ///
    /// # Errors
    /// Names the line that is wrong.
    pub fn read(path: &Path, listen: Option<&str>) -> Result<Self, ConfigError> {
        let mut config: Config = read_toml(path)?;
        if let Some(text) = listen {
            config.listen = text.parse().map_err(|_| ConfigError::Variable(text.to_owned()))?;
        }
        Ok(config)
    }

    /// The text of a file that says the same.
    pub fn to_text(&self) -> String {
        format!(
            "# Configuration of this coordinator. Unknown keys are refused.\n\n\
             # Where it listens for the hospitals (UDP).\nlisten = \"{}\"\n",
            self.listen
        )
    }
}

/// Reads a TOML file.
///
/// # Errors
/// Names the line that is wrong.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(DiskError::at("read", path))?;
    toml::from_str(&text)
        .map_err(|error| ConfigError::Line { path: path.display().to_string(), problem: explain(&text, &error) })
}

fn explain(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    match error.span() {
        Some(span) if span.start > 0 || span.end < text.trim_end().len() => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: {message}")
        }
        _ => format!("at its top level: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, listen: Option<&str>) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("coordinator.toml");
        std::fs::write(&path, text).expect("written");
        Config::read(&path, listen).map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_missing_and_wrong_keys_are_named_with_their_line() {
        let error = read("# first\nlisten = \"127.0.0.1:1\"\nport = 7\n", None).expect_err("unknown");
        assert!(error.contains("coordinator.toml`, line 3") && error.contains("`port`"), "{error}");
        let error = read("listen = \"nowhere\"\n", None).expect_err("wrong");
        assert!(error.contains("line 1"), "{error}");
        let error = read("\n", None).expect_err("missing");
        assert!(error.contains("missing field `listen`"), "{error}");
    }

    #[test]
    fn the_environment_overrides_and_the_written_text_reads_back() {
        let config = Config { listen: "127.0.0.1:7443".parse().expect("address") };
        assert_eq!(read(&config.to_text(), None), Ok(config.clone()));
        let other = read(&config.to_text(), Some("[::1]:9")).expect("read");
        assert_eq!(other.listen, "[::1]:9".parse().expect("address"));
        assert!(read(&config.to_text(), Some("nine")).expect_err("wrong").contains("SEMISAM__LISTEN"));
    }
}
