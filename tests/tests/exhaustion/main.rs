//! Running out: of file descriptors, of patience with those who do not read, of places. Memory stays bounded,
//! whoever was there is still served, and all recovers by itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod caps;
mod denied;
mod descriptors;
mod idle;
mod readers;
mod reload;
