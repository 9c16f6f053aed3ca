//! A collector over HTTP: lines are POSTed as `application/x-ndjson`, and any 2xx says that all of them are kept.
//!
//! A collector that knows better up to where it has everything says so in the header `signet-acknowledged: N` of its
//! answer (of a 409, too): what comes next begins after event N, so one that lost its end gets it again, and one that
//! had some already is not sent them again. Redirects are not followed. Whoever is not on this machine is talked to
//! over TLS 1.3 only, and has a certificate of an authority that this machine trusts (`SSL_CERT_FILE` names others).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// Connecting, sending and the whole answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Nobody reads what collectors say; more is not waited for.
const MAX_ANSWER: usize = 64 * 1024;
const ACKNOWLEDGED: &str = "signet-acknowledged";

/// A collector's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAddress {
    text: String,
    tls: bool,
    host: String,
    port: u16,
    /// As `Host` says it.
    authority: String,
    path: String,
}

impl HttpAddress {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains(['#', '\\']) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("not a URL: printable ASCII, without `#`");
        }
        let uri: Uri = text.parse().map_err(|_| "not a URL")?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err("unknown scheme"),
            None => return Err("no scheme"),
        };
        let authority = uri.authority().ok_or("no host")?.as_str().to_owned();
        if authority.contains('@') {
            return Err("user and password are not sent");
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("no host")?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        if tls && ServerName::try_from(host.as_str()).is_err() {
            return Err("no host that a certificate can name");
        }
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            // Nothing, or a number that is too large.
            None if authority.rsplit_once(':').is_some_and(|(_, after)| !after.contains(']')) => {
                return Err("no port after `:`");
            }
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        if port == 0 {
            return Err("port 0");
        }
        let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !tls && !local {
            return Err("without TLS only on this machine");
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { text: text.to_owned(), tls, host, port, authority, path })
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a collector did not take lines. It may have kept them all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No connection, or it was lost.
    #[error("{address}: {error}")]
    Connection {
        /// Which collector.
        address: String,
        /// What went wrong.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{address}: no answer within {}s", DEADLINE.as_secs())]
    Deadline {
        /// Which collector.
        address: String,
    },
    /// It said no.
    #[error("{address}: answered {status}")]
    Status {
        /// Which collector.
        address: String,
        /// What it said.
        status: StatusCode,
    },
    /// TLS cannot work here.
    #[error("{address}: {why}")]
    Tls {
        /// Which collector.
        address: String,
        /// Why not.
        why: String,
    },
}

/// Talks to one collector, a connection for each batch: there is one in seconds.
pub(super) struct HttpSink {
    address: HttpAddress,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    deadline: Duration,
}

impl HttpSink {
    pub(super) fn new(address: HttpAddress) -> Result<Self, HttpError> {
        let mut roots = RootCertStore::empty();
        if address.tls {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Self::believing(address, roots)
    }

    /// With a collector's certificate of one of these authorities.
    fn believing(address: HttpAddress, roots: RootCertStore) -> Result<Self, HttpError> {
        let tls = address.tls.then(|| tls(&address, roots)).transpose()?;
        Ok(Self { address, tls, deadline: DEADLINE })
    }

    #[cfg(test)]
    fn impatient(mut self) -> Self {
        self.deadline = Duration::from_millis(300);
        self
    }

    /// Sends lines. `Some`: up to which event the collector says that it has everything.
    pub(super) async fn post(&self, lines: String) -> Result<Option<u64>, HttpError> {
        let address = || self.address.text.clone();
        match tokio::time::timeout(self.deadline, Box::pin(self.attempt(lines))).await {
            Ok(Ok((status, acknowledged))) => match acknowledged {
                Some(sequence) if status == StatusCode::CONFLICT => Ok(Some(sequence)),
                acknowledged if status.is_success() => Ok(acknowledged),
                _ => Err(HttpError::Status { address: address(), status }),
            },
            Ok(Err(error)) => Err(HttpError::Connection { address: address(), error }),
            Err(_) => Err(HttpError::Deadline { address: address() }),
        }
    }

    async fn attempt(&self, lines: String) -> Result<(StatusCode, Option<u64>), BoxError> {
        let HttpAddress { host, port, .. } = &self.address;
        let stream = match self.tls {
            Some(_) => TcpStream::connect((host.as_str(), *port)).await?,
            None => TcpStream::connect(&*this_machine(host, *port).await?).await?,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            Some((connector, name)) => {
                self.exchange(connector.connect(name.clone(), stream).await?, lines).await
            }
            None => self.exchange(stream, lines).await,
        }
    }

    async fn exchange<S>(&self, stream: S, lines: String) -> Result<(StatusCode, Option<u64>), BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, String>(TokioIo::new(stream)).await?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.address.path)
            .header(HOST, &self.address.authority)
            .header(USER_AGENT, concat!("signet-control/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(lines)?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let acknowledged = response
            .headers()
            .get(ACKNOWLEDGED)
            .map(|value| value.to_str().ok().and_then(|text| text.parse().ok()))
            .map(|value: Option<u64>| value.ok_or("signet-acknowledged: expected a number"))
            .transpose()?;
        // An answer that breaks off is none.
        Limited::new(response.into_body(), MAX_ANSWER).collect().await?;
        Ok((status, acknowledged))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// `localhost` is what the resolver says: without TLS only if that is this machine.
async fn this_machine(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port)).await?;
    let local: Vec<SocketAddr> = found.filter(|address| address.ip().is_loopback()).collect();
    if local.is_empty() {
        return Err(std::io::Error::other(format!(
            "`{host}` is not this machine: nothing is sent without TLS"
        )));
    }
    Ok(local)
}

fn tls(
    address: &HttpAddress,
    roots: RootCertStore,
) -> Result<(TlsConnector, ServerName<'static>), HttpError> {
    let failed = |why: String| HttpError::Tls { address: address.text.clone(), why };
    let name = ServerName::try_from(address.host.clone()).map_err(|error| failed(error.to_string()))?;
    if roots.is_empty() {
        let why = "no certificate authority is trusted here: install `ca-certificates` or set SSL_CERT_FILE";
        return Err(failed(why.to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| failed(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((TlsConnector::from(Arc::new(config)), name))
}

impl fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpSink({})", self.address)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;
    use crate::audit::testing::{Behaviour, Collector};

    async fn post(behaviour: Behaviour) -> Result<Option<u64>, HttpError> {
        let collector = Collector::start(behaviour).await;
        let address = HttpAddress::parse(&collector.url()).unwrap();
        HttpSink::new(address).unwrap().impatient().post("line 1\nline 2\n".to_owned()).await
    }

    #[tokio::test]
    async fn collector_that_keeps_lines_acknowledges_them() {
        assert_eq!(post(Behaviour::Keep).await.unwrap(), None);
        assert_eq!(post(Behaviour::Acknowledge("200 OK", "7")).await.unwrap(), Some(7));
        assert_eq!(post(Behaviour::Acknowledge("409 Conflict", "3")).await.unwrap(), Some(3));
    }

    #[tokio::test]
    async fn anything_else_is_no_acknowledgement() {
        let refused = post(Behaviour::Answer("500 Internal Server Error")).await.unwrap_err();
        assert!(matches!(refused, HttpError::Status { status: StatusCode::INTERNAL_SERVER_ERROR, .. }));
        for refused in ["301 Moved Permanently", "401 Unauthorized", "409 Conflict", "429 Too Many Requests"]
        {
            assert!(matches!(post(Behaviour::Answer(refused)).await, Err(HttpError::Status { .. })));
        }
        assert!(matches!(post(Behaviour::Stall).await, Err(HttpError::Deadline { .. })));
        assert!(matches!(post(Behaviour::Drip).await, Err(HttpError::Deadline { .. })));
        for lost in [
            Behaviour::CloseAtOnce,
            Behaviour::CloseInRequest,
            Behaviour::CloseInAnswer,
            Behaviour::Babble,
            Behaviour::Endless,
            Behaviour::Acknowledge("200 OK", "many"),
        ] {
            let shown = format!("{lost:?}");
            let refused = post(lost).await;
            assert!(matches!(refused, Err(HttpError::Connection { .. })), "{shown}: {refused:?}");
        }
        let nobody = HttpAddress::parse("http://127.0.0.1:1/").unwrap();
        let refused = HttpSink::new(nobody).unwrap().post(String::new()).await;
        assert!(matches!(refused, Err(HttpError::Connection { .. })));
    }

    /// Certificates for collectors, and the authority that they are of.
    struct Certified {
        directory: tempfile::TempDir,
        roots: RootCertStore,
    }

    /// What a collector shows.
    #[derive(Clone, Copy, PartialEq)]
    enum Shown {
        Good,
        OtherAuthority,
        OtherName,
        Ended,
        OldTls,
    }

    impl Certified {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap(), roots: RootCertStore::empty() }
        }

        /// A collector of Python, which we did not write, and where it is.
        async fn collector(&mut self, shown: Shown) -> (tokio::process::Child, u16) {
            let (key, authority_key) =
                (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
            let mut authority = rcgen::CertificateParams::default();
            authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let root = authority.self_signed(&authority_key).unwrap();
            if shown != Shown::OtherAuthority {
                self.roots.add(root.der().clone()).unwrap();
            }
            let name = if shown == Shown::OtherName { "collector.example" } else { "localhost" };
            let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            if shown == Shown::Ended {
                params.not_after = rcgen::date_time_ymd(2020, 1, 1);
                params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            }
            let issuer = rcgen::Issuer::new(authority, authority_key);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            let path = |name: &str| self.directory.path().join(name);
            std::fs::write(path("chain.pem"), certificate.pem()).unwrap();
            std::fs::write(path("key.pem"), key.serialize_pem()).unwrap();
            let mut command = tokio::process::Command::new("python3");
            command
                .args(["-c", include_str!("http/collector.py")])
                .arg(path("chain.pem"))
                .arg(path("key.pem"));
            if shown == Shown::OldTls {
                command.arg("1.2");
            }
            let mut child = command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let port = lines.next_line().await.unwrap().unwrap().parse().unwrap();
            (child, port)
        }
    }

    #[tokio::test]
    async fn collector_of_other_software_is_believed_by_its_certificate_alone() {
        let sends = async |shown, host: &str| {
            let mut certified = Certified::new();
            let (_collector, port) = certified.collector(shown).await;
            let mut roots = certified.roots;
            // Somebody else is believed, too.
            let key = rcgen::KeyPair::generate().unwrap();
            let other = rcgen::CertificateParams::default().self_signed(&key).unwrap();
            roots.add(other.der().clone()).unwrap();
            let address = HttpAddress::parse(&format!("https://{host}:{port}/audit")).unwrap();
            let sink = HttpSink::believing(address, roots).unwrap();
            sink.post("line\n".to_owned()).await.map_err(|error| error.to_string())
        };
        assert_eq!(sends(Shown::Good, "localhost").await, Ok(None));
        for (shown, host, why) in [
            (Shown::OtherAuthority, "localhost", "invalid peer certificate"),
            (Shown::OtherName, "localhost", "not valid for name"),
            (Shown::Good, "127.0.0.1", "not valid for name"),
            (Shown::Ended, "localhost", "expired"),
            (Shown::OldTls, "localhost", "ProtocolVersion"),
        ] {
            let refused = sends(shown, host).await.unwrap_err();
            assert!(refused.contains(why), "{why}: {refused}");
        }
    }
}
