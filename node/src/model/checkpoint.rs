//! Model files: safetensors, and PyTorch checkpoints.
//!
//! `pytorch-reader` parses the pickle of a `.pth` file itself and executes nothing in it; burn's own reader ignores
//! strides (spec/cpu-kernels.md, section 8). Half precision is widened while loading, because a half-precision parameter
//! would make the first f32 convolution panic. A file is read tensor by tensor, so that a model is in memory once. Training frameworks wrap the weights differently: a nested
//! `model_state_dict` or `state_dict`, and the `module.` prefix of data-parallel training, are taken off.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read, SeekFrom},
    path::{Path, PathBuf},
};

use burn::tensor::{DType, TensorData, f16};
use pytorch_reader::PytorchReader;
use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorView},
};
use semisam_shared::{
    ids::Digest,
    weights::{Tensor, Weights, WeightsError},
};

use super::shipped::{self, Bytes};

/// Keys under which checkpoints keep their weights, most specific first.
const NESTS: [&str; 2] = ["model_state_dict.", "state_dict."];

/// Put before every name by data-parallel training.
const DATA_PARALLEL: &str = "module.";

/// Bytes that tell a safetensors file: the length of its header, and the brace that opens it.
const START: u64 = 9;

/// No header is longer than this, which is the limit of the safetensors library.
const LONGEST_HEADER: u64 = 100_000_000;

/// Counters of BatchNorm: integers, no weights.
const COUNTER: &str = "num_batches_tracked";

/// Where a safetensors file says what its weights are.
pub const DESCRIPTION: &str = "semisam";

/// Why a file gives no weights.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error(
        "cannot read the model file `{path}`; check the path and the permissions, or name a model that comes with the program: {}",
        shipped::names()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Neither format.
    #[error("`{path}` is neither a safetensors file nor a PyTorch checkpoint: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader met.
        reason: String,
    },
    /// A file without weights.
    #[error("`{path}` holds no tensors; is it the checkpoint of a model?")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A tensor that holds no floating-point numbers.
    #[error("tensor `{name}` of `{path}` holds {found}, but weights are floating-point numbers")]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type.
        found: String,
    },
    /// Half-precision weights that no file can hold.
    #[error("the weights cannot be written in half precision: {reason}")]
    Half {
        /// What the library said.
        reason: String,
    },
    /// Shapes and values disagree.
    #[error("the tensors of `{path}` are damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        #[source]
        source: WeightsError,
    },
}

/// What a file says about its weights, beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The text under [`DESCRIPTION`] in a safetensors file's own table.
    pub text: Option<String>,
}

/// Reads the weights in `path`, whichever of the two formats it has.
///
/// # Errors
/// If the file cannot be read, is of neither format, or holds no weights.
pub fn read(path: &Path) -> Result<Weights, CheckpointError> {
    Ok(read_described(path)?.0)
}

/// As [`read`], with what the file says about them.
///
/// # Errors
/// As [`read`].
pub fn read_described(path: &Path) -> Result<(Weights, Description), CheckpointError> {
    let at = || path.to_path_buf();
    let unread = |source| CheckpointError::Read { path: at(), source };
    let (mut file, length) = shipped::open(path).map_err(unread)?;
    let mut start = Vec::new();
    (&mut file).take(START).read_to_end(&mut start).map_err(unread)?;
    // a safetensors file is the length of a JSON object in eight bytes, and then that object
    let (tensors, description) = match *start {
        [a, b, c, d, e, f, g, h, b'{'] => {
            safetensors(path, &mut *file, u64::from_le_bytes([a, b, c, d, e, f, g, h]), length)?
        }
        _ => (pytorch(path)?, Description::default()),
    };
    let tensors = without_wrapping(tensors);
    if tensors.is_empty() {
        return Err(CheckpointError::Empty { path: at() });
    }
    let weights = Weights::new(tensors).map_err(|source| CheckpointError::Damaged { path: at(), source })?;
    Ok((weights, description))
}

/// The digest of the shipped model of this name, else of the file at this path.
///
/// # Errors
/// If it cannot be read.
pub fn digest(path: &Path) -> Result<Digest, CheckpointError> {
    let found = shipped::open(path).and_then(|(file, _)| Digest::of_reader(file));
    found.map_err(|source| CheckpointError::Read { path: path.to_path_buf(), source })
}

/// As [`half_precision`], with a text about the weights that [`read_described`] gives back; the same give the same bytes.
///
/// # Errors
/// As [`half_precision`].
pub fn described_halves(weights: &Weights, text: &str) -> Result<Vec<u8>, CheckpointError> {
    // a table of one entry has one order
    halves(weights, Some(HashMap::from([(DESCRIPTION.to_owned(), text.to_owned())])))
}

/// The bytes of a safetensors file with every value rounded to half precision: half as large.
///
/// # Errors
/// If a value is beyond what half precision holds.
pub fn half_precision(weights: &Weights) -> Result<Vec<u8>, CheckpointError> {
    halves(weights, None)
}

