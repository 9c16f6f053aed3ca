//! Who looks on: the table of connections that are open now, and those who tap the stream of what happens.
//! Both are fed by the records of the access log, so that all three say the same.

mod event;
mod live;
mod taps;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::traces::Tracer;
use crate::connections::Numbered;

pub(super) use event::milliseconds;
pub use event::{Event, Kind};
pub use live::{Live, Shown, closed_by_operator};
pub use taps::{Tap, Taps, Wanted};

/// All that look on at this process.
#[derive(Debug, Default)]
pub struct Observers {
    /// Those who tap.
    pub taps: Taps,
    /// Where spans go, if they are wanted.
    pub tracer: Option<Arc<Tracer>>,
    open: Mutex<Numbered<Arc<Live>>>,
    next: AtomicU64,
}

impl Observers {
    /// Nobody yet, besides a collector of spans, if there is one.
    #[must_use]
    pub fn new(tracer: Option<Arc<Tracer>>) -> Arc<Self> {
        Arc::new(Self { tracer, ..Self::default() })
    }

    /// Enters a connection into the table, until [`Observers::closed`].
    pub(super) fn opened(self: &Arc<Self>, shown: Shown) -> Arc<Live> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let live = Arc::new(Live::new(id, Arc::clone(self), shown));
        self.open.lock().insert(id, Arc::clone(&live));
        live
    }

    pub(super) fn closed(&self, id: u64) {
        let ended = self.open.lock().remove(&id);
        ended.inspect(|live| live.over());
    }

    /// The connections that are open now, in the order they were opened.
    #[must_use]
    pub fn open(&self) -> Vec<Arc<Live>> {
        let mut open: Vec<_> = self.open.lock().values().cloned().collect();
        open.sort_unstable_by_key(|live| live.id);
        open
    }

    /// One of them.
    #[must_use]
    pub fn one(&self, id: u64) -> Option<Arc<Live>> {
        self.open.lock().get(&id).cloned()
    }
}
