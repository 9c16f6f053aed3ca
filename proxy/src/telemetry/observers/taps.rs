//! Those who tap the stream of what happens. Each has a bounded buffer of its own: who does not read in time
//! misses events, and is told how many. While nobody taps, an event costs one look at a number.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use signet_proto::policy::Pattern;
use signet_proto::spiffe::SpiffeId;
use tokio::sync::mpsc;

use super::event::{Event, Kind, dropped};

/// Taps at once.
const MOST: usize = 8;
/// Events that wait for one reader.
const BUFFER: usize = 1024;

/// All taps of this process.
#[derive(Debug, Default)]
pub struct Taps {
    count: AtomicUsize,
    all: Mutex<Vec<Arc<Listening>>>,
}

/// Which events a tap wants. What is absent does not matter.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The caller.
    pub source: Option<Pattern>,
    /// The callee.
    pub destination: Option<Pattern>,
    /// The app's port.
    pub port: Option<u16>,
    /// `inbound` or `outbound`.
    pub direction: Option<String>,
    /// `allow`, `deny` or `none`.
    pub verdict: Option<String>,
    /// `connection` or `request`.
    pub kind: Option<String>,
    /// Of a request.
    pub method: Option<String>,
    /// What the path of a request begins with.
    pub path: Option<String>,
    /// Of a request.
    pub status: Option<Statuses>,
}

/// Statuses of requests: one, or a class such as `5xx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statuses {
    /// That one.
    One(u16),
    /// Those that begin with this digit.
    Class(u16),
}

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a status such as 503 or 5xx, found `{text}`");
        match text.strip_suffix("xx") {
            Some(class) => class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class),
            None => text.parse().ok().filter(|status| (100..=599).contains(status)).map(Self::One),
        }
        .ok_or_else(expected)
    }
}

#[derive(Debug)]
struct Listening {
    wanted: Wanted,
    lines: mpsc::Sender<Arc<str>>,
    dropped: AtomicU64,
}

/// A tap, until it is dropped.
#[derive(Debug)]
pub struct Tap {
    taps: TapsOf,
    this: Arc<Listening>,
    lines: mpsc::Receiver<Arc<str>>,
    told: u64,
}

type TapsOf = Arc<super::Observers>;

