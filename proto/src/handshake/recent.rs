//! A bounded memory of what was found out about some bytes, by their SHA-256: what is asked for stays, what nobody asks
//! for goes.

use std::collections::HashMap;

use parking_lot::Mutex;

/// At most twice `half` values. When the younger half is full it becomes the older one, which is forgotten; what is asked
/// for in between moves back into the younger one.
///
/// The lock is held to look and to write, never while something is found out: two who ask at once both find it out.
#[derive(Debug)]
pub(super) struct Recent<V> {
    half: usize,
    halves: Mutex<Halves<V>>,
}

#[derive(Debug)]
struct Halves<V> {
    younger: HashMap<[u8; 32], V>,
    older: HashMap<[u8; 32], V>,
}

impl<V: Clone> Recent<V> {
    pub(super) fn new(half: usize) -> Self {
        let (younger, older) = (HashMap::new(), HashMap::new());
        Self { half, halves: Mutex::new(Halves { younger, older }) }
    }

    pub(super) fn get(&self, key: &[u8; 32]) -> Option<V> {
        let mut halves = self.halves.lock();
        if let Some(value) = halves.younger.get(key) {
            return Some(value.clone());
        }
        let value = halves.older.remove(key)?;
        let forgotten = halves.keep(self.half, *key, value.clone());
        drop((halves, forgotten));
        Some(value)
    }

    pub(super) fn put(&self, key: [u8; 32], value: V) {
        let forgotten = self.halves.lock().keep(self.half, key, value);
        drop(forgotten);
    }
}

impl<V> Halves<V> {
    /// What is forgotten is given back: to be dropped when nobody waits for it.
    fn keep(&mut self, half: usize, key: [u8; 32], value: V) -> HashMap<[u8; 32], V> {
        let mut forgotten = HashMap::new();
        if self.younger.len() >= half && !self.younger.contains_key(&key) {
            let younger = std::mem::replace(&mut self.younger, HashMap::with_capacity(half));
            forgotten = std::mem::replace(&mut self.older, younger);
        }
        self.younger.insert(key, value);
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u16) -> [u8; 32] {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        key
    }

    fn len(recent: &Recent<u16>) -> usize {
        let halves = recent.halves.lock();
        halves.younger.len() + halves.older.len()
    }

    #[test]
    fn memory_is_bounded_and_what_is_asked_for_stays() {
        let recent = Recent::new(8);
        recent.put(key(0), 0);
        for number in 1..1000 {
            recent.put(key(number), number);
            assert_eq!(recent.get(&key(0)), Some(0), "after {number}");
            assert_eq!(recent.get(&key(number)), Some(number));
            assert!(len(&recent) <= 16, "{} after {number}", len(&recent));
        }
        assert_eq!(recent.get(&key(1)), None);
    }

    #[test]
    fn same_key_again_drives_nothing_out() {
        let recent = Recent::new(2);
        recent.put(key(1), 1);
        for _ in 0..10 {
            recent.put(key(2), 2);
            recent.put(key(3), 3);
            recent.put(key(3), 4);
        }
        assert_eq!(recent.get(&key(3)), Some(4));
        assert!(len(&recent) <= 4);
    }
}
