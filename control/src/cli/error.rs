//! How a command fails: what happened, what to do next, and a code for scripts.

use std::fmt;
use std::process::ExitCode;

use tonic::{Code, Status};

use crate::api::REQUEST_ID;
use crate::audit::RequestId;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) struct CliError {
    kind: Kind,
    message: String,
    hint: Option<String>,
    request: Option<RequestId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Failed,
    /// No failure: `diff` found some.
    Differences,
    /// What is a failure elsewhere, of `diff`.
    Trouble,
    Usage,
    Unreachable,
    NotFound,
    NotPermitted,
    /// Done, but not heard of from everybody.
    Unconfirmed,
}

impl CliError {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(super) fn not_permitted(message: impl Into<String>) -> Self {
        Self::new(Kind::NotPermitted, message)
    }

    /// It is committed, but not everybody has said so.
    pub(super) fn unconfirmed(message: impl Into<String>) -> Self {
        Self::new(Kind::Unconfirmed, message)
    }

    /// There are differences.
    pub(super) fn differences(message: impl Into<String>) -> Self {
        Self::new(Kind::Differences, message)
    }

    /// The same error of a verb whose exit code 1 means differences.
    pub(super) fn into_trouble(mut self) -> Self {
        if self.kind == Kind::Failed {
            self.kind = Kind::Trouble;
        }
        self
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, request: None }
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The call that failed, if control answered it.
    pub(super) fn request(&self) -> Option<RequestId> {
        self.request
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Failed | Kind::Differences => 1,
            Kind::Usage | Kind::Trouble => 2,
            Kind::Unreachable => 3,
            Kind::NotFound => 4,
            Kind::NotPermitted => 5,
            Kind::Unconfirmed => 6,
        })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::PermissionDenied | Code::Unauthenticated => Kind::NotPermitted,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Kind::Unreachable,
            _ => Kind::Failed,
        };
        let message = match status.message() {
            "" => format!("control answered {:?} without saying why", status.code()),
            message => message.to_owned(),
        };
        let mut error = Self::new(kind, message);
        let request = status.metadata().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        error.request = request.and_then(RequestId::parse);
        match status.code() {
            Code::NotFound => error.with_hint(
                "`signet workload list`, `signet policy list`, `signet identities` and `signet federation list` show what there is",
            ),
            Code::Unavailable | Code::DeadlineExceeded => error
                .with_hint("nothing is known about the outcome: ask again, or look at `signet audit list`"),
            _ => error,
        }
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
