//! The one place that polls. Every wait of a scenario that is not for a log line or a process goes through
//! [`eventually`], so that no test sleeps for a time somebody guessed.

use std::time::Duration;

use tokio::time::Instant;

/// Long enough for anything that should happen at once, on a machine with two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Between two attempts of a load whose first attempt failed: as long as between two looks of [`eventually`].
pub async fn breath() {
    tokio::time::sleep(POLL_INTERVAL).await;
}

/// Polls `observe` until it answers `Ok`, and returns that.
///
/// `observe` says with `Err` what it saw instead; the last such answer is in the panic.
///
/// # Panics
/// When `within` has passed.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut observe: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        let seen = match observe().await {
            Ok(answer) => return answer,
            Err(seen) => seen,
        };
        assert!(Instant::now() < deadline, "waited {within:?} in vain for: {what}; last seen: {seen}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
