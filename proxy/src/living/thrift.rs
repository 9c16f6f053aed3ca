//! What a start or much work needed, and what stays needs no more, goes back to the system once it is quiet: the
//! allocator alone keeps pages of which a connection holds a few bytes, and all that are free between them, and what was
//! touched of the program stays mapped.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::sys;
use crate::connections::Connections;
use crate::profiles;

/// For how long no connection or request may have come.
const QUIET: Duration = Duration::from_secs(2);
/// So many leave something to give back.
const MANY: u64 = 100;

/// Gives back what is free whenever it has become quiet, until `stop`.
pub async fn give_back(connections: Arc<Connections>, stop: CancellationToken) {
    let mut came_before = None;
    let mut worth_it = 0;
    while stop.run_until_cancelled(tokio::time::sleep(QUIET)).await.is_some() {
        let came = connections.came();
        if came_before.replace(came) == Some(came) && came >= worth_it {
            worth_it = came + MANY;
            trim().await;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "one at a time, and it ends by itself: it would hold up a worker"
)]
async fn trim() {
    let trimmed = tokio::task::spawn_blocking(|| {
        profiles::give_back();
        sys::forget_program();
    });
    let _ = trimmed.await;
}
