//! Trilinear interpolation between grids over the same box, as PyTorch does it with `align_corners = false`: one small matrix
//! product per axis (spec/cpu-kernels.md, section 2.2).

use burn::tensor::{Tensor, TensorData, backend::Backend};

/// `x` at another resolution.
///
/// # Shapes
/// [1, channels, d, h, w] -> [1, channels, D, H, W].
pub fn trilinear<B: Backend>(x: Tensor<B, 5>, [to_d, to_h, to_w]: [usize; 3]) -> Tensor<B, 5> {
    let ([_, channels, d, h, w], device) = (x.dims(), x.device());
    let x: Tensor<B, 2> = x.reshape([channels * d * h, w]).matmul(matrix(w, to_w, &device).swap_dims(0, 1));
    let x: Tensor<B, 3> = matrix(h, to_h, &device).unsqueeze::<3>().matmul(x.reshape([channels * d, h, to_w]));
    let x: Tensor<B, 3> = matrix(d, to_d, &device).unsqueeze::<3>().matmul(x.reshape([channels, d, to_h * to_w]));
    x.reshape([1, channels, to_d, to_h, to_w])
}

/// The share of each old sample in each new one: [new, old].
fn matrix<B: Backend>(old: usize, new: usize, device: &B::Device) -> Tensor<B, 2> {
    let mut shares = vec![0.0_f32; new * old];
    for (i, shares) in shares.chunks_exact_mut(old).enumerate() {
        let at = ((i as f64 + 0.5) * old as f64 / new as f64 - 0.5).max(0.0);
        let (first, part) = ((at as usize).min(old - 1), at.fract() as f32);
        shares[first] += 1.0 - part;
        shares[(first + 1).min(old - 1)] += part;
    }
    Tensor::from_data(TensorData::new(shares, [new, old]), device)
}
