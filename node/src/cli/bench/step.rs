//! `semisam-node bench step`: optimiser steps of a student on random images, by the functions that training calls.

use std::{collections::BTreeMap, num::NonZeroUsize};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use rand::Rng;
use semisam_shared::weights::Weights;

use super::{
    super::viewing::parse_patch,
    BenchError, Setting,
    measure::{Memory, Report, Times},
};
use crate::{
    device::{TrainBackend, Work},
    model::{VNetConfig, layout, vnet::VNet},
    train::{
        TrainError,
        crops::perturb,
        generator,
        local::{LocalRun, Method},
        losses::{Targets, TermWeights},
        normal,
        optimiser::Sgd,
        step::{Batch, gradient, probabilities},
        teacher::follow,
    },
};

/// Of the images and of the first weights.
const SEED: u64 = 1;

/// `semisam-node bench step`.
#[derive(Clone, Debug, Args)]
pub struct StepArgs {
    /// Channels of the student's first level.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub base_filters: usize,
    /// Sides of an image in voxels, multiples of 16.
    #[arg(long, default_value = "64,64,64", value_name = "X,Y,Z", value_parser = parse_patch)]
    pub patch: [usize; 3],
    /// Images per step.
    #[arg(long, default_value = "2", value_name = "B")]
    pub batch: NonZeroUsize,
    /// Steps that are counted; as many forward passes follow.
    #[arg(long, default_value = "5", value_name = "S")]
    pub steps: NonZeroUsize,
    /// With `mean-teacher`, labels for the first half of the batch and a teacher for all of it; else labels for all.
    #[arg(long, default_value = "supervised", value_parser = of_one_step())]
    pub method: Method,
    /// Threads, warm-up, device.
    #[command(flatten)]
    pub setting: Setting,
}

/// The other methods do things between steps, which `bench train` measures.
fn of_one_step() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(["supervised", "mean-teacher"])
        .map(|name| if name == "supervised" { Method::Supervised } else { Method::MeanTeacher })
}

/// Measures.
///
/// # Errors
/// If the device is absent or there is no such network.
pub fn run(args: &StepArgs) -> Result<Report, BenchError> {
    let device = args.setting.start()?;
    let config = VNetConfig::binary(args.base_filters);
    config.check()?;
    let recipe = LocalRun::new(config, args.method, args.patch, args.steps.get() as u64, SEED);
    let student = Student::new(recipe, args.batch.get());
    let parameters = student.flat.len();
    let (repeats, warm_up) = (args.steps.get(), args.setting.warm_up);
    let (memory, times, loss) = device.run(Steps { student, repeats, warm_up })?;
    let report = Report::new("step", device, memory, times);
    Ok(report.with("parameters", parameters).with("batch", args.batch.get()).with("loss", loss))
}

struct Steps {
    student: Student,
    repeats: usize,
    warm_up: usize,
}

impl Work for Steps {
    type Output = Result<(Memory, BTreeMap<&'static str, Times>, f64), BenchError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { mut student, repeats, warm_up } = self;
        let memory = Memory::before();
        let mut loss = 0.0;
        let steps = Times::measure(warm_up, repeats, || {
            loss = student.step::<B>(device)?;
            Ok::<(), TrainError>(())
        })?;
        let memory = memory.peaked();
        let network = VNet::<B::InnerBackend>::new(student.recipe.config, &student.weights, device)?;
        let forward = Times::measure(warm_up, repeats, || {
            probabilities::<B>(&network, &student.batch, None, device).map(|_| ())
        })?;
        Ok((memory, BTreeMap::from([("step", steps), ("forward", forward)]), loss))
    }
}

/// A student in training, on one batch.
struct Student {
    recipe: LocalRun,
    batch: Batch,
    targets: Targets,
    weights: Weights,
    flat: Vec<f32>,
    teacher: Vec<f32>,
    sgd: Sgd,
    done: u64,
}

impl Student {
    fn new(recipe: LocalRun, samples: usize) -> Self {
        let voxels: usize = recipe.patch.iter().product();
        let mut random = generator(SEED, "bench", &[]);
        let images = (0..samples * voxels).map(|_| normal(&mut random)).collect();
        let labelled = if recipe.method == Method::MeanTeacher { samples.div_ceil(2) } else { samples };
        let labels = (0..samples)
            .map(|sample| (sample < labelled).then(|| (0..voxels).map(|_| random.random_range(0..2)).collect()))
            .collect();
        let weights = layout::initial(&recipe.config, SEED);
        let flat = weights.to_flat();
        Self {
            batch: Batch { images, samples, patch: recipe.patch },
            targets: Targets { labels, ..Targets::default() },
            teacher: flat.clone(),
            sgd: Sgd::new(flat.len(), recipe.momentum, recipe.weight_decay),
            weights,
            flat,
            recipe,
            done: 0,
        }
    }

    /// One step as training does it; gives the loss.
    fn step<B: TrainBackend>(&mut self, device: &B::Device) -> Result<f64, TrainError> {
        let LocalRun { config, noise, consistency_weight, learning_rate, .. } = self.recipe;
        let mut terms = TermWeights::default();
        let guided = self.recipe.method == Method::MeanTeacher;
        if guided {
            let teacher = self.weights.with_flat(&self.teacher).expect("the teacher has the student's architecture");
            let network = VNet::<B::InnerBackend>::new(config, &teacher, device)?;
            let mut noisy = self.batch.clone();
            perturb(&mut noisy.images, noise, &mut generator(SEED, "teacher noise", &[self.done]));
            self.targets.teacher = Some(probabilities::<B>(&network, &noisy, None, device)?);
            terms.teacher = consistency_weight;
        }
        let (losses, gradient) =
            gradient::<B>(config, &self.weights, &self.batch, (&self.targets, terms), None, device)?;
        self.sgd.step(&mut self.flat, &gradient, learning_rate);
        if guided {
            follow(&mut self.teacher, &self.flat, self.done);
        }
        self.weights = self.weights.with_flat(&self.flat).expect("the weights keep their architecture");
        self.done += 1;
        Ok(losses.total)
    }
}
