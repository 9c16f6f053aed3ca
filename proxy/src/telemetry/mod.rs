//! What people see at 2 a.m.: metrics, one access-log line per connection or request, and the log.

mod access;
mod labels;
pub mod log;
pub mod metrics;
pub mod observers;
pub mod openmetrics;
mod requests;
pub mod traces;

pub use access::{AccessRecord, Facts, Meters, Protocol};

/// Which way a connection goes, seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a peer to our app.
    Inbound,
    /// From our app to a peer.
    Outbound,
}

impl Direction {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Why a connection ended. The closed set behind the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both ends were done.
    Finished,
    /// The peer's side broke off.
    PeerReset,
    /// The app's side broke off.
    AppReset,
    /// Nothing moved for the idle deadline.
    Idle,
    /// Policy no longer allows it.
    PolicyLost,
    /// The peer was revoked, one way or another.
    Revoked(signet_proto::handshake::RevokedBecause),
    /// Our own SVID ended and was not renewed.
    SvidEnded,
    /// The peer's authority left the bundle.
    TrustRemoved,
    /// This proxy is shutting down and the connection did not end in time.
    Drained,
    /// The TLS handshake failed; the log line says on what.
    HandshakeFailed,
    /// The connection was refused before anything was forwarded.
    Denied,
    /// Nobody known is where our app wanted to go.
    UnknownDestination,
    /// An operator closed it.
    ClosedByOperator,
    /// The caller uses no TLS, and the mesh takes no plaintext here, or not any more.
    PlaintextRefused,
    /// The caller has too many connections already.
    Limited,
    /// Anything else; the log line has the details.
    Error,
}

impl CloseReason {
    /// The label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::PeerReset => "peer_reset",
            Self::AppReset => "app_reset",
            Self::Idle => "idle",
            Self::PolicyLost => "policy_lost",
            Self::Revoked(because) => because.as_str(),
            Self::SvidEnded => "svid_ended",
            Self::TrustRemoved => "trust_removed",
            Self::Drained => "drained",
            Self::HandshakeFailed => "handshake_failed",
            Self::Denied => "denied",
            Self::UnknownDestination => "unknown_destination",
            Self::ClosedByOperator => "closed_by_operator",
            Self::PlaintextRefused => "plaintext_refused",
            Self::Limited => "limited",
            Self::Error => "error",
        }
    }
}
