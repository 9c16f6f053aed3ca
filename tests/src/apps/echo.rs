//! TCP apps inside the test: one that echoes, and one that answers only after the caller ended its direction.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Sends back what it receives.
#[derive(Debug)]
pub struct TcpEcho {
    /// Where it listens.
    pub address: SocketAddr,
    task: AbortHandle,
}

/// Reads until the caller's FIN, then answers how many bytes came, and closes.
#[derive(Debug)]
pub struct TcpCounter {
    /// Where it listens.
    pub address: SocketAddr,
    task: AbortHandle,
}

impl TcpEcho {
    /// Starts it.
    pub async fn start() -> Self {
        let (address, task) = serve(echo).await;
        Self { address, task }
    }
}

impl TcpCounter {
    /// Starts it.
    pub async fn start() -> Self {
        let (address, task) = serve(count).await;
        Self { address, task }
    }
}

async fn echo(mut stream: TcpStream) {
    let (mut reader, mut writer) = stream.split();
    // Ends with the connection, however that ends.
    let _ = copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

async fn count(mut stream: TcpStream) {
    let mut received = Vec::new();
    if stream.read_to_end(&mut received).await.is_ok() {
        let _ = stream.write_all(format!("received {} bytes", received.len()).as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

async fn serve<F>(session: fn(TcpStream) -> F) -> (SocketAddr, AbortHandle)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let task = tokio::spawn(async move {
        let mut sessions = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            sessions.spawn(session(stream));
        }
    });
    (address, task.abort_handle())
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for TcpCounter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
