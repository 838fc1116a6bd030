//! Blobs in chunks: bounded memory, checked offsets, resumable in both directions.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
};

use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt, AsyncWrite, AsyncWriteExt},
};

use super::{Exchange, MAX_CHUNK, TransportError};

const HEADER: usize = 12;

/// The twelve bytes before a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkHeader {
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl ChunkHeader {
    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    /// The header, if it is the next one at offset `next` of a blob of `total` bytes.
    pub(super) fn parse(bytes: [u8; HEADER], next: u64, total: u64) -> Result<Self, TransportError> {
        let (offset, length) = bytes.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().expect("eight bytes"));
        let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
        if offset != next {
            return Err(TransportError::ChunkOffset { expected: next, found: offset });
        }
        if length == 0 || length as usize > MAX_CHUNK {
            return Err(TransportError::ChunkLength(length));
        }
        let end = offset.saturating_add(u64::from(length));
        if end > total {
            return Err(TransportError::ChunkBeyondEnd { end, total });
        }
        Ok(Self { offset, length })
    }
}

impl Exchange {
    /// Sends the bytes `from..total` of `source`, and returns how many these were.
    ///
    /// # Errors
    /// If the source is shorter, or the peer does not take them: [`TransportError::Stopped`] may mean that it has sent an answer.
    pub async fn send_chunks<S>(&mut self, mut source: S, from: u64, total: u64) -> Result<u64, TransportError>
    where
        S: AsyncRead + AsyncSeek + Unpin,
    {
        self.send_from(&mut source, Path::new("-"), from, total).await
    }

    /// Sends the bytes `from..total` of a file, and returns how many these were.
    ///
    /// # Errors
    /// As [`Exchange::send_chunks`].
    pub async fn send_file(&mut self, path: &Path, from: u64, total: u64) -> Result<u64, TransportError> {
        let mut file = File::open(path).await.map_err(|source| failed("read", path, source))?;
        self.send_from(&mut file, path, from, total).await
    }

    /// Receives the bytes `from..total` into `sink`, and returns how many these were.
    /// Every chunk that came whole is in the sink, also after an error.
    ///
    /// # Errors
    /// If the peer breaks the rules of chunks or the connection, or the sink fails.
    pub async fn receive_chunks<S>(&mut self, mut sink: S, from: u64, total: u64) -> Result<u64, TransportError>
    where
        S: AsyncWrite + Unpin,
    {
        self.receive_into(&mut sink, Path::new("-"), from, total).await
    }

    /// Receives the bytes `from..total` of a blob into the file `part`, which holds the first `from` bytes (what it holds beyond
    /// is dropped), and returns how many these were. Every chunk that came whole is in the file, also after an error, so its length
    /// tells where to resume. A file that is complete has been synced to disk; renaming it is the caller's part.
    ///
    /// # Errors
    /// As [`Exchange::receive_chunks`], or if the file holds less than `from` bytes.
    pub async fn receive_file(&mut self, part: &Path, from: u64, total: u64) -> Result<u64, TransportError> {
        let wrong = |source| failed("write", part, source);
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(part).await.map_err(wrong)?;
        let have = file.metadata().await.map_err(wrong)?.len();
        if from > have {
            return Err(TransportError::ResumeOffset { from, total, have });
        }
        file.set_len(from).await.map_err(wrong)?;
        file.seek(SeekFrom::Start(from)).await.map_err(wrong)?;
        let received = self.receive_into(&mut file, part, from, total).await?;
        file.sync_all().await.map_err(wrong)?;
        Ok(received)
    }

    async fn send_from<S>(&mut self, source: &mut S, path: &Path, from: u64, total: u64) -> Result<u64, TransportError>
    where
        S: AsyncRead + AsyncSeek + Unpin,
    {
        if from > total {
            return Err(TransportError::ResumeOffset { from, total, have: total });
        }
        source.seek(SeekFrom::Start(from)).await.map_err(|e| failed("read", path, e))?;
        let mut offset = from;
        while offset < total {
            let length = (total - offset).min(MAX_CHUNK as u64) as u32;
            let mut chunk = vec![0; HEADER + length as usize];
            chunk[..HEADER].copy_from_slice(&ChunkHeader { offset, length }.to_bytes());
            source.read_exact(&mut chunk[HEADER..]).await.map_err(|e| failed("read", path, e))?;
            self.write(chunk, "sending a chunk").await?;
            offset += u64::from(length);
        }
        Ok(total - from)
    }

    async fn receive_into<S>(&mut self, sink: &mut S, path: &Path, from: u64, total: u64) -> Result<u64, TransportError>
    where
        S: AsyncWrite + Unpin,
    {
        if from > total {
            return Err(TransportError::ResumeOffset { from, total, have: total });
        }
        let outcome = self.pump(sink, path, from, total).await;
        // also after an error: what came whole must be there before anybody looks at the length of the file
        sink.flush().await.map_err(|e| failed("write", path, e))?;
        outcome.map(|()| total - from)
    }

    async fn pump<S>(&mut self, sink: &mut S, path: &Path, from: u64, total: u64) -> Result<(), TransportError>
    where
        S: AsyncWrite + Unpin,
    {
        let mut next = from;
        let mut buffer = Vec::new();
        while next < total {
            let mut header = [0; HEADER];
            self.read(&mut header, "receiving a blob").await.map_err(|error| match error {
                TransportError::Early { .. } => {
                    TransportError::Early { doing: "receiving a blob", have: next, want: total }
                }
                other => other,
            })?;
            let header = ChunkHeader::parse(header, next, total)?;
            buffer.resize(header.length as usize, 0);
            self.read(&mut buffer, "receiving a chunk").await?;
            sink.write_all(&buffer).await.map_err(|e| failed("write", path, e))?;
            next += u64::from(header.length);
        }
        Ok(())
    }
}

fn failed(what: &'static str, path: &Path, source: std::io::Error) -> TransportError {
    TransportError::File { what, path: PathBuf::from(path), source }
}