fn halves(weights: &Weights, table: Option<HashMap<String, String>>) -> Result<Vec<u8>, CheckpointError> {
    let failed = |reason: String| CheckpointError::Half { reason };
    let mut tensors = Vec::new();
    for (name, tensor) in weights.iter() {
        let halves: Vec<f16> = tensor.values.iter().map(|value| f16::from_f32(*value)).collect();
        if halves.iter().any(|value| !value.is_finite()) {
            return Err(failed(format!("tensor `{name}` holds a value beyond 65504; write it in full precision")));
        }
        let bytes: Vec<u8> = halves.iter().flat_map(|value| value.to_le_bytes()).collect();
        tensors.push((name, tensor.shape.clone(), bytes));
    }
    let views =
        tensors.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F16, shape.clone(), bytes)?)));
    let views = views.collect::<Result<Vec<_>, SafeTensorError>>().map_err(|e| failed(e.to_string()))?;
    safetensors::serialize(views, table).map_err(|e| failed(e.to_string()))
}

fn safetensors(
    path: &Path,
    file: &mut dyn Bytes,
    header: u64,
    length: u64,
) -> Result<(BTreeMap<String, Tensor>, Description), CheckpointError> {
    let format = |reason: String| CheckpointError::Format { path: path.to_path_buf(), reason };
    let unread = |source| CheckpointError::Read { path: path.to_path_buf(), source };
    let room = length.saturating_sub(START - 1);
    if header > room.min(LONGEST_HEADER) {
        return Err(format(format!("its header of {header} bytes does not fit the file")));
    }
    let text = bytes(file, START - 1, header as usize).map_err(unread)?;
    let index: Metadata = serde_json::from_slice(&text).map_err(|e| format(e.to_string()))?;
    let values = room - header;
    if let Some((name, _)) = index.tensors().into_iter().find(|(_, tensor)| tensor.data_offsets.1 as u64 > values) {
        return Err(format(format!("it ends before tensor `{name}` does")));
    }
    let more = values - index.data_len() as u64;
    if more > 0 {
        return Err(format(format!("it goes on for {more} bytes after its last tensor")));
    }
    let mut tensors = BTreeMap::new();
    for (name, tensor) in index.tensors().into_iter().filter(|(name, _)| !name.ends_with(COUNTER)) {
        let dtype = match tensor.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(not_floating(path, &name, &other)),
        };
        let (first, end) = tensor.data_offsets;
        let values = bytes(file, START - 1 + header + first as u64, end - first).map_err(unread)?;
        tensors.insert(name, widen(values, tensor.shape.clone(), dtype));
    }
    let text = index.metadata().as_ref().and_then(|table| table.get(DESCRIPTION).cloned());
    Ok((tensors, Description { text }))
}

/// `count` bytes of a file that is long enough for them.
fn bytes(file: &mut dyn Bytes, from: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn pytorch(path: &Path) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
    let format = |reason: String| CheckpointError::Format { path: path.to_path_buf(), reason };
    let file = PytorchReader::new(path).map_err(|e| format(e.to_string()))?;
    let all = file.tensors();
    let nest = NESTS.into_iter().find(|nest| all.keys().any(|name| name.starts_with(nest))).unwrap_or_default();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(nest)?, tensor))) {
        if name.ends_with(COUNTER) {
            continue;
        }
        let dtype = match tensor.dtype() {
            pytorch_reader::DType::F32 => DType::F32,
            pytorch_reader::DType::F64 => DType::F64,
            pytorch_reader::DType::F16 => DType::F16,
            pytorch_reader::DType::BF16 => DType::BF16,
            other => return Err(not_floating(path, name, &other)),
        };
        let bytes = tensor.read().map_err(|e| format(e.to_string()))?;
        tensors.insert(name.to_owned(), widen(bytes, tensor.shape().to_vec(), dtype));
    }
    Ok(tensors)
}

fn not_floating(path: &Path, name: &str, found: &dyn std::fmt::Debug) -> CheckpointError {
    CheckpointError::Type { path: path.to_path_buf(), name: name.to_owned(), found: format!("{found:?}") }
}

fn widen(bytes: Vec<u8>, shape: Vec<usize>, dtype: DType) -> Tensor {
    if dtype == DType::F32 {
        let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        return Tensor { shape, values: bytes.chunks_exact(4).map(number).collect() };
    }
    let data = TensorData::from_bytes_vec(bytes, shape.clone(), dtype).convert::<f32>();
    Tensor { shape, values: data.into_vec().expect("converted to f32 in the line above") }
}

fn without_wrapping(tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    if !tensors.keys().all(|name| name.starts_with(DATA_PARALLEL)) {
        return tensors;
    }
    tensors.into_iter().map(|(name, tensor)| (name[DATA_PARALLEL.len()..].to_owned(), tensor)).collect()
}

#[cfg(test)]
mod tests;
