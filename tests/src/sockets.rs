//! Raw TCP connections, for what command-line clients cannot do: many at once, half-closed, or malformed.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How long an answer over loopback may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A loopback address whose port was free a moment ago, for programs that cannot be given port 0.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("it is bound")
}

/// A connection to an echo app, and the proof that it answers.
#[derive(Debug)]
pub struct EchoConnection {
    stream: TcpStream,
}

impl EchoConnection {
    /// Connects and waits for the first echo, so that the whole way is known to be open.
    ///
    /// # Panics
    /// When it cannot connect, or the echo is wrong or late.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy accepts");
        let mut connection = Self { stream };
        connection.ping().await.expect("the app answers over the proxies");
        connection
    }

    /// Sends a line and waits for the same line.
    ///
    /// # Errors
    /// When the connection is closed, or the answer is wrong or late.
    pub async fn ping(&mut self) -> io::Result<()> {
        const PING: &[u8] = b"still there?\n";
        timeout(LIMIT, async {
            self.stream.write_all(PING).await?;
            let mut answer = [0; PING.len()];
            self.stream.read_exact(&mut answer).await?;
            if answer == *PING { Ok(()) } else { Err(io::Error::other("another answer")) }
        })
        .await?
    }

    /// Waits until the other side closes, and tells when that was seen.
    pub async fn closed(&mut self) -> Instant {
        let mut byte = [0; 1];
        loop {
            match self.stream.read(&mut byte).await {
                Ok(0) | Err(_) => return Instant::now(),
                Ok(_) => {}
            }
        }
    }
}

/// Sends `bytes`, then reads until the other side closes or `limit` has passed; whether it closed, and what
/// came back.
///
/// # Panics
/// When it cannot connect.
pub async fn send_and_read(address: SocketAddr, bytes: &[u8], limit: Duration) -> (bool, Vec<u8>) {
    let mut stream = match TcpStream::connect(address).await {
        // Accepted and refused before we looked.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return (true, Vec::new()),
        connected => connected.expect("it accepts"),
    };
    let mut answer = Vec::new();
    let closed = timeout(limit, async {
        // It may close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut answer).await;
    })
    .await
    .is_ok();
    (closed, answer)
}

/// Sends `bytes`, ends its own direction (FIN), and reads what still comes until the other side ends too.
///
/// # Panics
/// When it cannot connect, or the answer takes longer than 20 s.
pub async fn send_half_close_and_read(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("it accepts");
    stream.write_all(bytes).await.expect("it reads");
    stream.shutdown().await.expect("FIN is sent");
    let mut answer = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an end in time").expect("a clean end");
    answer
}
