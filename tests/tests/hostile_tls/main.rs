//! The port for mutual TLS against those who do not mean well: hellos in pieces, alerts and noise at every
//! state of the handshake, floods, callers that dribble, old sessions. Each costs a closed connection, a log
//! line and a count; never a panic, a spinning processor, or somebody else's answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod alerts;
mod deadlines;
mod floods;
mod fragments;
mod resumption;
mod scan;
