//! Reaching control: by the local socket, or over mutual TLS with the operator's own SVID.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use signet_proto::handshake::{server_name, verify_failure};
use signet_proto::v1::admin_client::AdminClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::credentials::{self, Credentials};
use super::error::CliError;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const CALL_DEADLINE: Duration = Duration::from_secs(75);
/// The audit of a long time, or the identities of a large mesh.
const LARGEST_ANSWER: usize = 256 * 1024 * 1024;

/// Where control is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("expected a path after `unix:`".into())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err("expected `unix:PATH` or `HOST:PORT`".into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// What to connect to, and with what; connects when asked to.
pub(super) struct Session {
    target: Target,
    credentials: Option<PathBuf>,
}

impl Session {
    pub(super) fn new(target: Target, credentials: Option<PathBuf>) -> Self {
        Self { target, credentials }
    }

    /// A client for the operators' verbs.
    pub(super) async fn admin(&self) -> Result<AdminClient<Channel>, CliError> {
        let channel = match &self.target {
            Target::Unix(path) => unix(path.clone()).await?,
            Target::Tcp(address) => {
                let directory = credentials::directory(self.credentials.clone())?;
                let credentials = Credentials::load(&directory, address).await?;
                tls(address, credentials.client_config()?).await?
            }
        };
        Ok(AdminClient::new(channel).max_decoding_message_size(LARGEST_ANSWER))
    }
}

async fn unix(path: PathBuf) -> Result<Channel, CliError> {
    let shown = format!("unix:{}", path.display());
    match UnixStream::connect(&path).await {
        Ok(stream) => over(&shown, stream).await,
        Err(error) => {
            let message = format!("cannot reach control at {shown}: {error}");
            Err(match error.kind() {
                io::ErrorKind::PermissionDenied => CliError::not_permitted(message)
                    .with_hint("only root, control's own user and its `--admin-uid` users may connect"),
                _ => CliError::unreachable(message)
                    .with_hint("is `signet-control run` up? `--control` or SIGNET_CONTROL say where it is"),
            })
        }
    }
}

/// A channel over TLS, ours and not tonic's: the peer is believed by its SPIFFE ID.
pub(super) async fn tls(address: &str, config: Arc<ClientConfig>) -> Result<Channel, CliError> {
    match tokio::time::timeout(CONNECT_DEADLINE, dial(address, TlsConnector::from(config))).await {
        Ok(Ok(stream)) => over(address, stream).await,
        Ok(Err(error)) => Err(explain(address, &error)),
        Err(_) => Err(CliError::unreachable(format!("no answer from control at {address} in time"))),
    }
}

async fn dial(address: &str, connector: TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    connector.connect(server_name(), stream).await
}

/// A channel over one connection that is open already: a command is short, and why it could not connect is
/// known exactly only where it was tried. It does not reconnect.
async fn over<S>(shown: &str, stream: S) -> Result<Channel, CliError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(stream);
    let connector = service_fn(move |_: Uri| {
        let stream = stream.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| io::Error::other("the connection was lost")))
    });
    // The name is never looked up: the connector knows where to go.
    let unreachable = |error| CliError::unreachable(format!("cannot reach control at {shown}: {error}"));
    let endpoint = Endpoint::try_from("http://control").map_err(unreachable)?.timeout(CALL_DEADLINE);
    endpoint.connect_with_connector(connector).await.map_err(unreachable)
}

fn explain(address: &str, error: &io::Error) -> CliError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        None => CliError::unreachable(format!("cannot reach control at {address}: {error}"))
            .with_hint("is the address right, and `signet-control run` up?"),
        Some(tls) => match verify_failure(tls) {
            Some(failure) => {
                CliError::not_permitted(format!("control at {address} is not believed: {failure}"))
            }
            None => CliError::not_permitted(format!("TLS with control at {address} failed: {tls}"))
                .with_hint("if control refused your SVID, get another with `signet login`"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_sockets_or_addresses() {
        assert_eq!("unix:/run/a.sock".parse(), Ok(Target::Unix("/run/a.sock".into())));
        assert_eq!("[::1]:8443".parse(), Ok(Target::Tcp("[::1]:8443".into())));
        for wrong in ["", "unix:", "control", "control:", "control:0", "control:x", ":1"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
