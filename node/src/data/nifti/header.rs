//! The header of a NIfTI file, checked before anything is allocated for its voxels.
//!
//! NIfTI-1 fields are split by the `nifti` crate (this is its doorkeeper file) from a fixed 348-byte buffer; that crate
//! does not know NIfTI-2, whose 540 bytes are split here. Both become one [`RawHeader`], and one set of checks decides.
//! Scans come from scanners, converters and strangers, so no field is believed: counts are multiplied with overflow
//! checks and offsets are bounded. Reference: the NIfTI-1 and NIfTI-2 header definitions (nifti1.h, nifti2.h); choices
//! where those are silent follow nibabel.

use thiserror::Error;

use super::geometry::{Geometry, GeometryProblem};

/// Bytes of a NIfTI-1 header.
pub(super) const NIFTI1_BYTES: usize = 348;
/// Bytes of a NIfTI-2 header.
pub(super) const NIFTI2_BYTES: usize = 540;
/// The most voxels a scan may have: 1024 x 1024 x 512, or 2 GiB as f32.
pub const MAX_VOXELS: u64 = 1 << 29;
/// The farthest that voxels may start: header extensions are small, and skipping them in a gzip stream costs time.
const MAX_OFFSET: i64 = 16 << 20;

/// Why a header is refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum HeaderProblem {
    /// Fewer bytes than a header has.
    #[error("it ends after {found} bytes, within the header: the copy is incomplete, transfer the file again")]
    Short {
        /// Bytes there were.
        found: usize,
    },
    /// The first field is not a NIfTI header length.
    #[error(
        "it is not a NIfTI file (header length field is {length}, not 348 or 540): convert the scan to .nii or .nii.gz"
    )]
    NotNifti {
        /// Value of the length field.
        length: i32,
    },
    /// The magic bytes are wrong.
    #[error("its magic bytes are not those of a single-file NIfTI: convert the scan to .nii or .nii.gz again")]
    Magic,
    /// A header whose voxels are in another file.
    #[error("it is a .hdr/.img pair: convert the scan to a single .nii or .nii.gz file")]
    Pair,
    /// `dim[0]` out of range or too low.
    #[error("it has {rank} dimensions, a 3-D scan is needed: export the scan as a 3-D volume")]
    Rank {
        /// Value of `dim[0]`.
        rank: i64,
    },
    /// An extent below one.
    #[error("dimension {axis} has {extent} voxels, it must have at least 1: export the scan again")]
    Extent {
        /// 1-based dimension.
        axis: usize,
        /// Value of `dim[axis]`.
        extent: i64,
    },
    /// A series instead of one volume.
    #[error("it has {points} time points, a 3-D scan is needed: extract one volume (or their mean) and give that")]
    TimePoints {
        /// Volumes in the series.
        points: i64,
    },
    /// Vectors or other values per voxel.
    #[error(
        "dimension {axis} has {extent} entries, a 3-D scan has one value per voxel: extract one channel and give that"
    )]
    Channels {
        /// 1-based dimension.
        axis: usize,
        /// Value of `dim[axis]`.
        extent: i64,
    },
    /// More voxels than are read.
    #[error(
        "its header declares {shape:?} voxels, more than the {MAX_VOXELS} that are read: the header is damaged, or the scan must be cropped or down-sampled first"
    )]
    TooManyVoxels {
        /// Declared extents.
        shape: [i64; 3],
    },
    /// Complex, RGB or unknown voxels.
    #[error(
        "its data type {code} ({name}) is not supported: convert the scan to an integer or floating-point type of at most 64 bits"
    )]
    Datatype {
        /// NIfTI data type code.
        code: i64,
        /// What the code stands for.
        name: &'static str,
    },
    /// Voxels start inside the header, past any plausible extension, or at no byte at all.
    #[error(
        "its voxels would start at byte {offset}, they must start between {least} and {MAX_OFFSET}: the header is damaged, export the scan again"
    )]
    Offset {
        /// Value of `vox_offset`.
        offset: f64,
        /// The first byte where voxels may start.
        least: usize,
    },
    /// A slope without a usable intercept.
    #[error("its intensity intercept is {intercept}: set `scl_inter` to a number, or export the scan again")]
    Intercept {
        /// Value of `scl_inter`.
        intercept: f64,
    },
    /// The affine cannot place voxels in space.
    #[error(transparent)]
    Geometry(#[from] GeometryProblem),
}

