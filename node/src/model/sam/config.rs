//! The sizes of a SAM-Med3D, read off the shapes of its tensors (spec/semisam.md, sections 7.2 to 7.5).
//!
//! Nothing is configured: a file that holds another size of the same network is that size. Where the tensor that would tell
//! a size is absent another one tells it, and at last the published network, so that the comparison with the layout names
//! what is missing instead of refusing the file as a whole.

use semisam_shared::weights::Weights;

use super::SamError;

/// Heads of every attention in the mask decoder. They leave no trace in the weights.
pub const DECODER_HEADS: usize = 8;

/// Every size of a SAM-Med3D.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SamConfig {
    /// Channels of the image.
    pub image_channels: usize,
    /// Tokens along each axis.
    pub grid: [usize; 3],
    /// Voxels of a token along each axis.
    pub patch: [usize; 3],
    /// Numbers per token in the image encoder.
    pub width: usize,
    /// Numbers per head in the image encoder.
    pub head: usize,
    /// Numbers per token between the two layers of the image encoder's perceptrons.
    pub hidden: usize,
    /// The side of each block's attention window, in tokens; that of a global block is the grid's.
    pub windows: Vec<usize>,
    /// Channels of the image embedding and of every prompt.
    pub channels: usize,
    /// Channels of the two stages that bring a mask prompt to the grid.
    pub mask_channels: [usize; 2],
    /// Layers of the decoder's transformer.
    pub layers: usize,
    /// Numbers per token between the two layers of the decoder's perceptrons.
    pub decoder_hidden: usize,
    /// Numbers per token inside the attention between tokens and image.
    pub cross: usize,
    /// Mask tokens: the first is the single mask, the others are the alternatives.
    pub masks: usize,
    /// Channels of the two stages that bring the embedding to the masks' resolution.
    pub upscaled: [usize; 2],
    /// Layers of the perceptron that scores masks, and numbers between them.
    pub score: [usize; 2],
}

impl SamConfig {
    /// The published network, `vit_b_ori`: 100 509 616 values.
    pub fn published() -> Self {
        let windows = (0..12).map(|block| if block % 3 == 2 { 8 } else { 14 }).collect();
        Self {
            image_channels: 1,
            grid: [8; 3],
            patch: [16; 3],
            width: 768,
            head: 64,
            hidden: 3072,
            windows,
            channels: 384,
            mask_channels: [4, 16],
            layers: 2,
            decoder_hidden: 2048,
            cross: 192,
            masks: 4,
            upscaled: [96, 48],
            score: [3, 256],
        }
    }

    /// Reads the sizes off `weights`. Whether all tensors are there is for [`super::layout::check`].
    ///
    /// # Errors
    /// If the sizes are those of no network.
    pub fn of(weights: &Weights) -> Result<Self, SamError> {
        let (default, sizes) = (Self::published(), Sizes(weights));
        let size = |places: &[(&str, usize, usize)], default| sizes.first(places).unwrap_or(default);
        let axes = |name: &str, first: usize, default: [usize; 3]| {
            std::array::from_fn(|axis| size(&[(name, 5, first + axis)], default[axis]))
        };
        let block = "image_encoder.blocks.0";
        let token = "mask_decoder.transformer.layers.0.cross_attn_token_to_image";
        let config = Self {
            image_channels: size(&[(PATCHES, 5, 1)], default.image_channels),
            grid: axes("image_encoder.pos_embed", 1, default.grid),
            patch: axes(PATCHES, 2, default.patch),
            width: size(&[("image_encoder.pos_embed", 5, 4), ("image_encoder.neck.0.weight", 5, 1)], default.width),
            head: size(&[(&format!("{block}.attn.rel_pos_d"), 2, 1), (&format!("{block}.attn.rel_pos_h"), 2, 1)], 64),
            hidden: size(
                &[(&format!("{block}.mlp.lin1.bias"), 1, 0), (&format!("{block}.mlp.lin2.weight"), 2, 1)],
                default.hidden,
            ),
            windows: sizes.windows(&default.windows),
            channels: size(
                &[("mask_decoder.iou_token.weight", 2, 1), ("prompt_encoder.no_mask_embed.weight", 2, 1)],
                default.channels,
            ),
            mask_channels: [
                size(&[("prompt_encoder.mask_downscaling.0.bias", 1, 0)], default.mask_channels[0]),
                size(&[("prompt_encoder.mask_downscaling.3.bias", 1, 0)], default.mask_channels[1]),
            ],
            layers: sizes.count("mask_decoder.transformer.layers.").unwrap_or(default.layers),
            decoder_hidden: size(&[("mask_decoder.transformer.layers.0.mlp.lin1.bias", 1, 0)], default.decoder_hidden),
            cross: size(&[(&format!("{token}.q_proj.bias"), 1, 0), (&format!("{token}.k_proj.bias"), 1, 0)], 192),
            masks: size(&[("mask_decoder.mask_tokens.weight", 2, 0)], default.masks),
            upscaled: [
                size(&[("mask_decoder.output_upscaling.0.bias", 1, 0)], default.upscaled[0]),
                size(&[("mask_decoder.output_upscaling.3.bias", 1, 0)], default.upscaled[1]),
            ],
            score: [
                sizes.count("mask_decoder.iou_prediction_head.layers.").unwrap_or(default.score[0]),
                size(&[("mask_decoder.iou_prediction_head.layers.0.bias", 1, 0)], default.score[1]),
            ],
        };
        config.check().map(|()| config)
    }

