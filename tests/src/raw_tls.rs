//! A TLS client taken apart: what it wants to send is bytes in hand, to be sent in pieces, late, twice, or not
//! at all. What the server says is understood by rustls as ever.

use std::io::{self, Cursor, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::PATIENCE;

/// A request that ends its connection.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: door.test\r\nConnection: close\r\n\r\n";

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// One connection.
#[derive(Debug)]
pub struct RawClient {
    /// TLS without a network.
    pub tls: ClientConnection,
    /// The network without TLS.
    pub stream: TcpStream,
}

impl RawClient {
    /// Connects; nothing is sent.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let stream = TcpStream::connect(address).await.expect("it accepts");
        Self::over(stream, config)
    }

    /// The same over a connection that is there already.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn over(stream: TcpStream, config: &Arc<ClientConfig>) -> Self {
        stream.set_nodelay(true).expect("a TCP option");
        let name = ServerName::try_from("door.test").expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a usable configuration");
        Self { tls, stream }
    }

    /// The address that the server sees.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.stream.local_addr().expect("it is connected")
    }

    /// All records that TLS would send now.
    ///
    /// # Panics
    /// Never.
    pub fn flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("writing to memory");
        }
        bytes
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the server has gone.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends what TLS wants to send.
    ///
    /// # Errors
    /// As [`RawClient::send`].
    pub async fn send_flight(&mut self) -> io::Result<()> {
        let flight = self.flight();
        self.send(&flight).await
    }

    /// Reads until `enough`, sending nothing.
    ///
    /// # Errors
    /// When the server closes or says what TLS does not accept.
    pub async fn hear_until(&mut self, enough: impl Fn(&ClientConnection) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 16 * 1024];
        while !enough(&self.tls) {
            let count = timeout(PATIENCE, self.stream.read(&mut buffer)).await??;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut received = Cursor::new(&buffer[..count]);
            while received.position() < count as u64 {
                self.tls.read_tls(&mut received)?;
                self.tls.process_new_packets().map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Sends the hello and hears all that the server says to it; the answer to that is not sent.
    ///
    /// # Errors
    /// When there is no such answer.
    pub async fn up_to_the_server_flight(&mut self) -> io::Result<()> {
        self.send_flight().await?;
        self.hear_until(|tls| !tls.is_handshaking()).await
    }

    /// Finishes what was begun: hears the rest and sends all of it.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn finish(&mut self) -> io::Result<()> {
        while self.tls.is_handshaking() || self.tls.wants_write() {
            self.send_flight().await?;
            self.hear_until(|tls| !tls.is_handshaking() || tls.wants_write()).await?;
        }
        Ok(())
    }

    /// Finishes the handshake, sends [`REQUEST`] and answers the first line that comes back.
    ///
    /// # Errors
    /// When any of this fails.
    pub async fn ask(&mut self) -> io::Result<String> {
        self.finish().await?;
        self.tls.writer().write_all(REQUEST)?;
        self.send_flight().await?;
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') {
            self.hear_until(|tls| !tls.wants_read()).await?;
            let mut part = vec![0; 4096];
            match self.tls.reader().read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend_from_slice(&part[..count]),
            }
        }
        Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
    }

    /// How long the server took to close; what it still says is not looked at.
    ///
    /// # Panics
    /// When it has not closed `within` that time.
    pub async fn closed(&mut self, within: Duration) -> Duration {
        let asked = Instant::now();
        let mut buffer = vec![0; 16 * 1024];
        let ended = timeout(within, async {
            while !matches!(self.stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
        });
        assert!(ended.await.is_ok(), "{} is still open after {within:?}", self.source());
        asked.elapsed()
    }
}

/// A record that holds `content`, not encrypted.
///
/// # Panics
/// When it is too long for one.
#[must_use]
pub fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("what fits into a record");
    [&[kind, 0x03, 0x03][..], &length.to_be_bytes(), content].concat()
}

/// An alert that is not encrypted: `close_notify` (0) as a warning, any other as fatal.
#[must_use]
pub fn alert(description: u8) -> Vec<u8> {
    record(ALERT, &[if description == 0 { 1 } else { 2 }, description])
}

/// A handshake record.
#[must_use]
pub fn handshake_record(content: &[u8]) -> Vec<u8> {
    record(HANDSHAKE, content)
}

/// A `change_cipher_spec` record, which middleboxes of old like to see.
#[must_use]
pub fn change_cipher_spec() -> Vec<u8> {
    record(CHANGE_CIPHER_SPEC, &[1])
}

/// The records in `bytes`, each with its header.
///
/// # Panics
/// When the last one is not whole.
#[must_use]
pub fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
        let (record, rest) = bytes.split_at(5 + length);
        records.push(record.to_vec());
        bytes = rest;
    }
    records
}

/// The same handshake bytes in records of at most `size` bytes of content.
#[must_use]
pub fn fragmented(flight: &[u8], size: usize) -> Vec<u8> {
    let content: Vec<u8> = records(flight).iter().flat_map(|record| record[5..].to_vec()).collect();
    content.chunks(size).flat_map(handshake_record).collect()
}
