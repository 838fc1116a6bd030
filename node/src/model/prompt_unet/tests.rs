use std::collections::BTreeMap;

use burn::{
    backend::{Autodiff, Flex},
    tensor::{
        Tensor, TensorData,
        activation::relu,
        backend::Backend,
        module::{conv_transpose3d, conv3d},
        ops::{ConvOptions, ConvTransposeOptions},
    },
};
use semisam_shared::weights;

use super::{
    prompt::{Prompts, logit},
    *,
};
use crate::{
    model::sam::{Click, Sign},
    train::{generator, normal},
};

type Tracked = Autodiff<Flex>;

const CONFIG: PromptUNetConfig = PromptUNetConfig { widths: [4, 8, 8, 12] };
const SIDES_OF: [usize; 3] = [16, 8, 24];
const VOXELS: usize = 16 * 8 * 24;

/// Weights under which nothing is zero or one.
fn drawn(seed: u64) -> Weights {
    let mut random = generator(seed, "weights", &[]);
    let first = layout::initial(&CONFIG, seed);
    let flat: Vec<f32> = first.to_flat().iter().map(|value| value + 0.1 * normal(&mut random)).collect();
    first.with_flat(&flat).expect("as many")
}

fn noise(count: usize, purpose: &str) -> Vec<f32> {
    let mut random = generator(3, purpose, &[]);
    (0..count).map(|_| normal(&mut random)).collect()
}

fn tensor<B: Backend>(values: Vec<f32>, channels: usize) -> Tensor<B, 5> {
    let [d, h, w] = SIDES_OF;
    let batch = values.len() / channels / VOXELS;
    Tensor::from_data(TensorData::new(values, [batch, channels, d, h, w]), &Default::default())
}

fn prompts() -> Prompts {
    let click = |at: [f32; 3], sign| Click { at, sign };
    let clicks = vec![click([3.0, 4.0, 5.0], Sign::Foreground), click([12.0, 2.0, 20.0], Sign::Background)];
    Prompts { clicks, mask: Some(noise(VOXELS, "mask")) }
}

fn maps(prompts: &Prompts) -> Vec<f32> {
    prompts.maps(SIDES_OF).expect("they fit")
}

fn host<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    to_host(tensor.into_data())
}

fn tracked(weights: &Weights) -> PromptUNet<Tracked> {
    PromptUNet::tracked(&PromptUNet::new(CONFIG, weights, &Default::default()).expect("its weights"))
}

