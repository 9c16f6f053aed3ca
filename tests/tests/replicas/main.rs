//! Several replicas of control on one PostgreSQL: any of them serves any call, and none of them is needed.
//! `SIGNET_FAULT_SECONDS` says for how long there are faults; 20 unless it is set.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod changes;
mod cut_off;
mod elected;
mod killed;
mod own_intermediates;
