//! Signed tokens (RFC 7515 compact form) and the key sets that they are checked with (RFC 7517).
//!
//! Written for tokens that a stranger sends, before anything about the stranger is known:
//! - What is verified are the bytes that were parsed. A [`Token`] keeps its signing input as a part of the text
//!   that came, base64url has one form only, and claims are read after the signature was found good.
//! - A token says which key and which algorithm; it never says where a key is (`jku`, `x5u`) or brings one
//!   (`jwk`, `x5c`): such members are not looked at. The key decides which algorithms fit it, so that a public
//!   key is never anybody's secret.
//! - All is bounded: the token, the key set, the keys in it and their sizes.
//!
//! What claims mean, whom an issuer speaks for and how long, is not decided here: that needs a clock and
//! settings.

mod algorithm;
mod error;
mod key;
mod key_set;
mod token;

pub use algorithm::{Algorithm, UnknownAlgorithm};
pub use error::TokenError;
pub(crate) use key::PRIVATE;
pub use key_set::{KeySet, KeySetError, MAX_KEY_SET_BYTES, MAX_KEYS};
pub use token::{MAX_KEY_ID_BYTES, MAX_TOKEN_BYTES, Profile, Token};
