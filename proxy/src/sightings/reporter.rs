//! From what was seen to reports: increments, numbered, one at a time. Without I/O: who sends them says how it went.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use signet_proto::v1;

use super::certificates::Seen;
use super::edge::{Cause, Caused, Counts, Edge, Increment};
use super::{Key, Sightings};

/// Of one report, as control takes it.
pub(super) const MOST_EDGES: usize = 256;
pub(super) const MOST_CERTIFICATES: usize = 256;
/// Names can be long: so many bytes of them, about, in one report.
const LARGEST: usize = 64 * 1024;

/// Makes the reports of this process.
pub(super) struct Reporter {
    run: [u8; 16],
    number: u64,
    pending: Option<Pending>,
}

/// A report that is not answered yet, and what of the tables is in it.
struct Pending {
    request: v1::ReportSightingsRequest,
    edges: Vec<(Arc<Edge>, Counts)>,
    certificates: Vec<(Arc<Seen>, u64)>,
}

impl Reporter {
    pub(super) fn new(run: [u8; 16]) -> Self {
        Self { run, number: 0, pending: None }
    }

    /// The report to send now: the one that was not answered, or one of what is new; `None` if nothing is.
    pub(super) fn next(
        &mut self,
        sightings: &Sightings,
        now: SystemTime,
    ) -> Option<v1::ReportSightingsRequest> {
        if self.pending.is_none() {
            self.pending = self.make(sightings, now);
        }
        self.pending.as_ref().map(|pending| pending.request.clone())
    }

    /// Control has counted it, or never will.
    pub(super) fn answered(&mut self, sightings: &Sightings, now: SystemTime) {
        let Some(Pending { edges, certificates, .. }) = self.pending.take() else { return };
        for (edge, counts) in edges {
            edge.answered(&counts);
        }
        for (seen, at) in certificates {
            seen.answered(at);
        }
        sightings.forget(now);
    }

    fn make(&mut self, sightings: &Sightings, now: SystemTime) -> Option<Pending> {
        let mut request = v1::ReportSightingsRequest { run: self.run.to_vec(), ..Default::default() };
        let (mut edges, mut size) = (Vec::new(), 0);
        for (key, edge) in sightings.edges() {
            if edges.len() == MOST_EDGES || size >= LARGEST {
                break;
            }
            let Some(increment) = edge.increment(now) else { continue };
            size += 64 + increment.counts.causes.len() * 160;
            if let Key::Caller(peer, _) | Key::Callee(peer, _) = &key {
                size += peer.as_str().len();
            }
            edges.push((edge, increment.counts.clone()));
            match key {
                Key::Caller(peer, port) => request.callers.push(caller(peer.as_str(), port, increment)),
                Key::Callee(peer, port) => request.callees.push(callee(peer.as_str(), port, increment)),
                Key::Plaintext(from, port) => request.plaintext.push(outsider(from, port, &increment)),
                Key::Stranger(to) => {
                    // Here our app is the one that calls.
                    let seen = outsider(to.ip(), to.port(), &increment);
                    let (bytes_in, bytes_out) = (seen.bytes_out, seen.bytes_in);
                    request.passed_through.push(v1::Outsider { bytes_in, bytes_out, ..seen });
                }
            }
        }
        let unreported = sightings.certificates.unreported(MOST_CERTIFICATES);
        let mut certificates = Vec::with_capacity(unreported.len());
        for ((issuer_sha256, serial), seen, at) in unreported {
            let issuer_sha256 = issuer_sha256.to_vec();
            request.certificates.push(v1::SeenCertificate { issuer_sha256, serial, last_at: time(at) });
            certificates.push((seen, at));
        }
        request.overflow = sightings.overflow.swap(0, Ordering::Relaxed);
        if edges.is_empty() && certificates.is_empty() && request.overflow == 0 {
            return None;
        }
        self.number += 1;
        request.number = self.number;
        Some(Pending { request, edges, certificates })
    }
}

fn caller(peer: &str, port: u16, increment: Increment) -> v1::Caller {
    let Increment { counts, protocol, first_at, last_at } = increment;
    let denials = counts.causes.into_iter().map(|(cause, caused)| denial(&cause, caused)).collect();
    v1::Caller {
        peer: peer.to_owned(),
        port: port.into(),
        protocol: protocol.into(),
        first_at: time(first_at),
        last_at: time(last_at),
        connections: counts.connections,
        requests: counts.requests,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
        denials,
    }
}

fn outsider(address: IpAddr, port: u16, increment: &Increment) -> v1::Outsider {
    let Increment { counts, protocol, first_at, last_at } = increment;
    v1::Outsider {
        address: address.to_string(),
        port: port.into(),
        protocol: (*protocol).into(),
        first_at: time(*first_at),
        last_at: time(*last_at),
        connections: counts.connections,
        requests: counts.requests,
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
        denied: counts.causes.values().map(|caused| caused.count).sum(),
    }
}

fn denial(cause: &Cause, caused: Caused) -> v1::Denial {
    let text = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    v1::Denial {
        policy: text(&cause.policy),
        rule: text(&cause.rule),
        reason: cause.reason.to_owned(),
        count: caused.count,
        last_at: time(caused.last_at),
    }
}

fn callee(peer: &str, port: u16, increment: Increment) -> v1::Callee {
    let failure = |(cause, caused): (Cause, Caused)| v1::Failure {
        reason: cause.reason.to_owned(),
        count: caused.count,
        last_at: time(caused.last_at),
    };
    v1::Callee {
        peer: peer.to_owned(),
        port: port.into(),
        first_at: time(increment.first_at),
        failures: increment.counts.causes.into_iter().map(failure).collect(),
    }
}

fn time(millis: u64) -> Option<Timestamp> {
    Some(Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(millis)))
}
