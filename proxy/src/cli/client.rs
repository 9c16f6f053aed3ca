//! A running proxy, asked over its admin listener.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::connections::ConnectionsArguments;
use crate::admin::MARK;
use crate::config::{AdminEntrance, Entrance};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longer than the longest profile.
const ANSWER_DEADLINE: Duration = Duration::from_secs(330);
const LARGEST_ANSWER: usize = 256 * 1024 * 1024;

/// Which proxy is asked.
#[derive(Debug, Args)]
pub struct Where {
    /// The proxy's `admin-listen`
    #[arg(
        long,
        global = true,
        value_name = "IP:PORT|unix:PATH",
        env = "SIGNET_ADMIN_LISTEN",
        default_value = "127.0.0.1:15021"
    )]
    pub admin: AdminEntrance,
}

/// Ask a running proxy
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AskArguments {
    /// What has a table of its own.
    #[command(subcommand)]
    pub verb: Option<Verb>,

    /// GET, PUT or POST (GET unless said), path and query (`/` lists what there is), and JSON to send
    #[arg(value_name = "[METHOD] PATH [JSON]", num_args = 0..=3)]
    pub request: Vec<String>,

    /// Which proxy.
    #[command(flatten)]
    pub at: Where,
}

/// What has a table of its own.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show what is open, or close one.
    Connections(Box<ConnectionsArguments>),
}

const EXAMPLES: &str = "\
Examples:
  What there is to ask:
    signet-proxy admin

  Who talks to us now, the largest first, as a table or as the proxy says it:
    signet-proxy admin connections --direction inbound --sort bytes
    signet-proxy admin GET '/connections?direction=inbound&sort=bytes&limit=20'

  Close one of them:
    signet-proxy admin connections --close 17

  Log everything for ten minutes:
    signet-proxy admin PUT /log '{\"filter\": \"debug\", \"for\": \"10m\"}'

Exit codes: 0 done, 1 refused or no answer.";

/// Why a proxy did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// It has no admin listener.
    #[error("`admin` is `none`: expected the address of a proxy's `admin-listen`")]
    Nowhere,
    /// Nobody is there.
    #[error("no proxy answers at {at}: {error}. Is it running, and is this its `admin-listen`?")]
    Connect {
        /// Where.
        at: Entrance,
        /// Why.
        error: io::Error,
    },
    /// What is asked begins with neither.
    #[error("expected GET, PUT or POST, or a path that begins with `/`, found `{0}`")]
    Method(String),
    /// What is asked is no path.
    #[error("`{path}`: {error}")]
    Path {
        /// What was asked.
        path: String,
        /// Why it is none.
        error: http::Error,
    },
    /// It broke off, or is no proxy.
    #[error("the proxy did not answer as one does: {0}")]
    Broken(String),
    /// Nobody reads us.
    #[error("cannot write: {0}")]
    Output(io::Error),
    /// It said no.
    #[error("{status}: {text}")]
    Refused {
        /// How.
        status: StatusCode,
        /// Its words.
        text: String,
    },
}

/// Takes what is asked apart: a path alone is got.
///
/// # Errors
/// When it begins with another word.
pub(super) fn parts(request: Vec<String>) -> Result<(Method, String, Option<String>), ClientError> {
    let mut words = request.into_iter().peekable();
    let method = match words.peek() {
        Some(word) if !word.starts_with('/') => {
            let known = [Method::GET, Method::PUT, Method::POST];
            let found = known.into_iter().find(|known| known.as_str() == word);
            let method = found.ok_or_else(|| ClientError::Method(word.clone()))?;
            words.next();
            method
        }
        _ => Method::GET,
    };
    let path = words.next().unwrap_or_else(|| "/".to_owned());
    Ok((method, path, words.next()))
}

impl Where {
    /// Asks, and returns the answer's body whole.
    ///
    /// # Errors
    /// When nobody answers, or with no.
    pub async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<Bytes, ClientError> {
        let answer = tokio::time::timeout(ANSWER_DEADLINE, async {
            let response = self.open(method, path, body).await?;
            whole(response.into_body()).await
        });
        answer.await.unwrap_or_else(|_| Err(ClientError::Broken("no answer in time".into())))
    }

    /// Asks, and returns as soon as the proxy said yes: its body may go on for long.
    ///
    /// # Errors
    /// When nobody answers, or with no.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Response<Incoming>, ClientError> {
        let at = self.admin.0.clone().ok_or(ClientError::Nowhere)?;
        let asked = path.to_owned();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(MARK, "yes")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| ClientError::Path { path: asked, error })?;
        let response = match &at {
            Entrance::Unix(path) => send(connected(&at, UnixStream::connect(path)).await?, request).await?,
            Entrance::Tcp(address) => {
                send(connected(&at, TcpStream::connect(address)).await?, request).await?
            }
            Entrance::Port(port) => {
                send(connected(&at, TcpStream::connect(("localhost", *port))).await?, request).await?
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = whole(response.into_body()).await?;
        let said: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
        let said = said.as_ref().and_then(|said| said.get("error")).and_then(|error| error.as_str());
        let text = said.map_or_else(|| String::from_utf8_lossy(&text).trim().to_owned(), str::to_owned);
        Err(ClientError::Refused { status, text })
    }
}

async fn connected<S>(
    at: &Entrance,
    connecting: impl Future<Output = io::Result<S>>,
) -> Result<S, ClientError> {
    let connected = tokio::time::timeout(CONNECT_DEADLINE, connecting).await;
    connected
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| ClientError::Connect { at: at.clone(), error })
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broken)
}

async fn whole(body: Incoming) -> Result<Bytes, ClientError> {
    let whole = Limited::new(body, LARGEST_ANSWER).collect().await;
    whole.map(http_body_util::Collected::to_bytes).map_err(|error| ClientError::Broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_alone_is_got() {
        let parts = |words: &[&str]| {
            let words = words.iter().map(ToString::to_string).collect();
            parts(words).map(|(method, path, body)| format!("{method} {path} {}", body.unwrap_or_default()))
        };
        assert_eq!(parts(&[]).unwrap(), "GET / ");
        assert_eq!(parts(&["/tap?x=1"]).unwrap(), "GET /tap?x=1 ");
        assert_eq!(parts(&["PUT", "/log", "{}"]).unwrap(), "PUT /log {}");
        assert!(parts(&["connection"]).unwrap_err().to_string().contains("found `connection`"));
    }
}
