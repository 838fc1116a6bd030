//! Which tensors a SAM-Med3D has, in the names of the published PyTorch network, and first values for tests.
//!
//! Written from spec/semisam.md, sections 7.3 to 7.5; the full list of the published size is the fixture
//! `tests/fixtures/sam_med3d/state_dict_vit_b_ori.txt`.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use semisam_shared::weights::{Tensor, Weights, first_few};

use super::{SamError, config::SamConfig};

/// Every tensor of the architecture, with its shape.
pub fn entries(config: &SamConfig) -> BTreeMap<String, Vec<usize>> {
    let mut entries = Entries(BTreeMap::new());
    image_encoder(&mut entries, config);
    prompt_encoder(&mut entries, config);
    mask_decoder(&mut entries, config);
    entries.0
}

/// Checks that `weights` has exactly the tensors of `config`.
///
/// # Errors
/// Names the first few tensors that are missing, superfluous or of another shape, and says how many there are.
pub fn check(config: &SamConfig, weights: &Weights) -> Result<(), SamError> {
    let expected = entries(config);
    let missing = expected.keys().filter(|name| weights.get(name).is_none()).map(|name| format!("`{name}`"));
    let superfluous =
        weights.iter().filter(|(name, _)| !expected.contains_key(*name)).map(|(name, _)| format!("`{name}`"));
    let reshaped = weights.iter().filter_map(|(name, tensor)| {
        let shape = expected.get(name).filter(|shape| **shape != tensor.shape)?;
        Some(format!("`{name}` {:?} instead of {shape:?}", tensor.shape))
    });
    let parts = [listed("missing", missing), listed("superfluous", superfluous), listed("wrong shape", reshaped)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { Ok(()) } else { Err(SamError::Tensors(parts.join("; "))) }
}

fn listed(what: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| format!("{} {what}: {}", names.len(), first_few(&names)))
}

/// Weights drawn from a seed, none of them zero or one throughout, so that a network of them depends on each.
pub fn drawn(config: &SamConfig, seed: u64) -> Weights {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let tensors = entries(config).into_iter().map(|(name, shape)| {
        let norm = shape.len() == 1 && name.ends_with("weight");
        let fan_in: usize = shape[1..].iter().product();
        let bound = if shape.len() == 1 { 0.1 } else { (fan_in as f32).sqrt().recip() };
        let mut value = || random.random_range(-bound..bound) + if norm { 1.0 } else { 0.0 };
        let values = (0..shape.iter().product()).map(|_| value()).collect();
        (name, Tensor { shape, values })
    });
    Weights::new(tensors).expect("each tensor has as many values as its shape says")
}

struct Entries(BTreeMap<String, Vec<usize>>);

impl Entries {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.insert(name.into(), shape.to_vec());
    }

    /// A weight, and a bias as long as `outputs`.
    fn biased(&mut self, path: &str, weight: &[usize], outputs: usize) {
        self.add(format!("{path}.weight"), weight);
        self.add(format!("{path}.bias"), &[outputs]);
    }

    fn linear(&mut self, path: &str, inputs: usize, outputs: usize) {
        self.biased(path, &[outputs, inputs], outputs);
    }

    fn norm(&mut self, path: &str, width: usize) {
        self.biased(path, &[width], width);
    }

    /// Linear layers `path.layers.0` and on.
    fn perceptron(&mut self, path: &str, widths: &[usize]) {
        for (layer, pair) in widths.windows(2).enumerate() {
            self.linear(&format!("{path}.layers.{layer}"), pair[0], pair[1]);
        }
    }

    fn attention(&mut self, path: &str, width: usize, inner: usize) {
        for part in ["q_proj", "k_proj", "v_proj"] {
            self.linear(&format!("{path}.{part}"), width, inner);
        }
        self.linear(&format!("{path}.out_proj"), inner, width);
    }
}

