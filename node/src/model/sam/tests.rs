use std::path::Path;

use burn::{
    backend::Flex,
    tensor::{DType, TensorData},
};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use semisam_shared::weights::Tensor as Weight;

use super::*;
use crate::model::{checkpoint, vnet::to_host};

type B = Flex;

/// A network of a few thousand values: 3^3 tokens of 2^3 voxels, windows of 2 and of 5 tokens.
fn small() -> SamConfig {
    SamConfig {
        image_channels: 1,
        grid: [3; 3],
        patch: [2; 3],
        width: 8,
        head: 4,
        hidden: 12,
        windows: vec![2, 3, 5],
        channels: 24,
        mask_channels: [2, 4],
        layers: 2,
        decoder_hidden: 10,
        cross: 8,
        masks: 3,
        upscaled: [6, 3],
        score: [2, 5],
    }
}

fn values<const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    to_host(x.into_data())
}

fn image(config: &SamConfig) -> Tensor<B, 5> {
    let [d, h, w] = config.image();
    let values: Vec<f32> = (0..d * h * w).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, d, h, w]), &Default::default())
}

fn click(at: [f32; 3], sign: Sign) -> Click {
    Click { at, sign }
}

fn with(weights: &Weights, change: impl Fn(&str, &Weight) -> Option<Weight>) -> Weights {
    let tensors = weights.iter().filter_map(|(name, tensor)| Some((name.to_owned(), change(name, tensor)?)));
    Weights::new(tensors).expect("shapes fit")
}

#[test]
fn the_published_network_has_the_published_tensors() {
    let list = include_str!("../../../../tests/fixtures/sam_med3d/state_dict_vit_b_ori.txt");
    let mut published: Vec<String> = list.lines().map(|line| line.replace('\t', " ")).collect();
    published.sort();
    let entries = layout::entries(&SamConfig::published());
    let ours: Vec<String> = entries.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
    assert_eq!((ours.len(), &ours), (324, &published));
    assert_eq!(entries.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>(), 100_509_616);
    let zeros = entries.into_iter().map(|(name, shape)| {
        let values = vec![0.0; shape.iter().product()];
        (name, Weight { shape, values })
    });
    assert_eq!(SamConfig::of(&Weights::new(zeros).expect("shapes fit")).expect("sizes"), SamConfig::published());
}

#[test]
fn every_size_is_read_off_the_shapes() {
    let config = small();
    let weights = layout::drawn(&config, 1);
    assert_eq!(SamConfig::of(&weights).expect("sizes"), config);
    assert!(Sam::<B>::new(weights, &Default::default()).is_ok());
}

#[test]
fn unfitting_tensors_are_named_and_counted() {
    let weights = layout::drawn(&small(), 1);
    let refused = |weights: Weights| Sam::<B>::new(weights, &Default::default()).expect_err("unfitting").to_string();
    for missing in layout::entries(&small()).keys() {
        let error = refused(with(&weights, |name, tensor| (name != missing).then(|| tensor.clone())));
        // a last layer of a stack leaves no trace, but what follows it does not fit any more
        assert!(error.contains(missing.as_str()) || error.contains(".layers."), "{missing}: {error}");
    }
    let reshaped = with(&weights, |name, tensor| {
        let flat = name == "mask_decoder.transformer.norm_final_attn.bias";
        let shape = if flat { vec![4, 6] } else { tensor.shape.clone() };
        Some(Weight { shape, values: tensor.values.clone() })
    });
    let error = refused(reshaped);
    assert!(
        error.contains("1 wrong shape: `mask_decoder.transformer.norm_final_attn.bias` [4, 6] instead of [24]"),
        "{error}"
    );
    let more = weights.clone().into_iter().chain([("extra".to_owned(), Weight { shape: vec![1], values: vec![0.0] })]);
    assert!(refused(Weights::new(more).expect("shapes fit")).contains("1 superfluous: `extra`"));
    let error = refused(with(&weights, |name, tensor| (name.starts_with("image")).then(|| tensor.clone())));
    assert!(error.contains("missing: `mask_decoder.") && error.contains(", and "), "{error}");
    let foreign = Weights::new([("out_conv.weight".to_owned(), Weight { shape: vec![1], values: vec![0.0] })]);
    let error = refused(foreign.expect("shapes fit"));
    assert!(error.contains("324 missing") && error.contains("`out_conv.weight`"), "{error}");
}

