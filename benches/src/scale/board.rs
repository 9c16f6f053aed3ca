//! What each simulated proxy was told, as numbers that anybody may read while it is told more.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prost::Message as _;
use signet_proto::v1::WatchResponse;

/// One proxy's place.
#[derive(Debug, Default)]
pub(super) struct Slot {
    messages: AtomicU64,
    bytes: AtomicU64,
    revision: AtomicU64,
    endpoints: AtomicU64,
    documents: AtomicU64,
    /// When its newest message came, and the first one of its newest stream: nanoseconds since the epoch.
    told_at: AtomicU64,
    whole_at: AtomicU64,
    wholes: AtomicU64,
    fault: OnceLock<String>,
}

impl Slot {
    /// A message came, the first of its stream or a further one.
    pub(super) fn told(&self, message: &WatchResponse, first: bool, at: SystemTime) {
        let at = nanoseconds(at);
        let whole = message.bundles.is_some()
            && message.policies.is_some()
            && message.revocations.is_some()
            && message.services.is_some();
        if first && !whole {
            self.found_wrong("the first message of a stream was not whole".to_owned());
        }
        let before = self.revision.swap(message.revision, Ordering::Relaxed);
        if message.revision < before {
            self.found_wrong(format!("revision {} came after {before}", message.revision));
        }
        if let Some(services) = &message.services {
            let found = services.services.iter().filter(|service| !service.endpoints.is_empty()).count();
            self.endpoints.store(found as u64, Ordering::Relaxed);
        }
        if let Some(changes) = &message.service_changes {
            // Each simulated proxy is one instance of its own identity.
            let come = changes.changes.iter().filter(|change| !change.added.is_empty());
            let new = come.filter(|change| change.removed.is_empty()).count();
            self.endpoints.fetch_add(new as u64, Ordering::Relaxed);
            let gone = changes.changes.iter().filter(|change| change.added.is_empty()).count();
            self.endpoints.fetch_sub(gone as u64, Ordering::Relaxed);
        }
        if let Some(policies) = &message.policies {
            self.documents.store(policies.documents.len() as u64, Ordering::Relaxed);
        }
        self.bytes.store(message.encoded_len() as u64, Ordering::Relaxed);
        self.told_at.store(at, Ordering::Relaxed);
        if first {
            self.whole_at.store(at, Ordering::Relaxed);
            self.wholes.fetch_add(1, Ordering::Release);
        }
        // Last: who sees the count sees all that belongs to it.
        self.messages.fetch_add(1, Ordering::Release);
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Acquire)
    }

    /// First messages of streams.
    pub(super) fn wholes(&self) -> u64 {
        self.wholes.load(Ordering::Acquire)
    }

    /// The size of the newest message.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Upstreams that have an endpoint.
    pub(super) fn endpoints(&self) -> u64 {
        self.endpoints.load(Ordering::Relaxed)
    }

    /// Policy documents.
    pub(super) fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }

    /// From `start` to the newest message; 0 if that was before.
    pub(super) fn told_after(&self, start: SystemTime) -> Duration {
        since(start, self.told_at.load(Ordering::Relaxed))
    }

    /// From `start` to the first message of the newest stream.
    pub(super) fn whole_after(&self, start: SystemTime) -> Duration {
        since(start, self.whole_at.load(Ordering::Relaxed))
    }

    /// The first thing that control must not have said.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    fn found_wrong(&self, what: String) {
        // Only the first is told.
        let _ = self.fault.set(what);
    }
}

fn since(start: SystemTime, at: u64) -> Duration {
    Duration::from_nanos(at.saturating_sub(nanoseconds(start)))
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use signet_proto::v1;

    use super::*;

    fn whole(revision: u64) -> WatchResponse {
        WatchResponse {
            revision,
            bundles: Some(v1::Bundles::default()),
            policies: Some(v1::Policies { documents: vec!["{}".into()] }),
            revocations: Some(v1::Revocations::default()),
            services: Some(v1::Services::default()),
            ..WatchResponse::default()
        }
    }

    #[test]
    fn what_was_told_is_counted_and_dated() {
        let (slot, start) = (Slot::default(), signet_proto::clock::now());
        slot.told(&whole(3), true, start + Duration::from_millis(5));
        let change = WatchResponse { revision: 4, ..WatchResponse::default() };
        slot.told(&change, false, start + Duration::from_millis(9));
        assert_eq!((slot.messages(), slot.wholes(), slot.revision(), slot.documents()), (2, 1, 4, 1));
        assert_eq!(slot.whole_after(start), Duration::from_millis(5));
        assert_eq!(slot.told_after(start), Duration::from_millis(9));
        assert_eq!(slot.fault(), None);
    }

    #[test]
    fn half_a_first_message_and_a_step_back_are_faults() {
        let now = signet_proto::clock::now();
        let half = Slot::default();
        half.told(&WatchResponse { services: None, ..whole(1) }, true, now);
        assert!(half.fault().unwrap().contains("not whole"));
        let back = Slot::default();
        back.told(&whole(2), true, now);
        back.told(&whole(1), false, now);
        assert!(back.fault().unwrap().contains("revision 1 came after 2"));
    }
}
