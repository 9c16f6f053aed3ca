//! What control answered stays, on both engines: through races for one ticket, `kill -9` at any point, a full
//! disk, and a database that goes away. `SIGNET_FAULT_SECONDS` says for how long; 20 unless it is set.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod full_disk;
mod killed;
mod observed;
mod recovered;
mod redeem;
mod restarted;
mod restored;
