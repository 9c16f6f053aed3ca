//! Where calls go: endpoints that come, go, are slow and fail under load; services that are split; peers that DNS
//! knows; and what a callee takes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod calls;
mod endpoints;
mod limits;
mod names;
mod split;
mod worker;
