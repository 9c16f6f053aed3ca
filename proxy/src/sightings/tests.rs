//! Whatever is lost on the way, control's counts are what happened, and never more.

use std::collections::HashMap;

use proptest::prelude::*;
use signet_proto::spiffe::CertificateHandle;
use signet_proto::v1::ReportSightingsRequest;

use super::edge::MOST_CAUSES;
use super::reporter::{MOST_EDGES as MOST_REPORTED, Reporter};
use super::*;
use crate::telemetry::{Meters, Protocol};

/// What counts, by peer: connections, requests, bytes in, bytes out, denials.
type Totals = HashMap<String, [u64; 5]>;

/// As control counts: each number of a run once.
#[derive(Debug, Default)]
struct Control {
    newest: HashMap<Vec<u8>, u64>,
    totals: Totals,
    overflow: u64,
    certificates: HashMap<Vec<u8>, u64>,
}

impl Control {
    fn take(&mut self, report: &ReportSightingsRequest) {
        let newest = self.newest.entry(report.run.clone()).or_default();
        if report.number <= *newest {
            return;
        }
        *newest = report.number;
        self.overflow += report.overflow;
        for caller in &report.callers {
            let total = self.totals.entry(caller.peer.clone()).or_default();
            let denied = caller.denials.iter().map(|denial| denial.count).sum::<u64>();
            let more = [caller.connections, caller.requests, caller.bytes_in, caller.bytes_out, denied];
            total.iter_mut().zip(more).for_each(|(total, more)| *total += more);
        }
        for callee in &report.callees {
            let total = self.totals.entry(callee.peer.clone()).or_default();
            total[4] += callee.failures.iter().map(|failure| failure.count).sum::<u64>();
        }
        for seen in &report.certificates {
            *self.certificates.entry(seen.serial.clone()).or_default() += 1;
        }
    }
}

#[derive(Debug, Clone)]
enum Event {
    /// A connection that ends at once, with so many bytes each way.
    Connection(u8, u64),
    Request(u8),
    Denied(u8, u8),
    Unreached(u8),
    /// One that stays open, and then moves bytes.
    Opened(u8),
    Moved(u64),
    Closed,
    /// Reported: does the report arrive, and does its answer?
    Report(bool, bool),
    /// The last report arrives once more.
    Repeated,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let peer = 0..3_u8;
    prop_oneof![
        (peer.clone(), 0..1000_u64).prop_map(|(peer, bytes)| Event::Connection(peer, bytes)),
        peer.clone().prop_map(Event::Request),
        (peer.clone(), 0..12_u8).prop_map(|(peer, cause)| Event::Denied(peer, cause)),
        peer.clone().prop_map(Event::Unreached),
        peer.prop_map(Event::Opened),
        (1..1000_u64).prop_map(Event::Moved),
        Just(Event::Closed),
        (any::<bool>(), any::<bool>()).prop_map(|(arrives, answered)| Event::Report(arrives, answered)),
        Just(Event::Repeated),
        Just(Event::Restart),
    ]
}

fn id(name: impl std::fmt::Display) -> SpiffeId {
    format!("spiffe://td/{name}").parse().unwrap()
}

const REASONS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

