//! The shortcuts against the definition: every token of every padded window, one number at a time, in double precision.

use burn::backend::Flex;
use semisam_shared::weights::{Tensor as Weight, Weights};

use super::*;
use crate::model::vnet::to_host;

const PATH: &str = "attn";

/// Weights of an attention with `heads` heads of `head` numbers and windows of `side` tokens.
fn weights(heads: usize, head: usize, side: usize) -> Weights {
    let width = heads * head;
    let mut state = 7_u32;
    let mut draw = |shape: &[usize], scale: f32| {
        let mut value = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
        };
        let values = (0..shape.iter().product::<usize>()).map(|_| value()).collect();
        Weight { shape: shape.to_vec(), values }
    };
    let mut tensors = vec![
        ("qkv.weight", draw(&[3 * width, width], 0.6)),
        ("qkv.bias", draw(&[3 * width], 0.8)),
        ("proj.weight", draw(&[width, width], 0.6)),
        ("proj.bias", draw(&[width], 0.5)),
    ];
    tensors.extend(["rel_pos_d", "rel_pos_h", "rel_pos_w"].map(|name| (name, draw(&[2 * side - 1, head], 1.5))));
    Weights::new(tensors.into_iter().map(|(name, tensor)| (format!("{PATH}.{name}"), tensor))).expect("shapes fit")
}

