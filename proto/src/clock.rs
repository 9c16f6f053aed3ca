//! The one wall clock. Everything that expires is compared with what this returns; everything that waits
//! uses the monotonic clock of the runtime instead, so that a clock jump moves no timer.

use std::time::SystemTime;

/// The current time of day.
#[must_use]
pub fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    SystemTime::now()
}
