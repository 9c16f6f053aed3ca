//! Whether our app speaks HTTP/2. A peer that offers both versions, as curl and browsers do, leaves the choice to
//! us; what the app cannot speak must not be chosen.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::forward::upstream::dial;

/// For how long an answer holds: apps are replaced. And for how long an app that did not answer is left alone:
/// who makes us ask is not known yet.
const VALID: Duration = Duration::from_secs(600);
const VALID_SILENCE: Duration = Duration::from_secs(5);
const DEADLINE: Duration = Duration::from_secs(1);
/// The client's preface and its empty SETTINGS (RFC 9113 s3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 0x04;

/// Apps that are remembered: captured connections lead to as many as there are ports.
const MOST_APPS: usize = 64;

/// What is known of the apps behind one listener.
#[derive(Debug, Default)]
pub struct Http2Support(Mutex<HashMap<SocketAddr, Arc<Asked>>>);

/// When an app was last asked, and what it answered last. Who wants to know waits for whoever asks.
type Asked = tokio::sync::Mutex<Option<(Instant, Option<bool>)>>;

impl Http2Support {
    /// Asks the app, unless it was asked a while ago; `before` goes before all else that it is sent.
    pub async fn of(&self, app: SocketAddr, before: Option<&Bytes>) -> bool {
        let asked = {
            let mut apps = self.0.lock();
            match apps.get(&app) {
                Some(asked) => Arc::clone(asked),
                None if apps.len() >= MOST_APPS => return false,
                None => Arc::clone(apps.entry(app).or_default()),
            }
        };
        let mut asked = asked.lock().await;
        let known = asked.and_then(|(_, answer)| answer);
        let valid = if known.is_some() { VALID } else { VALID_SILENCE };
        if asked.is_some_and(|(when, _)| when.elapsed() < valid) {
            return known.unwrap_or_default();
        }
        let answer = tokio::time::timeout(DEADLINE, Box::pin(ask(app, before)))
            .await
            .ok()
            .and_then(Result::ok)
            .or(known);
        *asked = Some((Instant::now(), answer));
        answer.unwrap_or_default()
    }
}

/// A server that speaks HTTP/2 begins with SETTINGS; another one answers in its own way, or closes.
async fn ask(app: SocketAddr, before: Option<&Bytes>) -> io::Result<bool> {
    let mut stream = dial(app).await.map_err(io::Error::other)?;
    if let Some(before) = before {
        stream.write_all(before).await?;
    }
    stream.write_all(PREFACE).await?;
    let mut header = [0; FRAME_HEADER];
    match stream.read_exact(&mut header).await {
        Ok(_) => Ok(header.get(3) == Some(&SETTINGS) && header.get(5..) == Some(&[0; 4])),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn app(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut preface = [0; PREFACE.len()];
                let _ = stream.read_exact(&mut preface).await;
                let _ = stream.write_all(answer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn apps_are_told_apart_by_their_first_frame() {
        let http2 = app(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64").await;
        let http1 = app(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        let closes = app(b"").await;
        for (app, speaks) in [(http2, true), (http1, false), (closes, false)] {
            assert_eq!(Http2Support::default().of(app, None).await, speaks);
        }
    }
}
