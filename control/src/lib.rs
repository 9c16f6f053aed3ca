//! The control service: gives out identities, holds policy and inventory, pushes every change to the
//! proxies; and `signet`, the operators' command line.
//!
//! Rooms and the way of a change are in this crate's README; each room's rules at its top.

#![forbid(unsafe_code)]

pub mod api;
pub mod attest;
pub mod audit;
mod backoff;
pub mod ca;
pub mod cli;
pub mod config;
pub mod count;
pub mod crl;
pub mod duration;
pub mod duty;
pub mod federation;
pub mod fetch;
pub mod hex;
pub mod inventory;
pub mod issue;
pub mod maintenance;
pub mod policy;
pub mod publish;
pub mod recover;
pub mod registry;
pub mod revoke;
pub mod roles;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod time;
mod visible;

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}
