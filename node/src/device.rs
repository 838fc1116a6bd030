//! Where tensors are computed: this file and those below it alone name a concrete backend.
//!
//! Everything else is generic over [`TrainBackend`] and is handed over as [`Work`]. CUDA is a cargo feature; a program
//! built with it runs on machines without it. burn's CUDA backend panics in a worker thread when driver, compiler or
//! headers are absent, so [`DeviceChoice::resolve`] looks for them first, by their files, without touching burn
//! (spec/cpu-kernels.md, section 11).

mod convolution;
#[cfg(feature = "cuda")]
mod cuda;
mod sampling;

use std::fmt;

use burn::{
    backend::{Autodiff, Flex},
    tensor::{TensorData, backend::AutodiffBackend},
};
use burn_flex::FlexTensor;
use semisam_kernels::{
    attention::{Attention, Shared, Tokens},
    gelu::gelu,
};
use serde::{Deserialize, Serialize};

use crate::model::{conv::operator::ConvBackend, sam::operator::TransformerBackend};

/// Where weights, optimiser and losses of a training run live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the host's memory: exact sums, the same bits for any number of threads. The device computes the network alone.
    Host,
    /// On the device, from the first step to the last: between the inputs of a step and its end nothing is copied.
    Resident,
}

/// A backend that can train, and within it one that only computes.
pub trait TrainBackend: ConvBackend + AutodiffBackend<InnerBackend: ConvBackend + TransformerBackend> {
    /// Whether the samples of a batch are better computed one by one, each by a thread, than together.
    const PER_SAMPLE: bool;
    /// Where a training run lives.
    const PLACEMENT: Placement;
}

impl TrainBackend for Autodiff<Flex> {
    const PER_SAMPLE: bool = true;
    const PLACEMENT: Placement = Placement::Host;
}

impl TransformerBackend for Flex {
    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, shared: Option<FlexTensor>) -> FlexTensor {
        let [q, k, v] = [q, k, v].map(rows_of_numbers);
        let shared = shared.map(|shared| shared.to_contiguous());
        let [[heads, queries, width], [_, keys, _], [.., value_width]] =
            [&q, &k, &v].map(|tensor| tensor.layout().shape().dims::<3>());
        let groups = shared.as_ref().map_or(0, |shared| shared.layout().shape().dims::<3>()[1]);
        let shared = shared.as_ref().map(|shared| Shared { groups, rows: values(shared) });
        let attention = Attention { heads, queries, keys, width, value_width, scale: 1.0, shared };
        let attended = attention.attend(tokens(&q), tokens(&k), tokens(&v));
        tensor(attended, &[queries, heads * value_width])
    }

    fn gelu_exact(x: FlexTensor) -> FlexTensor {
        in_place(x, gelu)
    }
}

/// The tensor, or a copy, in which the numbers of each row lie side by side; rows may lie anywhere.
fn rows_of_numbers(tensor: FlexTensor) -> FlexTensor {
    let beside = matches!(tensor.layout().strides(), [heads, tokens, 1] if *heads >= 0 && *tokens >= 0);
    if beside { tensor } else { tensor.to_contiguous() }
}

/// The rows of a tensor [heads, tokens, width] of [`rows_of_numbers`].
fn tokens(tensor: &FlexTensor) -> Tokens<'_> {
    let strides = tensor.layout().strides();
    let [head_stride, token_stride] = [strides[0], strides[1]].map(|stride| stride as usize);
    let values = &tensor.storage::<f32>()[tensor.layout().start_offset()..];
    Tokens { values, head_stride, token_stride }
}

/// Changes the values of a tensor that nobody else holds; of a copy, where somebody does.
fn in_place(x: FlexTensor, change: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut x = x.to_contiguous();
    if x.layout().start_offset() != 0 || x.storage::<f32>().len() != x.layout().num_elements() {
        let shape = x.layout().shape().clone();
        x = tensor(values(&x).to_vec(), &shape);
    }
    change(x.storage_mut());
    x
}

fn values(tensor: &FlexTensor) -> &[f32] {
    let first = tensor.layout().start_offset();
    let all = tensor.storage::<f32>();
    &all[first..first + tensor.layout().num_elements()]
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.to_vec()))
}

/// A computation that is the same on every backend.
pub trait Work {
    /// What it gives.
    type Output;

    /// Does it with the tensors of `B` on `device`.
    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output;
}

/// What a user asks for: `device = "auto"`, `"cpu"` or `"cuda"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// CUDA where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA, or nothing.
    Cuda,
}

impl DeviceChoice {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Cpu, Self::Cuda];

    /// What a user writes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// The choice that a user wrote, if there is such a one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

/// Where work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU, by burn's flex backend.
    Cpu,
    /// The first CUDA device.
    #[cfg(feature = "cuda")]
    Cuda,
}

/// A device, and why it is not the better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The device to use.
    pub device: Device,
    /// Why `auto` fell back to the CPU.
    pub fallback: Option<String>,
}

/// Why the device asked for cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program was built without CUDA.
    #[error("this build has no CUDA: rebuild with `--features cuda`, or set device = \"cpu\" or \"auto\"")]
    NotBuilt,
    /// Something that CUDA needs is absent.
    #[error("no CUDA device: {0}; set device = \"cpu\" or \"auto\"")]
    Absent(String),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Cpu => "cpu",
            #[cfg(feature = "cuda")]
            Device::Cuda => "cuda",
        })
    }
}

impl DeviceChoice {
    /// The device to use on this machine.
    ///
    /// # Errors
    /// If CUDA is demanded and this build or this machine has none.
    pub fn resolve(self) -> Result<Resolved, DeviceError> {
        match (self, cuda()) {
            (DeviceChoice::Cpu, _) => Ok(Resolved { device: Device::Cpu, fallback: None }),
            (_, Ok(device)) => Ok(Resolved { device, fallback: None }),
            (DeviceChoice::Auto, Err(reason)) => {
                Ok(Resolved { device: Device::Cpu, fallback: Some(format!("computing on the CPU: {reason}")) })
            }
            (DeviceChoice::Cuda, Err(reason)) => Err(reason),
        }
    }
}

impl Device {
    /// Does `work` here.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            Device::Cpu => work.run::<Autodiff<Flex>>(&Default::default()),
            #[cfg(feature = "cuda")]
            Device::Cuda => work.run::<Autodiff<burn::backend::Cuda>>(&Default::default()),
        }
    }

    /// Whether independent pieces of work gain from being handed over by several threads at once.
    pub fn parallel(self) -> bool {
        self == Device::Cpu
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Device, DeviceError> {
    probe::missing().map_or(Ok(Device::Cuda), |what| Err(DeviceError::Absent(what)))
}

#[cfg(any(feature = "cuda", test))]
mod probe;
