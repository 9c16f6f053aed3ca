//! What our app is given at once, and of whom: the limits that the `kind: Service` document of our own identity sets.
//! Asked after policy has allowed a call; no limit allows anything.
//!
//! `rate` counts each calling identity on its own; `gate` counts the requests in flight to one app, lets some wait
//! and sheds the rest: what comes too late is answered soon.

mod gate;
mod rate;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signet_proto::spiffe::SpiffeId;
use signet_proto::traffic::{Limits, Rate};

use self::gate::Gate;
pub use self::gate::{Permit, Shed};
use self::rate::Rates;
use crate::telemetry::metrics;

/// The limits of all our apps.
#[derive(Debug, Default)]
pub struct Admission {
    rates: Mutex<Rates>,
    gates: Mutex<HashMap<u16, Arc<Gate>>>,
}

/// A caller makes more than its rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests of this identity (`rate` of the service): come again in {retry_after:?}")]
pub struct RateExceeded {
    /// When there is room for one more.
    pub retry_after: Duration,
}

impl Admission {
    /// Counts one request, or one connection of another protocol, of `source`.
    ///
    /// # Errors
    /// When it is one too many.
    pub fn charge(&self, source: &SpiffeId, rate: Rate) -> Result<(), RateExceeded> {
        self.rates.lock().charge(source, rate, Instant::now()).map_err(|retry_after| {
            metrics::rate_limited(source);
            RateExceeded { retry_after }
        })
    }

    /// A place for one request to the app on `port`, perhaps after a wait.
    ///
    /// # Errors
    /// When there is none, and none comes free in time.
    pub async fn enter(&self, port: u16, limits: Limits) -> Result<Permit, Shed> {
        let gate = Arc::clone(self.gates.lock().entry(port).or_default());
        gate.enter(limits).await.inspect_err(|shed| metrics::shed(shed.reason()))
    }
}
