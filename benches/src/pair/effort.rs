//! How much of each load.

use std::time::Duration;

/// The amounts.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Of a load that goes on for a while.
    pub(super) duration: Duration,
    /// Before anything counts.
    pub(super) warm_up: Duration,
    /// Of requests at a fixed rate.
    pub(super) steady: Duration,
    /// Connections that need a handshake each.
    pub(super) cold: usize,
    /// Open connections, few and many.
    pub(super) idle: (usize, usize),
    /// Until what is not used is given back.
    pub(super) settle: Duration,
}

impl Effort {
    /// Enough for figures.
    #[must_use]
    pub fn full() -> Self {
        Self {
            duration: Duration::from_secs(5),
            warm_up: Duration::from_secs(1),
            steady: Duration::from_secs(15),
            cold: 1_000,
            idle: (1_000, 10_000),
            settle: Duration::from_secs(5),
        }
    }

    /// Enough to see that everything works; the figures say little.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            duration: Duration::from_secs(1),
            warm_up: Duration::from_millis(300),
            steady: Duration::from_secs(1),
            cold: 100,
            idle: (100, 500),
            settle: Duration::from_secs(3),
        }
    }
}
