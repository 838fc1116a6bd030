//! Embeddings of scans, computed once and kept on disk, so that asking costs the prompt encoder and the decoder alone.
//!
//! An embedding is named by all that it is a function of: the generalist's checkpoint, the way scans are shown to it, the
//! scan's bytes and the place that is looked at ([`super::network::Promptable::stations`]: few for each scan, so that a student whose belief moves
//! finds what it needs). Another checkpoint or another preparation finds nothing. What is kept is rounded to half precision,
//! and what is computed anew is rounded too: nobody can tell from a result which it was.
//!
//! Without a folder nothing is kept, and every question costs an encoding.

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

use burn::tensor::f16;
use semisam_shared::{ids::Digest, weights::Tensor};
use sha2::{Digest as _, Sha256};

use super::{
    Embedding, Generalist, GeneralistError,
    view::{self, ViewError},
};
use crate::data::{
    cache::{Cache, Key, key::digest_of_file},
    grid::Grid,
    nifti,
    volume::Image,
};

mod entry;

/// A scan as generalists come to see it: its name and place at once, its voxels only when they are needed.
pub struct Source {
    digest: Digest,
    grid: Grid,
    read: Box<dyn Fn() -> Result<Image, GeneralistError> + Send + Sync>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source{:?}", self.grid.shape)
    }
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Source {
    /// A scan in a file, whose header alone is read now. Its label is nowhere near.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(path: &Path) -> Result<Self, GeneralistError> {
        let digest = digest(path)?;
        let (grid, path) = (nifti::read_grid(path)?.canonical, path.to_owned());
        let read = move || {
            let image = nifti::read_image(&path)?;
            if self::digest(&path)? == digest { Ok(image) } else { Err(GeneralistError::Changed(path.clone())) }
        };
        Ok(Self { digest, grid, read: Box::new(read) })
    }

    /// A scan in memory.
    pub fn of_image(image: Image) -> Self {
        let mut hash = Sha256::new_with_prefix(b"semisam/scan in memory\0");
        image.values.iter().for_each(|value| hash.update(value.to_le_bytes()));
        let grid = Grid::from(&image);
        Self { digest: Digest(hash.finalize().into()), grid, read: Box::new(move || Ok(image.clone())) }
    }

    /// A number that tells scans apart wherever they stand in a list; it names draws.
    pub fn number(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.digest.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Its voxels, as they were stored.
    ///
    /// # Errors
    /// If they can no longer be read, or are others than before.
    pub fn image(&self) -> Result<Image, GeneralistError> {
        (self.read)()
    }
}

fn digest(path: &Path) -> Result<Digest, GeneralistError> {
    digest_of_file(path).map_err(|source| GeneralistError::Scan { path: path.to_owned(), source })
}

/// Where embeddings are kept.
#[derive(Clone, Debug, Default)]
pub struct Store(Option<Arc<Cache>>);

impl Store {
    /// Nowhere.
    pub const NONE: Self = Self(None);

    /// In a folder of their own.
    pub fn on_disk(cache: Cache) -> Self {
        Self(Some(Arc::new(cache)))
    }

    /// In a folder that others use too.
    pub fn shared(cache: Arc<Cache>) -> Self {
        Self(Some(cache))
    }

    /// Takes everything away that is not of these generalists and scans: a scan that is no longer there leaves nothing behind.
    ///
    /// # Errors
    /// If an embedding cannot be removed, or a scan is too large.
    pub fn keep_only(&self, generalists: &[Generalist], sources: &[Source]) -> Result<(), GeneralistError> {
        let Some(cache) = &self.0 else { return Ok(()) };
        let mut keys = BTreeSet::new();
        for generalist in generalists {
            for source in sources {
                let stations = generalist.network().stations(&source.grid)?;
                keys.extend(stations.into_iter().map(|station| key(generalist, source, station)));
            }
        }
        cache.keep_only(&keys).map_err(GeneralistError::Forget)
    }

    /// The embeddings of all parts of a scan.
    ///
    /// # Errors
    /// If the scan cannot be read, or shows nothing somewhere.
    pub fn embeddings(&self, generalist: &Generalist, source: &Source) -> Result<Vec<Embedding>, GeneralistError> {
        let stations = generalist.network().stations(&source.grid)?;
        let all = stations.into_iter().map(|station| self.embedding(generalist, source, station));
        // a part that shows nothing but air has no features
        all.filter(|found| !matches!(found, Err(GeneralistError::View(ViewError::Flat { .. })))).collect()
    }

    /// The embedding of the part of a scan whose middle is the nearest to `place`, in scanner millimetres.
    ///
    /// # Errors
    /// If the scan cannot be read, or shows nothing there.
    pub fn embedding(
        &self,
        generalist: &Generalist,
        source: &Source,
        place: [f64; 3],
    ) -> Result<Embedding, GeneralistError> {
        let apart = |station: &[f64; 3]| (0..3).map(|axis| (station[axis] - place[axis]).powi(2)).sum::<f64>();
        let stations = generalist.network().stations(&source.grid)?;
        let nearest = stations.into_iter().min_by(|a, b| apart(a).total_cmp(&apart(b)));
        let station = nearest.expect("a scan has at least one station");
        let key = key(generalist, source, station);
        if let Some(found) = self.0.as_ref().and_then(|cache| cache.get_with(&key, entry::read)) {
            return Ok(found);
        }
        let view = generalist.network().view(&source.image()?, Some(station))?;
        let embedding = rounded(generalist.embed(&view)?);
        if let Some(cache) = &self.0 {
            cache.put_with(&key, entry::size(&embedding), |writer| entry::write(writer, &key, &embedding));
        }
        Ok(embedding)
    }
}

fn key(generalist: &Generalist, source: &Source, station: [f64; 3]) -> Key {
    let mut hash = Sha256::new_with_prefix(b"semisam/embedding\0");
    hash.update(view::VERSION.to_le_bytes());
    hash.update(generalist.digest().0);
    hash.update(source.digest.0);
    station.iter().for_each(|place| hash.update(place.to_le_bytes()));
    Key::of(Digest(hash.finalize().into()))
}

/// What half precision leaves of an embedding.
fn rounded(embedding: Embedding) -> Embedding {
    let Embedding { values: Tensor { shape, values }, grid } = embedding;
    let values = values.into_iter().map(|value| half(value).to_f32()).collect();
    Embedding { values: Tensor { shape, values }, grid }
}

/// The nearest number of half precision; what is too large becomes the largest.
fn half(value: f32) -> f16 {
    f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

#[cfg(test)]
mod tests;
