//! Buffers that are lent: a connection has one only while there are bytes in it. They are kept for the next one by
//! the worker that got them back, a few of them, and the large ones are counted: whoever comes when too many are out
//! gets a small one and takes longer. So who stops reading, or sends half a record, does not have much of our memory.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use signet_proto::record::{MAX_CONTENT, MAX_RECORD, OVERHEAD};

/// Any one record.
pub const SMALL: usize = MAX_RECORD + 27;
/// Eight records of ours, and a key update.
pub const LARGE: usize = 8 * (MAX_CONTENT + OVERHEAD) + 27;
/// Large ones that are out at a time, in all of the process: 32 MB.
const MOST_LARGE: usize = 256;
/// What a worker keeps of each size.
const KEPT: usize = 4;

static LARGE_OUT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static KEEP: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// [`SMALL`].
    Small,
    /// [`LARGE`], if there is one.
    Large,
    /// Of nobody else, before and after.
    Own,
}

/// Some bytes of anybody who had it before; never uninitialised.
pub struct Buffer {
    bytes: Box<[u8]>,
    size: Size,
}

impl Buffer {
    /// A buffer of that size, or a small one.
    #[must_use]
    pub fn lend(size: Size) -> Self {
        match size {
            Size::Large if LARGE_OUT.fetch_add(1, Ordering::Relaxed) >= MOST_LARGE => {
                LARGE_OUT.fetch_sub(1, Ordering::Relaxed);
                Self::kept(Size::Small)
            }
            size => Self::kept(size),
        }
    }

    /// One that holds so much, and is not lent again.
    #[must_use]
    pub fn own(length: usize) -> Self {
        Self { bytes: vec![0; length].into_boxed_slice(), size: Size::Own }
    }

    /// What it is.
    #[must_use]
    pub const fn size(&self) -> Size {
        self.size
    }

    fn kept(size: Size) -> Self {
        let kept = KEEP.try_with(|keep| {
            let [small, large] = &mut *keep.borrow_mut();
            match size {
                Size::Small => small.pop(),
                Size::Large => large.pop(),
                Size::Own => None,
            }
        });
        let bytes = kept.ok().flatten().unwrap_or_else(|| {
            let length = match size {
                Size::Small | Size::Own => SMALL,
                Size::Large => LARGE,
            };
            vec![0; length].into_boxed_slice()
        });
        Self { bytes, size }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.size == Size::Own {
            return;
        }
        if self.size == Size::Large {
            LARGE_OUT.fetch_sub(1, Ordering::Relaxed);
        }
        let bytes = std::mem::take(&mut self.bytes);
        // A worker that ends has no use for it.
        let _ = KEEP.try_with(|keep| {
            let [small, large] = &mut *keep.borrow_mut();
            let kept = match self.size {
                Size::Small | Size::Own => small,
                Size::Large => large,
            };
            if kept.len() < KEPT {
                kept.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({:?})", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_lent_again_and_little_is_kept() {
        std::thread::spawn(|| {
            let mut marked = Buffer::lend(Size::Small);
            marked[0] = 42;
            drop(marked);
            assert_eq!(Buffer::lend(Size::Small)[0], 42);
            let many: Vec<_> = (0..10 * KEPT).map(|_| Buffer::lend(Size::Small)).collect();
            drop(many);
            KEEP.with(|keep| assert_eq!(keep.borrow()[0].len(), KEPT));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn large_ones_are_bounded() {
        let many: Vec<_> = (0..2 * MOST_LARGE).map(|_| Buffer::lend(Size::Large)).collect();
        let large = many.iter().filter(|buffer| buffer.len() == LARGE).count();
        assert!(large <= MOST_LARGE && large > 0, "{large}");
        assert!(many.iter().all(|buffer| buffer.len() >= SMALL));
        drop(many);
        assert!(LARGE_OUT.load(Ordering::Relaxed) < MOST_LARGE);
    }
}
