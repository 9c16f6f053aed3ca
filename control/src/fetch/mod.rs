//! One HTTP request for a small JSON document, from a server that an issuer or an operator named: the keys of tokens, the
//! bundles of other trust domains, and what a CA above ours signed.
//!
//! Control sits where others may not connect from, so: only to addresses that are [permitted](super::address),
//! the one that was judged and no other; nothing is followed; no proxy; one answer, of bounded size.

mod address;
pub(crate) mod roots;
mod url;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, Either};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ClientConfig;
use signet_proto::jose::MAX_KEY_SET_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use address::permitted;

pub use url::{Url, UrlError};

/// One address that does not answer leaves time for the next.
const CONNECT: Duration = Duration::from_secs(2);
const MAX_ADDRESSES: usize = 4;
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 32 * 1024;
const MAX_BEARER_BYTES: u64 = 16 * 1024;
const JSON: [&str; 2] = ["application/json", "application/jwk-set+json"];

/// Why a document was not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// All of it took too long.
    #[error("no complete answer in time")]
    Deadline,
    /// The name has no address.
    #[error("`{host}` cannot be resolved: {error}")]
    Resolve {
        /// Which name.
        host: String,
        /// What the resolver says.
        error: io::Error,
    },
    /// All its addresses are where keys are not fetched from.
    #[error(
        "`{host}` is at {found}, which is not a global address: `allow-addresses` can allow it, for the host that \
         the settings name"
    )]
    Address {
        /// Which host.
        host: String,
        /// Where it is.
        found: String,
    },
    /// No connection.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Connected, but not to who it should be.
    #[error("TLS 1.3 with `{host}` failed: {error}")]
    Tls {
        /// Which host.
        host: String,
        /// Why.
        error: io::Error,
    },
    /// The exchange broke off.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The request could not be made.
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    /// Elsewhere, it says.
    #[error("it was answered with a redirect, which is not followed")]
    Redirect,
    /// Another answer than 200.
    #[error("it was answered with status {0}")]
    Status(StatusCode),
    /// Not what it should be.
    #[error("the answer is not JSON by its content type, or is compressed")]
    NotJson,
    /// More than is looked at.
    #[error("the answer has more than {MAX_KEY_SET_BYTES} bytes, or broke off")]
    Body,
    /// A file of the settings.
    #[error("{}: {error}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The discovery document.
    #[error("discovery document: {0}")]
    Discovery(String),
    /// The key set.
    #[error(transparent)]
    Keys(#[from] signet_proto::jose::KeySetError),
}

impl FetchError {
    /// A stable word for log and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Resolve { .. } => "resolve",
            Self::Address { .. } => "address",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Http(_) | Self::Request(_) => "http",
            Self::Redirect => "redirect",
            Self::Status(_) => "status",
            Self::NotJson => "content_type",
            Self::Body => "body",
            Self::File { .. } => "file",
            Self::Discovery(_) => "discovery",
            Self::Keys(_) => "keys",
        }
    }
}

/// What came.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) body: Bytes,
    /// How long it is good, if the server says so.
    pub(crate) max_age: Option<Duration>,
}

/// What a request to do something was answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// Nothing, unless it is JSON.
    pub(crate) body: Bytes,
}

/// Fetches the documents of one issuer.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) allowed: Vec<IpNet>,
    pub(crate) bearer_file: Option<PathBuf>,
}

/// How far an operator's words reach: to what the settings name, and not to wherever a document leads from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Whether the operator's token is shown.
    pub(crate) bearer: bool,
    /// Whether `allow-addresses` counts.
    pub(crate) addresses: bool,
}

impl Trust {
    /// In a URL of the settings.
    pub(crate) const SETTINGS: Self = Self { bearer: true, addresses: true };

    /// In a URL that the document at `named`, which is in the settings, names: the token is for its origin, and the
    /// addresses are those of its host.
    pub(crate) fn led(named: &Url, to: &Url) -> Self {
        Self { bearer: to.same_origin(named), addresses: to.host() == named.host() }
    }
}

impl Fetcher {
    /// Gets a document.
    pub(crate) async fn get(&self, url: &Url, trust: Trust) -> Result<Document, FetchError> {
        let mut request =
            request(Method::GET, url).header(header::ACCEPT, "application/json, application/jwk-set+json");
        if let (Some(path), true) = (&self.bearer_file, trust.bearer) {
            request = request.header(header::AUTHORIZATION, bearer(path).await?);
        }
        let request = request.body(Full::default())?;
        self.exchange(url, if trust.addresses { &self.allowed } else { &[] }, request, document).await
    }

