//! `semisam-node bench conv`: one convolution through autodiff, as the networks call it.
//!
//! The gradients are those of input, weight and bias, for a gradient of the result that is one everywhere. A product and
//! a sum count as two operations; the gradients need twice those of the forward pass.

use std::collections::BTreeMap;

use burn::tensor::{Distribution, Tensor, backend::AutodiffBackend, module::conv3d, ops::ConvOptions};
use clap::Args;
use serde_json::json;

use super::{
    BenchError, Setting,
    measure::{Memory, Report, Times},
};
use crate::{
    device::{Device, TrainBackend, Work},
    model::{
        conv::{Image, convolve, operator::ConvBackend},
        layout::Sampling,
    },
};

/// `semisam-node bench conv`.
#[derive(Clone, Debug, Args)]
pub struct ConvArgs {
    /// Channels going in.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub inputs: usize,
    /// Channels coming out.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub outputs: usize,
    /// Voxels along each axis.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub side: usize,
    /// Taps along each axis; an odd kernel is padded so that stride 1 keeps the side, an even one is not padded.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub kernel: usize,
    /// Voxels from one place of the kernel to the next.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub stride: usize,
    /// Images at once.
    #[arg(long, default_value_t = 1, value_name = "B")]
    pub batch: usize,
    /// Repetitions that are counted.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub repeats: usize,
    /// Threads, warm-up, device.
    #[command(flatten)]
    pub setting: Setting,
}

/// Measures.
///
/// # Errors
/// If the device is absent or there is no such convolution.
pub fn run(args: &ConvArgs) -> Result<Report, BenchError> {
    let ConvArgs { inputs, outputs, side, kernel, stride, batch, repeats, .. } = *args;
    let least = [inputs, outputs, kernel, stride, batch, repeats].into_iter().min();
    if least == Some(0) || side < kernel {
        return Err(BenchError::Convolution);
    }
    let device = args.setting.start()?;
    let (memory, times) = device.run(Convolution { args, device })?;
    let gflops = |name: &str, passes: f64| passes * args.operations() / 1e6 / times[name].min_ms;
    let gflops = json!({ "forward": gflops("forward", 1.0), "step": gflops("step", 3.0) });
    Ok(Report::new("conv", device, memory, times).with("gflops", gflops).with("operator", args.operator().name()))
}

/// What computes a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    /// 3x3x3 with stride 1.
    Same,
    /// 2x2x2 with stride 2.
    Halve,
    /// 1x1x1.
    Pointwise,
    /// Any other: burn's own.
    Stock,
}

impl Operator {
    fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Halve => "halve",
            Self::Pointwise => "pointwise",
            Self::Stock => "stock",
        }
    }
}

impl ConvArgs {
    fn operator(&self) -> Operator {
        match (self.kernel, self.stride) {
            (3, 1) => Operator::Same,
            (2, 2) if self.side.is_multiple_of(2) => Operator::Halve,
            (1, 1) => Operator::Pointwise,
            _ => Operator::Stock,
        }
    }

    fn padding(&self) -> usize {
        if self.kernel.is_multiple_of(2) { 0 } else { self.kernel / 2 }
    }

    /// Floating-point operations of a forward pass.
    fn operations(&self) -> f64 {
        let side = (self.side + 2 * self.padding() - self.kernel) / self.stride + 1;
        let products = [self.batch, self.inputs, self.outputs].map(|n| n as f64).iter().product::<f64>();
        2.0 * products * (self.kernel.pow(3) as f64) * (side as f64).powi(3)
    }

    fn apply<B: ConvBackend>(&self, x: Tensor<B, 5>, weight: Tensor<B, 5>, bias: Tensor<B, 1>) -> Tensor<B, 5> {
        match self.operator() {
            Operator::Same | Operator::Pointwise => convolve(Image::plain(x), weight, bias, Sampling::Same).values,
            Operator::Halve => convolve(Image::plain(x), weight, bias, Sampling::Down).values,
            Operator::Stock => {
                let options = ConvOptions::new([self.stride; 3], [self.padding(); 3], [1; 3], 1);
                conv3d(x, weight, Some(bias), options)
            }
        }
    }
}

struct Convolution<'a> {
    args: &'a ConvArgs,
    device: Device,
}

impl Work for Convolution<'_> {
    type Output = Result<(Memory, BTreeMap<&'static str, Times>), BenchError>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let ConvArgs { inputs, outputs, side, kernel, batch, repeats, .. } = *self.args;
        let warm_up = self.args.setting.warm_up;
        let wait =
            || B::sync(device).map_err(|error| BenchError::Sync { device: self.device, reason: error.to_string() });
        let x = drawn::<B, 5>([batch, inputs, side, side, side], device);
        let weight = drawn::<B, 5>([outputs, inputs, kernel, kernel, kernel], device);
        let bias = drawn::<B, 1>([outputs], device);
        wait()?;
        let memory = Memory::before();
        let steps = Times::measure(warm_up, repeats, || {
            let y = self.args.apply(x.clone(), weight.clone(), bias.clone());
            let found = y.backward();
            drop((x.grad(&found), weight.grad(&found), bias.grad(&found)));
            wait()
        })?;
        let memory = memory.peaked();
        let (x, weight, bias) = (x.inner(), weight.inner(), bias.inner());
        let forward = Times::measure(warm_up, repeats, || {
            drop(self.args.apply(x.clone(), weight.clone(), bias.clone()));
            wait()
        })?;
        Ok((memory, BTreeMap::from([("step", steps), ("forward", forward)])))
    }
}

/// Values whose gradients are asked for.
fn drawn<B: AutodiffBackend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device).require_grad()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ConvArgs,
    }

    fn parsed(line: &str) -> ConvArgs {
        Line::try_parse_from(line.split(' ')).expect("understood").args
    }

    #[test]
    fn operations_are_counted_by_the_places_of_the_kernel() {
        // 16 x 16 channels, 27 taps, 64 cubed places
        assert_eq!(parsed("conv").operations(), 2.0 * 256.0 * 27.0 * 262_144.0);
        assert_eq!(parsed("conv --kernel 2 --stride 2 --side 8").operations(), 2.0 * 256.0 * 8.0 * 64.0);
        assert_eq!(parsed("conv --stride 2 --side 7 --batch 3").operations(), 6.0 * 256.0 * 27.0 * 64.0);
    }

    #[test]
    fn each_convolution_has_the_operator_that_the_networks_use() {
        let operator = |line: &str| parsed(line).operator();
        assert_eq!(operator("conv"), Operator::Same);
        assert_eq!(operator("conv --kernel 2 --stride 2"), Operator::Halve);
        assert_eq!(operator("conv --kernel 1"), Operator::Pointwise);
        assert_eq!(operator("conv --kernel 5"), Operator::Stock);
        assert_eq!(operator("conv --stride 2"), Operator::Stock);
    }
}
