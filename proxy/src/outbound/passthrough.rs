//! A destination that is no known peer, where the configuration lets it pass: bytes without TLS or identity,
//! counted and logged as such. Never to ourselves, and never to control.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::config::Requested;
use crate::forward::upstream::{UpstreamError, dial};
use crate::run::Shared;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// Why a stranger cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum PassthroughError {
    /// Nobody knows the name.
    #[error("`{0}` cannot be resolved")]
    Name(Requested),
    /// It is us, or control.
    #[error("{0} is not for apps: it is this proxy, or control")]
    Forbidden(SocketAddr),
    /// It does not answer.
    #[error(transparent)]
    Unreachable(#[from] UpstreamError),
}

/// A connection to what was asked for.
pub(super) async fn reach(shared: &Shared, requested: &Requested) -> Result<TcpStream, PassthroughError> {
    let lookup = tokio::net::lookup_host((requested.host.as_str(), requested.port));
    let addresses = match tokio::time::timeout(RESOLVE_DEADLINE, lookup).await {
        Ok(Ok(addresses)) => addresses,
        _ => return Err(PassthroughError::Name(requested.clone())),
    };
    let mut failure = PassthroughError::Name(requested.clone());
    // A name may have addresses of both families of which one is not reachable from here.
    for address in addresses.take(4) {
        if shared.own.has(address) || shared.own.is_control(address).await {
            return Err(PassthroughError::Forbidden(address));
        }
        match dial(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}
