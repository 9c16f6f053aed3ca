//! A plain HTTP/1.1 client for what the harness itself asks: health, metrics, and requests that must be
//! written in a way no ordinary client would.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

/// An answer, whole.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub body: String,
}

/// GET, on a connection of its own.
///
/// # Errors
/// When the connection fails, the answer is not HTTP, or it takes longer than 20 s.
pub async fn request(address: SocketAddr, path: &str) -> io::Result<Reply> {
    let request = Request::get(path).header("host", address.to_string()).header("connection", "close");
    send(address, request.body(Full::default()).expect("a valid request")).await
}

/// Sends `request` on a connection of its own.
///
/// # Errors
/// As [`request`].
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> io::Result<Reply> {
    timeout(LIMIT, exchange(address, request)).await?
}

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> io::Result<Reply> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    connection.abort();
    Ok(Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}