fn row(weights: &Weights, name: &str, from: usize, count: usize) -> Vec<f64> {
    let values = &weights.get(&format!("{PATH}.{name}")).expect("there").values;
    values[from * count..(from + 1) * count].iter().map(|value| f64::from(*value)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The attention by its definition; with `masked`, padded keys are left out, which the published network does not do.
fn definition(
    weights: &Weights,
    x: &[f32],
    (grid, side): (usize, usize),
    (heads, head): (usize, usize),
    masked: bool,
) -> Vec<f64> {
    let width = heads * head;
    let project = |token: Option<[usize; 3]>, part: usize, number: usize| {
        let output = part * width + number;
        let bias = row(weights, "qkv.bias", 0, 3 * width)[output];
        token.map_or(bias, |[i, j, k]| {
            let token = &x[((i * grid + j) * grid + k) * width..][..width];
            let token: Vec<f64> = token.iter().map(|value| f64::from(*value)).collect();
            bias + dot(&row(weights, "qkv.weight", output, width), &token)
        })
    };
    let mut all = vec![0.0; grid * grid * grid * width];
    for at in 0..grid * grid * grid {
        let query = [at / grid / grid, at / grid % grid, at % grid];
        let start = query.map(|index| index / side * side);
        let place = |[a, b, c]: [usize; 3]| {
            let token = [start[0] + a, start[1] + b, start[2] + c];
            token.iter().all(|index| *index < grid).then_some(token)
        };
        let [a, b, c] = std::array::from_fn(|axis| query[axis] - start[axis]);
        let mut attended = vec![0.0; width];
        for of_head in 0..heads {
            let vector = |token: Option<[usize; 3]>, part| -> Vec<f64> {
                (0..head).map(|number| project(token, part, of_head * head + number)).collect()
            };
            let asked = vector(place([a, b, c]), 0);
            let relative = |axis: &str, vector: &[f64], from: usize, to: usize| {
                dot(vector, &row(weights, axis, from + side - 1 - to, head))
            };
            let (mut sum, mut weighted) = (0.0, vec![0.0; head]);
            for key in 0..side * side * side {
                let [kx, ky, kz] = [key / side / side, key / side % side, key % side];
                let token = place([kx, ky, kz]);
                if masked && token.is_none() {
                    continue;
                }
                let logit = dot(&asked, &vector(token, 1)) / (head as f64).sqrt()
                    + relative("rel_pos_d", &asked, a, kz)
                    + relative("rel_pos_h", &vector(place([a, b, kx]), 0), b, kz)
                    + relative("rel_pos_w", &vector(place([a, b, ky]), 0), ky, kz);
                sum += logit.exp();
                weighted.iter_mut().zip(vector(token, 2)).for_each(|(sum, value)| *sum += logit.exp() * value);
            }
            let of_head = &mut attended[of_head * head..(of_head + 1) * head];
            of_head.iter_mut().zip(weighted).for_each(|(value, weighted)| *value = weighted / sum);
        }
        for (output, value) in all[at * width..(at + 1) * width].iter_mut().enumerate() {
            *value = row(weights, "proj.bias", 0, width)[output]
                + dot(&row(weights, "proj.weight", output, width), &attended);
        }
    }
    all
}

fn found<B: TransformerBackend>(weights: Weights, x: &[f32], grid: usize, side: usize) -> Vec<f32> {
    let (device, width) = (B::Device::default(), x.len() / grid.pow(3));
    let attention = WindowAttention::<B>::take(&mut Parts::new(weights, &device), PATH, [grid; 3], side);
    let x = Tensor::from_data(TensorData::new(x.to_vec(), [x.len() / width, width]), &device);
    to_host(attention.forward(x).into_data())
}

fn input(grid: usize, width: usize) -> Vec<f32> {
    (0..grid.pow(3) * width).map(|i| ((i * 29) % 83) as f32 / 40.0 - 1.0).collect()
}

fn apart(found: &[f32], expected: &[f64]) -> f64 {
    found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn shortcuts_give_what_the_definition_gives() {
    // one window with padding, one without, whole windows, and windows of which the last are cut on one to three axes
    for (grid, side) in [(2, 3), (1, 4), (3, 3), (4, 2), (4, 3), (3, 2), (5, 3)] {
        for (heads, head) in [(1, 4), (2, 3)] {
            let (weights, x) = (weights(heads, head, side), input(grid, heads * head));
            let expected = definition(&weights, &x, (grid, side), (heads, head), false);
            let error = apart(&found::<Flex>(weights, &x, grid, side), &expected);
            assert!(error < 1e-5, "grid {grid}, window {side}, {heads} heads: {error}");
        }
    }
}

#[test]
fn padded_keys_count() {
    for (grid, side) in [(2, 3), (4, 3)] {
        let (weights, x) = (weights(2, 3, side), input(grid, 6));
        let masked = definition(&weights, &x, (grid, side), (2, 3), true);
        let error = apart(&found::<Flex>(weights, &x, grid, side), &masked);
        assert!(error > 1e-2, "grid {grid}, window {side}: without them the result is only {error} away");
    }
}

#[test]
fn the_kernel_gives_what_stock_operators_give() {
    let device = Default::default();
    let draw = |shape: [usize; 3], step: usize| {
        let values: Vec<f32> =
            (0..shape.iter().product::<usize>()).map(|i| ((i * step) % 97) as f32 / 30.0 - 1.5).collect();
        Tensor::<Flex, 3>::from_data(TensorData::new(values, shape), &device)
    };
    for (heads, rows, keys, groups) in [(1, 1, 1, 1), (3, 300, 7, 100), (2, 260, 33, 2), (2, 130, 5, 130)] {
        let (q, k, v) = (draw([heads, rows, 5], 31), draw([heads, keys, 5], 17), draw([heads, keys, 4], 23));
        let shared = draw([heads, groups, keys], 41);
        for shared in [None, Some(shared)] {
            let mut logits = q.clone().matmul(k.clone().swap_dims(1, 2));
            if let Some(shared) = shared.clone() {
                let shared: Tensor<Flex, 4> = shared.unsqueeze_dim(2);
                let of_groups = logits.reshape([heads, groups, rows / groups, keys]) + shared;
                logits = of_groups.reshape([heads, rows, keys]);
            }
            let expected = burn::tensor::activation::softmax(logits, 2).matmul(v.clone());
            let expected = expected.swap_dims(0, 1).reshape([rows, heads * 4]);
            let found: Tensor<Flex, 2> = attend(q.clone(), k.clone(), v.clone(), shared);
            let (found, expected) = (to_host(found.into_data()), to_host(expected.into_data()));
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{heads} {rows} {keys} {groups}");
        }
    }
}
