//! `semisam-node bench prompt`: what a prompted U-Net costs: embedding a scan, answering a prompt, learning from an example.

use std::{collections::BTreeMap, num::NonZeroUsize};

use clap::Args;

use super::{
    super::sam::pretrain::{parse_sides, parse_widths},
    BenchError, Setting,
    measure::{Memory, Report, Times},
};
use crate::{
    device::{TrainBackend, Work},
    model::{
        leaves::to_host,
        prompt_unet::{PromptUNet, PromptUNetConfig, layout, prompt::Prompts},
        sam::{Click, Sign},
    },
    train::{
        generator,
        interactive::{
            InteractiveError,
            example::Example,
            gradient::{gradient, on_device},
        },
        normal,
    },
};

/// Of the image and of the first weights.
const SEED: u64 = 1;

/// `semisam-node bench prompt`.
#[derive(Clone, Debug, Args)]
pub struct PromptArgs {
    /// Sides of the image in voxels, multiples of 8.
    #[arg(long, default_value = "56,40,24", value_name = "X,Y,Z", value_parser = parse_sides)]
    pub patch: [usize; 3],
    /// Channels of the four levels, multiples of the first.
    #[arg(long, default_value = "8,16,48,96", value_name = "N,N,N,N", value_parser = parse_widths)]
    pub widths: [usize; 4],
    /// Repetitions that are counted.
    #[arg(long, default_value = "10", value_name = "N")]
    pub repeats: NonZeroUsize,
    /// Threads, warm-up, device.
    #[command(flatten)]
    pub setting: Setting,
}

/// Measures.
///
/// # Errors
/// If the device is absent.
pub fn run(args: &PromptArgs) -> Result<Report, BenchError> {
    let device = args.setting.start()?;
    let (memory, times) = device.run(Asking(args))?;
    let config = PromptUNetConfig { widths: args.widths };
    Ok(Report::new("prompt", device, memory, times).with("parameters", layout::blank(&config).count()))
}

struct Asking<'a>(&'a PromptArgs);

impl Work for Asking<'_> {
    type Output = Result<(Memory, BTreeMap<&'static str, Times>), InteractiveError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let PromptArgs { patch, widths, repeats, setting } = self.0;
        let (config, [x, y, z]) = (PromptUNetConfig { widths: *widths }, *patch);
        let (weights, mut random) = (layout::initial(&config, SEED), generator(SEED, "bench", &[]));
        let image: Vec<f32> = (0..x * y * z).map(|_| normal(&mut random)).collect();
        // a box of half the sides
        let inside = |(at, side): (usize, usize)| (side / 4..side - side / 4).contains(&at);
        let object = (0..x * y * z).map(|at| [(at / z / y, x), (at / z % y, y), (at % z, z)].into_iter().all(inside));
        let object: Vec<bool> = object.collect();
        let network = PromptUNet::<B::InnerBackend>::new(config, &weights, device)?;
        let (repeats, warm_up) = (repeats.get(), setting.warm_up);
        let memory = Memory::before();
        let mut features = None;
        let embed = Times::measure(warm_up, repeats, || {
            let found = network.embed(on_device(image.clone(), 1, *patch, device))?;
            // its numbers are waited for, as by somebody who keeps them
            drop(found.clone().to_host());
            features = Some(found);
            Ok::<(), InteractiveError>(())
        })?;
        let features = features.expect("at least one repetition");
        let middle = Click { at: patch.map(|side| side as f32 / 2.0), sign: Sign::Foreground };
        let prompts = Prompts { clicks: vec![middle], mask: Some(vec![0.5; x * y * z]) };
        let decode = Times::measure(warm_up, repeats, || {
            let maps = prompts.maps(*patch)?;
            drop(to_host(network.decode(&features, on_device(maps, 3, *patch, device))?.into_data()));
            Ok::<(), InteractiveError>(())
        })?;
        let example = Example { image, shape: *patch, others: vec![false; object.len()], object };
        let learn = Times::measure(warm_up, repeats, || {
            gradient::<B>(&network, &example, &mut random, device)?;
            Ok::<(), InteractiveError>(())
        })?;
        Ok((memory.peaked(), BTreeMap::from([("embed", embed), ("decode", decode), ("example", learn)])))
    }
}