proptest! {
    #[test]
    fn hostile_shapes_are_refused_without_a_panic(
        which in 0_usize..200,
        shape in prop::collection::vec(0_usize..9, 0..7),
    ) {
        let weights = layout::drawn(&small(), 1);
        let names: Vec<String> = weights.iter().map(|(name, _)| name.to_owned()).collect();
        let chosen = &names[which % names.len()];
        let changed = with(&weights, |name, tensor| Some(if name == chosen {
            Weight { values: vec![0.5; shape.iter().product()], shape: shape.clone() }
        } else {
            tensor.clone()
        }));
        let fits = shape == weights.get(chosen).expect("there").shape;
        // a shape that alone tells a size, such as that of a patch, makes another network, whole in itself
        let other = SamConfig::of(&changed).is_ok_and(|config| config != small());
        let accepted = Sam::<B>::new(changed, &Default::default()).is_ok();
        let sound = if accepted { fits || other } else { !fits };
        prop_assert!(sound, "accepted: {}, unchanged: {}, of other sizes: {}", accepted, fits, other);
    }
}

#[test]
fn inputs_of_another_shape_are_refused() {
    let sam = Sam::<B>::new(layout::drawn(&small(), 1), &Default::default()).expect("a network");
    let zeros = |shape: [usize; 5]| Tensor::<B, 5>::zeros(shape, &Default::default());
    assert!(sam.encode(zeros([1, 1, 6, 6, 5])).expect_err("too short").to_string().contains("[1, 1, 6, 6, 6]"));
    assert!(sam.encode(zeros([2, 1, 6, 6, 6])).is_err());
    let prompt = Prompt { clicks: vec![], mask: Some(zeros([1, 1, 12, 12, 11])), padded: false };
    assert!(sam.decode(zeros([1, 24, 3, 3, 3]), &prompt).is_err());
    assert!(sam.decode(zeros([1, 24, 3, 3, 2]), &Prompt { clicks: vec![], mask: None, padded: false }).is_err());
}

