//! What a start or many handshakes needed, and what stays needs no more, goes back to the system once it is quiet: the
//! allocator alone keeps pages of which a connection holds a few bytes, and all that are free between them.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::connections::Connections;
use crate::profiles;

/// For how long nobody may have shaken hands.
const QUIET: Duration = Duration::from_secs(2);
/// So many handshakes leave something to give back.
const MANY: u64 = 100;

/// Gives back what is free whenever it has become quiet, until `stop`.
pub async fn give_back(connections: Arc<Connections>, stop: CancellationToken) {
    let give_back = async {
        loop {
            let seen = connections.verified();
            tokio::time::sleep(QUIET).await;
            if connections.verified() == seen {
                trim().await;
                connections.verified_more(seen + MANY).await;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = give_back => {}
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "one at a time, and it ends by itself: it would hold up a worker"
)]
async fn trim() {
    let _ = tokio::task::spawn_blocking(profiles::give_back).await;
}
