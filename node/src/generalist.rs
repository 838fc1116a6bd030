//! A generalist ready for use on scans: a frozen promptable network that embeds a scan once and answers many prompts.
//!
//! It is opened once, lives on its device, and is shared by whoever asks (spec/semisam.md, E11). In reading order:
//! [`view`] (what the network sees of a scan), [`network`] (what a promptable network is; SAM-Med3D as one), [`unet`] (the
//! small one that is trained here), [`point`] (prompts by people), [`prompter`] (prompts from a student's own prediction),
//! [`oracle`] (prompts by the truth, for evaluation alone), [`store`] (embeddings on disk), [`features`] (what they say
//! without prompts), [`reference`] (comparison with the original implementation).

pub mod features;
pub mod network;
pub mod oracle;
pub mod point;
pub mod prompter;
pub mod reference;
pub mod store;
pub mod unet;
pub mod view;

use std::{
    io,
    path::{Path, PathBuf},
};

use semisam_shared::{ids::Digest, weights};

use crate::{
    data::{
        grid::Grid,
        nifti::{NiftiError, StoredGrid},
        resample::ResampleError,
        volume::{Image, LabelMap},
    },
    device::Device,
    model::{
        checkpoint::{self, CheckpointError},
        sam::Click,
    },
};
use network::{NetworkError, Promptable, Prompts};
use point::{Point, PointError, centre};
use view::{View, ViewError};

/// A frozen network on its device.
#[derive(Debug)]
pub struct Generalist {
    network: Box<dyn Promptable>,
    digest: Digest,
}

/// What the network makes of a view of a scan before it is asked anything: the costly part, worth keeping.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// In the network's own shape.
    pub values: weights::Tensor,
    /// Where the voxels of the view lie.
    pub grid: Grid,
}

/// What the network draws in answer to prompts.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// Logits of the object, at the network's resolution of masks, with their place. Above zero is object.
    pub logits: Image,
    /// Intersection over union with the object, as the network itself guesses it.
    pub score: f32,
}

/// A mask that points led to.
#[derive(Clone, Debug)]
pub struct Segmentation {
    /// On the scan's grid.
    pub mask: LabelMap,
    /// Intersection over union with the object, as the network itself guesses it.
    pub score: f32,
    /// What the network saw.
    pub view: View,
}

/// Why a generalist cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeneralistError {
    /// The file of weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Weights that are not the network's.
    #[error("`{path}` holds no generalist that this program knows")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: NetworkError,
    },
    /// An input that does not fit.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The scan.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A prompt.
    #[error(transparent)]
    Point(#[from] PointError),
    /// The scan's file.
    #[error(transparent)]
    Nifti(#[from] NiftiError),
    /// The scan's bytes.
    #[error("cannot read scan `{path}`; check the path and that this program may read it")]
    Scan {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An embedding that should go.
    #[error("embeddings of scans that are no longer there cannot be removed")]
    Forget(#[source] io::Error),
    /// It is another one than before.
    #[error("`{0}` has changed since it was first read; leave scans alone while they are used, and start again")]
    Changed(PathBuf),
    /// No prompts.
    #[error("there is no point to start from: give at least one with --point i,j,k")]
    NoPoint,
    /// The way back to the scan's grid.
    #[error(transparent)]
    Resample(#[from] ResampleError),
}

impl Generalist {
    /// Reads a checkpoint, .pth or .safetensors, checks that it is a whole network, and brings it to `device`.
    ///
    /// # Errors
    /// If the file cannot be read; names the tensors that are missing, superfluous or of another shape.
    pub fn open(path: &Path, device: Device) -> Result<Self, GeneralistError> {
        let (weights, description) = checkpoint::read_described(path)?;
        let network = network::on_device(weights, &description, device)
            .map_err(|source| GeneralistError::Weights { path: path.to_path_buf(), source })?;
        Ok(Self { network, digest: checkpoint::digest(path)? })
    }

    /// The same, looking twice where that helps the network ([`Promptable::look_twice`]): better masks for twice the time, where a
    /// person waits for one scan. Training looks once.
    #[must_use]
    pub fn looking_twice(mut self) -> Self {
        self.network.look_twice();
        self
    }

    /// The digest of the file that it was read from: who it is.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The network.
    pub fn network(&self) -> &dyn Promptable {
        &*self.network
    }

    /// What the network makes of a view.
    ///
    /// # Errors
    /// If the view has another size than the network takes.
    pub fn embed(&self, view: &View) -> Result<Embedding, GeneralistError> {
        Ok(Embedding { values: self.network.embed(&view.image)?, grid: Grid::from(&view.image) })
    }

    /// What the network draws about an embedded view.
    ///
    /// # Errors
    /// If the embedding is another network's, or a mask prompt has another size than the network takes.
    pub fn decode(&self, embedding: &Embedding, prompts: &Prompts) -> Result<Drawing, GeneralistError> {
        let (values, score) = self.network.decode(&embedding.values, prompts)?;
        let Grid { shape, affine } = self.mask_grid(embedding);
        Ok(Drawing { logits: Image { shape, affine, values }, score })
    }

    /// Where the voxels of masks lie, prompts and answers alike, for an embedded view.
    pub fn mask_grid(&self, embedding: &Embedding) -> Grid {
        let of_view = embedding.grid.shape;
        let shape = self.network.mask(of_view);
        let factor: [f64; 3] = std::array::from_fn(|axis| of_view[axis] as f64 / shape[axis] as f64);
        embedding.grid.rebased(factor.map(|factor| (factor - 1.0) / 2.0), factor, shape)
    }

    /// The object that points lead to: they are given one after another, all earlier ones again, each time with the
    /// network's own last mask, zeros for the first, as in the published training.
    ///
    /// # Errors
    /// If there is no point, a point lies outside, or the scan shows nothing.
    pub fn segment(
        &self,
        image: &Image,
        stored: &StoredGrid,
        points: &[Point],
    ) -> Result<Segmentation, GeneralistError> {
        let centre = centre(points, stored)?.ok_or(GeneralistError::NoPoint)?;
        let view = self.network.view(image, Some(centre))?;
        let clicks = points.iter().map(|point| point.click(stored, &view)).collect::<Result<Vec<Click>, _>>()?;
        let embedding = self.embed(&view)?;
        let mut mask = vec![0.0; self.mask_grid(&embedding).count()];
        let mut score = 0.0;
        for count in 1..=clicks.len() {
            let drawing = self.decode(&embedding, &Prompts { clicks: clicks[..count].to_vec(), mask: Some(mask) })?;
            (mask, score) = (drawing.logits.values, drawing.score);
        }
        let mask = view.mask(self.network.enlarge(mask, view.image.shape), &Grid::from(image))?;
        Ok(Segmentation { mask, score, view })
    }
}
