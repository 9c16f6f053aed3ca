//! Whether control can serve, and what is going to keep it from that: for `/readyz` and `signet status`, said before
//! anything breaks. What is said to probes names no cause that a stranger could use; the log does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::https::CertificateFiles;
use super::tls::OwnIdentity;
use crate::audit::Exports;
use crate::ca::Authority;
use crate::crl::Lists;
use crate::duty::DutyRecord;
use crate::federation::Federations;
use crate::publish::{MeshState, WentBack};
use crate::store::{Restricted, Store};
use crate::{duration, time};

const STORE_DEADLINE: Duration = Duration::from_secs(2);
/// From here on it is said that the root is about to end.
const ROOT_WARNING: Duration = Duration::from_secs(90 * 24 * 3600);
/// The database is asked every two seconds.
const UNHEARD: Duration = Duration::from_secs(10);
/// What a certificate's start is backdated by, and more than the way to the database.
const CLOCK_MS: u64 = 3_000;
/// One part in so many of a disk has to be free,
const LEAST_PART: u64 = 20;
/// but at least so much of a small one,
const LEAST_ROOM: u64 = 64 * 1024 * 1024;
/// and no more than this of a large one: control fills it in weeks.
const ENOUGH_ROOM: u64 = 2 * 1024 * 1024 * 1024;

/// What it is read from. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    /// Durable state.
    pub store: Store,
    /// Signing keys.
    pub authority: Arc<Authority>,
    /// Control's own SVID.
    pub own: Arc<OwnIdentity>,
    /// What the HTTPS listener shows, if there is one.
    pub https: Option<Arc<CertificateFiles>>,
    /// Other trust domains.
    pub federations: Federations,
    /// Revocation lists.
    pub lists: Arc<Lists>,
    /// Copies of the audit.
    pub exports: Exports,
    /// What control does by itself.
    pub duties: DutyRecord,
    /// What may run full.
    pub data_dir: PathBuf,
    /// What proxies are told.
    pub state: watch::Receiver<Arc<MeshState>>,
}

impl Health {
    /// Why it cannot serve; nothing if it can.
    pub async fn missing(&self, now: SystemTime) -> Vec<String> {
        let mut missing = Vec::new();
        match tokio::time::timeout(STORE_DEADLINE, self.store.counts(now)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "not ready: the store cannot be read");
                missing.push("store: cannot be read; the log says why".to_owned());
            }
            Err(_) => missing.push("store: no answer in time".to_owned()),
        }
        let intermediate = self.authority.intermediate();
        for (what, ends) in [
            ("root", self.authority.root().not_after()),
            ("intermediate", intermediate.certified().not_after()),
            ("own SVID", self.own.not_after()),
        ] {
            if ends <= now {
                missing.push(format!("{what}: ended {}", time::rfc3339(ends)));
            }
        }
        if !self.authority.tokens_in_trouble().is_empty() {
            missing.push("token: keys of authorities cannot be used; the log says why".to_owned());
        }
        missing
    }

    /// What will break unless somebody does something.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let mut warnings = Vec::new();
        let left = self.authority.root().not_after().duration_since(now).unwrap_or_default();
        if left < ROOT_WARNING {
            warnings.push(format!("the root ends in {}", duration::rough(left)));
        }
        for (what, due, ends) in [
            (
                "intermediate",
                self.authority.rotation_due(),
                self.authority.intermediate().certified().not_after(),
            ),
            ("root", self.authority.root_due(), self.authority.root().not_after()),
            ("own SVID", self.own.rotation_due(), self.own.not_after()),
        ] {
            warnings.extend(late(what, due, ends, now));
        }
        warnings.extend(self.authority.warnings(now));
        warnings.extend(self.federations.warnings());
        warnings.extend(self.authority.tokens_in_trouble().iter().map(ToString::to_string));
        warnings.extend(self.https.as_ref().and_then(|files| files.warning(now)));
        warnings.extend(self.lists.warnings(now));
        for (duty, since) in self.duties.overdue(Instant::now()) {
            let since = duration::rough(since);
            warnings.push(format!("the duty `{duty}` has not succeeded for {since}; the log says why"));
        }
        warnings.extend(self.store.unheard_for().and_then(unheard));
        warnings.extend(self.store.clock_ahead_ms().and_then(clock));
        if let Ok(place) = rustix::fs::statvfs(&self.data_dir) {
            warnings.extend(room(place.f_bavail * place.f_frsize, place.f_blocks * place.f_frsize));
        }
        warnings.extend(self.state.borrow().went_back.map(lost));
        warnings.extend(self.exports.warnings(now));
        warnings
    }

    /// Where issuance is frozen; nothing if that cannot be read now.
    pub async fn frozen(&self) -> Vec<String> {
        let restrictions = tokio::time::timeout(STORE_DEADLINE, self.store.restrictions()).await;
        let restrictions = restrictions.ok().and_then(Result::ok).unwrap_or_default();
        restrictions.iter().filter_map(Restricted::frozen).collect()
    }
}

