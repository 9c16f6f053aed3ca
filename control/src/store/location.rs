//! Where the store is: a directory of this machine, or a PostgreSQL server that replicas share.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::poll_fn;
use futures_util::{Stream, StreamExt as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_tokio_postgres::MakeRustlsConnect;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, Socket};

use super::StoreError;

const CONNECT: Duration = Duration::from_secs(3);
/// For every session: a replica that stands still must not hold the writer's place for longer.
const SETTINGS: &str = "-c signet.session=direct -c statement_timeout=5s -c lock_timeout=4s -c idle_in_transaction_session_timeout=5s \
                        -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3";
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What of [`SETTINGS`] no server says by itself: without it, whoever is between did not pass them on.
const DIRECT: &str = "direct";
const POOLER: &str = "between control and PostgreSQL is a pooler that does not give each connection a session of its \
                      own: name the server itself";

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
    /// As the first connection found it.
    schema: Arc<OnceLock<Schema>>,
}

/// The part of a database that one mesh has to itself: locks and channels are those of this schema.
#[derive(Debug)]
pub(super) struct Schema {
    name: String,
    digest: [u8; 32],
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
        if !config.get_hostaddrs().is_empty() {
            return Err(LocationError::Url("`hostaddr` is not taken: name the host".into()));
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
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.keepalives_idle(Duration::from_secs(5)).tcp_user_timeout(Duration::from_secs(5));
        let tls = roots.map(tls).transpose()?.map(MakeRustlsConnect::new);
        Ok(Self { shown: shown(&config).into(), tls, config: Arc::new(config), schema: Arc::default() })
    }

    /// One connection, and what it hears, to be polled for as long as it is used.
    pub(super) async fn connect(&self) -> Result<(Client, Messages), StoreError> {
        let connecting = async {
            let (client, mut messages) = self.reach().await.map_err(|error| self.unreachable(&error))?;
            tokio::select! {
                settled = self.settle(&client) => settled?,
                () = async { while let Some(Ok(_)) = messages.next().await {} } => {
                    return Err(StoreError::Unavailable(format!("{}: ended the connection", self.shown)));
                }
            }
            Ok((client, messages))
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(StoreError::Unavailable(format!("{}: no answer", self.shown))),
        }
    }

    /// The schema, once there was a connection.
    pub(super) fn schema(&self) -> Result<&Schema, StoreError> {
        self.schema.get().ok_or_else(|| StoreError::Unavailable(format!("{}: not connected", self.shown)))
    }

    async fn reach(&self) -> Result<(Client, Messages), tokio_postgres::Error> {
        Ok(match &self.tls {
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                (client, messages(connection))
            }
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                (client, messages(connection))
            }
        })
    }

    fn unreachable(&self, error: &tokio_postgres::Error) -> StoreError {
        let said = with_source(error);
        // What pgbouncer says to settings, unless it is told to drop them.
        if said.contains("unsupported startup parameter") {
            return StoreError::Open(format!("{}: {POOLER}", self.shown));
        }
        StoreError::Unavailable(format!("{}: {said}", self.shown))
    }

    /// Sees that the session is our own, and keeps it in the schema of the first one: whatever the server, the role
    /// or a new schema says later, all sessions of a mesh see the same tables. Nothing but what we say ends it early.
    async fn settle(&self, client: &Client) -> Result<(), StoreError> {
        let asked = "SELECT current_schema(), current_setting('signet.session', true)";
        let answer = client.simple_query(asked).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0), row.get(1))),
            _ => None,
        });
        let (found, session) = row.unwrap_or_default();
        if session != Some(DIRECT) {
            return Err(StoreError::Open(format!("{}: {POOLER}", self.shown)));
        }
        let found = found.ok_or_else(|| {
            let shown = &self.shown;
            StoreError::Open(format!(
                "{shown}: no schema of its search_path exists: create one for this mesh"
            ))
        })?;
        let Schema { name, .. } = self.schema.get_or_init(|| Schema::named(found));
        let pin = format!(
            "SET search_path TO \"{}\"; SELECT set_config(name, '0', false) FROM pg_settings
             WHERE name IN ('idle_session_timeout', 'transaction_timeout')",
            name.replace('"', "\"\"")
        );
        Ok(client.batch_execute(&pin).await?)
    }
}

impl Schema {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), digest: crate::sha256(name.as_bytes()) }
    }

    /// The first of two numbers of its locks.
    pub(super) fn locks(&self) -> i32 {
        let [a, b, c, d, ..] = self.digest;
        i32::from_be_bytes([a, b, c, d])
    }

    /// The number of a lock that has a name in it.
    pub(super) fn lock_of(&self, name: &str) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = crate::sha256(&[&self.digest, name.as_bytes()].concat());
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// Its channel of this name.
    pub(super) fn channel(&self, name: &str) -> String {
        let [a, b, c, d, e, f, g, h, ..] = self.digest;
        format!("signet_{name}_{}", crate::hex::encode(&[a, b, c, d, e, f, g, h]))
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
