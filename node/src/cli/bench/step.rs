//! `semisam-node bench step`: optimiser steps of a student on random images, by the trainer that all training uses.

use std::{collections::BTreeMap, num::NonZeroUsize};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use rand::Rng;

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
        step::{Batch, probabilities},
        trainer::{Optimiser, Parameters, Question, Step, Trainer},
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
    let parameters = layout::blank(&config).count();
    let (samples, repeats, warm_up) = (args.batch.get(), args.steps.get(), args.setting.warm_up);
    let (memory, times, loss) = device.run(Steps { recipe, samples, repeats, warm_up })?;
    let report = Report::new("step", device, memory, times);
    Ok(report.with("parameters", parameters).with("batch", samples).with("loss", loss))
}

struct Steps {
    recipe: LocalRun,
    samples: usize,
    repeats: usize,
    warm_up: usize,
}

impl Work for Steps {
    type Output = Result<(Memory, BTreeMap<&'static str, Times>, f64), BenchError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { recipe, samples, repeats, warm_up } = self;
        let optimiser = Optimiser { momentum: recipe.momentum, weight_decay: recipe.weight_decay };
        let parameters = Parameters::at(&layout::initial(&recipe.config, SEED));
        let mut trainer = Trainer::<B>::new(None, recipe.config, parameters, optimiser, device)?;
        let (batch, targets) = first(&recipe, samples);
        let (memory, mut number) = (Memory::before(), 0);
        let steps = Times::measure(warm_up, repeats, || {
            trainer.step(step(&recipe, number, &batch, &targets))?;
            number += 1;
            trainer.losses();
            Ok::<(), TrainError>(())
        })?;
        let (memory, loss) = (memory.peaked(), trainer.losses().total);
        let shapes = layout::shapes(&recipe.config);
        let network = VNet::<B::InnerBackend>::of_values(recipe.config, &shapes, &trainer.student(), device);
        drop(trainer);
        let forward =
            Times::measure(warm_up, repeats, || probabilities::<B>(&network, &batch, None, device).map(|_| ()))?;
        Ok((memory, BTreeMap::from([("step", steps), ("forward", forward)]), loss))
    }
}

/// Random images and labels: for all, or for the first half where there is a teacher.
fn first(recipe: &LocalRun, samples: usize) -> (Batch, Targets) {
    let voxels: usize = recipe.patch.iter().product();
    let mut random = generator(SEED, "bench", &[]);
    let images = (0..samples * voxels).map(|_| normal(&mut random)).collect();
    let labelled = if recipe.method == Method::MeanTeacher { samples.div_ceil(2) } else { samples };
    let labels = (0..samples)
        .map(|sample| (sample < labelled).then(|| (0..voxels).map(|_| random.random_range(0..2)).collect()))
        .collect();
    (Batch { images, samples, patch: recipe.patch }, Targets { labels, ..Targets::default() })
}

/// A step as training makes it.
fn step(recipe: &LocalRun, number: u64, batch: &Batch, targets: &Targets) -> Step {
    let guided = recipe.method == Method::MeanTeacher;
    let question = guided.then(|| {
        let mut noisy = batch.clone();
        perturb(&mut noisy.images, recipe.noise, &mut generator(SEED, "teacher noise", &[number]));
        Question { batch: noisy, dropout: None, confidence: None, doubt: None }
    });
    let teacher = if guided { recipe.consistency_weight } else { 0.0 };
    Step {
        batch: batch.clone(),
        targets: targets.clone(),
        question,
        terms: TermWeights { teacher, ..TermWeights::default() },
        dropout: None,
        learning_rate: recipe.learning_rate,
        average: guided.then_some(number),
    }
}
