//! How commands that use a student make a mask of what it says, beyond its windows: overlap, mirrored windows, the largest
//! part of each class, and which values stand for classes in files.

use serde_json::{Map, Value, json};

use crate::{
    data::{
        classes::{ClassMap, Unnamed},
        flip::Axes,
        volume::LabelMap,
    },
    student::Student,
};

/// The axes that `train --augment` mirrors.
const TAUGHT: &str = "xy";

/// How a mask is made.
#[derive(Clone, Debug, clap::Args)]
pub struct MaskArgs {
    /// Share of a window that the next one along an axis covers again, from 0 to 0.95: more is smoother and takes longer.
    #[arg(long, default_value_t = 0.5, value_name = "SHARE", value_parser = parse_overlap)]
    pub overlap: f64,
    /// Voxels from one window to the next along each axis, at most the sides of a window, in place of an overlap.
    #[arg(long, value_name = "X,Y,Z", value_parser = parse_stride, conflicts_with = "overlap")]
    pub stride: Option<[usize; 3]>,
    /// Show each window mirrored too, and average what the student says: along x (left and right), y (back and front), z
    /// (feet and head) and their combinations, so up to eight times the work. Without axes xy, which `train --augment`
    /// teaches. Not along x where classes differ by their side, such as left and right kidney.
    #[arg(long, value_name = "AXES", num_args = 0..=1, default_missing_value = TAUGHT, value_parser = parse_axes)]
    pub flips: Option<Axes>,
    /// Keep the largest connected part of each class alone (through faces, edges and corners; of equal ones the first in
    /// the order of voxels); the rest becomes background.
    #[arg(long)]
    pub largest_component: bool,
    /// Which values of label files are classes.
    #[command(flatten)]
    pub classes: ClassArgs,
}

/// Which value of label files is which class of the student.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClassArgs {
    /// The class of each value of label files, such as 5=1,37=2,90=2,other=0: classes count from 1 without a gap, several
    /// values may be one class (its masks have the first of them), `other` are all that are not named. Without it values
    /// are classes.
    #[arg(long, value_name = "VALUE=CLASS,..")]
    pub map: Option<ClassMap>,
}

/// Why a map is of no use.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "`--map` has {mapped} classes with the background, but the student has {student}: give the map that the student was trained with"
)]
pub struct ForeignMap {
    mapped: usize,
    student: usize,
}

impl MaskArgs {
    /// Makes masks of `student` this way.
    ///
    /// # Errors
    /// If it has other classes than the map.
    pub fn apply(&self, student: &mut Student) -> Result<(), ForeignMap> {
        self.classes.must_fit(student.config.classes)?;
        let overlapping = |side: usize| ((side as f64 * (1.0 - self.overlap)).round() as usize).max(1);
        student.windows.stride = self.stride.unwrap_or(student.windows.size.map(overlapping));
        student.windows.flips = self.flips.unwrap_or_default();
        student.largest_component = self.largest_component;
        Ok(())
    }

    /// What was done, for JSON.
    pub fn describe(&self, student: &Student) -> Map<String, Value> {
        let letters = "xyz".chars().zip(student.windows.flips).filter_map(|(letter, flip)| flip.then_some(letter));
        Map::from_iter([
            ("stride".to_owned(), json!(student.windows.stride)),
            ("flips".to_owned(), json!(letters.collect::<String>())),
            ("largest_component".to_owned(), json!(student.largest_component)),
            ("map".to_owned(), json!(self.classes.map.as_ref().map(ToString::to_string))),
        ])
    }
}

impl ClassArgs {
    /// Refuses a map of other classes than the student's.
    ///
    /// # Errors
    /// If the numbers of classes differ.
    pub fn must_fit(&self, student: usize) -> Result<(), ForeignMap> {
        let mapped = self.map.as_ref().map(ClassMap::classes).filter(|mapped| *mapped != student);
        mapped.map_or(Ok(()), |mapped| Err(ForeignMap { mapped, student }))
    }

    /// Turns the values of a label file into classes.
    ///
    /// # Errors
    /// If a value has no class.
    pub fn to_classes(&self, labels: &mut LabelMap) -> Result<(), Unnamed> {
        self.map.as_ref().map_or(Ok(()), |map| map.to_classes(labels))
    }

    /// The value that stands for a class in files.
    pub fn value_of(&self, class: u8) -> u8 {
        self.map.as_ref().map_or(class, |map| map.value_of(class))
    }
}

fn parse_overlap(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=0.95).contains(share));
    share.ok_or_else(|| "give a share from 0 to 0.95, such as 0.5".to_owned())
}

fn parse_stride(text: &str) -> Result<[usize; 3], String> {
    let steps: Vec<Option<usize>> = text.split([',', 'x']).map(|step| step.trim().parse().ok()).collect();
    match steps[..] {
        [Some(x), Some(y), Some(z)] if x.min(y).min(z) > 0 => Ok([x, y, z]),
        _ => Err("give three numbers of voxels, such as 18,18,4".to_owned()),
    }
}

fn parse_axes(text: &str) -> Result<Axes, String> {
    let axes = ['x', 'y', 'z'].map(|axis| text.contains(axis));
    let known = text.chars().all(|letter| "xyz".contains(letter));
    let named = axes.iter().filter(|named| **named).count();
    if named > 0 && known && named == text.len() {
        Ok(axes)
    } else {
        Err("give the axes to mirror, such as x, xy or xyz".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        masks: MaskArgs,
    }

    fn parsed(args: &[&str]) -> Result<MaskArgs, String> {
        let args = std::iter::once("command").chain(args.iter().copied());
        Command::try_parse_from(args).map(|command| command.masks).map_err(|error| error.to_string())
    }

    #[test]
    fn flips_name_their_axes_or_are_those_of_training() {
        let flips = |args: &[&str]| parsed(args).expect("known").flips;
        assert_eq!(flips(&[]), None);
        assert_eq!(flips(&["--flips"]), Some([true, true, false]));
        assert_eq!(flips(&["--flips", "--largest-component"]), Some([true, true, false]));
        assert_eq!(flips(&["--flips", "zx"]), Some([true, false, true]));
        for bad in ["", "xx", "left", "x,y"] {
            assert!(parsed(&["--flips", bad]).expect_err(bad).contains("xyz"), "{bad}");
        }
    }

    #[test]
    fn windows_overlap_by_half_unless_asked_otherwise() {
        let default = parsed(&[]).expect("nothing is needed");
        assert!(default.overlap == 0.5 && default.stride.is_none() && !default.largest_component);
        assert_eq!(parsed(&["--stride", "18,18,4"]).expect("known").stride, Some([18, 18, 4]));
        for bad in
            [["--overlap", "1"], ["--overlap", "-0.1"], ["--overlap", "nan"], ["--stride", "1,0,4"], ["--stride", "8"]]
        {
            assert!(parsed(&bad).is_err(), "{bad:?}");
        }
        assert!(parsed(&["--overlap", "0.5", "--stride", "8,8,8"]).is_err(), "one of them");
    }

    #[test]
    fn a_map_that_is_none_says_what_it_should_be() {
        assert!(parsed(&["--map", "5=1,7=3"]).expect_err("a gap").contains("no value is named for class 2"));
        let map = parsed(&["--map", "5=1,7=2"]).expect("a map").classes;
        assert!(
            map.must_fit(3).is_ok()
                && map.must_fit(2).expect_err("other classes").to_string().contains("has 3 classes")
        );
        assert_eq!((map.value_of(2), ClassArgs::default().value_of(2)), (7, 2));
    }
}
