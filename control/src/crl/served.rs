//! The newest lists as this replica gives them out: those of the store, byte for byte, held in memory, so that whoever
//! fetches them costs the store nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{LIFE, ListsUrl};
use crate::duration;
use crate::store::model::{Crl, CrlHead};
use crate::store::{Store, StoreError};

/// Where the list of a file is: `<authority>.crl`, `<authority>-delta.crl`.
const EXTENSION: &str = ".crl";
const DELTA: &str = "-delta";

/// What is given out, and when there is more. Shared.
#[derive(Debug)]
pub struct Lists {
    every: Duration,
    url: Option<ListsUrl>,
    newest: ArcSwap<BTreeMap<String, Served>>,
    looked: Mutex<Option<Instant>>,
}

/// A list as it is given out.
#[derive(Debug, Clone)]
pub struct Document {
    /// DER.
    pub bytes: Bytes,
    /// The SHA-256 of those, in hex.
    pub sha256: String,
    /// When it was made.
    pub made: SystemTime,
    /// For how long nobody needs to ask again.
    pub fresh: Duration,
}

#[derive(Debug, Clone)]
struct Served {
    head: CrlHead,
    complete: List,
    delta: List,
}

#[derive(Debug, Clone)]
struct List {
    bytes: Bytes,
    sha256: String,
}

impl Lists {
    /// Made so often, and named by certificates below `url`.
    #[must_use]
    pub fn new(every: Duration, url: Option<ListsUrl>) -> Self {
        Self { every, url, newest: ArcSwap::default(), looked: Mutex::new(None) }
    }

    /// Where others find them.
    #[must_use]
    pub fn url(&self) -> Option<&ListsUrl> {
        self.url.as_ref()
    }

    /// Whether it is time to look what the lists lack. Asked for by the leader, once for each time.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        let mut looked = self.looked.lock();
        let due = looked.is_none_or(|looked| now.saturating_duration_since(looked) >= self.every);
        if due {
            *looked = Some(now);
        }
        due
    }

    /// Takes in what the store has.
    ///
    /// # Errors
    /// When it cannot be read: what was taken in before is given out still.
    pub async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let (current, heads) = (self.newest.load_full(), store.crl_heads().await?);
        if heads.iter().eq(current.values().map(|served| &served.head)) {
            return Ok(());
        }
        let mut newest = BTreeMap::new();
        for head in heads {
            let served = match current.get(&head.authority).filter(|served| served.head == head) {
                Some(served) => Some(served.clone()),
                None => store.crl(head.authority.clone()).await?.map(Served::from),
            };
            newest.extend(served.map(|served| (head.authority, served)));
        }
        self.newest.store(Arc::new(newest));
        Ok(())
    }

    /// The list in the file of this name.
    #[must_use]
    pub fn document(&self, file: &str, now: SystemTime) -> Option<Document> {
        let name = file.strip_suffix(EXTENSION)?;
        let (authority, is_delta) =
            name.strip_suffix(DELTA).map_or((name, false), |authority| (authority, true));
        let newest = self.newest.load();
        let Served { head, complete, delta } = newest.get(authority)?;
        let List { bytes, sha256 } = if is_delta { delta } else { complete };
        let left = head.next_update.duration_since(now).unwrap_or_default();
        Some(Document {
            bytes: bytes.clone(),
            sha256: sha256.clone(),
            made: head.this_update,
            fresh: self.every.min(left),
        })
    }

    /// When the oldest of them was made, and the first of them ends; none if there are none.
    #[must_use]
    pub fn times(&self) -> Option<(SystemTime, SystemTime)> {
        let newest = self.newest.load();
        let made = newest.values().map(|served| served.head.this_update).min()?;
        Some((made, newest.values().map(|served| served.head.next_update).min()?))
    }

    /// How many bytes the complete lists have.
    #[must_use]
    pub fn size(&self) -> usize {
        self.newest.load().values().map(|served| served.complete.bytes.len()).sum()
    }

    /// Lists that should have been replaced.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let newest = self.newest.load();
        let late = newest.values().filter_map(|Served { head, .. }| {
            let authority = &head.authority;
            match head.next_update.duration_since(now) {
                Ok(left) if left > LIFE / 2 => None,
                Ok(left) if !left.is_zero() => Some(format!(
                    "the revocation list of authority {authority} should have been replaced and ends in {}",
                    duration::rough(left)
                )),
                _ => Some(format!(
                    "the revocation list of authority {authority} has ended: whoever checks it refuses what that signed"
                )),
            }
        });
        late.collect()
    }
}

impl From<Crl> for Served {
    fn from(Crl { head, complete, delta, .. }: Crl) -> Self {
        Self { head, complete: complete.into(), delta: delta.into() }
    }
}

impl From<Vec<u8>> for List {
    fn from(bytes: Vec<u8>) -> Self {
        Self { sha256: crate::hex::encode(&crate::sha256(&bytes)), bytes: bytes.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    fn lists(now: SystemTime) -> Lists {
        let lists = Lists::new(Duration::from_secs(60), None);
        let head = CrlHead { authority: "ab".into(), number: 7, this_update: now, next_update: now + LIFE };
        let served =
            Served { head, complete: List::from(b"whole".to_vec()), delta: List::from(b"part".to_vec()) };
        lists.newest.store(Arc::new(BTreeMap::from([("ab".into(), served)])));
        lists
    }

    #[test]
    fn files_are_found_by_name_and_are_fresh_until_they_end() {
        let now = time::now();
        let lists = lists(now);
        let document = lists.document("ab.crl", now).unwrap();
        assert_eq!((&document.bytes[..], document.fresh), (&b"whole"[..], Duration::from_secs(60)));
        assert_eq!(&lists.document("ab-delta.crl", now).unwrap().bytes[..], b"part");
        let late = lists.document("ab.crl", now + LIFE - Duration::from_secs(5)).unwrap();
        assert_eq!(late.fresh, Duration::from_secs(5));
        assert_eq!(lists.document("ab.crl", now + 2 * LIFE).unwrap().fresh, Duration::ZERO);
        for other in ["ab", "cd.crl", ".crl", "ab-delta", "ab.crl.crl", "-delta.crl"] {
            assert!(lists.document(other, now).is_none(), "{other}");
        }
    }

    #[test]
    fn a_list_that_is_not_replaced_is_warned_of_before_it_ends() {
        let now = time::now();
        let lists = lists(now);
        assert!(lists.warnings(now + Duration::from_secs(3600)).is_empty());
        assert!(lists.warnings(now + LIFE * 3 / 4)[0].contains("should have been replaced"));
        assert!(lists.warnings(now + LIFE)[0].contains("has ended"));
        let at = Instant::now();
        assert!(lists.is_due(at) && !lists.is_due(at) && lists.is_due(at + Duration::from_secs(60)));
    }
}
