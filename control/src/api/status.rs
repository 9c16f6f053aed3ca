//! The one map from errors to gRPC statuses. What is the caller's fault says what to do; what is ours is
//! logged here in full.

use signet_proto::because;
use tonic::{Code, Status};

use crate::attest::{AttestError, NoTicket};
use crate::audit::RequestId;
use crate::ca::CaError;
use crate::federation::FederationError;
use crate::issue::{IssueError, NotGranted};
use crate::policy::PolicyError;
use crate::registry::{ApplyError, RegistryError};
use crate::revoke::RevokeError;
use crate::roles::Refused;
use crate::store::{Refusal, StoreError};
use crate::telemetry::metrics;

/// Something that a call can be answered with.
pub(super) trait ToStatus: std::fmt::Display {
    /// Its code.
    fn code(&self) -> Code;

    /// Its cause in one word, where the caller decides by it.
    fn because(&self) -> Option<&'static str> {
        None
    }

    /// The answer, counted and, if it is ours, logged.
    fn to_status(&self) -> Status {
        let code = self.code();
        metrics::call_failed(name(code));
        match code {
            Code::Internal | Code::DataLoss | Code::ResourceExhausted => {
                tracing::error!(error = %self, "call failed");
            }
            Code::Unavailable => tracing::warn!(error = %self, "call failed"),
            _ => tracing::debug!(error = %self, "call refused"),
        }
        let status = Status::new(code, self.to_string());
        match self.because() {
            Some(word) => because::with(status, word),
            None => status,
        }
    }

    /// The answer to whoever has proven nothing: what is wrong here, and with what, is not theirs to know.
    fn to_stranger(&self, call: Option<RequestId>) -> Status {
        let status = self.to_status();
        let code = match status.code() {
            Code::Unavailable if self.is_told() => return status,
            Code::Unavailable => Code::Unavailable,
            Code::Internal | Code::DataLoss | Code::ResourceExhausted | Code::Unknown => Code::Internal,
            _ => return status,
        };
        let call = call.map_or_else(String::new, |call| format!("; its log names this call {call}"));
        Status::new(code, format!("control cannot do this now: try again in a moment{call}"))
    }

    /// Whether anybody may know why it is not available.
    fn is_told(&self) -> bool {
        false
    }
}

impl ToStatus for Refused {
    fn code(&self) -> Code {
        match self {
            Self::Missing(_) | Self::Gain(_) | Self::Membership(_) => Code::PermissionDenied,
            Self::Untold(_) => Code::Internal,
        }
    }
}

impl ToStatus for StoreError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Refused(_) => Code::FailedPrecondition,
            Self::NotPermitted(refused) => refused.code(),
            Self::Full => Code::ResourceExhausted,
            Self::Overloaded | Self::Closed | Self::Unavailable(_) => Code::Unavailable,
            Self::Unknown => Code::Unknown,
            Self::Damaged(_) => Code::DataLoss,
            Self::Io(_) | Self::Unaudited | Self::Open(_) => Code::Internal,
        }
    }
}

impl ToStatus for RegistryError {
    fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Id(_)
            | Self::Domain { .. }
            | Self::NotWorkload(_)
            | Self::Reserved(_)
            | Self::Name { .. }
            | Self::Mistake(_)
            | Self::Text { .. } => Code::InvalidArgument,
        }
    }
}

impl ToStatus for ApplyError {
    fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::NotPermitted(refused) => refused.code(),
            Self::Set(_) | Self::Empty | Self::OnlyPolicies(_) | Self::Policies(_) => Code::InvalidArgument,
            Self::Unreadable { .. } => Code::DataLoss,
            Self::Closed => Code::Unavailable,
        }
    }
}

impl ToStatus for RevokeError {
    fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Registry(error) => error.code(),
            Self::Missing
            | Self::Instance(_)
            | Self::Serial
            | Self::Key
            | Self::Issuer
            | Self::Subtree(_) => Code::InvalidArgument,
        }
    }
}

impl ToStatus for PolicyError {
    fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::NotPermitted(refused) => refused.code(),
            Self::Parse(_) | Self::Empty(_) | Self::Compile { .. } | Self::Question(_) => {
                Code::InvalidArgument
            }
        }
    }
}

impl ToStatus for NoTicket {
    fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Ttl => Code::InvalidArgument,
            Self::NoRandomness => Code::Internal,
        }
    }
}

impl ToStatus for AttestError {
    fn is_told(&self) -> bool {
        matches!(self, Self::Keys)
    }

    fn code(&self) -> Code {
        match self {
            Self::NoProof => Code::InvalidArgument,
            Self::NoAttestor => Code::NotFound,
            Self::CsrHash => Code::InvalidArgument,
            Self::Keys => Code::Unavailable,
            Self::Token(_) | Self::Disbelieved(_) => Code::Unauthenticated,
            Self::Store(error) => match error {
                StoreError::NotFound { .. } | StoreError::Refused(_) => Code::Unauthenticated,
                error => error.code(),
            },
        }
    }
}

impl ToStatus for IssueError {
    fn code(&self) -> Code {
        match self {
            Self::Policy(NotGranted::Ended(_)) => Code::PermissionDenied,
            Self::Csr(_) | Self::Policy(_) | Self::Version | Self::Audience => Code::InvalidArgument,
            Self::Ends => Code::FailedPrecondition,
            Self::NoInstance => Code::PermissionDenied,
            Self::Held(_) => Code::FailedPrecondition,
            Self::Store(StoreError::Refused(refusal)) => match refusal {
                Refusal::KeyRevoked | Refusal::KeyOfAnother => Code::InvalidArgument,
                // Whoever asks again may get it then.
                Refusal::Frozen { .. } => Code::FailedPrecondition,
                Refusal::TooManyRequests | Refusal::QuotaUsed { .. } => Code::ResourceExhausted,
                Refusal::ChangedMeanwhile | Refusal::SignerRemoved => Code::Unavailable,
                _ => Code::PermissionDenied,
            },
            Self::Store(StoreError::NotFound { .. }) => Code::PermissionDenied,
            Self::Store(error) => error.code(),
            Self::Ca(error) => error.code(),
            Self::Instance(_) | Self::Own(_) => Code::Internal,
        }
    }

    fn because(&self) -> Option<&'static str> {
        match self {
            Self::Store(StoreError::Refused(refusal)) => Some(refusal.as_str()),
            _ => None,
        }
    }
}

impl ToStatus for FederationError {
    fn code(&self) -> Code {
        match self {
            Self::Own(_) | Self::Endpoint(_) | Self::Bundle(_) | Self::NoBundle => Code::InvalidArgument,
            // Somebody else's, not ours: who asks again may get it then.
            Self::Pull { .. } => Code::FailedPrecondition,
            Self::Store(error) => error.code(),
        }
    }
}

impl ToStatus for CaError {
    fn code(&self) -> Code {
        match self {
            Self::Store(error) => error.code(),
            Self::Ended(_) | Self::Token(_) | Self::NoJwtKey | Self::NotGood { .. } => Code::Unavailable,
            Self::Chain(_) => Code::InvalidArgument,
            // Somebody else's, not ours: who asks again may get it then.
            Self::RootElsewhere(_) | Self::NothingAsked | Self::Upstream(_) | Self::NotBegun(_) => {
                Code::FailedPrecondition
            }
            Self::Seal(_)
            | Self::Second(_)
            | Self::Crypto(_)
            | Self::Profile(_)
            | Self::Bundle(_)
            | Self::Mismatch(_) => Code::Internal,
        }
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
