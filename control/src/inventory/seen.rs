//! The certificates that callers show to control itself: kept for a moment, and written down together. To a few
//! minutes, so that a busy instance costs a write now and then and not for each call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use signet_proto::handshake::PeerIdentity;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::CertificateName;
use crate::store::Store;

/// Beyond that, uses are not noted until others are forgotten.
const MOST: usize = 65_536;
/// How old the store's knowledge of a use may be.
const GRAIN: Duration = Duration::from_secs(300);
const GATHER: Duration = Duration::from_secs(1);
/// In one commit: everybody else has their turn between.
const BATCH: usize = 500;

/// What was shown lately.
#[derive(Debug, Default)]
pub struct Seen {
    table: Mutex<Table>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// When the use was handed on to be written.
    known: HashMap<CertificateName, SystemTime>,
    unwritten: Vec<(CertificateName, SystemTime)>,
}

impl Seen {
    /// A caller shows its certificate.
    pub fn note(&self, identity: &PeerIdentity, at: SystemTime) {
        let Some(leaf) = identity.handles.first() else { return };
        self.note_name(&(leaf.issuer_sha256, leaf.serial.clone()), at);
    }

    fn note_name(&self, name: &CertificateName, at: SystemTime) {
        let mut table = self.table.lock();
        let fresh = |written: &SystemTime| at.duration_since(*written).is_ok_and(|age| age < GRAIN);
        if table.known.get(name).is_some_and(fresh) {
            return;
        }
        if table.known.len() >= MOST {
            table.known.retain(|_, written| fresh(written));
        }
        if table.known.len() >= MOST || table.unwritten.len() >= MOST {
            return;
        }
        table.known.insert(name.clone(), at);
        table.unwritten.push((name.clone(), at));
        drop(table);
        self.news.notify_one();
    }

    fn take(&self) -> Vec<(CertificateName, SystemTime)> {
        let mut table = self.table.lock();
        let rest = table.unwritten.len().saturating_sub(BATCH);
        table.unwritten.split_off(rest)
    }
}

/// Writes down what was shown, until `stop`; and then once more. What cannot be written is shown again soon.
pub async fn write_seen(store: Store, seen: Arc<Seen>, stop: CancellationToken) {
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = seen.news.notified() => {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(GATHER) => {}
                }
                false
            }
        };
        loop {
            let batch = seen.take();
            if batch.is_empty() {
                break;
            }
            if let Err(error) = store.certificates_seen(batch).await {
                tracing::warn!(%error, "when certificates were seen is not written down");
                break;
            }
        }
        if stopped {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    #[test]
    fn use_is_written_at_once_and_then_every_few_minutes() {
        let (seen, name) = (Seen::default(), ([1; 32], vec![1]));
        let mut written = |seconds: u64| {
            seen.note_name(&name, time::from_millis(1_000_000) + Duration::from_secs(seconds));
            seen.take().len()
        };
        assert_eq!([0, 1, 299, 300, 301, 700].map(&mut written), [1, 0, 0, 1, 0, 1]);
    }

    #[test]
    fn table_is_bounded_and_makes_room() {
        let seen = Seen::default();
        let at = time::from_millis(1_000_000);
        for number in 0..MOST + 10 {
            seen.note_name(&([1; 32], number.to_be_bytes().to_vec()), at);
        }
        assert_eq!(seen.table.lock().known.len(), MOST);
        while !seen.take().is_empty() {}
        seen.note_name(&([2; 32], vec![1]), at + GRAIN);
        assert_eq!(seen.table.lock().known.len(), 1);
        assert_eq!(seen.take().len(), 1);
    }
}
