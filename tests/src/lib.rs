//! The harness of the end-to-end tests: real Signet processes, real apps, real clients, on loopback or in
//! network namespaces of the test's own ([`pods`]).
//!
//! A scenario reads top-down: start a [`mesh::Mesh`], start the apps it needs ([`apps`]), put a proxy beside
//! each ([`mesh::Mesh::proxy`] or [`proxy::FilesProxy`]), drive a client that we did not write
//! ([`client::Client`]), and assert on what the client, the access log ([`logs`]) and the metrics
//! ([`metrics`]) say.
//!
//! Two rules hold everywhere. Nothing sleeps: a scenario waits for a log line
//! ([`process::Process::wait_for_log`]) or polls a condition through [`eventually`], each with a deadline.
//! Nothing skips: a missing tool fails the scenario with the name of the Debian package ([`tools`]).
//!
//! The harness reports by panicking, which is what a test is for; so the lints against that are off here.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test harness reports by panicking"
)]

pub mod apps;
pub mod attacks;
pub mod attest;
pub mod binaries;
pub mod client;
pub mod clock;
pub mod collector;
pub mod control;
pub mod corpus;
pub mod crl;
pub mod devices;
pub mod disk;
pub mod door;
pub mod envoy;
pub mod faults;
pub mod files;
pub mod forgeries;
pub mod http;
pub mod kernel;
pub mod load;
pub mod logs;
pub mod mesh;
pub mod metrics;
pub mod oidc;
pub mod openssl_root;
pub mod peers;
pub mod pki;
pub mod place;
pub mod pods;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod raw_h2;
pub mod raw_tls;
pub mod report;
pub mod sockets;
pub mod talk;
pub mod talk_h2;
pub mod tls;
pub mod token;
pub mod tools;
pub mod torrent;
pub mod vault;
pub mod wait;
pub mod ways;

pub use wait::{PATIENCE, eventually};
