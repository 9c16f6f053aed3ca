//! The vocabulary that proxies and control share: messages, identities, policy and the TLS handshake.
//!
//! Whatever both ends must agree on lives here, so that what control predicts is what a proxy does.
//! Nothing here does I/O but [`sealing`], which asks the kernel for keys, and nothing but [`clock`] reads the time.

#![forbid(unsafe_code)]

// So that tests of several crates can share a file.
#[cfg(test)]
extern crate self as signet_proto;

pub mod abort;
pub mod because;
pub mod clock;
mod codec;
pub mod digest;
pub mod document;
pub mod handshake;
pub mod jose;
pub mod json;
pub mod locality;
pub mod policy;
pub mod possession;
pub mod record;
pub mod sealing;
pub mod settings;
pub mod shares;
pub mod spiffe;
pub mod standard;
pub mod ticket;
pub mod traffic;
pub mod tunnel;
pub mod verbs;

/// Messages and services generated from `signet/v1/*.proto`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
#[allow(clippy::needless_pass_by_value, clippy::large_futures)]
pub mod v1 {
    tonic::include_proto!("signet.v1");
}
