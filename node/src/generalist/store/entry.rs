//! The bytes of an embedding on disk.
//!
//! ```text
//! 16   magic and version of this format
//! 32   the key
//!  8   how many extents the embedding has, at most 8    u64
//! ..   extents                                          u64 each
//! 24   extents of the view along x, y, z                u64 each
//! 128  affine of the view                               f64 each, row-major
//! ..   values                                           f16 each
//! 32   SHA-256 of everything before
//! ```
//!
//! Everything is little-endian. A reader trusts nothing: the extents must fit the length of the file, the key must be the one
//! that was asked for, and the digest must hold.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
};

use burn::tensor::f16;
use semisam_shared::weights::Tensor;
use sha2::{Digest as _, Sha256};

use crate::{
    data::{
        cache::{Key, entry::EntryError},
        grid::Grid,
    },
    generalist::Embedding,
};

const MAGIC: &[u8; 16] = b"semisam embed1\r\n";
const DIGEST: usize = 32;
/// No embedding is larger: the published network's has 0.4 MB, the small one's, of its largest view, 90 MB at the
/// widths that it comes with.
const MOST_BYTES: u64 = 1 << 28;
const MOST_EXTENTS: usize = 8;

/// How many bytes an embedding takes.
pub(super) fn size(embedding: &Embedding) -> u64 {
    (header_bytes(embedding.values.shape.len()) + 2 * embedding.values.values.len() + DIGEST) as u64
}

fn header_bytes(extents: usize) -> usize {
    MAGIC.len() + 32 + 8 + 8 * extents + 24 + 128
}

/// Writes an embedding.
///
/// # Errors
/// If the writer fails, or nobody could read it again.
pub(super) fn write(writer: &mut dyn Write, key: &Key, embedding: &Embedding) -> io::Result<()> {
    let Embedding { values: Tensor { shape, values }, grid } = embedding;
    if shape.len() > MOST_EXTENTS || size(embedding) > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the embedding is too large to be kept"));
    }
    let mut bytes = Vec::with_capacity(size(embedding) as usize);
    bytes.extend(MAGIC);
    bytes.extend(key.bytes());
    bytes.extend((shape.len() as u64).to_le_bytes());
    bytes.extend(shape.iter().chain(&grid.shape).flat_map(|extent| (*extent as u64).to_le_bytes()));
    bytes.extend(grid.affine.iter().flatten().flat_map(|value| value.to_le_bytes()));
    bytes.extend(values.iter().flat_map(|value| super::half(*value).to_le_bytes()));
    writer.write_all(&bytes)?;
    writer.write_all(&Sha256::digest(&bytes))
}

/// Reads the embedding of `key` from a file that holds nothing else.
///
/// # Errors
/// If the file is not exactly that embedding, as it was written.
pub(super) fn read(file: &mut BufReader<&File>, key: &Key) -> Result<Embedding, EntryError> {
    let length = file.get_ref().metadata()?.len();
    if length > MOST_BYTES || length < (header_bytes(0) + DIGEST) as u64 {
        return Err(EntryError::Format);
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length {
        return Err(EntryError::Format);
    }
    let (bytes, digest) = bytes.split_at(bytes.len() - DIGEST);
    if Sha256::digest(bytes)[..] != *digest {
        return Err(EntryError::Digest);
    }
    parse(bytes, key).ok_or(EntryError::Format)
}

fn parse(bytes: &[u8], key: &Key) -> Option<Embedding> {
    let mut rest = bytes.strip_prefix(MAGIC)?.strip_prefix(key.bytes())?;
    let mut number = || {
        let (number, left) = rest.split_first_chunk::<8>()?;
        rest = left;
        Some(u64::from_le_bytes(*number))
    };
    let extents = usize::try_from(number()?).ok().filter(|extents| *extents <= MOST_EXTENTS)?;
    let shape = (0..extents).map(|_| usize::try_from(number()?).ok()).collect::<Option<Vec<usize>>>()?;
    let mut of_view = [0; 3];
    for extent in &mut of_view {
        *extent = usize::try_from(number()?).ok()?;
    }
    let mut affine = [[0.0; 4]; 4];
    for value in affine.iter_mut().flatten() {
        *value = f64::from_bits(number()?);
    }
    let count = shape.iter().try_fold(1_usize, |count, extent| count.checked_mul(*extent))?;
    let (halves, odd) = rest.as_chunks::<2>();
    if halves.len() != count || !odd.is_empty() {
        return None;
    }
    let values = halves.iter().map(|half| f16::from_le_bytes(*half).to_f32()).collect();
    Some(Embedding { values: Tensor { shape, values }, grid: Grid { shape: of_view, affine } })
}
