//! Our records.

use aws_lc_rs::aead::Aad;

use super::{Content, HEADER_BYTES, Key, MAX_CONTENT, OVERHEAD, Pieces, TAG_BYTES, header};

/// No record could be made. Nothing of `out` is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A record of this content is longer than may be, or than the room for it.
    #[error("no room for a record of {0} bytes")]
    Room(usize),
    /// The key has sealed as many records as it may, or the library failed.
    #[error("the key is exhausted")]
    Exhausted,
}

/// Seals the records of one direction, in their order.
#[derive(Debug)]
pub struct Sealer {
    key: Key,
}

impl Sealer {
    /// From the record that the key goes on with.
    #[must_use]
    pub const fn new(key: Key) -> Self {
        Self { key }
    }

    /// How many records the key has sealed.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.key.records()
    }

    /// Gives back what the next record has made again: nothing was sent for a while.
    pub fn rest(&mut self) {
        self.key.rest();
    }

    /// Makes one record of the next bytes of `pieces`, as many as fit it and `out`, at the beginning of `out`: its
    /// length.
    ///
    /// # Errors
    /// When there is no room for a single byte, or the key is exhausted.
    pub fn seal_next(&mut self, pieces: &mut Pieces<'_>, out: &mut [u8]) -> Result<usize, SealError> {
        let length = pieces.left().min(MAX_CONTENT).min(out.len().saturating_sub(OVERHEAD));
        if length == 0 {
            return Err(SealError::Room(pieces.left()));
        }
        match pieces.whole(length) {
            Some(content) => self.seal(Content::Data, content, out),
            None => {
                pieces.copy(out.get_mut(HEADER_BYTES..HEADER_BYTES + length).unwrap_or_default());
                self.seal_in_place(Content::Data, length, out)
            }
        }
    }

    /// Makes a record of `content` at the beginning of `out`: its length.
    ///
    /// # Errors
    /// When it does not fit, or the key is exhausted.
    pub fn seal(&mut self, kind: Content, content: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        let parts = parts(content.len(), out)?;
        let (aead, nonce) = self.key.next().ok_or(SealError::Exhausted)?;
        let (body, tail) = (parts.body, parts.tail);
        let sealed = aead.seal_out_of_place_scatter(
            nonce,
            Aad::from(parts.header),
            content,
            body,
            &[kind.code()],
            tail,
        );
        sealed.map(|()| content.len() + OVERHEAD).map_err(|_| SealError::Exhausted)
    }

    /// Makes a record of the `length` bytes that begin at [`HEADER_BYTES`] of `out`, where they are: its length.
    ///
    /// # Errors
    /// When it does not fit, or the key is exhausted.
    pub fn seal_in_place(
        &mut self,
        kind: Content,
        length: usize,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let parts = parts(length, out)?;
        let (aead, nonce) = self.key.next().ok_or(SealError::Exhausted)?;
        let (body, tail) = (parts.body, parts.tail);
        let associated = Aad::from(parts.header);
        let sealed = aead.seal_in_place_scatter(nonce, associated, body, &[kind.code()], tail);
        sealed.map(|()| length + OVERHEAD).map_err(|_| SealError::Exhausted)
    }
}

struct Parts<'a> {
    header: [u8; HEADER_BYTES],
    body: &'a mut [u8],
    /// The type and the tag.
    tail: &'a mut [u8],
}

/// Writes the header of a record with that much content.
fn parts(length: usize, out: &mut [u8]) -> Result<Parts<'_>, SealError> {
    let room = SealError::Room(length);
    if length > MAX_CONTENT {
        return Err(room);
    }
    let sealed = u16::try_from(length + 1 + TAG_BYTES).map_err(|_| room)?;
    let (first, rest) = out.split_first_chunk_mut::<HEADER_BYTES>().ok_or(room)?;
    *first = header(sealed);
    let (body, rest) = rest.split_at_mut_checked(length).ok_or(room)?;
    let tail = rest.get_mut(..1 + TAG_BYTES).ok_or(room)?;
    Ok(Parts { header: header(sealed), body, tail })
}
