//! `semisam-node bench sam`: SAM-Med3D of the published size with random weights, since speed does not depend on them.
//!
//! Encoding is done once per scan, decoding once per prompt: one point, without a mask, up to logits of the image's size.

use std::{collections::BTreeMap, num::NonZeroUsize};

use burn::tensor::{Tensor, TensorData};
use clap::Args;
use rand::Rng;

use super::{
    BenchError, Setting,
    measure::{Memory, Report, Times},
};
use crate::{
    device::{TrainBackend, Work},
    model::{
        sam::{Click, Prompt, Sam, SamError, Sign, config::SamConfig, layout, resize::trilinear},
        vnet::to_host,
    },
    train::generator,
};

/// Of image and weights.
const SEED: u64 = 1;

/// `semisam-node bench sam`.
#[derive(Clone, Debug, Args)]
pub struct SamArgs {
    /// Images that are encoded and counted; as many points are answered afterwards.
    #[arg(long, default_value = "3", value_name = "S")]
    pub steps: NonZeroUsize,
    /// A network of this many blocks instead of the published twelve.
    #[arg(long, default_value = "12", value_name = "N")]
    pub blocks: NonZeroUsize,
    /// Threads, warm-up, device.
    #[command(flatten)]
    pub setting: Setting,
}

/// Measures.
///
/// # Errors
/// If the device is absent.
pub fn run(args: &SamArgs) -> Result<Report, BenchError> {
    let device = args.setting.start()?;
    let published = SamConfig::published();
    let windows = published.windows.iter().cycle().take(args.blocks.get()).copied().collect();
    let config = SamConfig { windows, ..published };
    let (repeats, warm_up) = (args.steps.get(), args.setting.warm_up);
    let (memory, times) = device.run(Prompting { config: &config, repeats, warm_up })?;
    let side = config.image()[0];
    Ok(Report::new("sam", device, memory, times).with("blocks", config.windows.len()).with("side", side))
}

struct Prompting<'a> {
    config: &'a SamConfig,
    repeats: usize,
    warm_up: usize,
}

impl Work for Prompting<'_> {
    type Output = Result<(Memory, BTreeMap<&'static str, Times>), SamError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Self { config, repeats, warm_up } = self;
        let sam = Sam::<B::InnerBackend>::new(layout::drawn(config, SEED), device)?;
        let [d, h, w] = config.image();
        let mut random = generator(SEED, "bench", &[]);
        let image: Vec<f32> = (0..d * h * w).map(|_| random.random_range(-1.0..1.0)).collect();
        let image = Tensor::from_data(TensorData::new(image, [1, 1, d, h, w]), device);
        let (memory, mut embedding) = (Memory::before(), None);
        let encode = Times::measure(warm_up, repeats, || {
            let found = sam.encode(image.clone())?;
            // reading a number waits for the device
            to_host(found.clone().narrow(1, 0, 1).into_data());
            embedding = Some(found);
            Ok::<(), SamError>(())
        })?;
        let memory = memory.peaked();
        let embedding = embedding.expect("at least one image was encoded");
        let click = Click { at: [d, h, w].map(|side| side as f32 / 3.0), sign: Sign::Foreground };
        let decode = Times::measure(warm_up, repeats, || {
            let answer = sam.decode(embedding.clone(), &Prompt { clicks: vec![click], mask: None, padded: true })?;
            to_host(trilinear(answer.single(), [d, h, w]).into_data());
            Ok::<(), SamError>(())
        })?;
        Ok((memory, BTreeMap::from([("encode", encode), ("decode", decode)])))
    }
}
