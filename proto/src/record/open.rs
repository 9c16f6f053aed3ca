//! Records of the peer: what they are by their header, and what is in them.

use aws_lc_rs::aead::Aad;

use super::{Content, HEADER_BYTES, Key, MAX_CONTENT, MAX_SEALED, TAG_BYTES};

/// A record that is none. Nothing of it counts, and the connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// In the clear, or of no type that there is: after the handshake all records are sealed.
    #[error("record of type {0}: expected 23, as the handshake is over")]
    Type(u8),
    /// Longer than any may be.
    #[error("record of {0} bytes: expected at most {MAX_SEALED}")]
    Overflow(usize),
    /// Too short for a type and a tag, forged, damaged, repeated or out of order.
    #[error("record cannot be opened: it was changed on its way, or sealed with another key")]
    Forged,
    /// Nothing but padding, or of a type that may not be sealed.
    #[error("sealed record of type {0}: expected 21, 22 or 23")]
    Content(u8),
    /// Every number was used, or the library failed.
    #[error("no more records can be opened with this key")]
    Exhausted,
}

/// How long the record is that `bytes` begin with, header and all; none until the header is there.
///
/// # Errors
/// When no record may have that header.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if kind != Content::Data.code() {
        return Err(RecordError::Type(kind));
    }
    let Some(&[_, _, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let sealed = usize::from(u16::from_be_bytes([high, low]));
    if sealed > MAX_SEALED {
        return Err(RecordError::Overflow(sealed));
    }
    if sealed <= TAG_BYTES {
        return Err(RecordError::Forged);
    }
    Ok(Some(HEADER_BYTES + sealed))
}

/// Opens the records of one direction, in their order.
#[derive(Debug)]
pub struct Opener {
    key: Key,
}

impl Opener {
    /// From the record that the key goes on with.
    #[must_use]
    pub const fn new(key: Key) -> Self {
        Self { key }
    }

    /// Gives back what the next record has made again: nothing came for a while.
    pub fn rest(&mut self) {
        self.key.rest();
    }

    /// How much room [`Opener::open`] needs for a record of this length: its content, type and padding.
    #[must_use]
    pub const fn room(record: usize) -> usize {
        record.saturating_sub(HEADER_BYTES + TAG_BYTES)
    }

    /// Opens a whole record into the beginning of `out`: what it is, and the length of its content. What follows the
    /// content in `out` is of no use.
    ///
    /// # Errors
    /// When it is not the next record of the peer, or `out` has less than [`Opener::room`].
    pub fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<(Content, usize), RecordError> {
        let (associated, sealed) = body(record)?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG_BYTES>().ok_or(RecordError::Forged)?;
        let out = out.get_mut(..sealed.len()).ok_or(RecordError::Overflow(sealed.len()))?;
        let (aead, nonce) = self.key.next().ok_or(RecordError::Exhausted)?;
        let opened = aead.open_separate_gather(nonce, Aad::from(associated), sealed, tag, out);
        opened.map_err(|_| RecordError::Forged)?;
        inside(out)
    }

    /// Opens a whole record where it is: what it is, and the length of its content, which begins at
    /// [`HEADER_BYTES`].
    ///
    /// # Errors
    /// When it is not the next record of the peer.
    pub fn open_in_place(&mut self, record: &mut [u8]) -> Result<(Content, usize), RecordError> {
        let (associated, _) = body(record)?;
        let sealed = record.get_mut(HEADER_BYTES..).unwrap_or_default();
        let (aead, nonce) = self.key.next().ok_or(RecordError::Exhausted)?;
        let opened = aead.open_in_place(nonce, Aad::from(associated), sealed);
        inside(opened.map_err(|_| RecordError::Forged)?)
    }
}

/// The header that must have been authenticated, and the rest.
fn body(record: &[u8]) -> Result<([u8; HEADER_BYTES], &[u8]), RecordError> {
    let sealed = record.get(HEADER_BYTES..).unwrap_or_default();
    if length(record)? != Some(record.len()) {
        return Err(RecordError::Forged);
    }
    // As it came: of its version nothing else is asked (section 5.1), and another one is another record.
    let associated = record.first_chunk().copied().ok_or(RecordError::Forged)?;
    Ok((associated, sealed))
}

/// Section 5.4: the last byte that is not zero is the type.
fn inside(opened: &[u8]) -> Result<(Content, usize), RecordError> {
    let length = opened.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Content(0))?;
    let code = opened.get(length).copied().unwrap_or_default();
    let content = Content::from_code(code).ok_or(RecordError::Content(code))?;
    // Content, type and padding together may be one byte longer than the longest content (section 5.4).
    if opened.len() > MAX_CONTENT + 1 {
        return Err(RecordError::Overflow(opened.len()));
    }
    Ok((content, length))
}
