//! A small body that is remembered while it is sent, so that a request that nobody looked at, or that may be sent
//! twice, can be sent again from the beginning.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Longer bodies are sent once.
const MOST_BYTES: usize = 64 * 1024;

/// What was sent of a body.
#[derive(Debug, Clone, Default)]
pub(super) struct Replay(Arc<Mutex<Recorded>>);

#[derive(Debug, Default)]
struct Recorded {
    parts: Vec<Bytes>,
    bytes: usize,
    whole: bool,
    /// It was too long, or had trailers.
    lost: bool,
}

impl Replay {
    /// A part is sent.
    pub(super) fn sent(&self, part: &Bytes) {
        let mut recorded = self.0.lock();
        recorded.bytes = recorded.bytes.saturating_add(part.len());
        if recorded.lost || recorded.bytes > MOST_BYTES {
            *recorded = Recorded { lost: true, ..Recorded::default() };
        } else {
            recorded.parts.push(part.clone());
        }
    }

    /// It cannot be repeated.
    pub(super) fn lose(&self) {
        *self.0.lock() = Recorded { lost: true, ..Recorded::default() };
    }

    /// That was all of it.
    pub(super) fn ended(&self) {
        self.0.lock().whole = true;
    }

    /// All of it, if all is known.
    pub(super) fn whole(&self) -> Option<Bytes> {
        let recorded = self.0.lock();
        if !recorded.whole || recorded.lost {
            return None;
        }
        if let [only] = recorded.parts.as_slice() {
            return Some(only.clone());
        }
        let mut all = BytesMut::with_capacity(recorded.bytes);
        recorded.parts.iter().for_each(|part| all.extend_from_slice(part));
        Some(all.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_and_small_is_repeated() {
        let replay = Replay::default();
        replay.sent(&Bytes::from_static(b"ab"));
        assert_eq!(replay.whole(), None, "there may be more");
        replay.sent(&Bytes::from_static(b"c"));
        replay.ended();
        assert_eq!(replay.whole(), Some(Bytes::from_static(b"abc")));
        let large = Replay::default();
        for _ in 0..3 {
            large.sent(&Bytes::from(vec![0; MOST_BYTES / 2]));
        }
        large.ended();
        assert_eq!(large.whole(), None);
    }
}
