//! One request on one stream: frames in, frames out, and the end of each direction.

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{CLOSE_REVOKED, STALL, TransportError};
use crate::{
    codec::{self, MAX_MESSAGE},
    ids::SiteId,
    tls::RevocationCheck,
};

/// One request and its answer: a bidirectional stream.
///
/// An exchange that failed half-way is dropped; what was received of a blob is on disk, and another exchange resumes it.
pub struct Exchange {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    guard: Option<Guard>,
}

/// Ends a live connection at the next frame or chunk after its site was revoked.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) site: SiteId,
    pub(super) revoked: RevocationCheck,
    pub(super) connection: quinn::Connection,
}

impl Guard {
    pub(super) fn check(&self) -> Result<(), TransportError> {
        if !(self.revoked)(&self.site) {
            return Ok(());
        }
        self.connection.close(CLOSE_REVOKED, b"revoked");
        Err(TransportError::Revoked(self.site))
    }
}

impl Exchange {
    pub(super) fn new((send, receive): (quinn::SendStream, quinn::RecvStream), guard: Option<Guard>) -> Self {
        Self { send, receive, guard }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// If it is larger than a frame, or the peer does not take it.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), TransportError> {
        let message = codec::encode(message)?;
        let length = u32::try_from(message.len()).expect("a message fits into a frame");
        self.write([&length.to_le_bytes()[..], &message].concat(), "sending a message").await
    }

    /// Receives one message.
    ///
    /// # Errors
    /// If there is none, it is too large, or it is not of this type.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, TransportError> {
        let mut length = [0; 4];
        self.read(&mut length, "receiving a message").await?;
        let length = u32::from_le_bytes(length);
        let size = usize::try_from(length).ok().filter(|size| *size <= MAX_MESSAGE);
        let mut message = vec![0; size.ok_or(TransportError::FrameTooLarge(length))?];
        self.read(&mut message, "receiving a message").await?;
        Ok(codec::decode(&message)?)
    }

    /// Ends this side, and waits until the peer's machine has everything. Receiving goes on.
    /// A peer that stopped reading is no error here: it has made up its mind, and its answer tells.
    ///
    /// # Errors
    /// If the peer does not take all of it.
    pub async fn finish(&mut self) -> Result<(), TransportError> {
        if self.send.finish().is_err() {
            return Ok(()); // finished before
        }
        match timeout(STALL, self.send.stopped()).await {
            Err(_) => Err(TransportError::Stalled("waiting for the peer to take the end of a request")),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(quinn::StoppedError::ConnectionLost(error))) => Err(error.into()),
            Ok(Err(error)) => Err(TransportError::Lost(error.to_string())),
        }
    }

    /// Checks that the peer's side has ended: nothing may follow the last frame or blob.
    ///
    /// # Errors
    /// If anything follows.
    pub async fn receive_end(&mut self) -> Result<(), TransportError> {
        match self.read_some(&mut [0; 1], "waiting for the end of a request").await? {
            None => Ok(()),
            Some(_) => Err(TransportError::Trailing),
        }
    }

    /// Sends all bytes; each piece must be taken in time, not the whole.
    pub(super) async fn write(&mut self, bytes: Vec<u8>, doing: &'static str) -> Result<(), TransportError> {
        self.allowed()?;
        let mut left = bytes.len();
        let mut rest = [bytes.into()];
        while left > 0 {
            match timeout(STALL, self.send.write_chunks(&mut rest)).await {
                Err(_) => return Err(TransportError::Stalled(doing)),
                Ok(Ok(written)) => left -= written.bytes,
                Ok(Err(quinn::WriteError::ConnectionLost(error))) => return Err(error.into()),
                Ok(Err(quinn::WriteError::Stopped(_))) => return Err(TransportError::Stopped),
                Ok(Err(error)) => return Err(TransportError::Lost(error.to_string())),
            }
        }
        Ok(())
    }

    /// Fills `buffer`; each piece must come in time, not the whole.
    pub(super) async fn read(&mut self, buffer: &mut [u8], doing: &'static str) -> Result<(), TransportError> {
        let mut have = 0;
        while have < buffer.len() {
            match self.read_some(&mut buffer[have..], doing).await? {
                Some(count) => have += count,
                None => return Err(TransportError::Early { doing, have: have as u64, want: buffer.len() as u64 }),
            }
        }
        self.allowed() // now, not when the wait began
    }

    /// Whether the site may still talk.
    fn allowed(&self) -> Result<(), TransportError> {
        self.guard.as_ref().map_or(Ok(()), Guard::check)
    }

    async fn read_some(&mut self, buffer: &mut [u8], doing: &'static str) -> Result<Option<usize>, TransportError> {
        match timeout(STALL, self.receive.read(buffer)).await {
            Err(_) => Err(TransportError::Stalled(doing)),
            Ok(Ok(count)) => Ok(count),
            Ok(Err(quinn::ReadError::ConnectionLost(error))) => Err(error.into()),
            Ok(Err(quinn::ReadError::Reset(_))) => Err(TransportError::Reset),
            Ok(Err(error)) => Err(TransportError::Lost(error.to_string())),
        }
    }
}
