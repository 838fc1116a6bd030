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
        prompter::{Kind, Prompting, ask, belief::Belief},
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
    /// Share of the generalist in the averaged map, at least; the rest is the student's own.
    #[arg(long, default_value_t = Guidance::semisam().share, value_name = "SHARE")]
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

/// Dice of one object on the grid at the student's spacing: the student's, the generalist's for each set of prompts (the
/// student's own where it was not asked), and that of the map that training would agree with.
#[derive(Clone, Copy)]
struct Found {
    student: f64,
    generalist: [f64; KINDS.len()],
    target: Option<Target>,
}

/// What training would agree with, in a scan that it would not leave out.
#[derive(Clone, Copy)]
struct Target {
    dice: f64,
    /// Mean Dice between any two answers.
    consensus: f64,
    /// The generalist's share.
    share: f64,
}

/// Prints a line for each object of each scan, and the mean of all.
pub(super) fn run(args: &RefineArgs, format: Format, out: &mut dyn Write) -> Result<(), SamCommandError> {
    // the settings of training, with the bounds that they have there
    let prompting = Prompting { confidence: args.prompt_confidence, ..Prompting::default() };
    let how = Guidance { share: args.share, prompting, ..Guidance::semisam() };
    how.check().map_err(StudentError::from)?;
    let generalist = open(&args.generalist)?;
    let student = Student::open(&args.student, None, resolve(args.generalist.device)?, args.spacing, args.patch)?;
    let cohort = Cohort::open(&args.data)?;
    cohort.require_labelled()?;
    let (mut all, mut rows) = (Vec::new(), 0);
    for (number, scan) in cohort.labelled().take(args.first.unwrap_or(usize::MAX)).enumerate() {
        for (class, found) in of_scan((&how, args.seed), (&generalist, &student), scan, number as u64)? {
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
    asked: (&Guidance, u64),
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
        all.push((class, of_object(asked, generalist, (&belief, &source), (&labels, class), number)?));
    }
    Ok(all)
}

fn shows(labels: &LabelMap, class: usize) -> bool {
    labels.values.iter().any(|label| usize::from(*label) == class)
}

fn of_object(
    (how, seed): (&Guidance, u64),
    generalist: &Generalist,
    (belief, source): (&Belief, &Source),
    (labels, class): (&LabelMap, usize),
    number: u64,
) -> Result<Found, GeneralistError> {
    let truth: Vec<u8> = labels.values.iter().map(|label| u8::from(usize::from(*label) == class)).collect();
    let scored = |mask: Vec<bool>| dice(&mask.into_iter().map(u8::from).collect::<Vec<_>>(), &truth);
    let student = scored(belief.mask());
    let mut found = Found { student, generalist: [student; KINDS.len()], target: None };
    let Some(centre) = belief.centre() else { return Ok(found) };
    let embedding = Store::NONE.embedding(generalist, source, centre)?;
    let mut answers = Vec::new();
    for (column, (kind, _)) in KINDS.into_iter().enumerate() {
        let mut random = generator(seed, "refine", &[number, class as u64, column as u64]);
        if let Some(answer) = ask(generalist, &embedding, belief, (kind, &how.prompting), &mut random)? {
            found.generalist[column] = scored(answer.mask());
            answers.push(answer);
        }
    }
    found.target = how.average(answers, belief).map(|average| Target {
        dice: scored(average.map.iter().map(|[p, _]| *p > u8::MAX / 2).collect()),
        consensus: average.consensus,
        share: average.share,
    });
    Ok(found)
}

/// A scan that training would leave out is its student's own in the mean of targets.
fn mean(all: &[Found]) -> Found {
    let of = |of: &dyn Fn(&Found) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    let kept: Vec<Target> = all.iter().filter_map(|found| found.target).collect();
    let of_kept = |of: &dyn Fn(&Target) -> f64| kept.iter().map(of).sum::<f64>() / kept.len() as f64;
    let target = Target {
        dice: of(&|found| found.target.map_or(found.student, |target| target.dice)),
        consensus: of_kept(&|target| target.consensus),
        share: of_kept(&|target| target.share),
    };
    Found {
        student: of(&|found| found.student),
        generalist: std::array::from_fn(|column| of(&|found| found.generalist[column])),
        target: (!kept.is_empty()).then_some(target),
    }
}

fn tell(
    (case, class): (&str, Option<usize>),
    found: &Found,
    format: Format,
    out: &mut dyn Write,
) -> Result<(), SamCommandError> {
    let columns = || KINDS.iter().map(|(_, name)| *name).zip(found.generalist);
    let by_prompts: Vec<String> = columns().map(|(name, dice)| format!("{name} {dice:.3}")).collect();
    let target = found.target.map_or("left out".to_owned(), |Target { dice, consensus, share }| {
        format!("{dice:.3} (consensus {consensus:.2}, share {share:.2})")
    });
    let name = class.map_or(case.to_owned(), |class| format!("{case} class {class}"));
    let words = format!("{name:<32} dice  student {:.3}  {}  target {target}", found.student, by_prompts.join("  "));
    let generalist: Map<String, Value> = columns().map(|(name, dice)| (name.to_owned(), json!(dice))).collect();
    let target = found
        .target
        .map(|Target { dice, consensus, share }| json!({ "dice": dice, "consensus": consensus, "share": share }));
    let value = json!({
        "case": case, "class": class, "prompts": "student", "student": found.student,
        "generalist": generalist, "target": target,
    });
    Ok(print(out, format, &words, &value)?)
}