/// How a voxel is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datatype {
    U8,
    I8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

impl Datatype {
    fn from_code(code: i64) -> Result<Self, HeaderProblem> {
        let name = match code {
            2 => return Ok(Self::U8),
            4 => return Ok(Self::I16),
            8 => return Ok(Self::I32),
            16 => return Ok(Self::F32),
            64 => return Ok(Self::F64),
            256 => return Ok(Self::I8),
            512 => return Ok(Self::U16),
            768 => return Ok(Self::U32),
            1024 => return Ok(Self::I64),
            1280 => return Ok(Self::U64),
            1 => "single bits",
            32 | 1792 | 2048 => "complex numbers",
            128 | 2304 => "RGB colours",
            1536 => "128-bit floating point",
            _ => "unknown",
        };
        Err(HeaderProblem::Datatype { code, name })
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }
}

/// What a checked header says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    pub(super) big_endian: bool,
    /// Extents as stored, fastest first.
    pub(super) shape: [usize; 3],
    pub(super) datatype: Datatype,
    /// Byte of the first voxel.
    pub(super) offset: u64,
    /// Slope and intercept, where the file has them.
    pub(super) scaling: Option<(f64, f64)>,
    pub(super) geometry: Geometry,
    pub(super) affine: [[f64; 4]; 4],
}

impl Header {
    /// Reads and checks a header from the first bytes of a file: [`NIFTI2_BYTES`] of them, fewer where the file ends
    /// before.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, HeaderProblem> {
        let Some(first) = bytes.first_chunk::<4>() else { return Err(HeaderProblem::Short { found: bytes.len() }) };
        let (nifti2, big_endian) = match (i32::from_le_bytes(*first), i32::from_be_bytes(*first)) {
            (348, _) => (false, false),
            (_, 348) => (false, true),
            (540, _) => (true, false),
            (_, 540) => (true, true),
            (length, _) => return Err(HeaderProblem::NotNifti { length }),
        };
        let needed = if nifti2 { NIFTI2_BYTES } else { NIFTI1_BYTES };
        let bytes = bytes.get(..needed).ok_or(HeaderProblem::Short { found: bytes.len() })?;
        let raw = if nifti2 { RawHeader::nifti2(bytes, big_endian)? } else { RawHeader::nifti1(bytes, big_endian)? };
        raw.check(big_endian)
    }

    /// How many voxels there are.
    pub(super) fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Fields that matter, as they stand in a file of either version.
struct RawHeader {
    dim: [i64; 8],
    datatype: i64,
    vox_offset: f64,
    least_offset: usize,
    slope: f64,
    intercept: f64,
    geometry: Geometry,
}

