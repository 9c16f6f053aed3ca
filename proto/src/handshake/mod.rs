//! The TLS handshake between identities: the only room that touches rustls.
//!
//! ```text
//!   WorkloadKey ──csr──▶ (control signs) ──chain──▶ Svid ─┐
//!   TrustBundle per domain + Revocations + Lists ─▶ Trust ┼─▶ server_config / client_config
//!                                                         │        │ handshake
//!                                          PeerIdentity ◀─┴────────┘
//! ```
//!
//! Rules kept here: TLS 1.3 only; the post-quantum hybrid first; a peer is verified with nothing but its own
//! trust domain's bundle (invariant 7); every element of its chain is matched against revocations
//! (invariant 9); nothing is resumed, so that no session outlives what was checked (invariant 6). Configs
//! are prepared once per snapshot, never per connection.

mod config;
mod exchange;
mod key;
mod lists;
mod peer;
mod presented;
mod recent;
mod revocations;
mod secrets;
mod session;
mod signatures;
mod svid;
#[cfg(test)]
pub(crate) mod test_ca;
#[cfg(test)]
mod tests;
mod trust;
mod verifier;

pub use config::{ClientAuth, ConfigError, client_config, pinned_client_config, server_config, server_name};
pub use exchange::{Exchange, Finished, Progress};
pub use key::{KeyError, WorkloadKey, is_key_of, sign_with_pem_key};
pub use lists::{
    ExpiredLists, Intake, KnownList, ListRefused, ListState, Lists, MAX_CRL_ENTRIES_IN_ALL, MAX_CRLS,
};
pub use peer::{PeerError, PeerIdentity};
pub use revocations::{Revocations, RevokedBecause};
pub use session::{LEAST_ROOM, Opened, Session, SessionError};
pub use svid::{Svid, SvidMismatch};
pub use trust::{Trust, list_signers};
pub use verifier::{VerifyError, verify_failure};

/// ALPN of HTTP/2, as gRPC needs it (RFC 7301, RFC 9113).
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
