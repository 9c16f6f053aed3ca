//! Who a workload is: SPIFFE IDs, trust bundles, and the profiles of X.509-SVIDs and JWT-SVIDs.
//!
//! Strings and certificates become the types of this room at the edge and stay so. Every MUST of
//! the SPIFFE-ID, X509-SVID and Trust-Domain-and-Bundle standards is checked here, in its strictest
//! reading, and so are the rules of RFC 5280 that decide what a certificate means; where a standard
//! leaves a choice, the choice that accepts less is taken. So the invariant is: a [`SpiffeId`] that exists is well
//! formed and safe to print in a header, a log line or a label; a [`TrustBundle`] that exists has at
//! least one authority, and all of them may sign; and what [`check_leaf`] returns was read from the
//! only place it could have been read from. A [`RevocationList`] that exists is complete, and says all that it says in a
//! way that we act on.
//!
//! What is *not* decided here of X.509-SVIDs and lists: signatures, chains, expiry, revocation and trust. Those need a clock
//! and a snapshot and belong to [`crate::handshake`]. A JWT-SVID has no handshake: [`JwtSvid::verify`] is told the time.

mod bundle;
mod certificate;
mod crl;
mod der;
mod extension;
mod id;
mod instance;
mod jwks;
mod jwt;
mod key;
mod pins;
mod svid;
#[cfg(test)]
mod testing;

pub use bundle::{BundleError, MAX_AUTHORITIES, TrustBundle, pem};
pub use certificate::MAX_CERTIFICATE_BYTES;
pub use crl::{
    CrlError, ListSigner, MAX_CRL_BYTES, MAX_CRL_ENTRIES, RevocationList, SignatureParts, authority_key,
    revocation_lists,
};
pub use der::{DerError, certificates, require_der};
pub(crate) use id::ParsedText;
pub use id::{MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, SpiffeIdError, TrustDomain};
pub use instance::{InstanceId, InstanceIdError};
pub use jwks::JwksError;
pub use jwt::{JwtAuthorities, JwtAuthorityError, JwtSvid, JwtSvidError};
pub use key::{KeyError as PublicKeyError, KeyKind};
pub use pins::Pins;
pub use svid::{
    CertificateHandle, SvidError, SvidProfile, certificate_handle, check_intermediate, check_leaf, sha256,
};
