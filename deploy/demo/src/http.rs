//! The HTTP client of the demo: one connection, kept alive, every failure reported as it is.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No request of the demo needs this long.
const DEADLINE: Duration = Duration::from_secs(5);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body as text.
    pub(crate) body: String,
}

/// A client of one address that keeps its connection for the next request.
pub(crate) struct Client {
    address: SocketAddr,
    sender: Option<SendRequest<Empty<Bytes>>>,
    connects: u64,
}

impl Client {
    /// Not connected yet.
    pub(crate) const fn new(address: SocketAddr) -> Self {
        Self { address, sender: None, connects: 0 }
    }

    /// How many connections it made so far.
    pub(crate) const fn connects(&self) -> u64 {
        self.connects
    }

    /// Gets `path`.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, &[]).await
    }

    /// Sends one request. It connects if there is no connection, or if the other side announced the end of the
    /// last one; a connection that breaks under a request is a failure and is not tried again.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let asked = format!("{method} http://{}{path}", self.address);
        let answer = tokio::time::timeout(DEADLINE, self.exchange(method, path, headers)).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {DEADLINE:?}")));
        if answer.is_err() {
            self.sender = None;
        }
        answer.context(asked)
    }

    async fn exchange(&mut self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
        let sender = match self.sender.as_mut() {
            Some(sender) if !sender.is_closed() => sender,
            _ => {
                self.connects += 1;
                self.sender.insert(connect(self.address).await?)
            }
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.ready().await.context("the connection was closed")?;
        let response = sender.send_request(request.body(Empty::new())?).await?;
        let status = response.status().as_u16();
        let closing = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
        let body = response.into_body().collect().await?.to_bytes();
        if closing {
            self.sender = None;
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Empty<Bytes>>> {
    let connection = TcpStream::connect(address).await.context("cannot connect")?;
    connection.set_nodelay(true)?;
    let (sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(driver);
    Ok(sender)
}
