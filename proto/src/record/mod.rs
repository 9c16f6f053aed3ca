//! The record layer of TLS 1.3 (RFC 8446, section 5) after the handshake. Sans-I/O: bytes in, bytes out, in buffers of
//! the caller, without an allocation.
//!
//! ```text
//!   | 23 | 03 03 | length u16 | sealed: content, its type, zeros | tag |
//! ```
//!
//! A record is opened and sealed either in place or from one buffer into another, so that bytes that are carried on
//! are never copied for TLS alone. What a record may be is judged by its header, before its body is waited for; what
//! is inside counts only once its tag is right. [`crate::handshake::Session`] decides what the contents mean.

mod key;
mod open;
mod pieces;
mod seal;
mod secret;
#[cfg(test)]
mod tests;

pub use key::{Key, KeyError, Suite};
pub use open::{Opener, RecordError, length};
pub use pieces::Pieces;
pub use seal::{SealError, Sealer};
pub use secret::Secret;

/// Length of a record's header.
pub const HEADER_BYTES: usize = 5;
/// Most content of one record.
pub const MAX_CONTENT: usize = 1 << 14;
/// What a record that we seal has besides its content: header, type and tag.
pub const OVERHEAD: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// The longest record: padding and all.
pub const MAX_RECORD: usize = HEADER_BYTES + MAX_SEALED;

const TAG_BYTES: usize = 16;
/// Most that a header may announce (section 5.2).
const MAX_SEALED: usize = MAX_CONTENT + 256;

/// What a record carries. The handshake is over: there is no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Section 6.
    Alert,
    /// Section 4.6.
    Handshake,
    /// Bytes of the stream.
    Data,
}

impl Content {
    const fn code(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::Data),
            _ => None,
        }
    }
}

/// A header as it is sent, and authenticated: from outside every record is one of data, of version 1.2.
const fn header(sealed: u16) -> [u8; HEADER_BYTES] {
    let [high, low] = sealed.to_be_bytes();
    [Content::Data.code(), 3, 3, high, low]
}
