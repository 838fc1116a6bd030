//! The bytes of a scan, plain or gzipped, read no further than asked.
//!
//! Whether a file is gzipped is decided by its content. Nothing here allocates from a declared size: a plain file's
//! length is known, a gzip stream is asked for as many bytes as are needed and the rest of it is never inflated.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use thiserror::Error;

/// Deflate cannot expand by more than this (zlib, "Maximum Expansion Factor").
const DEFLATE_MOST: u64 = 1032;

/// Why bytes cannot be had.
#[derive(Debug, Error)]
pub enum SourceProblem {
    /// The file cannot be opened.
    #[error("it cannot be opened ({0}): check the path and that this program may read it")]
    Open(io::Error),
    /// A folder, a device, a pipe.
    #[error("it is not a file: give the path of a .nii or .nii.gz file")]
    NotAFile,
    /// No bytes at all.
    #[error("it is empty: transfer the file again")]
    Empty,
    /// `.gz` in the name alone.
    #[error(
        "its name ends with .gz but it is not gzipped: rename it to .nii if it is a plain NIfTI, or transfer it again"
    )]
    NotGzip,
    /// Fewer bytes than the header promises.
    #[error(
        "it holds fewer than the {needed} bytes that its header promises: the copy is incomplete, transfer the file again"
    )]
    Truncated {
        /// Bytes up to the last voxel.
        needed: u64,
    },
    /// Broken gzip stream or failing disk.
    #[error("reading it failed ({0}): the file or the disk is damaged, transfer the file again")]
    Read(io::Error),
}

/// An open file, positioned at its first byte.
pub(super) struct Source {
    /// Bytes already looked at, to be read first.
    ahead: io::Cursor<Vec<u8>>,
    stream: Stream,
    length: u64,
}

enum Stream {
    Plain(BufReader<File>),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Source {
    /// Opens a file and looks whether it is gzipped.
    pub(super) fn open(path: &Path) -> Result<Self, SourceProblem> {
        // Looked at before it is opened: opening a pipe would wait for a writer.
        let meta = std::fs::metadata(path).map_err(SourceProblem::Open)?;
        if !meta.is_file() {
            return Err(SourceProblem::NotAFile);
        }
        let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(SourceProblem::Open)?);
        let start = io::BufRead::fill_buf(&mut file).map_err(SourceProblem::Read)?;
        if start.is_empty() {
            return Err(SourceProblem::Empty);
        }
        let named_gz = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let stream = if start.starts_with(&[0x1f, 0x8b]) {
            Stream::Gzip(Box::new(MultiGzDecoder::new(file)))
        } else if named_gz {
            return Err(SourceProblem::NotGzip);
        } else {
            Stream::Plain(file)
        };
        Ok(Self { ahead: io::Cursor::default(), stream, length: meta.len() })
    }

    /// The first bytes of the file, fewer than `limit` only where it ends; reading still begins at the first byte
    /// afterwards.
    pub(super) fn start(&mut self, limit: usize) -> Result<&[u8], SourceProblem> {
        let mut bytes = Vec::with_capacity(limit);
        match self.stream.by_ref().take(limit as u64).read_to_end(&mut bytes) {
            Ok(_) => {}
            // A short gzip stream: what it gave may still tell what is wrong.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(SourceProblem::Read(error)),
        }
        self.ahead = io::Cursor::new(bytes);
        Ok(self.ahead.get_ref())
    }

    /// Refuses what cannot be there, judged by the length of the file alone.
    pub(super) fn expect_bytes(&self, needed: u64) -> Result<(), SourceProblem> {
        let most = match self.stream {
            Stream::Plain(_) => self.length,
            Stream::Gzip(_) => self.length.saturating_mul(DEFLATE_MOST),
        };
        if needed > most { Err(SourceProblem::Truncated { needed }) } else { Ok(()) }
    }

    /// Skips bytes.
    pub(super) fn skip(&mut self, count: u64, needed: u64) -> Result<(), SourceProblem> {
        match io::copy(&mut self.by_ref().take(count), &mut io::sink()) {
            Ok(skipped) if skipped == count => Ok(()),
            Ok(_) => Err(SourceProblem::Truncated { needed }),
            Err(error) => Err(failure(error, needed)),
        }
    }

    /// Fills a buffer.
    pub(super) fn fill(&mut self, buffer: &mut [u8], needed: u64) -> Result<(), SourceProblem> {
        self.read_exact(buffer).map_err(|error| failure(error, needed))
    }

    /// Asks for one byte more: at the end of a gzip stream this checks its length and CRC; what follows the voxels is
    /// left alone.
    pub(super) fn finish(mut self, needed: u64) -> Result<(), SourceProblem> {
        self.read(&mut [0]).map(|_| ()).map_err(|error| failure(error, needed))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.ahead.read(buffer)? {
            0 => self.stream.read(buffer),
            count => Ok(count),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
        }
    }
}

fn failure(error: io::Error, needed: u64) -> SourceProblem {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        SourceProblem::Truncated { needed }
    } else {
        SourceProblem::Read(error)
    }
}
