//! Bytes over TLS, both ends: the proxy's own stream beside tokio-rustls, over a TCP connection within one thread.

#![forbid(unsafe_code)]

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use signet_benches::{Error, Mesh};
use signet_proto::handshake::server_name;
use signet_proxy::tls;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What one iteration carries.
const BYTES: usize = 8 << 20;
/// What is written and read at a time.
const AT_ONCE: usize = 128 << 10;

fn main() -> Result<(), Error> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mesh = Mesh::new()?;
    let ours = runtime.block_on(async {
        let (caller, called) = connected().await?;
        let server = Arc::clone(mesh.server());
        let (caller, called) =
            tokio::join!(tls::connect(caller, mesh.client()), tls::accept(called, async |_| server));
        Ok::<_, Error>((caller?.0, called?.0))
    })?;
    let theirs = runtime.block_on(async {
        let (caller, called) = connected().await?;
        let connector = TlsConnector::from(Arc::clone(mesh.client()));
        let acceptor = TlsAcceptor::from(Arc::clone(mesh.server()));
        let (caller, called) =
            tokio::join!(connector.connect(server_name(), caller), acceptor.accept(called));
        Ok::<_, Error>((caller?, called?))
    })?;
    let mut criterion = Criterion::default().configure_from_args();
    measure(&mut criterion, &runtime, "the proxy's", ours)?;
    measure(&mut criterion, &runtime, "tokio-rustls", theirs)?;
    criterion.final_summary();
    Ok(())
}

async fn connected() -> Result<(TcpStream, TcpStream), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let caller = TcpStream::connect(listener.local_addr()?).await?;
    Ok((caller, listener.accept().await?.0))
}

fn measure<W: AsyncWrite + Unpin, R: AsyncRead + Unpin>(
    criterion: &mut Criterion,
    runtime: &Runtime,
    name: &str,
    (mut writer, mut reader): (W, R),
) -> Result<(), Error> {
    let (data, mut room) = (vec![7; AT_ONCE], vec![0; AT_ONCE]);
    let mut carry = || {
        runtime.block_on(async {
            let write = async {
                for _ in 0..BYTES / AT_ONCE {
                    writer.write_all(&data).await?;
                    writer.flush().await?;
                }
                Ok::<_, std::io::Error>(())
            };
            let read = async {
                let mut left = BYTES;
                while left > 0 {
                    match reader.read(&mut room).await? {
                        0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                        count => left = left.saturating_sub(count),
                    }
                }
                Ok(())
            };
            tokio::try_join!(write, read).map(|_| ())
        })
    };
    carry()?;
    let mut group = criterion.benchmark_group("stream");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.bench_function(format!("{name}, both ends"), |bencher| bencher.iter(&mut carry));
    group.finish();
    Ok(())
}
