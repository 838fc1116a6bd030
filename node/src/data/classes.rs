//! Which value of a hospital's label files is which class of a student: files number organs as they like (5, 37, 90),
//! a student counts its classes from 0, the background, without gaps.
//!
//! Written `5=1,37=2,90=2,other=0`: value 37 and value 90 are one class, and whatever is not named is background. Without
//! `other` a value that is not named is an error, because leaving it out would teach a student that it is background.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::volume::LabelMap;

/// The highest class: 255 marks voxels that do not count.
const HIGHEST: u8 = 254;
/// The word for all values that are not named.
const OTHER: &str = "other";

/// Values and their classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassMap {
    /// Value and class, as they were named; no value twice, and background to itself is left out.
    named: Vec<(u8, u8)>,
    /// The class of the other values but 0, if they have any.
    other: Option<u8>,
}

/// Why this is no map of classes.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum ClassMapError {
    /// Not `VALUE=CLASS`.
    #[error("`{0}` is no VALUE=CLASS with numbers of at most 255 and 254, such as 37=2, and not other=CLASS either")]
    Pair(String),
    /// A value with two classes.
    #[error("the value `{0}` is named twice: give it one class")]
    Twice(String),
    /// 0 as an organ.
    #[error("the value 0 is the background and class 0 for all: leave it out")]
    Background,
    /// Classes with a gap.
    #[error("no value is named for class {0}: count classes from 1 without a gap")]
    Gap(u8),
}

/// A value of a label file that the map has no class for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the value {value} has no class: add `{value}=CLASS` to `--map`, or `other=0` for background")]
pub struct Unnamed {
    /// The value.
    pub value: u8,
}

impl ClassMap {
    /// The classes that there are, background included.
    pub fn classes(&self) -> usize {
        1 + usize::from(self.named.iter().map(|(_, class)| *class).max().unwrap_or(0))
    }

    /// The class of a value of a label file.
    pub fn class_of(&self, value: u8) -> Option<u8> {
        let named = self.named.iter().find(|(named, _)| *named == value).map(|(_, class)| *class);
        named.or(if value == 0 { Some(0) } else { self.other })
    }

    /// The value that stands for a class: of several the one that was named first.
    pub fn value_of(&self, class: u8) -> u8 {
        let named = self.named.iter().find(|(_, named)| *named == class && class > 0);
        named.map_or(0, |(value, _)| *value)
    }

    /// Turns the values of a label file into classes.
    ///
    /// # Errors
    /// Names the first value that has no class; then nothing was changed.
    pub fn to_classes(&self, labels: &mut LabelMap) -> Result<(), Unnamed> {
        let table: Vec<Option<u8>> = (0..=255).map(|value| self.class_of(value)).collect();
        if let Some(&value) = labels.values.iter().find(|value| table[usize::from(**value)].is_none()) {
            return Err(Unnamed { value });
        }
        labels.values.iter_mut().for_each(|value| *value = table[usize::from(*value)].unwrap_or(0));
        Ok(())
    }

    /// Turns classes into the values that stand for them.
    pub fn to_values(&self, labels: &mut LabelMap) {
        let table: Vec<u8> = (0..=255).map(|class| self.value_of(class)).collect();
        labels.values.iter_mut().for_each(|class| *class = table[usize::from(*class)]);
    }
}

/// The values of a label map, in order, each once.
pub fn values(labels: &LabelMap) -> Vec<u8> {
    let mut seen = [false; 256];
    labels.values.iter().for_each(|&value| seen[usize::from(value)] = true);
    (0..=255).filter(|&value| seen[usize::from(value)]).collect()
}

/// The map that gives each value but 0 a class of its own, in their order; none where the values are classes already.
pub fn suggestion(values: &[u8]) -> Option<ClassMap> {
    let organs = values.iter().filter(|value| **value > 0);
    let named: Vec<(u8, u8)> = organs.zip(1..=HIGHEST).map(|(value, class)| (*value, class)).collect();
    named.iter().any(|(value, class)| value != class).then_some(ClassMap { named, other: None })
}

impl FromStr for ClassMap {
    type Err = ClassMapError;

    fn from_str(text: &str) -> Result<Self, ClassMapError> {
        let mut map = Self { named: Vec::new(), other: None };
        for pair in text.split(',') {
            let wrong = || ClassMapError::Pair(pair.to_owned());
            let (value, class) = pair.split_once('=').ok_or_else(wrong)?;
            let class: u8 = class.trim().parse().ok().filter(|class| *class <= HIGHEST).ok_or_else(wrong)?;
            let twice = || ClassMapError::Twice(value.trim().to_owned());
            if value.trim() == OTHER {
                if map.other.replace(class).is_some() {
                    return Err(twice());
                }
                continue;
            }
            let value: u8 = value.trim().parse().map_err(|_| wrong())?;
            match (value, class) {
                (0, 0) => {}
                (0, _) => return Err(ClassMapError::Background),
                _ if map.named.iter().any(|(named, _)| *named == value) => return Err(twice()),
                _ => map.named.push((value, class)),
            }
        }
        // a class of other values alone would have no value that stands for it
        let highest = map.named.iter().map(|(_, class)| *class).chain(map.other).max().unwrap_or(0).max(1);
        match (1..=highest).find(|class| map.value_of(*class) == 0) {
            Some(class) => Err(ClassMapError::Gap(class)),
            None => Ok(map),
        }
    }
}

