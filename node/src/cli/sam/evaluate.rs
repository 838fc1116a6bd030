//! `semisam-node sam evaluate`: how well a generalist follows clicks, on labelled scans.
//!
//! The clicks come from the truth ([`crate::generalist::oracle`]), and the output says so: such a number is what perfect
//! help is worth, not what a hospital gets without labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::PathBuf,
};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{GeneralistArgs, SamCommandError, open};
use crate::{
    cli::{Format, print, train::at_least_one},
    data::folder::{Cohort, FolderError},
    generalist::oracle::dice_by_clicks,
    train::generator,
};

/// `semisam-node sam evaluate`.
#[derive(Clone, Debug, Args)]
pub struct EvaluateArgs {
    /// The generalist.
    #[command(flatten)]
    pub generalist: GeneralistArgs,
    /// A folder of scans; those with labels are used, and their labels say where to click.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// After how many clicks the masks are scored.
    #[arg(long, default_value = "1,3,5,10", value_name = "N,N", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=100))]
    pub clicks: Vec<u64>,
    /// Only the first of the labelled scans, in their order.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub first: Option<usize>,
    /// Names the draws among equally good clicks.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Dice after each asked number of clicks, summed over objects.
#[derive(Default)]
struct Sums {
    objects: usize,
    dice: Vec<f64>,
}

impl Sums {
    fn add(&mut self, dice: &[f64]) {
        self.dice.resize(dice.len(), 0.0);
        self.dice.iter_mut().zip(dice).for_each(|(sum, dice)| *sum += dice);
        self.objects += 1;
    }

    fn mean(&self) -> Vec<f64> {
        self.dice.iter().map(|sum| sum / self.objects as f64).collect()
    }
}

/// Prints a line for each object of each scan, a mean for each class where there are several, and the mean of all.
pub(super) fn run(args: &EvaluateArgs, format: Format, out: &mut dyn Write) -> Result<(), SamCommandError> {
    let generalist = open(&args.generalist)?.looking_twice();
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let most = args.clicks.iter().copied().max().unwrap_or(1) as usize;
    let (mut all, mut by_class) = (Sums::default(), BTreeMap::<u8, Sums>::new());
    for (number, scan) in cohort.labelled().take(args.first.unwrap_or(usize::MAX)).enumerate() {
        let (image, truth) = scan.read()?;
        let truth = truth.ok_or_else(|| FolderError::NoLabel(scan.image.clone()))?;
        let classes: BTreeSet<u8> = truth.values.iter().copied().filter(|class| *class > 0).collect();
        for class in classes {
            let mut random = generator(args.seed, "oracle", &[number as u64, u64::from(class)]);
            let found = dice_by_clicks(&generalist, (&image, &truth), class, most, &mut random)?;
            let asked: Vec<f64> = args.clicks.iter().map(|clicks| found[*clicks as usize - 1]).collect();
            tell(args, (&scan.name, Some(class), 1), &asked, format, out)?;
            by_class.entry(class).or_default().add(&asked);
            all.add(&asked);
        }
    }
    if by_class.len() > 1 {
        for (class, sums) in &by_class {
            tell(args, ("mean", Some(*class), sums.objects), &sums.mean(), format, out)?;
        }
    }
    if all.objects == 0 {
        return Err(FolderError::NoLabel(args.data.clone()).into());
    }
    tell(args, ("mean", None, all.objects), &all.mean(), format, out)
}

fn tell(
    args: &EvaluateArgs,
    (case, class, objects): (&str, Option<u8>, usize),
    dice: &[f64],
    format: Format,
    out: &mut dyn Write,
) -> Result<(), SamCommandError> {
    let pairs = || args.clicks.iter().zip(dice);
    let numbers: Vec<String> = pairs().map(|(clicks, dice)| format!("{clicks}: {dice:.3}")).collect();
    let of_class = class.map_or(String::new(), |class| format!(" class {class}"));
    let name = format!("{case}{of_class}");
    let words = format!("{name:<32} dice by clicks from the truth  {}", numbers.join("  "));
    let dice: Map<String, Value> = pairs().map(|(clicks, dice)| (clicks.to_string(), json!(dice))).collect();
    let value = json!({ "case": case, "class": class, "objects": objects, "prompts": "truth", "dice": dice });
    Ok(print(out, format, &words, &value)?)
}
