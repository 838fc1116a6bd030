//! Bytes of control messages: bincode 2, little-endian, fixed-width integers, with a size limit, and no byte left over.
//!
//! bincode stays in this file so that it can be swapped (RUSTSEC-2025-0141: complete, but unmaintained).
//! Golden bytes are in `PROTOCOL.md`, which is compiled as doc tests.

use serde::{Serialize, de::DeserializeOwned};

/// The largest control message, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value does not fit into one message.
    #[error("a message of {0} bytes is larger than the limit of {MAX_MESSAGE}")]
    TooLarge(usize),
    /// The value has no encoding.
    #[error("the message cannot be encoded: {0}")]
    Encode(String),
    /// The bytes are not of this type.
    #[error("the bytes are not a message of this protocol: {0}")]
    Decode(String),
    /// More bytes than the message has.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_MESSAGE>()
}

/// The bytes of `value`.
///
/// # Errors
/// If the value has more than [`MAX_MESSAGE`] bytes.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, format()).map_err(|e| CodecError::Encode(e.to_string()))?;
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// The value of `bytes`, all of them.
///
/// # Errors
/// If the bytes are too many, not of this type, or not used up.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(CodecError::TooLarge(bytes.len()));
    }
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, format()).map_err(|e| CodecError::Decode(e.to_string()))?;
    if used != bytes.len() {
        return Err(CodecError::Trailing(bytes.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn trailing_bytes_and_giants_are_refused() {
        let mut bytes = encode(&(7_u32, "x".to_owned())).expect("small");
        assert_eq!(bytes, [7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'x']);
        bytes.push(0);
        assert!(matches!(decode::<(u32, String)>(&bytes), Err(CodecError::Trailing(1))));
        assert!(matches!(encode(&vec![0_u8; MAX_MESSAGE]), Err(CodecError::TooLarge(_))));
        assert!(matches!(decode::<u32>(&vec![0; MAX_MESSAGE + 1]), Err(CodecError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_nor_allocate(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Vec<String>>(&bytes);
            let _ = decode::<crate::message::Request>(&bytes);
            let _ = decode::<crate::message::Response>(&bytes);
        }
    }
}
