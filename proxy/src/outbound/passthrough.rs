//! A destination that is no known peer, where the configuration lets it pass: bytes without TLS or identity,
//! counted and logged as such. Never to ourselves, and never to control.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::capture::own::Calling;
use crate::capture::socket::canonical;
use crate::config::Requested;
use crate::forward::upstream::{UpstreamError, in_time};
use crate::mesh::Behind;
use crate::run::Shared;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Names that are looked up at a time: each takes a thread, which a dead server holds on to.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

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
    /// It is, or was, a peer's address.
    #[error(
        "{0} is a peer's address, and who is meant is not clear: nothing goes there without its identity"
    )]
    Meshed(SocketAddr),
    /// It does not answer.
    #[error(transparent)]
    Unreachable(#[from] UpstreamError),
}

/// A connection to what was asked for, and what it is recognized by.
pub(super) async fn reach(
    shared: &Shared,
    requested: &Requested,
) -> Result<(TcpStream, Calling), PassthroughError> {
    let lookup = async {
        let _one_of_few = LOOKUPS.acquire().await.ok()?;
        tokio::net::lookup_host((requested.host.as_str(), requested.port)).await.ok()
    };
    let addresses = match tokio::time::timeout(RESOLVE_DEADLINE, lookup).await {
        Ok(Some(addresses)) => addresses,
        _ => return Err(PassthroughError::Name(requested.clone())),
    };
    let mut failure = PassthroughError::Name(requested.clone());
    // A name may have addresses of both families of which one is not reachable from here.
    for address in addresses.take(4) {
        if shared.own.has(address) || shared.own.is_control(address).await {
            return Err(PassthroughError::Forbidden(address));
        }
        let snapshot = shared.mesh.current().ok_or(UpstreamError::NotReady)?;
        if snapshot.services.behind(canonical(address)) != Behind::Stranger {
            return Err(PassthroughError::Meshed(address));
        }
        match call(shared, address).await {
            Ok(called) => return Ok(called),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

async fn call(shared: &Shared, address: SocketAddr) -> Result<(TcpStream, Calling), UpstreamError> {
    let (socket, calling) =
        shared.own.caller(address).map_err(|error| UpstreamError::Connect { address, error })?;
    let stream = in_time(address, socket.connect(address)).await?;
    Ok((stream, calling))
}
