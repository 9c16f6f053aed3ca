//! A connection to a peer, as people see it. Calls of our app share it, one after the other or at once, and it waits in
//! between: what is open towards a peer is more than what our app opened.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// What went over a connection, handshake and TLS included.
#[derive(Debug, Default)]
pub struct Volume {
    /// To the peer.
    pub sent: AtomicU64,
    /// From it.
    pub received: AtomicU64,
}

/// A connection to a peer.
#[derive(Debug)]
pub struct Link {
    /// Where the peer listens.
    pub address: SocketAddr,
    /// What was agreed on in the handshake; nothing for bytes of any kind.
    pub alpn: Option<Arc<str>>,
    /// When it was made, by the wall clock.
    pub made_at: SystemTime,
    /// What went over it.
    pub volume: Arc<Volume>,
    made: Instant,
    calls: AtomicU64,
    under_way: AtomicU64,
    /// It waits for its next call.
    waiting: AtomicBool,
}

/// A call that a connection carries, until this is dropped.
#[derive(Debug)]
pub struct Carried(Arc<Link>);

impl Link {
    /// One that was made just now.
    #[must_use]
    pub fn new(address: SocketAddr, alpn: Option<&[u8]>, volume: Arc<Volume>) -> Self {
        Self {
            address,
            alpn: alpn.map(|alpn| String::from_utf8_lossy(alpn).into()),
            made_at: signet_proto::clock::now(),
            volume,
            made: Instant::now(),
            calls: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
        }
    }

    /// It carries a call from now on.
    #[must_use]
    pub fn carry(self: &Arc<Self>) -> Carried {
        self.waiting.store(false, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Carried(Arc::clone(self))
    }

    /// It was put away for the next call.
    pub fn waits(&self) {
        self.waiting.store(true, Ordering::Relaxed);
    }

    /// Whether it carries nothing now: it was put away, or nobody of those who share it does anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let (all, now) = self.calls();
        self.waiting.load(Ordering::Relaxed) || (all > 0 && now == 0)
    }

    /// Calls so far, and those of them that are under way.
    #[must_use]
    pub fn calls(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.under_way.load(Ordering::Relaxed))
    }

    /// How long it is open.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.made.elapsed()
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
