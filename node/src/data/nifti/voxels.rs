//! The voxels of a NIfTI file: any integer or floating-point type, either byte order, to what the program works with.
//!
//! Buffers start small and grow with what was really read, so that a header cannot make the program allocate what the
//! file does not hold.

use thiserror::Error;

use super::header::{Datatype, Header};
use super::source::{Source, SourceProblem};

/// Bytes decoded at a time; a multiple of every voxel size.
const CHUNK: usize = 1 << 16;
/// Voxels allocated before any was read.
const FIRST_VOXELS: usize = 1 << 18;
/// How far from a whole number a label may be: single-precision slopes do not hit it exactly.
const LABEL_SLACK: f64 = 1e-3;

/// Why a voxel is refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum VoxelProblem {
    /// NaN or infinity, as stored or after slope and intercept.
    #[error(
        "voxel {at:?} (counted from 0, as stored) is {value}, not a finite number: replace such voxels by the background value"
    )]
    NotFinite {
        /// Stored voxel index.
        at: [usize; 3],
        /// Its value.
        value: f64,
    },
    /// Not a class.
    #[error(
        "voxel {at:?} (counted from 0, as stored) is {value}, a label must be a whole number from 0 to 255: is this an image in place of a label map?"
    )]
    NotAClass {
        /// Stored voxel index.
        at: [usize; 3],
        /// Its value.
        value: f64,
    },
}

/// Why voxels were not read.
pub(super) enum Failure {
    Source(SourceProblem),
    Voxel(VoxelProblem),
}

/// What a voxel becomes, and what is said where it cannot.
pub(super) struct Target<T> {
    convert: fn(f64) -> Option<T>,
    refuse: fn([usize; 3], f64) -> VoxelProblem,
}

/// Intensities of an image.
pub(super) const INTENSITY: Target<f32> = Target {
    convert: |value| Some(value as f32).filter(|value| value.is_finite()),
    refuse: |at, value| VoxelProblem::NotFinite { at, value },
};

/// Classes of a label map.
pub(super) const CLASS: Target<u8> = Target {
    convert: |value| {
        let class = value.round();
        ((value - class).abs() <= LABEL_SLACK && (0.0..=255.0).contains(&class)).then_some(class as u8)
    },
    refuse: |at, value| VoxelProblem::NotAClass { at, value },
};

/// Bytes of a file up to and with its last voxel.
pub(super) fn needed(header: &Header) -> u64 {
    header.offset + header.count() as u64 * header.datatype.bytes() as u64
}

/// Reads all voxels in file order, from a source at the start of its file.
pub(super) fn read<T>(mut source: Source, header: &Header, target: &Target<T>) -> Result<Vec<T>, Failure> {
    let (count, size, needed) = (header.count(), header.datatype.bytes(), needed(header));
    source.skip(header.offset, needed).map_err(Failure::Source)?;
    let mut values = Vec::with_capacity(count.min(FIRST_VOXELS));
    let mut chunk = vec![0; CHUNK];
    let mut decoded = Vec::with_capacity(CHUNK);
    while values.len() < count {
        let bytes = &mut chunk[..CHUNK.min((count - values.len()) * size)];
        source.fill(bytes, needed).map_err(Failure::Source)?;
        decoded.clear();
        decode(header.datatype, header.big_endian, bytes, &mut decoded);
        for &stored in &decoded {
            let value = header.scaling.map_or(stored, |(slope, intercept)| stored * slope + intercept);
            match (target.convert)(value) {
                Some(converted) => values.push(converted),
                None => return Err(Failure::Voxel((target.refuse)(position(values.len(), header.shape), value))),
            }
        }
    }
    source.finish(needed).map_err(Failure::Source)?;
    Ok(values)
}

fn position(index: usize, [nx, ny, _]: [usize; 3]) -> [usize; 3] {
    [index % nx, index / nx % ny, index / (nx * ny)]
}

fn decode(datatype: Datatype, big_endian: bool, bytes: &[u8], into: &mut Vec<f64>) {
    match datatype {
        Datatype::U8 => into.extend(bytes.iter().map(|&byte| f64::from(byte))),
        Datatype::I8 => into.extend(bytes.iter().map(|&byte| f64::from(byte.cast_signed()))),
        Datatype::I16 => each(bytes, big_endian, into, |field| f64::from(i16::from_le_bytes(field))),
        Datatype::U16 => each(bytes, big_endian, into, |field| f64::from(u16::from_le_bytes(field))),
        Datatype::I32 => each(bytes, big_endian, into, |field| f64::from(i32::from_le_bytes(field))),
        Datatype::U32 => each(bytes, big_endian, into, |field| f64::from(u32::from_le_bytes(field))),
        Datatype::I64 => each(bytes, big_endian, into, |field| i64::from_le_bytes(field) as f64),
        Datatype::U64 => each(bytes, big_endian, into, |field| u64::from_le_bytes(field) as f64),
        Datatype::F32 => each(bytes, big_endian, into, |field| f64::from(f32::from_le_bytes(field))),
        Datatype::F64 => each(bytes, big_endian, into, f64::from_le_bytes),
    }
}

fn each<const N: usize>(bytes: &[u8], big_endian: bool, into: &mut Vec<f64>, number: fn([u8; N]) -> f64) {
    let (fields, _) = bytes.as_chunks::<N>();
    into.extend(fields.iter().map(|&(mut field)| {
        if big_endian {
            field.reverse();
        }
        number(field)
    }));
}