    /// Voxels along each axis of the image that the network takes.
    pub fn image(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.grid[axis] * self.patch[axis])
    }

    /// Voxels along each axis of a mask prompt, and of the logits before they are resized to the image.
    pub fn low_resolution(&self) -> [usize; 3] {
        self.grid.map(|tokens| 4 * tokens)
    }

    /// Tokens of the image.
    pub fn tokens(&self) -> usize {
        self.grid.iter().product()
    }

    fn check(&self) -> Result<(), SamError> {
        let all =
            self.grid.iter().chain(&self.patch).chain(&self.windows).chain(&self.mask_channels).chain(&self.upscaled);
        let single = [self.image_channels, self.hidden, self.decoder_hidden, self.score[1]];
        let impossible = |what: String| Err(SamError::Sizes(what));
        if all.chain(&single).chain([&self.width, &self.channels, &self.cross]).any(|size| *size == 0 || *size > MOST) {
            return impossible(format!("every size lies between 1 and {MOST}"));
        }
        if self.head == 0 || !self.width.is_multiple_of(self.head) {
            return impossible(format!("heads of {} do not divide a width of {}", self.head, self.width));
        }
        let [d, h, w] = self.grid;
        if d != h || h != w {
            return impossible(format!("its grid of {d} x {h} x {w} tokens is no cube"));
        }
        for inner in [self.channels, self.cross] {
            if !inner.is_multiple_of(DECODER_HEADS) {
                return impossible(format!("the decoder's {DECODER_HEADS} heads do not divide a width of {inner}"));
            }
        }
        if !self.channels.is_multiple_of(3) {
            return impossible(format!(
                "{} channels are not three equal parts of a positional encoding",
                self.channels
            ));
        }
        if self.masks < 2 {
            return impossible("there is no mask token beside the single mask's".to_owned());
        }
        Ok(())
    }
}

/// No size of a network that fits a computer is larger.
const MOST: usize = 1 << 20;

const PATCHES: &str = "image_encoder.patch_embed.proj.weight";

struct Sizes<'a>(&'a Weights);

impl Sizes<'_> {
    /// The extent of the first of the tensors (name, dimensions, axis) that is there and has so many dimensions.
    fn first(&self, places: &[(&str, usize, usize)]) -> Option<usize> {
        let found = |(name, dimensions, axis): &(&str, usize, usize)| {
            self.0.get(name).filter(|tensor| tensor.shape.len() == *dimensions).map(|tensor| tensor.shape[*axis])
        };
        places.iter().find_map(found)
    }

    /// How many layers there are whose names start with `path` and a number; nothing is known where there is none.
    fn count(&self, path: &str) -> Option<usize> {
        let number = |name: &str| name.strip_prefix(path)?.split('.').next()?.parse::<usize>().ok();
        let highest = self.0.iter().filter_map(|(name, _)| number(name)).max()?;
        // more layers than tensors cannot be complete, and would only make a long list of what is missing
        Some(highest.saturating_add(1).min(self.0.iter().count()))
    }

    /// A table of relative positions has one row for each distance in a window of s tokens a side: 2s - 1.
    fn windows(&self, default: &[usize]) -> Vec<usize> {
        let window = |block: usize| {
            let table = |axis| format!("image_encoder.blocks.{block}.attn.rel_pos_{axis}");
            let rows = self.first(&[(&table("d"), 2, 0), (&table("h"), 2, 0), (&table("w"), 2, 0)]);
            rows.map_or(default[0], |rows| rows / 2 + 1)
        };
        self.count("image_encoder.blocks.").map_or(default.to_vec(), |blocks| (0..blocks).map(window).collect())
    }
}
