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
    /// For those of a process that another one took over from.
    pub upgrade: Duration,
}

/// Leaves: ends when nothing is open any more. `accepting` is cancelled when nothing new is taken in, `hurry` by whoever
/// does not want to wait for what a successor left here.
pub async fn leave(
    shared: &Shared,
    accepting: &CancellationToken,
    ending: Ending,
    patience: Patience,
    hurry: &CancellationToken,
) {
    shared.leaving.cancel();
    match ending {
        Ending::Signal(_) => {
            tracing::info!(grace = ?patience.grace, "leaving: told to all who ask, and still accepting");
            tokio::time::sleep(patience.grace).await;
        }
        Ending::Upgrade => {
            accepting.cancel();
            shared.tasks.close();
            tracing::info!(open = shared.connections.len(), longest = ?patience.upgrade, "what is open stays here until it ends");
            let idle = async {
                // From then on an idle connection is closed, and not used once more.
                tokio::time::sleep(patience.grace).await;
                shared.drain.cancel();
                tokio::time::sleep(patience.upgrade).await;
            };
            tokio::select! {
                () = shared.tasks.wait() => {}
                () = idle => {}
                () = hurry.cancelled() => {}
            }
        }
        Ending::Job(_) | Ending::Quit => {}
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