    /// Posts JSON to a URL of the settings. Any answer is one, but a redirect.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        json: Bytes,
    ) -> Result<Answer, FetchError> {
        let request = request(Method::POST, url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        let mut request = request.body(Full::new(json))?;
        request.headers_mut().extend(headers);
        self.exchange(url, &self.allowed, request, answer).await
    }

    async fn exchange<T, R>(
        &self,
        url: &Url,
        allowed: &[IpNet],
        request: Request<Full<Bytes>>,
        read: impl FnOnce(Response<Incoming>) -> R,
    ) -> Result<T, FetchError>
    where
        R: Future<Output = Result<T, FetchError>>,
    {
        let stream = self.connect(url, allowed).await?;
        if !url.is_secure() {
            return Box::pin(exchange(stream, request, read)).await;
        }
        let connected = TlsConnector::from(Arc::clone(&self.tls)).connect(url.host().clone(), stream).await;
        let tls =
            connected.map_err(|error| FetchError::Tls { host: url.host().to_str().into_owned(), error })?;
        Box::pin(exchange(tls, request, read)).await
    }

    async fn connect(&self, url: &Url, allowed: &[IpNet]) -> Result<TcpStream, FetchError> {
        let addresses = addresses(url, allowed).await?;
        let mut last = None;
        for address in addresses {
            let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(FetchError::Connect { address, error }),
            }
        }
        Err(last.unwrap_or(FetchError::Deadline))
    }
}

fn request(method: Method, url: &Url) -> hyper::http::request::Builder {
    Request::builder()
        .method(method)
        .uri(url.path_and_query())
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, concat!("signet-control/", env!("CARGO_PKG_VERSION")))
}

/// Where to connect: what is returned was judged, and is not resolved again.
async fn addresses(url: &Url, allowed: &[IpNet]) -> Result<Vec<SocketAddr>, FetchError> {
    let host = || url.host().to_str().into_owned();
    let found: Vec<SocketAddr> = match url.address() {
        Some(address) => vec![SocketAddr::new(address, url.port())],
        None => tokio::net::lookup_host((host(), url.port()))
            .await
            .map_err(|error| FetchError::Resolve { host: host(), error })?
            .collect(),
    };
    let usable: Vec<SocketAddr> = found
        .iter()
        .copied()
        .filter(|address| permitted(address.ip(), allowed))
        .take(MAX_ADDRESSES)
        .collect();
    if usable.is_empty() {
        let list: Vec<String> =
            found.iter().take(MAX_ADDRESSES).map(|address| address.ip().to_string()).collect();
        return Err(FetchError::Address { host: host(), found: list.join(", ") });
    }
    Ok(usable)
}

/// One request and its whole answer, while the connection is driven.
async fn exchange<S, T, R>(
    stream: S,
    request: Request<Full<Bytes>>,
    read: impl FnOnce(Response<Incoming>) -> R,
) -> Result<T, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Future<Output = Result<T, FetchError>>,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        if response.status().is_redirection() {
            return Err(FetchError::Redirect);
        }
        read(response).await
    };
    match future::select(pin!(answer), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // The connection ends when all was read from it; what was read may still be on its way here.
        Either::Right((_, answer)) => answer.await,
    }
}

async fn document(response: Response<Incoming>) -> Result<Document, FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    if !is_json(response.headers()) {
        return Err(FetchError::NotJson);
    }
    let max_age = text(response.headers(), header::CACHE_CONTROL).and_then(max_age);
    Ok(Document { body: body(response).await?, max_age })
}

async fn answer(response: Response<Incoming>) -> Result<Answer, FetchError> {
    let status = response.status();
    let body = if is_json(response.headers()) { body(response).await? } else { Bytes::new() };
    Ok(Answer { status, body })
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind =
        text(headers, header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
    let named = JSON.iter().any(|json| kind.trim().eq_ignore_ascii_case(json));
    named && !headers.contains_key(header::CONTENT_ENCODING)
}

async fn body(response: Response<Incoming>) -> Result<Bytes, FetchError> {
    let body = Limited::new(response.into_body(), MAX_KEY_SET_BYTES);
    Ok(body.collect().await.map_err(|_| FetchError::Body)?.to_bytes())
}

/// How long an answer is good (RFC 9111 section 5.2.2).
fn max_age(cache_control: &str) -> Option<Duration> {
    let directives = || cache_control.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    if directives().any(|directive| directive == "no-store" || directive == "no-cache") {
        return None;
    }
    directives()
        .find_map(|directive| directive.strip_prefix("max-age=")?.trim_matches('"').parse().ok())
        .map(Duration::from_secs)
}

async fn bearer(path: &Path) -> Result<HeaderValue, FetchError> {
    let token = file(path, MAX_BEARER_BYTES).await?;
    let text = [b"Bearer ", token.trim_ascii()].concat();
    let mut value = HeaderValue::from_bytes(&text).map_err(|_| FetchError::File {
        path: path.to_owned(),
        error: io::Error::other("expected a token: one line of text"),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A whole file, if it is not larger than this.
pub(crate) async fn file(path: &Path, limit: u64) -> Result<Vec<u8>, FetchError> {
    let failed = |error| FetchError::File { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let opened = tokio::fs::File::open(path).await.map_err(failed)?;
    opened.take(limit + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(failed(io::Error::other(format!("expected at most {limit} bytes"))));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
