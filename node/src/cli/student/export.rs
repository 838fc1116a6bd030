//! `semisam-node student export`: a student as the file that a federation starts from, whatever file it was.
//!
//! A coordinator reads safetensors of single precision and nothing else; students come as shipped names, half-precision files
//! and files of the original implementation.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use semisam_shared::weights::WeightsError;
use serde_json::json;

use crate::{
    cli::{Format, print, replacing},
    model::{
        ModelError, VNetConfig,
        checkpoint::{self, CheckpointError},
    },
};

/// `semisam-node student export`.
#[derive(Clone, Debug, Args)]
pub struct ExportArgs {
    /// Weights of a V-Net, .safetensors or .pth, or the name of a shipped student.
    #[arg(long, value_name = "FILE|NAME")]
    pub model: PathBuf,
    /// Where to write it, .safetensors.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The model cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It is no student.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It cannot be put into a file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The file cannot be written.
    #[error("cannot write `{}`; check that the disk has room and the folder may be written to", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The output.
    #[error("cannot print the result")]
    Print(#[from] io::Error),
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be read or is no student, or the file cannot be written.
pub fn run(args: &ExportArgs, format: Format, out: &mut dyn Write) -> Result<(), ExportError> {
    let weights = checkpoint::read(&args.model)?;
    let config = VNetConfig::of(&weights, None)?;
    let bytes = weights.to_safetensors()?;
    let failed = |source| ExportError::File { path: args.out.clone(), source };
    if let Some(folder) = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    replacing::replace(&args.out, &bytes).map_err(failed)?;
    let (filters, classes) = (config.base_filters, config.classes);
    let words = format!(
        "`{}`: {} weights in {} bytes; in a plan: base_filters = {filters}, classes = {classes}",
        args.out.display(),
        weights.count(),
        bytes.len()
    );
    let value = json!({
        "model": args.out, "weights": weights.count(), "bytes": bytes.len(), "base_filters": filters, "classes": classes,
    });
    Ok(print(out, format, &words, &value)?)
}
