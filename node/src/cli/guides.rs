//! Which generalists a training asks, and how: arguments that commands share.

use std::path::PathBuf;

use clap::Args;
use semisam_shared::ids::Digest;

use crate::{
    device::Device,
    generalist::{Generalist, GeneralistError, prompter::Kind},
    train::local::{LocalRun, Method},
};

/// Generalists, and how they are asked. What is not given is as the method has it.
#[derive(Clone, Debug, Default, Args)]
pub struct GuideArgs {
    /// A frozen generalist, for the methods `semisam`, `semisam-plus` and `semisam-o1`: a SAM-Med3D, .pth or .safetensors, or
    /// a small generalist of `sam pretrain`, such as `small-generalist` and `left-atrium-generalist`, which come with the program. Repeat for
    /// several, with `semisam-plus`.
    #[arg(long = "generalist", value_name = "FILE")]
    pub generalists: Vec<PathBuf>,
    /// A set of prompts that each generalist gets. Repeat for several.
    #[arg(long = "prompts", value_enum, value_name = "KIND")]
    pub prompts: Vec<Kind>,
    /// Mean Dice between any two answers about an object below which none of them is believed; 0 believes all.
    #[arg(long, value_name = "DICE")]
    pub generalist_consensus: Option<f64>,
    /// Share of the generalists in the map that the student must agree with, at least; the rest is the teacher's own.
    #[arg(long, value_name = "SHARE")]
    pub generalist_share: Option<f64>,
    /// Dice between their mask and the teacher's below which they have more than that share, and from 0.15 less all of it; 0
    /// leaves the share as it is.
    #[arg(long, value_name = "DICE")]
    pub generalist_deference: Option<f64>,
    /// Factor of that agreement where generalists contradict the teacher, once half of the steps are done; where they agree with it,
    /// a tenth of that.
    #[arg(long, value_name = "FACTOR")]
    pub generalist_weight: Option<f64>,
    /// Probability from which the teacher is sure enough to prompt a generalist; where it is sure of no voxel of the object,
    /// or of none outside it, nobody is asked.
    #[arg(long, value_name = "P")]
    pub prompt_confidence: Option<f32>,
    /// Dice with the teacher's own mask below which a generalist's is left out.
    #[arg(long, value_name = "DICE")]
    pub generalist_agreement: Option<f64>,
    /// Ask about a scan anew each time that it was drawn so many times.
    #[arg(long, value_name = "N")]
    pub refresh: Option<u64>,
}

impl GuideArgs {
    /// Opens the generalists, and tells `run` who they are and how they are asked.
    ///
    /// # Errors
    /// If a file holds no generalist.
    pub(super) fn open(&self, run: &mut LocalRun, device: Device) -> Result<Vec<Generalist>, GeneralistError> {
        if let Some(how) = &mut run.guidance {
            if !self.prompts.is_empty() {
                how.sets.clone_from(&self.prompts);
            }
            how.consensus = self.generalist_consensus.unwrap_or(how.consensus);
            how.share = self.generalist_share.unwrap_or(how.share);
            how.deference = self.generalist_deference.unwrap_or(how.deference);
            how.weight = self.generalist_weight.unwrap_or(how.weight);
            how.prompting.confidence = self.prompt_confidence.unwrap_or(how.prompting.confidence);
            how.agreement = self.generalist_agreement.unwrap_or(how.agreement);
            how.every = self.refresh.unwrap_or(how.every);
        } else if run.method != Method::SemisamO1 {
            if !self.generalists.is_empty() {
                tracing::warn!("this method needs no generalist: --generalist is without effect");
            }
            return Ok(Vec::new());
        }
        let generalists: Vec<Generalist> =
            self.generalists.iter().map(|path| Generalist::open(path, device)).collect::<Result<_, _>>()?;
        run.generalists = generalists.iter().map(Generalist::digest).collect::<Vec<Digest>>();
        Ok(generalists)
    }
}
