//! The end of a connection that is refused: ours first, with everything that was said on it, and no reset.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const DEADLINE: Duration = Duration::from_secs(1);
/// What is read of a caller who has not heard yet.
const MOST: usize = 64 * 1024;

/// Finishes our side (`close_notify`, then FIN) and reads what the other side still sends until it finishes too,
/// within bounds: a socket that is closed with bytes unread sends a reset, which a caller takes for a broken network.
pub async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let finished = async {
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        let mut left = MOST;
        while left > 0 {
            match stream.read(&mut rest).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Whoever does not finish is cut off; whoever has gone already has nothing to be told.
    let _ = tokio::time::timeout(DEADLINE, finished).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn caller_that_has_sent_much_reads_the_end_and_no_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        caller.write_all(&[7; 32 * 1024]).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let refuse = async {
            farewell(&mut accepted).await;
            drop(accepted);
        };
        let read = async {
            let mut rest = Vec::new();
            let end = caller.read_to_end(&mut rest).await;
            drop(caller);
            end
        };
        let ((), end) = tokio::join!(refuse, read);
        assert_eq!(end.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn caller_that_never_ends_is_not_waited_for() {
        let (_silent, mut server) = tokio::io::duplex(64);
        farewell(&mut server).await;
        let (mut endless, mut server) = tokio::io::duplex(64);
        let flood = tokio::spawn(async move { while endless.write_all(&[0; 64]).await.is_ok() {} });
        farewell(&mut server).await;
        drop(server);
        flood.await.unwrap();
    }
}
