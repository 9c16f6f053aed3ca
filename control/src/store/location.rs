//! Where the store is: a directory of this machine, or a PostgreSQL server that replicas share.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::poll_fn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_tokio_postgres::MakeRustlsConnect;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};

use super::StoreError;

const CONNECT: Duration = Duration::from_secs(3);
/// For every session: a replica that stands still must not hold the writer's place for longer.
const SETTINGS: &str = "-c statement_timeout=5s -c lock_timeout=4s -c idle_in_transaction_session_timeout=5s";
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What a connection hears; polling it is what drives the connection.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<AsyncMessage, tokio_postgres::Error>> + Send>>;

/// What `--store` names.
#[derive(Debug, Clone)]
pub enum Location {
    /// SQLite in the data directory.
    Directory(PathBuf),
    /// PostgreSQL.
    Server(Server),
}

/// A PostgreSQL database and how to get there.
#[derive(Clone)]
pub struct Server {
    config: Arc<Config>,
    tls: Option<MakeRustlsConnect>,
    shown: Arc<str>,
}

/// Why a text does not name a store.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LocationError {
    /// Neither of the two.
    #[error("expected `sqlite`, or `postgres://USER@HOST:PORT/DATABASE`")]
    Unknown,
    /// A PostgreSQL URL that does not parse.
    #[error("not a PostgreSQL URL: {0}")]
    Url(String),
    /// Without a host, or a database.
    #[error("the PostgreSQL URL names no {0}")]
    Missing(&'static str),
    /// Would send everything in the clear over a network.
    #[error(
        "`{0}` is not this machine: name the authority of the server's certificate with `--store-ca-file`, or say \
         `sslmode=disable` if the network between is safe"
    )]
    Clear(String),
    /// The file of `--store-ca-file`.
    #[error("store-ca-file: {0}")]
    Roots(String),
}

impl From<PathBuf> for Location {
    fn from(data_dir: PathBuf) -> Self {
        Self::Directory(data_dir)
    }
}

impl From<&std::path::Path> for Location {
    fn from(data_dir: &std::path::Path) -> Self {
        Self::Directory(data_dir.to_owned())
    }
}

impl Server {
    /// Parses a URL. The server's certificate is verified whenever there is TLS; without TLS only this machine, and
    /// what says `sslmode=disable`, is spoken to. `roots` is PEM; `password` wins over one in the URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str, roots: Option<&[u8]>, password: Option<&[u8]>) -> Result<Self, LocationError> {
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(LocationError::Unknown);
        }
        let mut config = Config::from_str(url).map_err(|error| LocationError::Url(with_source(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(LocationError::Missing("host"));
        }
        if config.get_dbname().is_none() {
            return Err(LocationError::Missing("database"));
        }
        let far = config.get_hosts().iter().find_map(|host| match host {
            Host::Tcp(name) if !is_this_machine(name) => Some(name.clone()),
            _ => None,
        });
        match (config.get_ssl_mode(), roots, far) {
            (SslMode::Disable, None, _) => {}
            (_, Some(_), _) => {
                config.ssl_mode(SslMode::Require);
            }
            (_, None, None) => {
                config.ssl_mode(SslMode::Disable);
            }
            (_, None, Some(host)) => return Err(LocationError::Clear(host)),
        }
        if let Some(password) = password {
            config.password(password);
        }
        let options =
            config.get_options().map_or_else(|| SETTINGS.to_owned(), |own| format!("{SETTINGS} {own}"));
        config.options(options).connect_timeout(CONNECT).application_name("signet-control");
        config.keepalives_idle(Duration::from_secs(5)).tcp_user_timeout(Duration::from_secs(5));
        let tls = roots.map(tls).transpose()?.map(MakeRustlsConnect::new);
        Ok(Self { shown: shown(&config).into(), tls, config: Arc::new(config) })
    }

    /// One connection, and what it hears, to be polled for as long as it is used.
    pub(super) async fn connect(&self) -> Result<(Client, Messages), StoreError> {
        let connecting = async {
            Ok::<_, tokio_postgres::Error>(match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    (client, messages(connection))
                }
                None => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    (client, messages(connection))
                }
            })
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(error)) => {
                Err(StoreError::Unavailable(format!("{}: {}", self.shown, with_source(&error))))
            }
            Err(_) => Err(StoreError::Unavailable(format!("{}: no answer", self.shown))),
        }
    }
}

fn messages<T>(mut connection: Connection<Socket, T>) -> Messages
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(poll_fn(move |context| connection.poll_message(context)))
}

fn tls(pem: &[u8]) -> Result<ClientConfig, LocationError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| LocationError::Roots(error.to_string()))?;
        store.add(certificate).map_err(|error| LocationError::Roots(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(LocationError::Roots("no certificate in it".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| LocationError::Roots(error.to_string()))?;
    Ok(config.with_root_certificates(store).with_no_client_auth())
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Without the password.
fn shown(config: &Config) -> String {
    let hosts: Vec<_> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    format!("PostgreSQL at {}, database `{}`", hosts.join(", "), config.get_dbname().unwrap_or_default())
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_over_a_network_in_the_clear_unless_told() {
        for (url, expected) in [
            ("postgres://signet@127.0.0.1:5432/signet", Ok(())),
            ("postgresql://signet@localhost/signet", Ok(())),
            ("postgres:///signet?host=/run/postgresql", Ok(())),
            ("postgres://signet@db.example/signet", Err("`db.example` is not this machine")),
            ("postgres://signet@127.0.0.1,db.example/signet", Err("`db.example` is not this machine")),
            ("postgres://signet@db.example/signet?sslmode=disable", Ok(())),
            ("postgres://db.example", Err("names no database")),
            ("mysql://db/x", Err("expected `sqlite`")),
        ] {
            match (Server::parse(url, None, None).map(drop).map_err(|error| error.to_string()), expected) {
                (Ok(()), Ok(())) => {}
                (Err(found), Err(part)) if found.contains(part) => {}
                (found, _) => panic!("{url}: {found:?}"),
            }
        }
    }

    #[test]
    fn password_is_shown_nowhere() {
        let server = Server::parse("postgres://signet:hunter2@localhost/signet", None, None).unwrap();
        assert!(!format!("{server} {server:?}").contains("hunter2"));
    }
}
