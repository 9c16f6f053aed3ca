//! An HTTP/1.1 client that reads one response after the other from one connection, as they come: interim ones,
//! trailers, and where a body ends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::ways::Duplex;

/// A client that reads response by response from one connection.
#[derive(Debug)]
pub struct Talk {
    stream: Box<dyn Duplex>,
    read: Vec<u8>,
}

/// One response.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// From the status line to the empty line.
    pub head: String,
    /// The body without its framing.
    pub body: String,
    /// The lines after a chunked body.
    pub trailers: String,
}

/// What kind of request a response answers, which tells whether there is a body (RFC 9112 s6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A response with a body.
    Get,
    /// One without.
    Head,
}

impl Talk {
    /// On a connection.
    #[must_use]
    pub fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// Sends this. Whether it was read shows in what comes back.
    pub async fn say(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes()).await;
        let _ = self.stream.flush().await;
    }

    /// The next response, interim or not; `None` when there is none, or not all of it.
    ///
    /// # Panics
    /// When it is no response, or does not come in time.
    pub async fn hear(&mut self, to: To) -> Option<Response> {
        let head = self.through(b"\r\n\r\n").await?;
        let small = head.to_ascii_lowercase();
        let status: u16 = head[9..12].parse().unwrap();
        let value = |name: &str| {
            small.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let mut response =
            Response { status, body: String::new(), trailers: String::new(), head: head.clone() };
        if status < 200 || matches!(status, 204 | 304) || to == To::Head {
        } else if value("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(self.through(b"\r\n").await?.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                response.body += &self.exactly(size).await?;
                assert_eq!(self.exactly(2).await?, "\r\n");
            }
            while let line = self.through(b"\r\n").await?
                && line != "\r\n"
            {
                response.trailers += &line;
            }
        } else if let Some(length) = value("content-length") {
            response.body = self.exactly(length.parse().unwrap()).await?;
        } else {
            while self.more().await {}
            response.body = String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned();
        }
        Some(response)
    }

    async fn through(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return self.exactly(at + end.len()).await;
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Option<String> {
        while self.read.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&self.read.drain(..count).collect::<Vec<_>>()).into_owned())
    }

    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read));
        read.await.expect("an answer or an end in time").is_ok_and(|count| count > 0)
    }
}