/// What should have been replaced, when half of the time for it is over.
fn late(what: &str, due: SystemTime, ends: SystemTime, now: SystemTime) -> Option<String> {
    let patience = ends.duration_since(due).unwrap_or_default() / 2;
    (now > due + patience).then(|| {
        let left = duration::rough(ends.duration_since(now).unwrap_or_default());
        format!("the {what} should have been replaced and ends in {left}")
    })
}

fn lost(WentBack { from, to, at }: WentBack) -> String {
    let at = time::rfc3339(at);
    format!(
        "the database went back from revision {from} to {to} at {at}: what was changed or revoked in between is lost; \
         compare with a copy of the audit, then restart control"
    )
}

fn unheard(since: Duration) -> Option<String> {
    (since > UNHEARD).then(|| format!("the database has not answered for {}", duration::rough(since)))
}

fn clock(ahead_ms: i64) -> Option<String> {
    (ahead_ms.unsigned_abs() > CLOCK_MS).then(|| {
        let seconds = ahead_ms.unsigned_abs() / 1000;
        let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
        format!("this machine's clock is {seconds} s {way} the database's: certificates begin and end by it")
    })
}

fn room(free: u64, all: u64) -> Option<String> {
    (free < (all / LEAST_PART).clamp(LEAST_ROOM, ENOUGH_ROOM)).then(|| {
        let megabytes = free / (1024 * 1024);
        format!("the disk of the data directory is nearly full: {megabytes} MiB left")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_said_while_there_is_time() {
        let (due, ends) = (time::now(), time::now() + Duration::from_secs(7200));
        assert_eq!(late("root", due, ends, due), None);
        assert_eq!(late("root", due, ends, due + Duration::from_secs(3600)), None);
        let told = late("root", due, ends, due + Duration::from_secs(3700)).unwrap();
        assert!(told.contains("the root should have been replaced"), "{told}");
    }

    #[test]
    fn clocks_may_differ_a_little_in_either_direction() {
        assert_eq!((clock(0), clock(3_000), clock(-3_000)), (None, None, None));
        assert!(clock(4_200).unwrap().contains("4 s ahead of"));
        assert!(clock(-90_000).unwrap().contains("90 s behind"));
    }

    #[test]
    fn database_and_disk_are_warned_of_before_they_are_gone() {
        assert_eq!(unheard(Duration::from_secs(4)), None);
        assert!(unheard(Duration::from_secs(30)).is_some());
        let gigabyte = 1024 * 1024 * 1024;
        assert_eq!(room(gigabyte, 10 * gigabyte), None);
        assert!(room(gigabyte, 100 * gigabyte).is_some());
        assert_eq!(room(3 * gigabyte, 100 * gigabyte), None);
        assert!(room(gigabyte / 1024, gigabyte / 512).unwrap().contains("1 MiB left"));
    }
}