impl RawHeader {
    fn nifti1(bytes: &[u8], big_endian: bool) -> Result<Self, HeaderProblem> {
        match &bytes[344..348] {
            b"n+1\0" => {}
            b"ni1\0" => return Err(HeaderProblem::Pair),
            _ => return Err(HeaderProblem::Magic),
        }
        // The crate guesses the byte order from dim[0]: with a valid one it cannot guess otherwise than the length field says.
        let rank = [bytes[40], bytes[41]];
        let rank = i64::from(if big_endian { i16::from_be_bytes(rank) } else { i16::from_le_bytes(rank) });
        if !(1..=7).contains(&rank) {
            return Err(HeaderProblem::Rank { rank });
        }
        let header = nifti::NiftiHeader::from_reader(bytes).map_err(|_| HeaderProblem::Magic)?;
        Ok(Self {
            dim: header.dim.map(|extent| i64::from(extent.cast_signed())),
            datatype: i64::from(header.datatype),
            vox_offset: f64::from(header.vox_offset),
            least_offset: NIFTI1_BYTES + 4,
            slope: f64::from(header.scl_slope),
            intercept: f64::from(header.scl_inter),
            geometry: Geometry {
                qform_code: i64::from(header.qform_code),
                sform_code: i64::from(header.sform_code),
                pixdim: std::array::from_fn(|i| f64::from(header.pixdim[i])),
                quaternion: [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from),
                quaternion_rounding: 3.0 * f64::from(f32::EPSILON),
                qoffset: [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from),
                srow: [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from)),
                units: header.xyzt_units,
            },
        })
    }

    fn nifti2(bytes: &[u8], big_endian: bool) -> Result<Self, HeaderProblem> {
        match &bytes[4..12] {
            b"n+2\0\r\n\x1a\n" => {}
            b"ni2\0\r\n\x1a\n" => return Err(HeaderProblem::Pair),
            _ => return Err(HeaderProblem::Magic),
        }
        let at = Fields { bytes, big_endian };
        Ok(Self {
            dim: std::array::from_fn(|i| at.i64(16 + 8 * i)),
            datatype: i64::from(at.i16(12)),
            vox_offset: at.i64(168) as f64,
            least_offset: NIFTI2_BYTES + 4,
            slope: at.f64(176),
            intercept: at.f64(184),
            geometry: Geometry {
                qform_code: i64::from(at.i32(344)),
                sform_code: i64::from(at.i32(348)),
                pixdim: std::array::from_fn(|i| at.f64(104 + 8 * i)),
                quaternion: std::array::from_fn(|i| at.f64(352 + 8 * i)),
                quaternion_rounding: 3.0 * f64::EPSILON,
                qoffset: std::array::from_fn(|i| at.f64(376 + 8 * i)),
                srow: std::array::from_fn(|row| std::array::from_fn(|i| at.f64(400 + 32 * row + 8 * i))),
                units: (at.i32(500) & 0xff) as u8,
            },
        })
    }

    fn check(self, big_endian: bool) -> Result<Header, HeaderProblem> {
        let shape = self.shape()?;
        let datatype = Datatype::from_code(self.datatype)?;
        let least = self.least_offset;
        let offset = match self.vox_offset {
            0.0 => least as u64,
            offset if offset >= least as f64 && offset <= MAX_OFFSET as f64 && offset.fract() == 0.0 => offset as u64,
            offset => return Err(HeaderProblem::Offset { offset, least }),
        };
        let scaling = if self.slope == 0.0 || !self.slope.is_finite() {
            None
        } else if self.intercept.is_finite() {
            Some((self.slope, self.intercept))
        } else {
            return Err(HeaderProblem::Intercept { intercept: self.intercept });
        };
        let affine = self.geometry.affine(shape)?;
        Ok(Header { big_endian, shape, datatype, offset, scaling, geometry: self.geometry, affine })
    }

    fn shape(&self) -> Result<[usize; 3], HeaderProblem> {
        let rank = self.dim[0];
        if !(3..=7).contains(&rank) {
            return Err(HeaderProblem::Rank { rank });
        }
        for axis in 1..=rank as usize {
            let extent = self.dim[axis];
            match axis {
                _ if extent < 1 => return Err(HeaderProblem::Extent { axis, extent }),
                4 if extent > 1 => return Err(HeaderProblem::TimePoints { points: extent }),
                5.. if extent > 1 => return Err(HeaderProblem::Channels { axis, extent }),
                _ => {}
            }
        }
        let shape = [self.dim[1], self.dim[2], self.dim[3]];
        let voxels = shape.iter().try_fold(1_u64, |count, &extent| count.checked_mul(extent as u64));
        match voxels {
            Some(count) if count <= MAX_VOXELS => Ok(shape.map(|extent| extent as usize)),
            _ => Err(HeaderProblem::TooManyVoxels { shape }),
        }
    }
}

/// Numbers at fixed places of a buffer that is long enough.
struct Fields<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field: [u8; N] = std::array::from_fn(|i| self.bytes[at + i]);
        if self.big_endian {
            field.reverse();
        }
        field
    }

    fn i16(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.array(at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.array(at))
    }

    fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.array(at))
    }

    fn f64(&self, at: usize) -> f64 {
        f64::from_le_bytes(self.array(at))
    }
}