impl Taps {
    /// Whether anybody taps.
    #[must_use]
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Tells those who want it. Never waits.
    pub fn tell(&self, event: &Event<'_>) {
        let mut line: Option<Arc<str>> = None;
        for tap in self.all.lock().iter().filter(|tap| tap.wanted.wants(event)) {
            if line.is_none() {
                line = serde_json::to_string(event).ok().map(|text| (text + "\n").into());
            }
            let Some(line) = &line else { return };
            if tap.lines.try_send(Arc::clone(line)).is_err() {
                tap.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl super::Observers {
    /// Begins to tap; `None` when there are too many who do.
    #[must_use]
    pub fn tap(self: &Arc<Self>, wanted: Wanted) -> Option<Tap> {
        let mut all = self.taps.all.lock();
        if all.len() >= MOST {
            return None;
        }
        let (sender, lines) = mpsc::channel(BUFFER);
        let this = Arc::new(Listening { wanted, lines: sender, dropped: AtomicU64::new(0) });
        all.push(Arc::clone(&this));
        self.taps.count.store(all.len(), Ordering::Relaxed);
        Some(Tap { taps: Arc::clone(self), this, lines, told: 0 })
    }
}

impl Tap {
    /// The next line: an event, or how many were missed before it.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        let missed = self.this.dropped.load(Ordering::Relaxed);
        if missed > self.told && self.lines.is_empty() {
            let line = dropped(missed - self.told).to_string() + "\n";
            self.told = missed;
            return Some(line.into());
        }
        self.lines.recv().await
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let taps = &self.taps.taps;
        let mut all = taps.all.lock();
        all.retain(|tap| !Arc::ptr_eq(tap, &self.this));
        taps.count.store(all.len(), Ordering::Relaxed);
    }
}

impl Wanted {
    fn wants(&self, event: &Event<'_>) -> bool {
        let kind = if event.event == Kind::Request { "request" } else { "connection" };
        is(self.direction.as_deref(), event.direction)
            && is(self.kind.as_deref(), kind)
            && is(self.verdict.as_deref(), event.verdict)
            && self.port.is_none_or(|port| port == event.port)
            && names(self.source.as_ref(), event.source)
            && names(self.destination.as_ref(), event.destination)
            && self.method.as_deref().is_none_or(|method| event.method == Some(method))
            && self
                .path
                .as_deref()
                .is_none_or(|prefix| event.path.is_some_and(|path| path.starts_with(prefix)))
            && self.status.is_none_or(|statuses| event.status.is_some_and(|status| statuses.have(status)))
    }
}

impl Statuses {
    fn have(self, status: u16) -> bool {
        match self {
            Self::One(one) => one == status,
            Self::Class(class) => status / 100 == class,
        }
    }
}

fn is(wanted: Option<&str>, found: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == found)
}

fn names(wanted: Option<&Pattern>, found: Option<&str>) -> bool {
    wanted
        .is_none_or(|wanted| found.is_some_and(|id| id.parse().is_ok_and(|id: SpiffeId| wanted.matches(&id))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::observers::Observers;

    fn request(path: &'static str, status: u16) -> Event<'static> {
        Event {
            event: Kind::Request,
            time: String::new(),
            connection: 1,
            direction: "inbound",
            protocol: "http/1.1",
            source: Some("spiffe://td/shop/a"),
            destination: Some("spiffe://td/orders"),
            port: 80,
            remote: String::new(),
            verdict: "allow",
            policy: None,
            rule: None,
            method: Some("GET"),
            path: Some(path),
            status: Some(status),
            request_id: None,
            trace_id: None,
            bytes_in: None,
            bytes_out: None,
            duration_ms: None,
            close_reason: None,
            detail: None,
        }
    }

    #[test]
    fn filters_are_all_held_against_an_event() {
        let event = request("/charge/1", 503);
        let all = Wanted {
            source: Some("spiffe://td/shop/*".parse().unwrap()),
            destination: Some("spiffe://td/orders".parse().unwrap()),
            port: Some(80),
            direction: Some("inbound".into()),
            verdict: Some("allow".into()),
            kind: Some("request".into()),
            method: Some("GET".into()),
            path: Some("/charge".into()),
            status: Some("5xx".parse().unwrap()),
        };
        assert!(all.wants(&event) && Wanted::default().wants(&event));
        for other in [
            Wanted { source: Some("spiffe://td/shop".parse().unwrap()), ..all.clone() },
            Wanted { port: Some(81), ..all.clone() },
            Wanted { direction: Some("outbound".into()), ..all.clone() },
            Wanted { verdict: Some("deny".into()), ..all.clone() },
            Wanted { kind: Some("connection".into()), ..all.clone() },
            Wanted { method: Some("POST".into()), ..all.clone() },
            Wanted { path: Some("/other".into()), ..all.clone() },
            Wanted { status: Some("404".parse().unwrap()), ..all },
        ] {
            assert!(!other.wants(&event), "{other:?}");
        }
        assert!("6xx".parse::<Statuses>().is_err() && "99".parse::<Statuses>().is_err());
    }

    #[tokio::test]
    async fn who_does_not_read_misses_events_and_is_told_how_many() {
        let observers = Arc::<Observers>::default();
        assert!(!observers.taps.any());
        let mut tap = observers.tap(Wanted::default()).unwrap();
        for _ in 0..BUFFER + 7 {
            observers.taps.tell(&request("/", 200));
        }
        for _ in 0..BUFFER {
            assert!(tap.next().await.unwrap().contains("\"request\""));
        }
        assert_eq!(&*tap.next().await.unwrap(), "{\"count\":7,\"event\":\"dropped\"}\n");
        let others: Vec<_> = (0..MOST).map_while(|_| observers.tap(Wanted::default())).collect();
        assert_eq!(others.len(), MOST - 1);
        drop((tap, others));
        assert!(!observers.taps.any());
    }
}
