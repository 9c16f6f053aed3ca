//! The way out, announced before it is gone:
//!
//! ```text
//!   unready, goodbye to control, GOAWAY / Connection: close ─▶ grace: new callers are still served
//!     ─▶ nothing is accepted any more ─▶ what is open may end ─▶ deadline: what is left is cut, and told
//! ```

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::endings::Ending;
use crate::run::Shared;
use crate::telemetry::CloseReason;

/// How long cut connections have to wind down.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// How much time everybody has.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For callers to hear that this proxy goes.
    pub grace: Duration,
    /// For connections to end.
    pub deadline: Duration,
}

/// Leaves: ends when nothing is open any more. `accepting` is cancelled when nothing new is taken in.
pub async fn leave(shared: &Shared, accepting: &CancellationToken, ending: Ending, patience: Patience) {
    shared.leaving.cancel();
    if ending.is_news() && !patience.grace.is_zero() {
        tracing::info!(grace = ?patience.grace, "leaving: told to all who ask, and still accepting");
        tokio::time::sleep(patience.grace).await;
    }
    accepting.cancel();
    shared.drain.cancel();
    drained(shared, patience.deadline).await;
}

/// Lets connections finish until the deadline, then cuts what is left and says what that was.
async fn drained(shared: &Shared, deadline: Duration) {
    shared.tasks.close();
    tracing::info!(open = shared.connections.len(), ?deadline, "draining");
    if tokio::time::timeout(deadline, shared.tasks.wait()).await.is_ok() {
        tracing::info!("drained: every connection finished");
        return;
    }
    tracing::warn!(cut = shared.connections.len(), "drain deadline passed, cutting what is open");
    for ((direction, kind), count) in shared.connections.kinds() {
        tracing::warn!(direction = direction.as_str(), kind, count, "cut by the drain");
    }
    shared.connections.close_all(CloseReason::Drained);
    if tokio::time::timeout(WIND_DOWN, shared.tasks.wait()).await.is_err() {
        tracing::warn!(left = shared.tasks.len(), "connections did not wind down");
    }
}
