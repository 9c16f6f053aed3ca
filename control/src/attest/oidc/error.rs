//! Why a JSON Web Token does not prove anything. For the log, the metrics and the audit: callers hear one answer.

use signet_proto::jose::TokenError;

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// No attestor of this name takes tokens.
    #[error("no attestor of this name takes tokens: see `[attestors]` in control's settings")]
    AttestorUnknown,
    /// The token itself: its form, its key, its signature.
    #[error("token: {0}")]
    Token(#[from] TokenError),
    /// An algorithm that this attestor does not take.
    #[error("signed by {0}, which is not among the attestor's `algorithms`")]
    Algorithm(signet_proto::jose::Algorithm),
    /// There are no keys to check it with.
    #[error("the issuer's keys are not there: they could not be fetched, or not for a day")]
    KeysUnavailable,
    /// Another issuer's.
    #[error("`iss` is not the attestor's `issuer`")]
    Issuer,
    /// For others.
    #[error("`aud` has none of the attestor's `audience`")]
    Audience,
    /// Without an end.
    #[error("it has no `exp`")]
    NoExpiry,
    /// It was good until then.
    #[error("`exp` is over")]
    Expired,
    /// It will be good.
    #[error("`nbf` is still to come")]
    NotYetValid,
    /// Made in the future.
    #[error("`iat` is still to come: compare the clocks of issuer and control")]
    IssuedInFuture,
    /// Good for too long.
    #[error("from `iat` to `exp` it is longer than `max-lifetime`, or ends before it begins")]
    Lifetime,
    /// A claim of another type than RFC 7519 gives it.
    #[error("claim `{0}` has a type or a value that it cannot have")]
    Malformed(&'static str),
    /// A claim that has to be there.
    #[error("it has no claim `{0}`")]
    ClaimMissing(String),
    /// A claim that has to have another value.
    #[error("claim `{0}` is not what `require` says")]
    ClaimMismatch(String),
    /// A claim that cannot be a selector.
    #[error("claim `{0}` cannot be a selector: expected 1 to 256 bytes of text without control characters")]
    ClaimUnusable(String),
}

impl JwtError {
    /// A stable word for log, metrics and audit.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::AttestorUnknown => "attestor_unknown",
            Self::Token(error) => error.reason(),
            Self::Algorithm(_) => "algorithm",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoExpiry => "no_expiry",
            Self::Expired => "token_expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedInFuture => "issued_in_future",
            Self::Lifetime => "lifetime",
            Self::Malformed(_) => "malformed",
            Self::ClaimMissing(_) => "claim_missing",
            Self::ClaimMismatch(_) => "claim_mismatch",
            Self::ClaimUnusable(_) => "claim_unusable",
        }
    }
}
