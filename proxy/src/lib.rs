//! The data plane of Signet: a sidecar that terminates and originates mutual TLS for one workload and
//! decides on every connection by the identity at the other end.
//!
//! ```text
//!  inbound:  accept -> handshake -> authorize -> detect -> forward to the app
//!  outbound: accept -> destination -> authorize egress -> detect -> pick endpoint -> handshake -> forward to the peer
//! ```

pub mod admin;
pub mod admission;
pub mod backoff;
pub mod balance;
pub mod capture;
mod causes;
pub mod cli;
pub mod config;
pub mod connections;
pub mod control;
pub mod crl;
pub mod forward;
pub mod identity;
pub mod inbound;
pub mod living;
pub mod mesh;
pub mod outbound;
pub mod profiles;
pub mod run;
pub mod sightings;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod upgrade;
mod watched;
pub mod workload_api;
