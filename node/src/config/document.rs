//! A TOML file that is read key by key, collecting every complaint with its line.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Decimal, Digest};

/// One file while it is read.
pub(super) struct Document<'a> {
    path: PathBuf,
    text: &'a str,
    known: &'static [&'static str],
    values: BTreeMap<String, (Range<usize>, DeValue<'a>)>,
    problems: Vec<String>,
}

impl<'a> Document<'a> {
    /// Reads the outline of `text`, in which only `known` keys may stand.
    pub(super) fn parse(path: &Path, text: &'a str, known: &'static [&'static str]) -> Result<Self, ConfigError> {
        let mut document = Self { path: path.into(), text, known, values: BTreeMap::new(), problems: Vec::new() };
        match DeTable::parse(text) {
            Ok(table) => {
                for (key, value) in table.into_inner() {
                    let name = key.get_ref().to_string();
                    if known.contains(&name.as_str()) {
                        document.values.insert(name, (key.span(), value.into_inner()));
                    } else {
                        document.problems.push(format!("line {}: unknown key `{name}`", document.line(key.span())));
                    }
                }
                Ok(document)
            }
            Err(error) => {
                let line = document.line(error.span().unwrap_or_default());
                document.problems.push(format!("line {line}: this is not TOML: {}", error.message()));
                Err(document.error())
            }
        }
    }

    /// A text that must be there and not be empty.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        if !self.values.contains_key(key) {
            self.problems.push(format!("`{key}` is missing"));
            return None;
        }
        self.optional_text(key)
    }

    /// A text that must not be empty, if it is there.
    pub(super) fn optional_text(&mut self, key: &str) -> Option<String> {
        let (span, value) = self.values.get(key)?;
        match value.as_str() {
            Some(text) if !text.trim().is_empty() => Some(text.to_owned()),
            _ => {
                let line = self.line(span.clone());
                self.problems.push(format!("line {line}: `{key}` must be a text in quotation marks, not empty"));
                None
            }
        }
    }

    /// A number between two bounds, plain or as a text.
    pub(super) fn number(&mut self, key: &str, (low, high): (f64, f64)) -> Decimal {
        let value = match self.values.get(key).map(|(_, value)| value) {
            None => {
                self.problems.push(format!("`{key}` is missing"));
                return Decimal::default();
            }
            Some(DeValue::Integer(value)) => value.as_str().parse::<f64>().ok(),
            Some(DeValue::Float(value)) => value.as_str().parse().ok(),
            Some(DeValue::String(value)) => value.parse().ok(),
            Some(_) => None,
        };
        match value.filter(|value| (low..=high).contains(value)).and_then(Decimal::new) {
            Some(value) => value,
            None => {
                self.complain(key, &format!("a number from {low} to {high} is needed"));
                Decimal::default()
            }
        }
    }

    /// A whole number from 1 on.
    pub(super) fn count(&mut self, key: &str) -> u32 {
        let value = match self.values.get(key).map(|(_, value)| value) {
            None => {
                self.problems.push(format!("`{key}` is missing"));
                return 0;
            }
            Some(DeValue::Integer(value)) => u32::from_str_radix(value.as_str(), value.radix()).ok(),
            Some(_) => None,
        };
        value.filter(|value| *value >= 1).unwrap_or_else(|| {
            self.complain(key, "a whole number from 1 on is needed");
            0
        })
    }

    /// A whole number from 0 on, or `default` if it is not there.
    pub(super) fn optional_count(&mut self, key: &str, default: u32) -> u32 {
        let value = match self.values.get(key).map(|(_, value)| value) {
            None => return default,
            Some(DeValue::Integer(value)) => u32::from_str_radix(value.as_str(), value.radix()).ok(),
            Some(_) => None,
        };
        value.unwrap_or_else(|| {
            self.complain(key, "a whole number from 0 on is needed");
            default
        })
    }

    /// A list of digests, empty if it is not there.
    pub(super) fn digests(&mut self, key: &str) -> Vec<Digest> {
        let Some((_, value)) = self.values.get(key) else { return Vec::new() };
        let one = |item: &DeValue<'_>| item.as_str().and_then(|text| text.parse().ok());
        let list = value.as_array().and_then(|items| items.iter().map(|item| one(item.get_ref())).collect());
        list.unwrap_or_else(|| {
            self.complain(key, "a list of digests is needed, each 64 lower-case hex digits in quotation marks");
            Vec::new()
        })
    }

    /// Notes a complaint about a key.
    pub(super) fn complain(&mut self, key: &str, problem: &str) {
        let place =
            self.values.get(key).map_or(String::new(), |(span, _)| format!("line {}: ", self.line(span.clone())));
        self.problems.push(format!("{place}`{key}`: {problem}"));
    }

    /// Ends the reading.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.problems.is_empty() { Ok(()) } else { Err(self.error()) }
    }

    fn error(self) -> ConfigError {
        let known = self.known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        ConfigError::Content { path: self.path, known, problems: self.problems }
    }

    fn line(&self, span: Range<usize>) -> usize {
        self.text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1)
    }
}
