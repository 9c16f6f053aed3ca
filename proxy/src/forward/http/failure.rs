//! Why a request got no answer of the called side, and what its client is told instead.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::Http;
use super::route::Route;
use crate::forward::upstream::UpstreamError;
use crate::outbound::NoToken;
use crate::telemetry::{CloseReason, Direction};

/// A request that got no response.
pub(super) enum Failure {
    Unreachable(Arc<UpstreamError>),
    /// The called side broke off, in these words.
    Broken(String),
    /// Its body did not come.
    Body(BodyError),
    Cut(CloseReason),
    Slow(Duration),
    Unasked,
    Token(NoToken),
}

/// Why a body of ours did not reach its end.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum BodyError {
    /// Its request lost its right.
    #[error("cut: {}", .0.as_str())]
    Cut(CloseReason),
    /// It stood still for too long.
    #[error("nothing moved for {} s", .0.as_secs())]
    Still(Duration),
    /// Who sends it broke off.
    #[error("the sender broke off: {0}")]
    Sender(String),
}

impl BodyError {
    /// Whether that is behind `error`.
    pub(super) fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
    }
}

impl<R: Route> Http<R> {
    /// What the client is told, and why it ended.
    pub(super) fn told(&self, failure: &Failure) -> (StatusCode, CloseReason, String) {
        match failure {
            Failure::Unreachable(error) => (error.status(), CloseReason::Error, error.to_string()),
            Failure::Broken(why) => {
                let text = format!("the called side broke off before it answered: {why}");
                (StatusCode::BAD_GATEWAY, self.called_reset(), text)
            }
            Failure::Body(ours) => {
                let (status, reason) = match ours {
                    BodyError::Cut(reason) => (StatusCode::FORBIDDEN, *reason),
                    BodyError::Still(_) => (StatusCode::REQUEST_TIMEOUT, CloseReason::Idle),
                    BodyError::Sender(_) => (StatusCode::BAD_REQUEST, self.caller_reset()),
                };
                (status, reason, format!("the body of the request: {ours}"))
            }
            Failure::Cut(reason) => (StatusCode::FORBIDDEN, *reason, format!("cut: {}", reason.as_str())),
            Failure::Unasked => {
                let text = "the called side changed the protocol without being asked".to_owned();
                (StatusCode::BAD_GATEWAY, self.called_reset(), text)
            }
            Failure::Token(error) => (StatusCode::SERVICE_UNAVAILABLE, CloseReason::Error, error.to_string()),
            Failure::Slow(idle) => {
                (StatusCode::GATEWAY_TIMEOUT, CloseReason::Idle, format!("no answer within {idle:?}"))
            }
        }
    }

    pub(super) fn caller_reset(&self) -> CloseReason {
        match self.facts.direction {
            Direction::Inbound => CloseReason::PeerReset,
            Direction::Outbound => CloseReason::AppReset,
        }
    }

    pub(super) fn called_reset(&self) -> CloseReason {
        match self.facts.direction {
            Direction::Inbound => CloseReason::AppReset,
            Direction::Outbound => CloseReason::PeerReset,
        }
    }
}