#[test]
fn half_precision_files_are_widened() {
    let weights = layout::drawn(&small(), 5);
    let halves: Vec<(String, Vec<usize>, TensorData)> = weights
        .iter()
        .map(|(name, tensor)| {
            let data = TensorData::new(tensor.values.clone(), [tensor.values.len()]).convert_dtype(DType::F16);
            (name.to_owned(), tensor.shape.clone(), data)
        })
        .collect();
    let views = halves.iter().map(|(name, shape, data)| {
        (name.as_str(), TensorView::new(Dtype::F16, shape.clone(), data.as_bytes()).expect("shapes fit"))
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("half.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).expect("bytes")).expect("written");
    let read = checkpoint::read(&path).expect("a file");
    for (name, _, data) in halves {
        assert_eq!(read.get(&name).expect("there").values, to_host(data), "{name}");
    }
    let sam = Sam::<B>::new(read, &Default::default()).expect("a network");
    assert!(values(sam.encode(image(&small())).expect("fits")).iter().all(|value| value.is_finite()));
}

#[test]
fn a_point_is_encoded_as_the_cell_with_its_first_two_axes_exchanged() {
    let config = small();
    let sam = Sam::<B>::new(layout::drawn(&config, 2), &Default::default()).expect("a network");
    let grid = values(sam.dense_encoding().reshape([24, 27]).swap_dims(0, 1));
    let nothing = |name: &str, tensor: &Weight| {
        let values = vec![0.0; tensor.values.len()];
        Some(if name.contains("point_embeddings") { Weight { values, ..tensor.clone() } } else { tensor.clone() })
    };
    let plain = Sam::<B>::new(with(&layout::drawn(&config, 2), nothing), &Default::default()).expect("a network");
    // the middle of cell (0, 1, 2), of two voxels a side
    let tokens = values(plain.sparse(&[click([0.5, 2.5, 4.5], Sign::Foreground)]).expect("one point"));
    let cell = 24 * (9 + 2); // (1, 0, 2)
    assert!(tokens[..24].iter().zip(&grid[cell..cell + 24]).all(|(a, b)| (a - b).abs() < 1e-6));
    assert_eq!(tokens[..8], tokens[16..24], "the sines are repeated");
    assert_eq!(tokens.len(), 48, "a point that is none follows");
}

#[test]
fn points_are_tokens_of_their_own() {
    let sam = Sam::<B>::new(layout::drawn(&small(), 2), &Default::default()).expect("a network");
    let [a, b] = [click([1.0, 2.0, 3.0], Sign::Foreground), click([4.0, 0.0, 5.0], Sign::Background)];
    let one = values(sam.sparse(&[a, b]).expect("points"));
    let other = values(sam.sparse(&[b, a]).expect("points"));
    assert_eq!((&one[..24], &one[24..48], &one[48..]), (&other[24..48], &other[..24], &other[48..]));
    let positive = values(sam.sparse(&[click(b.at, Sign::Foreground)]).expect("points"));
    assert_ne!(positive[..24], one[24..48]);
    let none = values(sam.sparse(&[click(b.at, Sign::NoPoint)]).expect("points"));
    assert_eq!(none[..24], none[24..]);
    assert!(sam.sparse(&[]).is_none());
}

#[test]
fn the_order_of_points_does_not_matter_to_masks_but_their_signs_do() {
    let sam = Sam::<B>::new(layout::drawn(&small(), 3), &Default::default()).expect("a network");
    let embedding = sam.encode(image(&small())).expect("fits");
    let logits = |clicks: &[Click]| {
        let prompt = Prompt { clicks: clicks.to_vec(), mask: None, padded: false };
        values(sam.decode(embedding.clone(), &prompt).expect("fits").single())
    };
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let [a, b] = [click([1.0, 2.0, 3.0], Sign::Foreground), click([4.0, 0.0, 5.0], Sign::Background)];
    let plain = logits(&[a, b]);
    assert!(apart(&plain, &logits(&[b, a])) < 1e-5);
    assert!(apart(&plain, &logits(&[a, click(b.at, Sign::Foreground)])) > 1e-4);
    let low = small().low_resolution();
    let zeros = Tensor::zeros([1, 1, low[0], low[1], low[2]], &Default::default());
    let zero = Prompt { clicks: vec![a, b], mask: Some(zeros), padded: false };
    let zero = values(sam.decode(embedding.clone(), &zero).expect("fits").single());
    assert!(apart(&plain, &zero) > 1e-4, "a mask of zeros is not the same as no mask");
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/sam_med3d"));
    let weights = checkpoint::read(&folder.join("sam_med3d_tiny.pth")).expect("a fixture");
    let sam = Sam::<B>::new(weights, &Default::default()).expect("a network");
    let embedding = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| values(sam.encode(image(sam.config())).expect("fits")))
    };
    let one = embedding(1);
    assert!((2..=3).all(|threads| embedding(threads) == one));
}

#[test]
fn resizing_is_half_pixel_linear() {
    let line =
        |values: &[f32], shape| Tensor::<B, 5>::from_data(TensorData::new(values.to_vec(), shape), &Default::default());
    let fine = resize::trilinear(line(&[0.0, 4.0], [1, 1, 1, 1, 2]), [1, 1, 4]);
    assert_eq!(values(fine), [0.0, 1.0, 3.0, 4.0]);
    let fine = resize::trilinear(line(&[0.0, 4.0], [1, 1, 2, 1, 1]), [4, 3, 1]);
    assert_eq!(values(fine), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0]);
    let two = line(&[1.0, 2.0, 3.0, 4.0], [1, 2, 1, 2, 1]);
    assert_eq!(values(resize::trilinear(two.clone(), [1, 2, 1])), values(two.clone()));
    assert_eq!(values(resize::trilinear(two, [1, 4, 1])), [1.0, 1.25, 1.75, 2.0, 3.0, 3.25, 3.75, 4.0]);
}
