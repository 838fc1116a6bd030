//! How messages and tensors travel: QUIC with mutual TLS 1.3, one request on each bidirectional stream.
//!
//! The doorkeeper of quinn, and the only async code that both programs share. A node dials ([`Dialer`]), a coordinator
//! listens ([`Listener`]); both then hold an [`Exchange`] for each request.
//!
//! # Connection
//! QUIC version 1 (RFC 9000) over UDP, TLS 1.3 with certificates on both sides, ALPN `semisam/1`. Only the node opens streams,
//! at most 16 at a time; unidirectional streams and datagrams are not used. The node sends a keep-alive every 8 seconds,
//! a connection that was silent for 30 seconds is lost. Application close codes:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, the other side may connect again |
//! | 1 | the site's certificate was revoked |
//! | 2 | the same site opened too many newer connections |
//!
//! # Bytes of a stream
//! Each direction of a stream is a sequence of frames and blobs. What comes next is known from the frame before it: no type is
//! sent. All integers are little-endian.
//!
//! A *frame* is one control message of [`crate::codec`]:
//!
//! | bytes | field |
//! |---|---|
//! | 4 | u32: length of the message, 0 to 65536 |
//! | length | the message |
//!
//! A *blob* of `total` bytes, sent `from` an offset, is the bytes `from..total` in *chunks*. Both numbers were agreed on in frames.
//! If `from` equals `total` there are no chunks.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | u64: offset of the first byte of this chunk in the blob |
//! | 4 | u32: number of bytes, 1 to 1048576 |
//! | number | the bytes |
//!
//! The first chunk has the offset `from`, each next one follows without gap or overlap, none reaches beyond `total`, and the blob ends
//! when `total` is reached: there is no end mark. A receiver refuses everything else, before it allocates. A blob that was
//! interrupted is continued on another stream, from the number of bytes that the receiver holds, in either direction.
//! The end of a direction is the end of the QUIC stream (FIN); nothing may follow the last frame or blob.

mod chunks;
mod dialer;
mod endpoint;
mod frame;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

pub use dialer::{Connection, Dialer};
pub use endpoint::{Listener, Peer};
pub use frame::Exchange;

use crate::{codec::CodecError, ids::SiteId, tls::TlsError};

/// The most bytes in one chunk.
pub const MAX_CHUNK: usize = 1 << 20;
/// How long a handshake or a look-up of a name may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a transfer may make no progress at all, or an answer may take.
pub const STALL: Duration = Duration::from_secs(30);
/// How many requests of one connection may be open at a time.
pub const MAX_STREAMS: u32 = 16;

const KEEP_ALIVE: Duration = Duration::from_secs(8);
const MAX_IDLE: Duration = Duration::from_secs(30);
/// Flow control: what a peer may have under way on one stream, and on all streams of a connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

const CLOSE_DONE: quinn::VarInt = quinn::VarInt::from_u32(0);
const CLOSE_REVOKED: quinn::VarInt = quinn::VarInt::from_u32(1);
const CLOSE_SUPERSEDED: quinn::VarInt = quinn::VarInt::from_u32(2);

