//! What is to be sealed, in as many pieces as it lies in.

use std::io::IoSlice;

/// Bytes to seal, from their beginning to their end.
#[derive(Debug)]
pub struct Pieces<'a> {
    slices: &'a [IoSlice<'a>],
    /// Of the first slice, so many are taken.
    taken: usize,
    left: usize,
}

impl<'a> Pieces<'a> {
    /// All of `slices`.
    #[must_use]
    pub fn new(slices: &'a [IoSlice<'a>]) -> Self {
        Self { slices, taken: 0, left: slices.iter().map(|slice| slice.len()).sum() }
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.left
    }

    /// The next `length` bytes, if they lie in one piece.
    pub(super) fn whole(&mut self, length: usize) -> Option<&'a [u8]> {
        let piece = self.front().get(..length)?;
        self.take(length);
        Some(piece)
    }

    /// Copies the next bytes to `out`, which is not longer than what is left.
    pub(super) fn copy(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() && self.left > 0 {
            let front = self.front();
            let count = front.len().min(out.len());
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(front.get(..count).unwrap_or_default());
            self.take(count);
            out = later;
        }
    }

    /// What is left of the first slice that has anything left.
    fn front(&mut self) -> &'a [u8] {
        while let Some((first, rest)) = self.slices.split_first() {
            match first.get(self.taken..) {
                Some(front) if !front.is_empty() => return front,
                _ => (self.slices, self.taken) = (rest, 0),
            }
        }
        &[]
    }

    fn take(&mut self, count: usize) {
        self.taken += count;
        self.left -= count;
    }
}
