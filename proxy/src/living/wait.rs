//! `signet-proxy wait`: for whatever must not start before its proxy is ready. Asks `/readyz` until it says so, and
//! says what is missing when it gives up.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::config::Entrance;

/// For one question. The first answer after a start should not be waited for long, the hundredth not be asked for often.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
const LARGEST_ANSWER: usize = 16 * 1024;

/// A proxy that did not become ready in time, and what was missing last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    missing: String,
    asked: String,
    waited: Duration,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, asked, waited } = self;
        write!(f, "the proxy at {asked} is not ready after {waited:?}: {missing}")
    }
}

impl std::error::Error for NotReady {}

/// Waits for the proxy whose health is at `health`.
///
/// # Errors
/// When it is not ready within `limit`.
pub async fn until_ready(health: &Entrance, limit: Duration) -> Result<(), NotReady> {
    let until = Instant::now() + limit;
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut missing = "it does not answer".to_owned();
    let ready = async {
        loop {
            match timeout(ANSWER_DEADLINE, ask(health)).await {
                Ok(Ok((StatusCode::OK, _))) => return,
                Ok(Ok((status, said))) if said.is_empty() => missing = format!("it answers {status}"),
                Ok(Ok((_, said))) => missing = said,
                Ok(Err(error)) => {
                    missing = format!("it cannot be asked: {error}; is `signet-proxy run` running?");
                }
                Err(_) => missing = "it does not answer".into(),
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    };
    match timeout_at(until, ready).await {
        Ok(()) => Ok(()),
        Err(_) => Err(NotReady { missing, asked: health.to_string(), waited: limit }),
    }
}

async fn ask(health: &Entrance) -> io::Result<(StatusCode, String)> {
    match health {
        Entrance::Tcp(address) => readyz(TcpStream::connect(address).await?).await,
        Entrance::Port(port) => readyz(TcpStream::connect(("localhost", *port)).await?).await,
        Entrance::Unix(path) => readyz(UnixStream::connect(path).await?).await,
    }
}

async fn readyz(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> io::Result<(StatusCode, String)> {
    let (mut client, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/readyz").header(HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(io::Error::other)?;
    let answered = async {
        let response = client.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body =
            Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(io::Error::other)?;
        let said = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok((status, said.lines().collect::<Vec<_>>().join("; ")))
    };
    tokio::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        ended = connection => match ended {
            Ok(()) => answered.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each question with the next of `answers`, and the last for ever.
    async fn health(answers: &'static [(u16, &'static str)]) -> Entrance {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for turn in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (status, body) = answers[turn.min(answers.len() - 1)];
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                assert!(request[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Entrance::Tcp(address)
    }

    #[tokio::test]
    async fn waits_until_ready() {
        let proxy = health(&[(503, "policy: none received yet\n"), (503, ""), (200, "ready\n")]).await;
        assert_eq!(until_ready(&proxy, Duration::from_secs(30)).await, Ok(()));
    }

    #[tokio::test]
    async fn says_what_is_missing_when_it_gives_up() {
        let limit = Duration::from_millis(100);
        let proxy = health(&[(503, "identity: no SVID yet\npolicy: none received yet\n")]).await;
        let error = until_ready(&proxy, limit).await.unwrap_err().to_string();
        assert!(error.contains("identity: no SVID yet; policy: none received yet"), "{error}");
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = until_ready(&Entrance::Tcp(nobody), limit).await.unwrap_err().to_string();
        assert!(error.contains("is `signet-proxy run` running?"), "{error}");
    }
}