fn answer(weights: &Weights, image: Vec<f32>, maps: Vec<f32>) -> Vec<f32> {
    let network = PromptUNet::<Flex>::new(CONFIG, weights, &Default::default()).expect("its weights");
    let features = network.embed(tensor(image, 1)).expect("it fits");
    host(network.decode(&features, tensor(maps, 3)).expect("they fit"))
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let largest = expected.iter().fold(1e-3_f32, |largest, value| largest.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(found.len() == expected.len() && worst <= tolerance * largest, "{what}: {worst} of {largest}");
}

/// The same network of burn's own operations, written down a second time.
struct Composed<B: Backend>(BTreeMap<String, Tensor<B, 5>>, BTreeMap<String, Tensor<B, 1>>);

impl<B: Backend> Composed<B> {
    fn new(weights: &Weights, wrap: impl Fn(Tensor<B, 1>) -> Tensor<B, 1>) -> Self {
        let (mut fives, mut ones) = (BTreeMap::new(), BTreeMap::new());
        for (name, weights::Tensor { shape, values }) in weights.iter() {
            let flat = Tensor::from_data(TensorData::new(values.clone(), [values.len()]), &Default::default());
            let leaf = wrap(flat);
            if let Ok(shape) = <[usize; 5]>::try_from(shape.as_slice()) {
                fives.insert(name.to_owned(), leaf.clone().reshape(shape));
            }
            ones.insert(name.to_owned(), leaf);
        }
        Self(fives, ones)
    }

    fn raw(&self, path: &str, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let (weight, bias) = (self.0[&format!("{path}.weight")].clone(), self.1[&format!("{path}.bias")].clone());
        let [.., side] = weight.dims();
        if path.contains(".up_") {
            let options = ConvTransposeOptions::new([2; 3], [0; 3], [0; 3], [1; 3], 1);
            return conv_transpose3d(x, weight, Some(bias), options);
        }
        let (stride, padding) = if side == 2 { (2, 0) } else { (1, side / 2) };
        conv3d(x, weight, Some(bias), ConvOptions::new([stride; 3], [padding; 3], [1; 3], 1))
    }

    fn unit(&self, stage: &str, unit: usize, x: Tensor<B, 5>) -> Tensor<B, 5> {
        let y = self.raw(&format!("{stage}.conv.{}", 3 * unit), x);
        let [batch, channels, d, h, w] = y.dims();
        let groups: Tensor<B, 3> = y.reshape([batch, 4, channels / 4 * d * h * w]);
        let centred = groups.clone() - groups.mean_dim(2);
        let variance = centred.clone().powi_scalar(2).mean_dim(2);
        let y = (centred / (variance + 1e-5).sqrt()).reshape([batch, channels, d, h, w]);
        let vector = |part: &str| {
            let vector = self.1[&format!("{stage}.conv.{}.{part}", 3 * unit + 1)].clone();
            vector.reshape([1, channels, 1, 1, 1])
        };
        relu(y * vector("weight") + vector("bias"))
    }

    fn maps(&self, image: Tensor<B, 5>, prompts: Tensor<B, 5>) -> Tensor<B, 5> {
        let unit = |stage: &str, x| self.unit(stage, 0, x);
        let i0 = unit("image.level_0", image);
        let i1 = self.unit("image.level_1", 1, unit("image.level_1", unit("image.down_1", i0.clone())));
        let i2 = self.unit("image.level_2", 1, unit("image.level_2", unit("image.down_2", i1.clone())));
        let i3 = self.unit("image.level_3", 1, unit("image.level_3", unit("image.down_3", i2.clone())));
        let i3 = self.unit("image.level_3", 2, i3);
        let b2 = unit("image.back_2", unit("image.up_2", i3.clone()) + i2);
        let b1 = unit("image.back_1", unit("image.up_1", b2.clone()) + i1);
        let b0 = unit("image.back_0", unit("image.up_0", b1.clone()) + i0);
        let feature = |level: usize, x| self.raw(&format!("image.feature_{level}"), x);
        let (f0, f1, f2, f3) = (feature(0, b0), feature(1, b1), feature(2, b2), feature(3, i3));
        let p1 = unit("prompt.level_1", self.raw("prompt.in", prompts) + f1);
        let p2 = unit("prompt.level_2", unit("prompt.down_2", p1.clone()) + f2);
        let p3 = self.unit("prompt.level_3", 1, unit("prompt.level_3", unit("prompt.down_3", p2.clone()) + f3));
        let q2 = unit("prompt.back_2", unit("prompt.up_2", p3) + p2);
        let q1 = unit("prompt.back_1", unit("prompt.up_1", q2) + p1);
        self.raw("prompt.out", unit("prompt.back_0", unit("prompt.up_0", q1) + f0))
    }
}

#[test]
fn maps_and_gradients_are_those_of_stock_operations() {
    let weights = drawn(1);
    let (image, maps) = (noise(2 * VOXELS, "image"), [maps(&prompts()), noise(3 * VOXELS, "maps")].concat());
    let network = tracked(&weights);
    let features = network.embed(tensor(image.clone(), 1)).expect("it fits");
    let found = network.decode(&features, tensor(maps.clone(), 3)).expect("they fit");
    let composed = Composed::<Tracked>::new(&weights, Tensor::require_grad);
    let expected = composed.maps(tensor(image, 1), tensor(maps, 3));
    assert_close(&host(found.clone()), &host(expected.clone()), 2e-4, "maps");
    let slope = noise(2 * 2 * VOXELS, "slope");
    let sum = |maps: Tensor<Tracked, 5>| (maps * tensor(slope.clone(), 2)).sum();
    let found = weights.with_flat(&network.gradient(sum(found).backward())).expect("as many");
    let gradients = sum(expected).backward();
    for (name, found) in found.iter() {
        let expected = composed.1[name].grad(&gradients).map(host).unwrap_or_default();
        // the bias before a norm has no effect but rounding
        if !name.ends_with(".bias") || found.values.iter().any(|v| v.abs() > 1.0) {
            assert_close(&found.values, &expected, 5e-3, name);
        }
    }
}

/// Along the gradient itself the change is largest, so that rounding matters least.
#[test]
fn the_gradient_matches_a_finite_difference() {
    let weights = drawn(2);
    let (image, maps, slope) = (noise(VOXELS, "image"), maps(&prompts()), noise(2 * VOXELS, "slope"));
    let network = tracked(&weights);
    let features = network.embed(tensor(image.clone(), 1)).expect("it fits");
    let found = network.decode(&features, tensor(maps.clone(), 3)).expect("they fit");
    let gradient = network.gradient((found * tensor(slope.clone(), 2)).sum().backward());
    let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    let sum = |by: f64| {
        let flat = weights.to_flat();
        let moved: Vec<f32> = flat.iter().zip(&gradient).map(|(w, g)| w + (by * f64::from(*g) / norm) as f32).collect();
        let found = answer(&weights.with_flat(&moved).expect("as many"), image.clone(), maps.clone());
        found.iter().zip(&slope).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    // small, because the norms of the few voxels of the deepest level bend the function
    let difference = (sum(2e-4) - sum(-2e-4)) / 4e-4;
    assert!((difference / norm - 1.0).abs() < 0.02, "{difference} for {norm}");
}

#[test]
fn samples_of_a_batch_do_not_see_each_other() {
    let weights = drawn(3);
    let images = [noise(VOXELS, "one"), noise(VOXELS, "two")];
    let maps = [maps(&prompts()), maps(&Prompts::default())];
    let alone: Vec<f32> = (0..2).flat_map(|n| answer(&weights, images[n].clone(), maps[n].clone())).collect();
    assert_close(&answer(&weights, images.concat(), maps.concat()), &alone, 1e-5, "together");
    let turned = answer(&weights, [images[1].clone(), images[0].clone()].concat(), [&maps[1][..], &maps[0]].concat());
    assert_close(&[&turned[2 * VOXELS..], &turned[..2 * VOXELS]].concat(), &alone, 1e-5, "in another order");
}

#[test]
fn order_of_points_changes_nothing_and_every_kind_of_prompt_does() {
    let (weights, image) = (drawn(4), noise(VOXELS, "image"));
    let answer = |prompts: &Prompts| answer(&weights, image.clone(), maps(prompts));
    let all = prompts();
    let mut turned = all.clone();
    turned.clicks.reverse();
    assert_eq!(answer(&all), answer(&turned));
    let with =
        |clicks: &[Click], mask: bool| Prompts { clicks: clicks.to_vec(), mask: all.mask.clone().filter(|_| mask) };
    let moved = Click { at: [5.0, 4.0, 9.0], ..all.clicks[0] };
    let negated = Click { sign: Sign::Background, ..all.clicks[0] };
    let kinds = [
        with(&[], false),
        with(&all.clicks[..1], false),
        with(&[moved], false),
        with(&[negated], false),
        with(&all.clicks, false),
        with(&[], true),
        all.clone(),
    ];
    let answers: Vec<_> = kinds.iter().map(answer).collect();
    for (at, one) in answers.iter().enumerate() {
        assert!(one.iter().all(|value| value.is_finite()));
        for other in &answers[..at] {
            let apart = one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart > 1e-3, "{at}: {apart}");
        }
    }
    // a mask that leaves everything open is none
    let open = Prompts { clicks: all.clicks.clone(), mask: Some(vec![logit(0.5); VOXELS]) };
    assert_eq!(answer(&open), answer(&with(&all.clicks, false)));
}

#[test]
fn features_are_kept_and_used_again() {
    let (weights, device) = (drawn(5), Default::default());
    let network = PromptUNet::<Flex>::new(CONFIG, &weights, &device).expect("its weights");
    let features = network.embed(tensor(noise(VOXELS, "image"), 1)).expect("it fits");
    let direct = host(network.decode(&features, tensor(maps(&prompts()), 3)).expect("they fit"));
    let stored = features.to_host();
    assert_eq!(stored.shape, [4 * 512 + 8 * 64 + 8 * 8 + 12, 2, 1, 3]);
    let again = Features::from_host(&CONFIG, &stored, &device).expect("its own");
    assert_eq!(host(network.decode(&again, tensor(maps(&prompts()), 3)).expect("they fit")), direct);
    let other = PromptUNetConfig { widths: [4, 8, 12, 12] };
    let error = Features::<Flex>::from_host(&other, &stored, &device).expect_err("another network's").to_string();
    assert!(error.contains("[2668, 2, 1, 3]") && error.contains("[2636, 2, 1, 3]"), "{error}");
    for shape in [vec![], vec![2636], vec![2636, 0, 1, 3], vec![2636, 2, 2, 3]] {
        let damaged = weights::Tensor { shape, values: stored.values.clone() };
        assert!(Features::<Flex>::from_host(&CONFIG, &damaged, &device).is_err());
    }
}

#[test]
fn the_score_is_the_mean_quality_of_the_mask() {
    let maps = [30.0, 30.0, -30.0, -30.0, 1.0, 3.0, -9.0, -9.0];
    assert!((score(&maps) - sigmoid(2.0)).abs() < 1e-9);
    assert!(score(&[-200.0, -200.0, 1.0, 1.0]).is_finite());
}

#[test]
fn sizes_are_read_off_the_weights_and_what_is_wrong_is_named() {
    let config = PromptUNetConfig::default();
    let weights = layout::blank(&config);
    assert_eq!(PromptUNetConfig::of(&weights).expect("its own"), config);
    assert!((1_000_000..2_500_000).contains(&weights.count()), "{}", weights.count());
    assert!(PromptUNetConfig::recognises(&weights) && !PromptUNetConfig::recognises(&Weights::default()));
    let changed = |name: &str, tensor: Option<weights::Tensor>| {
        let kept = drawn(1).into_iter().filter(|(other, _)| other != name).collect::<Vec<_>>();
        let tensors = kept.into_iter().chain(tensor.map(|tensor| (name.to_owned(), tensor)));
        PromptUNetConfig::of(&Weights::new(tensors).expect("shapes fit")).expect_err("damaged").to_string()
    };
    let of = |shape: &[usize], value: f32| {
        Some(weights::Tensor { shape: shape.to_vec(), values: vec![value; shape.iter().product()] })
    };
    assert!(changed("prompt.down_2.conv.0.bias", None).contains("missing [prompt.down_2.conv.0.bias]"));
    assert!(changed("image.feature_1.weight", None).contains("`image.feature_1.weight`"));
    assert!(
        changed("image.feature_1.weight", of(&[1_000_000_000, 0, 1, 1, 1], 0.0)).contains("`image.feature_1.weight`")
    );
    assert!(changed("image.feature_1.weight", of(&[6, 6, 1, 1, 1], 0.0)).contains("[4, 6, 8, 12]"));
    assert!(changed("prompt.out.weight", of(&[3, 4, 1, 1, 1], 0.0)).contains("wrong shape [prompt.out.weight]"));
    assert!(changed("prompt.out.bias", of(&[2], f32::NAN)).contains("`prompt.out.bias`"));
    assert!(changed("extra", of(&[2], 0.0)).contains("superfluous [extra]"));
}

#[test]
fn images_and_prompts_that_do_not_fit_are_refused() {
    let network = PromptUNet::<Flex>::new(CONFIG, &drawn(1), &Default::default()).expect("its weights");
    let zeros = |shape: [usize; 5]| Tensor::<Flex, 5>::zeros(shape, &Default::default());
    assert!(network.embed(zeros([1, 1, 8, 12, 8])).expect_err("12").to_string().contains("[8, 12, 8]"));
    assert!(network.embed(zeros([1, 2, 8, 8, 8])).is_err());
    let features = network.embed(zeros([1, 1, 8, 8, 8])).expect("it fits");
    assert!(network.decode(&features, zeros([1, 3, 8, 8, 16])).is_err());
    assert!(network.decode(&features, zeros([1, 2, 8, 8, 8])).is_err());
}
