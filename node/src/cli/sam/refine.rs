//! `semisam-node sam refine`: what a generalist makes of a student's own prediction, on labelled scans.
//!
//! Prompts come from the student alone, as they do in training ([`crate::generalist::prompter`]); labels only score. Whoever
//! wants to know whether a generalist will help a student asks here, in seconds, before training for hours.

use std::{io::Write, path::PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{GeneralistArgs, SamCommandError, open};
use crate::{
    cli::{Format, print, resolve, train::at_least_one, viewing::parse_patch},
    data::{
        folder::{Cohort, FolderError, Scan},
        grid::Grid,
        metrics::dice,
        volume::LabelMap,
    },
    generalist::{
        Generalist, GeneralistError,
        prompter::{Answer, Kind, Prompting, ask, belief::Belief},
        store::{Source, Store},
    },
    student::{Student, StudentError},
    train::{generator, guidance::Guidance, infer::class_probabilities, prepare::prepare},
};

/// `semisam-node sam refine`.
#[derive(Clone, Debug, Args)]
pub struct RefineArgs {
    /// The generalist.
    #[command(flatten)]
    pub generalist: GeneralistArgs,
    /// The student that prompts it, .safetensors or .pth.
    #[arg(long, value_name = "FILE")]
    pub student: PathBuf,
    /// A folder of scans; those with labels are scored.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Share of the generalist in the averaged map; the rest is the student's own.
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    pub share: f64,
    /// Probability from which the student is sure enough to prompt.
    #[arg(long, default_value_t = Prompting::default().confidence, value_name = "P")]
    pub prompt_confidence: f32,
    /// Only the first of the labelled scans, in their order.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub first: Option<usize>,
    /// Names the draws among equally good points.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Voxel size that the student was trained at, in millimetres.
    #[arg(long, default_value_t = 2.5, value_name = "MM")]
    pub spacing: f64,
    /// Sides of the student's windows, in voxels; those of training are best.
    #[arg(long, default_value = "64,48,32", value_name = "X,Y,Z", value_parser = parse_patch)]
    pub patch: [usize; 3],
}

/// Sets of prompts, in the order of the columns.
const KINDS: [(Kind, &str); 3] = [(Kind::Mask, "mask"), (Kind::Point, "point"), (Kind::Both, "both")];

/// Dice of one object: the student's, and for each set of prompts the generalist's and that of the averaged map, on the grid
/// at the student's spacing. Where nobody was asked, both are the student's own.
#[derive(Clone, Copy, Default)]
struct Found {
    student: f64,
    generalist: [f64; KINDS.len()],
    averaged: [f64; KINDS.len()],
    asked: [bool; KINDS.len()],
}

/// Prints a line for each object of each scan, and the mean of all.
pub(super) fn run(args: &RefineArgs, format: Format, out: &mut dyn Write) -> Result<(), SamCommandError> {
    // the settings of training, with the bounds that they have there
    let prompting = Prompting { confidence: args.prompt_confidence, ..Prompting::default() };
    Guidance { share: args.share, prompting, ..Guidance::semisam() }.check().map_err(StudentError::from)?;
    let generalist = open(&args.generalist)?;
    let student = Student::open(&args.student, None, resolve(args.generalist.device)?, args.spacing, args.patch)?;
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let (mut all, mut rows) = (Vec::new(), 0);
    for (number, scan) in cohort.labelled().take(args.first.unwrap_or(usize::MAX)).enumerate() {
        for (class, found) in of_scan(args, (&generalist, &student), scan, number as u64)? {
            tell((&scan.name, Some(class)), &found, format, out)?;
            all.push(found);
        }
        rows += 1;
    }
    if all.is_empty() {
        return Err(FolderError::NoLabel(args.data.clone()).into());
    }
    tell((&format!("mean of {} objects in {rows} scans", all.len()), None), &mean(&all), format, out)
}

fn of_scan(
    args: &RefineArgs,
    (generalist, student): (&Generalist, &Student),
    scan: &Scan,
    number: u64,
) -> Result<Vec<(usize, Found)>, SamCommandError> {
    let (image, truth) = scan.read()?;
    let truth = truth.ok_or_else(|| FolderError::NoLabel(scan.image.clone()))?;
    let prepared = prepare(&image, Some(&truth), student.spacing_mm).map_err(StudentError::from)?;
    let softmax =
        class_probabilities(student.device, student.config, &student.weights, &prepared.image, student.windows)
            .map_err(StudentError::from)?;
    let (grid, labels) = (Grid::from(&prepared.image), prepared.labels.expect("labels were given"));
    let source = Source::of_image(image);
    let mut all = Vec::new();
    for class in (1..student.config.classes).filter(|class| shows(&labels, *class)) {
        let belief = Belief::of_class(&softmax, class, &grid);
        all.push((class, of_object(args, generalist, (&belief, &source), (&labels, class), number)?));
    }
    Ok(all)
}

fn shows(labels: &LabelMap, class: usize) -> bool {
    labels.values.iter().any(|label| usize::from(*label) == class)
}

fn of_object(
    args: &RefineArgs,
    generalist: &Generalist,
    (belief, source): (&Belief, &Source),
    (labels, class): (&LabelMap, usize),
    number: u64,
) -> Result<Found, GeneralistError> {
    let truth: Vec<u8> = labels.values.iter().map(|label| u8::from(usize::from(*label) == class)).collect();
    let scored = |mask: Vec<bool>| dice(&mask.into_iter().map(u8::from).collect::<Vec<_>>(), &truth);
    let student = scored(belief.mask());
    let mut found = Found { student, generalist: [student; 3], averaged: [student; 3], asked: [false; KINDS.len()] };
    let Some(centre) = belief.centre() else { return Ok(found) };
    let embedding = Store::NONE.embedding(generalist, source, centre)?;
    let how = Prompting { confidence: args.prompt_confidence, ..Prompting::default() };
    for (column, (kind, _)) in KINDS.into_iter().enumerate() {
        let mut random = generator(args.seed, "refine", &[number, class as u64, column as u64]);
        if let Some(answer) = ask(generalist, &embedding, belief, (kind, &how), &mut random)? {
            found.generalist[column] = scored(answer.mask());
            found.averaged[column] = scored(averaged(&answer, belief, args.share));
            found.asked[column] = true;
        }
    }
    Ok(found)
}

/// What the averaged map takes for the object; the student's own opinion where nobody looked.
fn averaged(answer: &Answer, belief: &Belief, share: f64) -> Vec<bool> {
    let voxels = answer.logits.iter().zip(&answer.seen).zip(belief.probabilities());
    let inside = |((logit, seen), own): ((&f32, &bool), &f32)| {
        let (p, own) = (1.0 / (1.0 + (-f64::from(*logit)).exp()), f64::from(*own));
        if *seen { share * p + (1.0 - share) * own > 0.5 } else { own > 0.5 }
    };
    voxels.map(inside).collect()
}

fn mean(all: &[Found]) -> Found {
    let of = |of: &dyn Fn(&Found) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    Found {
        student: of(&|found| found.student),
        generalist: std::array::from_fn(|column| of(&|found| found.generalist[column])),
        averaged: std::array::from_fn(|column| of(&|found| found.averaged[column])),
        asked: std::array::from_fn(|column| all.iter().any(|found| found.asked[column])),
    }
}

fn tell(
    (case, class): (&str, Option<usize>),
    found: &Found,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), SamCommandError> {
    let columns = || KINDS.iter().map(|(_, name)| *name).enumerate();
    let numbers: Vec<String> = columns()
        .map(|(column, name)| {
            let asked = if found.asked[column] { "" } else { " (not asked)" };
            format!("{name} {:.3} averaged {:.3}{asked}", found.generalist[column], found.averaged[column])
        })
        .collect();
    let name = class.map_or(case.to_owned(), |class| format!("{case} class {class}"));
    let words = format!("{name:<32} dice  student {:.3}  {}", found.student, numbers.join("  "));
    let by_prompts = |values: [f64; KINDS.len()]| -> Map<String, Value> {
        columns().map(|(column, name)| (name.to_owned(), json!(values[column]))).collect()
    };
    let value = json!({
        "case": case, "class": class, "prompts": "student", "student": found.student,
        "generalist": by_prompts(found.generalist), "averaged": by_prompts(found.averaged),
    });
    Ok(print(out, format, &words, &value)?)
}