impl fmt::Display for ClassMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named.iter().map(|(value, class)| format!("{value}={class}"));
        let other = self.other.map(|class| format!("{OTHER}={class}"));
        f.write_str(&named.chain(other).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::grid::Grid;

    fn labels(values: Vec<u8>) -> LabelMap {
        let Grid { shape, affine } = Grid::centred([values.len(), 1, 1], [1.0; 3]);
        LabelMap { shape, affine, values }
    }

    fn map(text: &str) -> ClassMap {
        text.parse().unwrap()
    }

    #[test]
    fn values_become_classes_and_classes_values() {
        let map = map(" 5=1, 37=2,90=2 ,0=0");
        assert_eq!((map.classes(), map.to_string()), (3, "5=1,37=2,90=2".to_owned()));
        let mut scan = labels(vec![0, 5, 37, 90, 5]);
        map.to_classes(&mut scan).unwrap();
        assert_eq!(scan.values, [0, 1, 2, 2, 1]);
        map.to_values(&mut scan);
        assert_eq!(scan.values, [0, 5, 37, 37, 5], "the first value stands for a class of several");
    }

    #[test]
    fn a_value_that_is_not_named_is_an_error_unless_others_are() {
        let mut scan = labels(vec![0, 5, 6]);
        let error = map("5=1").to_classes(&mut scan).unwrap_err();
        assert_eq!((error, &scan.values), (Unnamed { value: 6 }, &vec![0, 5, 6]));
        assert!(error.to_string().contains("`6=CLASS`") && error.to_string().contains("other=0"));
        map("5=1,other=0").to_classes(&mut scan).unwrap();
        assert_eq!(scan.values, [0, 1, 0]);
        let mut scan = labels(vec![0, 5, 6, 200]);
        map("5=1,6=2,other=1").to_classes(&mut scan).unwrap();
        assert_eq!(scan.values, [0, 1, 2, 1]);
    }

    #[test]
    fn what_is_no_map_says_why() {
        use ClassMapError::{Background, Gap, Pair, Twice};
        let wrong = |pair: &str| Pair(pair.to_owned());
        let cases = [
            ("", wrong("")),
            ("5", wrong("5")),
            ("5=1,", wrong("")),
            ("256=1", wrong("256=1")),
            ("5=255", wrong("5=255")),
            ("-1=1", wrong("-1=1")),
            ("liver=1", wrong("liver=1")),
            ("5=1,5=2", Twice("5".to_owned())),
            ("5=1,other=0,other=1", Twice("other".to_owned())),
            ("0=1", Background),
            ("0=0", Gap(1)),
            ("5=2", Gap(1)),
            ("5=1,6=3", Gap(2)),
            ("5=1,other=2", Gap(2)),
            ("other=0", Gap(1)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<ClassMap>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_suggestion_can_be_used_as_it_is() {
        assert_eq!(suggestion(&[0, 1, 2, 3]), None);
        assert_eq!(suggestion(&[]), None);
        let suggested = suggestion(&[0, 5, 37, 90]).unwrap();
        assert_eq!(suggested.to_string(), "5=1,37=2,90=3");
        assert_eq!(map(&suggested.to_string()), suggested);
        let all: Vec<u8> = (0..=255).filter(|value| *value != 9).collect();
        assert_eq!(map(&suggestion(&all).unwrap().to_string()).classes(), 255);
    }

    proptest! {
        #[test]
        fn a_suggested_map_loses_nothing(found in prop::collection::vec(any::<u8>(), 1..40)) {
            let scan = labels(found);
            let Some(map) = suggestion(&values(&scan)) else { return Ok(()) };
            let mut there_and_back = scan.clone();
            map.to_classes(&mut there_and_back).unwrap();
            prop_assert!(there_and_back.values.iter().all(|class| usize::from(*class) < map.classes()));
            map.to_values(&mut there_and_back);
            prop_assert_eq!(there_and_back, scan);
        }

        #[test]
        fn any_text_is_a_map_or_an_error(text in "[0-9a-z=, ]{0,24}") {
            if let Ok(map) = text.parse::<ClassMap>() {
                prop_assert_eq!(map.to_string().parse::<ClassMap>(), Ok(map));
            }
        }
    }
}