proptest! {
    #[test]
    fn control_counts_what_happened_and_never_more(events in proptest::collection::vec(event(), 1..120)) {
        let (mut sightings, mut runs) = (Sightings::default(), 0_u8);
        let mut reporter = Reporter::new([runs; 16]);
        let (mut control, mut happened) = (Control::default(), Totals::default());
        // What the runs before left unsaid.
        let mut lost = false;
        let mut open: Vec<(u8, Arc<Meters>, Ongoing)> = Vec::new();
        let mut sent = None;
        let count = |happened: &mut Totals, peer: u8, kind: usize, more: u64| {
            happened.entry(id(peer).to_string()).or_default()[kind] += more;
        };
        for event in events {
            match event {
                Event::Connection(peer, bytes) => {
                    let edge = sightings.caller(&id(peer), 80).unwrap();
                    edge.connected(Protocol::Opaque);
                    let meters = Arc::<Meters>::default();
                    let ongoing = edge.carries(Arc::clone(&meters), None);
                    meters.to_app.fetch_add(bytes, Ordering::Relaxed);
                    meters.to_peer.fetch_add(bytes + 1, Ordering::Relaxed);
                    drop(ongoing);
                    for (kind, more) in [(0, 1), (2, bytes), (3, bytes + 1)] {
                        count(&mut happened, peer, kind, more);
                    }
                }
                Event::Request(peer) => {
                    sightings.caller(&id(peer), 80).unwrap().requested();
                    count(&mut happened, peer, 1, 1);
                }
                Event::Denied(peer, cause) => {
                    sightings.caller(&id(peer), 80).unwrap().denied(None, REASONS[usize::from(cause)]);
                    count(&mut happened, peer, 4, 1);
                }
                Event::Unreached(peer) => {
                    sightings.unreached(&id(peer), 80, "connect");
                    count(&mut happened, peer, 4, 1);
                }
                Event::Opened(peer) => {
                    let meters = Arc::<Meters>::default();
                    let edge = sightings.caller(&id(peer), 80).unwrap();
                    let ongoing = edge.carries(Arc::clone(&meters), None);
                    open.push((peer, meters, ongoing));
                }
                Event::Moved(bytes) => if let Some((peer, meters, _)) = open.last() {
                    meters.to_app.fetch_add(bytes, Ordering::Relaxed);
                    count(&mut happened, *peer, 2, bytes);
                },
                Event::Closed => drop(open.pop()),
                Event::Report(arrives, answered) => if let Some(report) = reporter.next(&sightings, clock::now()) {
                    if arrives {
                        control.take(&report);
                    }
                    if arrives && answered {
                        reporter.answered(&sightings, clock::now());
                    }
                    sent = arrives.then_some(report).or(sent);
                },
                Event::Repeated => if let Some(report) = &sent {
                    control.take(report);
                },
                Event::Restart => {
                    runs += 1;
                    open.clear();
                    (sightings, reporter) = (Sightings::default(), Reporter::new([runs; 16]));
                    lost = true;
                }
            }
            for (peer, totals) in &control.totals {
                for (counted, happened) in totals.iter().zip(happened[peer]) {
                    prop_assert!(*counted <= happened, "{peer}: {totals:?}");
                }
            }
        }
        while let Some(report) = reporter.next(&sightings, clock::now()) {
            control.take(&report);
            reporter.answered(&sightings, clock::now());
        }
        if !lost {
            happened.retain(|_, totals| totals.iter().any(|total| *total > 0));
            prop_assert_eq!(control.totals, happened);
        }
    }
}

#[test]
fn report_that_says_nothing_new_is_not_made() {
    let (sightings, mut reporter) = (Sightings::default(), Reporter::new([1; 16]));
    assert!(reporter.next(&sightings, clock::now()).is_none());
    let edge = sightings.caller(&id("web"), 80).unwrap();
    edge.connected(Protocol::Http1);
    let report = reporter.next(&sightings, clock::now()).unwrap();
    assert_eq!(
        reporter.next(&sightings, clock::now()),
        Some(report.clone()),
        "as it was, until it is answered"
    );
    let told = (report.number, report.callers[0].connections, report.callers[0].protocol);
    assert_eq!(told, (1, 1, v1_http1()));
    reporter.answered(&sightings, clock::now());
    assert!(reporter.next(&sightings, clock::now()).is_none());
}

fn v1_http1() -> i32 {
    signet_proto::v1::Protocol::Http1.into()
}

#[test]
fn causes_edges_and_reports_are_bounded_and_what_is_not_counted_is_said() {
    let (sightings, mut reporter) = (Sightings::default(), Reporter::new([1; 16]));
    let edge = sightings.caller(&id("web"), 80).unwrap();
    for reason in REASONS {
        edge.denied(None, reason);
    }
    for peer in 1..=MOST_EDGES {
        let _ = sightings.caller(&id(peer), 80).inspect(|edge| edge.connected(Protocol::Opaque));
    }
    let (mut edges, mut overflow) = (0, 0);
    while let Some(report) = reporter.next(&sightings, clock::now()) {
        assert!(report.callers.len() <= MOST_REPORTED);
        for caller in report.callers {
            edges += 1;
            if !caller.denials.is_empty() {
                assert_eq!(caller.denials.len(), MOST_CAUSES);
                assert_eq!(
                    caller.denials.iter().map(|denial| denial.count).sum::<u64>(),
                    REASONS.len() as u64
                );
            }
        }
        overflow += report.overflow;
        reporter.answered(&sightings, clock::now());
    }
    assert_eq!((edges, overflow), (MOST_EDGES, 1));
    sightings.forget(clock::now() + SILENT * 2);
    assert_eq!(sightings.edges().len(), 1, "silent and reported ones make room, but those in use do not");
}

#[test]
fn certificate_is_told_at_once_and_then_every_few_minutes() {
    let (sightings, mut reporter) = (Sightings::default(), Reporter::new([1; 16]));
    let leaf = CertificateHandle { issuer_sha256: [1; 32], serial: vec![7], spki_sha256: [2; 32] };
    let mut told = |after: u64| {
        let at = clock::now() + Duration::from_secs(after);
        sightings.certificates.seen(&leaf, at).unwrap();
        let report = reporter.next(&sightings, at);
        reporter.answered(&sightings, at);
        report.is_some_and(|report| report.certificates.len() == 1)
    };
    assert_eq!([0, 10, 299, 301, 400].map(&mut told), [true, false, false, true, false]);
}