/// Why a transfer failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No socket.
    #[error("cannot use UDP address `{address}`: {source}")]
    Bind {
        /// Which address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The name has no address.
    #[error("`{address}` was not found: {reason}; check the name and this machine's DNS (it must read `host:port`)")]
    Lookup {
        /// What was looked up.
        address: String,
        /// Why it failed.
        reason: String,
    },
    /// The server name is not a name.
    #[error("`{0}` cannot be a server name: use the DNS name or IP address in the coordinator's certificate")]
    ServerName(String),
    /// Nobody answered.
    #[error(
        "no answer from `{0}` within {seconds} s: is the coordinator running, and may UDP leave this network to that port?",
        seconds = HANDSHAKE.as_secs()
    )]
    NoAnswer(SocketAddr),
    /// The other side's certificate is not acceptable to us.
    #[error("refused the coordinator at `{address}`: {reason}")]
    ServerRefused {
        /// Who.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Our certificate is not acceptable to the other side.
    #[error("the peer refused this program's certificate: {0}")]
    Refused(String),
    /// A revoked site is still connected.
    #[error("site {0} was revoked: its connection is closed")]
    Revoked(SiteId),
    /// The same site connected again, too often.
    #[error(
        "the peer closed this connection because this site opened newer ones: is a second program using the same key?"
    )]
    Superseded,
    /// The connection was closed in order.
    #[error("the connection was closed")]
    Closed,
    /// The connection was lost.
    #[error("the connection was lost ({0}): connect again and resume")]
    Lost(String),
    /// The peer does not read this stream any more. It may have sent its reason: receive it.
    #[error("the peer stopped reading this request")]
    Stopped,
    /// The peer gave up this stream.
    #[error("the peer gave up this request")]
    Reset,
    /// No progress.
    #[error("no progress for {seconds} s while {0}", seconds = STALL.as_secs())]
    Stalled(&'static str),
    /// A frame is longer than a message may be.
    #[error("a frame of {0} bytes was announced, {max} is the limit", max = crate::codec::MAX_MESSAGE)]
    FrameTooLarge(u32),
    /// A frame is not a message, or a message does not fit into a frame.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The stream ended within a frame or a blob.
    #[error("the stream ended after {have} of {want} bytes while {doing}")]
    Early {
        /// What was going on.
        doing: &'static str,
        /// What there was.
        have: u64,
        /// What there should be.
        want: u64,
    },
    /// Bytes after the end.
    #[error("bytes follow the end of the request")]
    Trailing,
    /// A chunk leaves a gap or an overlap.
    #[error("a chunk begins at offset {found}, {expected} is next")]
    ChunkOffset {
        /// Where it should begin.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// A chunk has no or too many bytes.
    #[error("a chunk of {0} bytes was announced, 1 to {MAX_CHUNK} are allowed")]
    ChunkLength(u32),
    /// A chunk ends after the end of the blob.
    #[error("a chunk ends at {end}, beyond the {total} bytes that were announced")]
    ChunkBeyondEnd {
        /// Where the chunk ends.
        end: u64,
        /// Where the blob ends.
        total: u64,
    },
    /// An offset after the end.
    #[error("cannot resume at {from}: the blob has {total} bytes, and {have} are there")]
    ResumeOffset {
        /// Where to resume.
        from: u64,
        /// The size of the blob.
        total: u64,
        /// How many bytes are there to build on.
        have: u64,
    },
    /// A file or memory could not be read or written.
    #[error("cannot {what} `{path}`: {source}")]
    File {
        /// read or write.
        what: &'static str,
        /// Which file; `-` if it is none.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<quinn::ConnectionError> for TransportError {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as C;
        match error {
            C::ConnectionClosed(close) => match alert(u64::from(close.error_code)) {
                Some(alert) => TransportError::Refused(explain_alert(alert)),
                None => TransportError::Lost(close.to_string()),
            },
            C::ApplicationClosed(close) if close.error_code == CLOSE_REVOKED => {
                TransportError::Refused("it was revoked, ask the consortium".to_owned())
            }
            C::ApplicationClosed(close) if close.error_code == CLOSE_SUPERSEDED => TransportError::Superseded,
            C::ApplicationClosed(_) | C::LocallyClosed => TransportError::Closed,
            C::TimedOut => TransportError::Lost(format!("not a word for {} s", MAX_IDLE.as_secs())),
            other => TransportError::Lost(other.to_string()),
        }
    }
}

/// The TLS alert in a QUIC error code (RFC 9001, 4.8).
fn alert(code: u64) -> Option<u8> {
    code.checked_sub(0x100).and_then(|alert| u8::try_from(alert).ok())
}

/// What a peer's TLS alert (RFC 8446, 6.2) means for the operator of this side.
fn explain_alert(alert: u8) -> String {
    match alert {
        44 => "it was revoked, ask the consortium".to_owned(),
        45 => "it is expired or not valid yet by the peer's clock, ask the consortium for a new one".to_owned(),
        48 => "it was not signed by the peer's authority, check that both are of the same consortium".to_owned(),
        43 => "it was issued for another role, ask the consortium for one of the right role".to_owned(),
        116 => "none was sent, set the certificate and the key in the configuration".to_owned(),
        120 => "the peer speaks another protocol than semisam/1, check address and versions".to_owned(),
        other => format!("TLS alert {other}, the peer's log says more"),
    }
}

fn transport_config(streams: u32, keep_alive: bool) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(CONNECTION_WINDOW.into())
        .keep_alive_interval(keep_alive.then_some(KEEP_ALIVE))
        .max_idle_timeout(Some(MAX_IDLE.try_into().expect("30 seconds fit into a QUIC time-out")));
    Arc::new(config)
}