fn image_encoder(entries: &mut Entries, config: &SamConfig) {
    let ([a, b, c], width, channels) = (config.patch, config.width, config.channels);
    entries.biased("image_encoder.patch_embed.proj", &[width, config.image_channels, a, b, c], width);
    let [d, h, w] = config.grid;
    entries.add("image_encoder.pos_embed", &[1, d, h, w, width]);
    for (block, window) in config.windows.iter().enumerate() {
        let path = format!("image_encoder.blocks.{block}");
        entries.norm(&format!("{path}.norm1"), width);
        for axis in ["d", "h", "w"] {
            entries.add(format!("{path}.attn.rel_pos_{axis}"), &[2 * window - 1, config.head]);
        }
        entries.linear(&format!("{path}.attn.qkv"), width, 3 * width);
        entries.linear(&format!("{path}.attn.proj"), width, width);
        entries.norm(&format!("{path}.norm2"), width);
        entries.linear(&format!("{path}.mlp.lin1"), width, config.hidden);
        entries.linear(&format!("{path}.mlp.lin2"), config.hidden, width);
    }
    entries.add("image_encoder.neck.0.weight", &[channels, width, 1, 1, 1]);
    entries.norm("image_encoder.neck.1", channels);
    entries.add("image_encoder.neck.2.weight", &[channels, channels, 3, 3, 3]);
    entries.norm("image_encoder.neck.3", channels);
}

fn prompt_encoder(entries: &mut Entries, config: &SamConfig) {
    let (path, channels, [first, second]) = ("prompt_encoder", config.channels, config.mask_channels);
    entries.add(format!("{path}.pe_layer.positional_encoding_gaussian_matrix"), &[3, channels / 3]);
    for name in ["point_embeddings.0", "point_embeddings.1", "not_a_point_embed", "no_mask_embed"] {
        entries.add(format!("{path}.{name}.weight"), &[1, channels]);
    }
    let stages = format!("{path}.mask_downscaling");
    entries.biased(&format!("{stages}.0"), &[first, 1, 2, 2, 2], first);
    entries.norm(&format!("{stages}.1"), first);
    entries.biased(&format!("{stages}.3"), &[second, first, 2, 2, 2], second);
    entries.norm(&format!("{stages}.4"), second);
    entries.biased(&format!("{stages}.6"), &[channels, second, 1, 1, 1], channels);
}

fn mask_decoder(entries: &mut Entries, config: &SamConfig) {
    let (channels, cross) = (config.channels, config.cross);
    let transformer = "mask_decoder.transformer";
    for layer in 0..config.layers {
        let path = format!("{transformer}.layers.{layer}");
        entries.attention(&format!("{path}.self_attn"), channels, channels);
        entries.attention(&format!("{path}.cross_attn_token_to_image"), channels, cross);
        entries.attention(&format!("{path}.cross_attn_image_to_token"), channels, cross);
        entries.linear(&format!("{path}.mlp.lin1"), channels, config.decoder_hidden);
        entries.linear(&format!("{path}.mlp.lin2"), config.decoder_hidden, channels);
        (1..=4).for_each(|norm| entries.norm(&format!("{path}.norm{norm}"), channels));
    }
    entries.attention(&format!("{transformer}.final_attn_token_to_image"), channels, cross);
    entries.norm(&format!("{transformer}.norm_final_attn"), channels);
    entries.add("mask_decoder.iou_token.weight", &[1, channels]);
    entries.add("mask_decoder.mask_tokens.weight", &[config.masks, channels]);
    let ([first, second], upscaling) = (config.upscaled, "mask_decoder.output_upscaling");
    entries.biased(&format!("{upscaling}.0"), &[channels, first, 2, 2, 2], first);
    entries.norm(&format!("{upscaling}.1"), first);
    entries.biased(&format!("{upscaling}.3"), &[first, second, 2, 2, 2], second);
    for mask in 0..config.masks {
        let path = format!("mask_decoder.output_hypernetworks_mlps.{mask}");
        entries.perceptron(&path, &[channels, channels, channels, second]);
    }
    let [layers, hidden] = config.score;
    let widths: Vec<usize> = (0..=layers)
        .map(|layer| {
            if layer == 0 {
                channels
            } else if layer < layers {
                hidden
            } else {
                config.masks
            }
        })
        .collect();
    entries.perceptron("mask_decoder.iou_prediction_head", &widths);
}
