//! Windows, planes and mirrored windows: what must be equal is, for networks that know left from right and for one that does
//! not.

use proptest::prelude::*;

use super::*;
use crate::{
    data::{flip::flip, grid::Grid},
    model::layout,
};

const CONFIG: VNetConfig = VNetConfig { in_channels: 1, classes: 3, base_filters: 2, groups: 2 };

fn image(shape: [usize; 3]) -> Image {
    let Grid { shape, affine } = Grid::centred(shape, [1.0; 3]);
    Image { shape, affine, values: (0..shape.iter().product()).map(|v: usize| (v * 37 % 11) as f32 - 5.0).collect() }
}

fn found(weights: &Weights, image: &Image, windows: Windows) -> Vec<f32> {
    class_probabilities(Device::Cpu, CONFIG, weights, image, windows).expect("they fit")
}

fn apart(one: &[f32], two: &[f32]) -> f32 {
    assert_eq!(one.len(), two.len());
    one.iter().zip(two).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The weights with every kernel replaced by the mean of its mirror images: then the network commutes with flips.
fn symmetric(weights: &Weights) -> Weights {
    let mut flat = Vec::new();
    for (_, tensor) in weights.iter() {
        let mut values = tensor.values.clone();
        if let [_, _, x, y, z] = tensor.shape[..] {
            for kernel in values.chunks_exact_mut(x * y * z) {
                let mirrored = crate::data::flip::ways([true; 3]).into_iter().map(|axes| {
                    let mut kernel = kernel.to_vec();
                    flip(&mut kernel, [x, y, z], axes);
                    kernel
                });
                let mirrored: Vec<Vec<f32>> = mirrored.collect();
                for (at, value) in kernel.iter_mut().enumerate() {
                    *value = mirrored.iter().map(|kernel| kernel[at]).sum::<f32>() / 8.0;
                }
            }
        }
        flat.extend(values);
    }
    weights.with_flat(&flat).expect("as many values")
}

#[test]
fn probabilities_add_up_to_one_on_the_grid_of_the_image() {
    let image = image([20, 17, 9]);
    let windows = Windows::half_overlapping([16, 16, 16]);
    let weights = layout::initial(&CONFIG, 3);
    let found = found(&weights, &image, windows);
    let count = image.count();
    assert_eq!(found.len(), 3 * count);
    assert!((0..count).all(|at| ((0..3).map(|class| found[class * count + at]).sum::<f32>() - 1.0).abs() < 1e-5));
    let mask = segment(Device::Cpu, CONFIG, &weights, &image, windows).expect("they fit");
    assert_eq!(mask.shape, image.shape);
    assert!((0..count).all(|at| {
        let chosen = found[usize::from(mask.values[at]) * count + at];
        (0..3).all(|class| found[class * count + at] <= chosen)
    }));
}

#[test]
fn one_window_is_the_network_itself_and_overlapping_ones_are_their_mean() {
    let (image, weights) = (image([16, 16, 24]), layout::initial(&CONFIG, 3));
    let size = [16, 16, 16];
    let both = found(&weights, &image, Windows { size, stride: [16, 16, 8], flips: [false; 3] });
    let half = |start: i64| {
        let piece = crate::data::patch::crop(&image, [0, 0, start], size);
        found(&weights, &piece, Windows::half_overlapping(size))
    };
    let (first, second) = (half(0), half(8));
    for (at, p) in both.iter().enumerate() {
        let (row, z) = (at / 24 * 16, at % 24);
        let expected = match z {
            0..8 => first[row + z],
            8..16 => (first[row + z] + second[row + z - 8]) / 2.0,
            _ => second[row + z - 8],
        };
        assert_eq!(*p, expected, "at {at}");
    }
}

#[test]
fn windows_with_gaps_between_them_are_refused() {
    for stride in [[17, 8, 8], [8, 0, 8]] {
        let windows = Windows { stride, ..Windows::half_overlapping([16; 3]) };
        let weights = layout::initial(&CONFIG, 1);
        let error =
            class_probabilities(Device::Cpu, CONFIG, &weights, &image([40, 16, 16]), windows).expect_err("gaps");
        assert!(error.to_string().contains("`stride`"), "{error}");
    }
}

#[test]
fn planes_are_finished_along_the_axis_where_fewest_are_open() {
    let windows = Windows::half_overlapping([64, 48, 32]);
    assert_eq!(windows.shortest_along([300, 300, 1200]), 2);
    assert_eq!(windows.shortest_along([640, 64, 64]), 0);
    assert_eq!(windows.shortest_along([10, 10, 10]), 0, "of equals the first");
}

#[test]
fn flips_change_nothing_for_a_network_that_commutes_with_them_and_something_for_another() {
    let image = image([20, 33, 16]);
    let plain = Windows::half_overlapping([16; 3]);
    let weights = layout::initial(&CONFIG, 3);
    for axes in [[true, false, false], [false, true, true], [true; 3]] {
        let mirrored = Windows { flips: axes, ..plain };
        let symmetric = symmetric(&weights);
        assert!(apart(&found(&symmetric, &image, plain), &found(&symmetric, &image, mirrored)) < 1e-5, "{axes:?}");
        assert!(apart(&found(&weights, &image, plain), &found(&weights, &image, mirrored)) > 1e-3, "{axes:?}");
    }
}

#[test]
fn a_mirrored_scan_has_the_mirrored_answer_if_flips_are_averaged() {
    let size = [16, 32, 16];
    let (image, weights) = (image(size), layout::initial(&CONFIG, 3));
    for axes in [[true, false, false], [false, true, false], [false, false, true], [true; 3]] {
        let mut mirrored = image.clone();
        flip(&mut mirrored.values, size, axes);
        let back = |windows| {
            let mut found = found(&weights, &mirrored, windows);
            found.chunks_exact_mut(image.count()).for_each(|class| flip(class, size, axes));
            found
        };
        let with = Windows { flips: axes, ..Windows::half_overlapping(size) };
        let without = Windows::half_overlapping(size);
        assert!(apart(&found(&weights, &image, with), &back(with)) < 1e-6, "{axes:?}");
        assert!(apart(&found(&weights, &image, without), &back(without)) > 1e-3, "{axes:?}");
    }
}

struct Planes<'a>(&'a Weights, &'a Image, Windows, usize);

impl Work for Planes<'_> {
    type Output = Vec<Vec<f32>>;

    fn run<B: TrainBackend>(self, device: &B::Device) -> Self::Output {
        let Planes(weights, image, windows, axis) = self;
        let network = VNet::<B::InnerBackend>::new(CONFIG, weights, device).expect("they fit");
        let mut planes = Vec::new();
        by_planes::<B>(&network, image, (windows, axis), device, &mut |plane| planes.push(plane)).expect("they fit");
        planes
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn planes_along_any_axis_are_those_of_the_whole(
        shape in prop::array::uniform3(5_usize..36),
        stride in prop::array::uniform3(6_usize..=16),
    ) {
        let (image, weights) = (image(shape), layout::initial(&CONFIG, 5));
        let windows = Windows { size: [16; 3], stride, flips: [false; 3] };
        let whole = found(&weights, &image, windows);
        for axis in 0..3 {
            let planes = Device::Cpu.run(Planes(&weights, &image, windows, axis));
            prop_assert_eq!(planes.len(), shape[axis]);
            for (at, p) in whole.iter().enumerate() {
                let (class, voxel) = (at / image.count(), at % image.count());
                let place = [voxel / shape[2] / shape[1], voxel / shape[2] % shape[1], voxel % shape[2]];
                let [a, b] = [[1, 2], [0, 2], [0, 1]][axis];
                let within = (class * shape[a] + place[a]) * shape[b] + place[b];
                // windows are added in another order
                prop_assert!((planes[place[axis]][within] - p).abs() < 1e-6);
            }
        }
    }
}
