//! Numbers with a fraction inside records that are signed: written as the shortest decimal string that reads back as
//! the same `f64`, so that canonical JSON carries no float. Configuration files may write them as plain numbers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A finite `f64` that stands in records as a decimal string.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Default)]
pub struct Decimal(f64);

impl Decimal {
    /// `value`, if it is finite.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value + 0.0))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The number, rounded up at the sixth decimal: how spent budgets are published, so that none looks smaller than it is.
    pub fn rounded_up(value: f64) -> Option<Self> {
        let scaled = value * 1e6;
        let nearest = scaled.round();
        let up = if (scaled - nearest).abs() < 1e-9 * scaled.abs().max(1.0) { nearest } else { scaled.ceil() };
        let text = format!("{:.6}", up / 1e6);
        Self::new(text.parse().ok()?)
    }
}

impl Eq for Decimal {}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(&self.0) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Integer(i64),
            Float(f64),
            Text(String),
        }
        let value = if deserializer.is_human_readable() {
            match Written::deserialize(deserializer)? {
                Written::Integer(value) => value as f64,
                Written::Float(value) => value,
                Written::Text(text) => text.parse().map_err(serde::de::Error::custom)?,
            }
        } else {
            f64::deserialize(deserializer)?
        };
        Decimal::new(value).ok_or_else(|| serde::de::Error::custom("a finite number is needed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_numbers_are_read_and_text_is_written() {
        for text in ["\"0.1\"", "0.1"] {
            let value: Decimal = serde_json::from_str(text).expect("a number");
            assert_eq!(serde_json::to_string(&value).expect("written"), "\"0.1\"");
        }
        assert!(serde_json::from_str::<Decimal>("\"inf\"").is_err());
        assert!(serde_json::from_str::<Decimal>("\"nan\"").is_err());
    }

    #[test]
    fn published_budgets_round_up() {
        assert_eq!(Decimal::rounded_up(1.000_000_1).map(Decimal::get), Some(1.000_001));
        assert_eq!(Decimal::rounded_up(0.5).map(Decimal::get), Some(0.5));
    }
}
