//! The bytes of a prepared scan on disk.
//!
//! ```text
//! 16  magic and version of this format
//! 32  the key
//!  8  1 if there are labels, else 0
//! 24  extents along x, y, z                u64 each
//! 256 affines of image and labels          f64 each, row-major
//! ..  voxels of the image, z fastest       f32 each
//! ..  labels, if there are any             u8 each
//! 32  SHA-256 of everything before
//! ```
//!
//! Everything is little-endian. A reader trusts nothing: the extents must fit the length of the file before anything is
//! allocated, the key must be the one that was asked for, and the digest must hold.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::Key;
use crate::data::{
    nifti::MAX_VOXELS,
    volume::{Image, LabelMap, Volume},
};

const MAGIC: &[u8; 16] = b"semisam scan 1\r\n";
const HEADER: usize = 16 + 32 + 8 + 24 + 256;
const DIGEST: usize = 32;
/// Voxels that are read and hashed at once.
const CHUNK: usize = 1 << 18;

/// Why bytes are no entry.
#[derive(Debug, Error)]
pub enum EntryError {
    /// They cannot be read.
    #[error("an entry cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Too few, too many, or of another kind.
    #[error("an entry is cut off, or not of this program")]
    Format,
    /// Changed since they were written.
    #[error("an entry has changed since it was written")]
    Digest,
}

/// How many bytes an entry takes.
pub fn size(image: &Image, labels: Option<&LabelMap>) -> u64 {
    bytes(image.values.len() as u64, labels.is_some())
}

fn bytes(voxels: u64, labelled: bool) -> u64 {
    (HEADER + DIGEST) as u64 + voxels * if labelled { 5 } else { 4 }
}

/// Writes an entry. Labels are on the image's grid.
///
/// # Errors
/// If the writer fails, or the labels do not fit the image.
pub fn write(writer: &mut impl Write, key: &Key, image: &Image, labels: Option<&LabelMap>) -> io::Result<()> {
    if image.count() != image.values.len()
        || labels.is_some_and(|labels| labels.shape != image.shape || labels.values.len() != image.values.len())
    {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "image and labels differ in their voxels"));
    }
    let mut hash = Sha256::new();
    let mut write = |bytes: &[u8]| {
        hash.update(bytes);
        writer.write_all(bytes)
    };
    write(&header(key, image, labels))?;
    let mut buffer = Vec::with_capacity(4 * CHUNK);
    for voxels in image.values.chunks(CHUNK) {
        buffer.clear();
        buffer.extend(voxels.iter().flat_map(|voxel| voxel.to_le_bytes()));
        write(&buffer)?;
    }
    if let Some(labels) = labels {
        write(&labels.values)?;
    }
    let digest = hash.finalize();
    writer.write_all(&digest)
}

fn header(key: &Key, image: &Image, labels: Option<&LabelMap>) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER);
    header.extend(MAGIC);
    header.extend(key.bytes());
    header.extend(u64::from(labels.is_some()).to_le_bytes());
    header.extend(image.shape.iter().flat_map(|extent| (*extent as u64).to_le_bytes()));
    for affine in [image.affine, labels.map_or([[0.0; 4]; 4], |labels| labels.affine)] {
        header.extend(affine.iter().flatten().flat_map(|value| value.to_le_bytes()));
    }
    header
}

/// Reads the entry of `key` from a file that holds nothing else.
///
/// # Errors
/// If the file is not exactly that entry, as it was written.
pub fn read(file: &mut BufReader<&File>, key: &Key) -> Result<(Image, Option<LabelMap>), EntryError> {
    let length = file.get_ref().metadata()?.len();
    let mut hashing = Hashing { source: file, hash: Sha256::new() };
    let header: [u8; HEADER] = hashing.array()?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (named, rest) = rest.split_at(32);
    let numbers: Vec<u64> = rest
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("chunks are of eight bytes")))
        .collect();
    let labelled = numbers[0] == 1;
    let extents = &numbers[1..4];
    let voxels = extents.iter().try_fold(1_u64, |voxels, extent| voxels.checked_mul(*extent));
    let voxels = voxels.filter(|voxels| *voxels > 0 && *voxels <= MAX_VOXELS).ok_or(EntryError::Format)?;
    if magic != MAGIC || named != key.bytes() || numbers[0] > 1 || length != bytes(voxels, labelled) {
        return Err(EntryError::Format);
    }
    let shape: [usize; 3] = std::array::from_fn(|axis| extents[axis] as usize);
    let affine = |first: usize| {
        std::array::from_fn(|row| std::array::from_fn(|column| f64::from_bits(numbers[first + 4 * row + column])))
    };
    let voxels = voxels as usize;
    let mut values = Vec::with_capacity(voxels);
    let mut buffer = vec![0; 4 * CHUNK.min(voxels)];
    while values.len() < voxels {
        let part = &mut buffer[..4 * CHUNK.min(voxels - values.len())];
        hashing.fill(part)?;
        let (whole, _) = part.as_chunks::<4>();
        values.extend(whole.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    let mut classes = vec![0; if labelled { voxels } else { 0 }];
    hashing.fill(&mut classes)?;
    let Hashing { source, hash } = hashing;
    let mut digest = [0; DIGEST];
    source.read_exact(&mut digest)?;
    if digest[..] != hash.finalize()[..] {
        return Err(EntryError::Digest);
    }
    let labels = labelled.then(|| Volume { shape, affine: affine(20), values: classes });
    Ok((Volume { shape, affine: affine(4), values }, labels))
}

/// A source whose bytes are hashed as they are read.
struct Hashing<'a, R> {
    source: &'a mut R,
    hash: Sha256,
}

impl<R: Read> Hashing<'_, R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), EntryError> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => EntryError::Format,
            _ => EntryError::Read(error),
        })?;
        self.hash.update(buffer);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EntryError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}
