//! `semisam-node student verify`: whether imported weights compute what the published implementation computes;
//! [`pretrain`], a student that has seen a recipe's anatomy; [`export`], the file that a federation starts from; [`basis`], the
//! directions in which its updates are released.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use clap::{Args, Subcommand};

pub mod basis;
pub mod export;
pub mod pretrain;

use basis::{BasisArgs, BasisError};
use export::{ExportArgs, ExportError};
use pretrain::{PretrainArgs, PretrainError};

use super::{Exit, Format, print, resolve};
use crate::{
    device::{DeviceChoice, DeviceError},
    model::checkpoint::{self, CheckpointError},
    train::reference::{ReferenceError, compare},
};

/// `semisam-node student`.
#[derive(Clone, Debug, Args)]
pub struct StudentArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: StudentCommand,
}

/// What can be done with a student.
#[derive(Clone, Debug, Subcommand)]
pub enum StudentCommand {
    /// Compares logits, losses and gradients with a reference file.
    Verify(VerifyArgs),
    /// Trains a student on endless synthetic anatomy, as a start for real scans.
    Pretrain(PretrainArgs),
    /// Writes a student as the file that a federation starts from.
    Export(ExportArgs),
    /// Finds the directions in which a plan's updates are released, from synthetic anatomy alone.
    Basis(BasisArgs),
}

/// `semisam-node student verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Weights of a V-Net, .safetensors or .pth.
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// Inputs and expected outputs, .safetensors.
    #[arg(long, value_name = "FILE")]
    pub reference: PathBuf,
    /// Groups of GroupNorm; without it, the number whose logits are nearest to the reference.
    #[arg(long, value_name = "N")]
    pub groups: Option<usize>,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceChoice,
}

/// Why a comparison fails.
#[derive(Debug, thiserror::Error)]
pub enum StudentCommandError {
    /// A file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Pre-training.
    #[error(transparent)]
    Pretrain(#[from] PretrainError),
    /// The export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The basis.
    #[error(transparent)]
    Basis(#[from] BasisError),
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command. Returns how it ended.
///
/// # Errors
/// If a file cannot be read or does not hold what is needed.
pub fn run(
    args: &StudentArgs,
    format: Format,
    out: &mut dyn Write,
    cancel: &AtomicBool,
) -> Result<Exit, StudentCommandError> {
    match &args.command {
        StudentCommand::Verify(args) => verify(args, format, out)?,
        StudentCommand::Pretrain(args) => pretrain::run(args, format, out, cancel)?,
        StudentCommand::Export(args) => export::run(args, format, out)?,
        StudentCommand::Basis(args) => basis::run(args, format, out)?,
    }
    Ok(if cancel.load(Ordering::Relaxed) { Exit::TryAgain } else { Exit::Done })
}

fn verify(args: &VerifyArgs, format: Format, out: &mut dyn Write) -> Result<(), StudentCommandError> {
    let device = resolve(args.device)?;
    let student = checkpoint::read(&args.weights)?;
    let reference = checkpoint::read(&args.reference)?;
    let comparison = compare(device, &student, args.groups, &reference)?;
    let mut words = format!("{:<44} {:>12} {:>12}", "output", "max abs", "max rel");
    for output in &comparison.outputs {
        words += &format!("\n{:<44} {:>12.3e} {:>12.3e}", output.name, output.max_abs_error, output.max_rel_error);
    }
    Ok(print(out, format, &words, &comparison)?)
}
