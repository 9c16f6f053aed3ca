//! What is there, and who talks to whom: certificates in use, and the edges that proxies report.
//!
//! ```text
//!   ReportSightings ──▶ Sightings::parse ──▶ store: counted once (run, number); Edge::add, Outsider::add; bounded
//!   every call of a member ──▶ Seen (the certificate it shows) ──▶ store, in batches
//! ```
//!
//! A proxy speaks only of itself: one end of each edge is the identity of its SVID, whatever it says. The called end
//! counts what it let in and denied, the calling end what it could not reach; so both have columns of their own, and
//! nothing is counted twice. All of it is told by proxies: nothing is decided by it.

mod edge;
mod outsider;
mod seen;
mod sightings;
mod standing;

pub use edge::{Cause, Edge, Increment, Link, Refused, Spoken};
pub use outsider::{Outsider, PlaintextPort, Way};
pub use seen::{Seen, write_seen};
pub use sightings::{CertificateName, Sightings, SightingsError};
pub use standing::{CertificateStatus, INSTANCE_WORDS, instance_status};
