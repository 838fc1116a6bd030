//! Numbers with a fraction inside records that are signed: written as the shortest decimal string that reads back as
//! the same `f64`, so that canonical JSON carries no float. Configuration files may write them as plain numbers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// From here on neighbouring numbers are more than a millionth apart.
const FEWER_DECIMALS: f64 = (1_u64 << 33) as f64;

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

    /// The least number of six decimals that is not below `value`: how spent budgets are published, so that none looks
    /// smaller than it is. From [`FEWER_DECIMALS`] on, where an `f64` has fewer decimals, the number itself.
    pub fn rounded_up(value: f64) -> Option<Self> {
        if value.is_nan() || value.abs() >= FEWER_DECIMALS {
            return Self::new(value);
        }
        // The product may be rounded to either side. Both operands of the quotient are whole, so it is the `f64` that the
        // decimal reads as, and equal numbers stay equal.
        let millionths = (value * 1e6).floor();
        let candidates = [millionths, millionths + 1.0, millionths + 2.0].map(|whole| whole / 1e6);
        candidates.into_iter().find(|candidate| *candidate >= value).and_then(Self::new)
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
    use proptest::prelude::*;

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
        // Once taken for a slip of the last digits, and rounded down.
        assert_eq!(Decimal::rounded_up(8.000_000_000_5).map(Decimal::get), Some(8.000_001));
        assert_eq!(Decimal::rounded_up(f64::INFINITY), None);
        assert_eq!(Decimal::rounded_up(f64::NAN), None);
        assert_eq!(Decimal::rounded_up(-1.000_000_1).map(Decimal::get), Some(-1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_published_is_never_below_the_value_and_at_most_a_millionth_above(
            value in prop_oneof![0.0..1e-5_f64, 0.0..1.0, 1.0..30.0, 30.0..1e9, Just(0.0)],
            slip in -3_i64..=3,
        ) {
            // Also just beside a number of six decimals, where rounding is most tempting.
            let whole = (value * 1e6).round() / 1e6;
            let beside = f64::from_bits(whole.to_bits().saturating_add_signed(slip)).max(0.0);
            for value in [value, whole, beside] {
                let published = Decimal::rounded_up(value).expect("finite").get();
                prop_assert!(published >= value, "{published} < {value}");
                prop_assert!(published - value <= 1e-6 + value * f64::EPSILON, "{published} is far above {value}");
                prop_assert_eq!(Decimal::rounded_up(published).map(Decimal::get), Some(published));
                let text = published.to_string();
                prop_assert!(text.split_once('.').is_none_or(|(_, decimals)| decimals.len() <= 6), "{}", text);
            }
        }

        #[test]
        fn where_numbers_have_fewer_decimals_the_number_itself_is_published(value in 1e9..1e300_f64) {
            let published = Decimal::rounded_up(value).expect("finite").get();
            prop_assert!(published >= value && published <= value.next_up().next_up().max(value + 2e-6));
        }
    }
}
