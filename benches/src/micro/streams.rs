//! Bytes on their way: frames of `signet/1`, and the loop that forwards, without a network.

use std::hint::black_box;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::tunnel::{Event, Preamble, Tunnel};
use signet_proxy::forward::opaque::{Idle, relay};
use signet_proxy::forward::tunnel::{Asked, Tunneled};
use signet_proxy::telemetry::Meters;
use signet_proxy::tls::{self, TlsStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::runtime::Runtime;

use super::Case;
use crate::{Error, Mesh};

/// What is carried at once.
const MEBIBYTE: usize = 1024 * 1024;
/// Of one frame.
const PAYLOAD: usize = 16 * 1024;
/// Like a socket's.
const WIRE: usize = 256 * 1024;
const IDLE: Idle = Idle { open: Duration::from_secs(60), half_closed: Duration::from_secs(60) };
/// Of the app; it is not looked at.
const PORT: NonZeroU16 = NonZeroU16::MIN;

pub(super) fn cases(mesh: &Mesh) -> Result<Vec<Case>, Error> {
    Ok(vec![frames()?, plain()?, tunnelled(mesh)?])
}

/// A whole stream of 64 frames, from one state machine to the other.
fn frames() -> Result<Case, Error> {
    let (mut initiator, mut acceptor) = (Tunnel::initiator(), Tunnel::acceptor());
    let payload = vec![0x5a; PAYLOAD];
    Case::new("tunnel, stream of 64 frames", move || {
        deliver(&initiator.open(&Preamble::to_port(PORT))?, &mut acceptor)?;
        deliver(&acceptor.accept()?, &mut initiator)?;
        for _ in 0..MEBIBYTE / PAYLOAD {
            let header = initiator.data(PAYLOAD)?;
            initiator.data_written();
            deliver(&header, &mut acceptor)?;
            if deliver(black_box(&payload), &mut acceptor)? != PAYLOAD {
                return Err("a frame lost bytes".into());
            }
        }
        deliver(&initiator.end()?, &mut acceptor)?;
        deliver(&acceptor.end()?, &mut initiator)?;
        if !(initiator.is_idle() && acceptor.is_idle()) {
            return Err("the stream has not ended".into());
        }
        Ok(())
    })
}

/// How many bytes of data came out.
fn deliver(mut input: &[u8], to: &mut Tunnel) -> Result<usize, Error> {
    let mut data = 0;
    while !input.is_empty() {
        if let Some(Event::Data(bytes)) = to.receive(&mut input)? {
            data += bytes.len();
        }
    }
    Ok(data)
}

/// The loop between two ends in memory.
fn plain() -> Result<Case, Error> {
    let runtime = runtime()?;
    Case::new("copy, 1 MiB", move || {
        runtime.block_on(async {
            let ((app, ours), (theirs, peer)) = (duplex(WIRE), duplex(WIRE));
            let meters = Meters::default();
            let (carried, relayed) = tokio::join!(through(app, peer), relay(ours, theirs, &meters, IDLE));
            relayed?;
            carried
        })
    })
}

/// Both proxies' halves: the loop, frames, TLS, TLS, frames, the loop; on a connection that carries one such stream
/// after the other.
fn tunnelled(mesh: &Mesh) -> Result<Case, Error> {
    let runtime = runtime()?;
    let mut ends = Some(runtime.block_on(connected(mesh))?);
    Case::new("copy, 1 MiB through a tunnel", move || {
        let (mut outbound, mut inbound) = ends.take().ok_or("the tunnel is broken")?;
        runtime.block_on(async {
            let ((app, ours), (theirs, peer)) = (duplex(WIRE), duplex(WIRE));
            let (ours_meters, theirs_meters) = (Meters::default(), Meters::default());
            let calls = async {
                outbound.open(&Preamble::to_port(PORT))?;
                outbound.answered().await?;
                relay(ours, &mut outbound, &ours_meters, IDLE).await?;
                Ok::<_, Error>(())
            };
            let serves = async {
                let Some(Asked::Stream(_)) = inbound.asked().await? else {
                    return Err("nothing asked".into());
                };
                inbound.accept().await?;
                relay(theirs, &mut inbound, &theirs_meters, IDLE).await?;
                Ok::<_, Error>(())
            };
            let (carried, called, served) = tokio::join!(through(app, peer), calls, serves);
            called?;
            served?;
            carried
        })?;
        ends = Some((outbound, inbound));
        Ok(())
    })
}

type End = Tunneled<TlsStream<DuplexStream>>;

async fn connected(mesh: &Mesh) -> Result<(End, End), Error> {
    let (near, far) = duplex(WIRE);
    let server = Arc::clone(mesh.server());
    let ends = tokio::try_join!(tls::connect(near, mesh.client()), tls::accept(far, async |_| server));
    let ((outbound, _), (inbound, _)) = ends?;
    Ok((Tunneled::initiator(outbound), Tunneled::acceptor(inbound)))
}

/// 1 MiB from one end to the other, where it is counted, and the end of both ways.
async fn through(mut app: DuplexStream, mut peer: DuplexStream) -> Result<(), Error> {
    let payload = vec![0x5a; PAYLOAD];
    let send = async {
        for _ in 0..MEBIBYTE / PAYLOAD {
            app.write_all(&payload).await?;
        }
        app.shutdown().await?;
        let more = app.read(&mut [0; 1]).await?;
        Ok::<_, Error>(more)
    };
    let receive = async {
        let (mut buffer, mut received) = (vec![0; PAYLOAD], 0);
        loop {
            match peer.read(&mut buffer).await? {
                0 => break,
                count => received += count,
            }
        }
        peer.shutdown().await?;
        Ok::<_, Error>(received)
    };
    let (back, there) = tokio::try_join!(send, receive)?;
    if (back, there) != (0, MEBIBYTE) {
        return Err(format!("{there} bytes came, and {back} back").into());
    }
    Ok(())
}

fn runtime() -> Result<Runtime, Error> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?)
}
