//! New connections over a pair that carries bytes: one exchange each, then a clean end; or all of them kept open, so
//! that none can use what another one left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::Speaks;
use super::super::peers::{Carries, Peer};
use super::super::service::pattern;
use super::{Count, Sample};

/// At once.
const CALLERS: usize = 8;
/// What goes there and back on each connection.
pub(super) const WORDS: usize = 64;
const DEADLINE: Duration = Duration::from_secs(10);

/// One after the other, while tunnels to the peer may be used again.
pub(super) async fn warm(peer: Peer, environment: &Environment) -> Result<Sample> {
    let wish = Wish { routes: &[(Carries::Tcp, Speaks::Echo(WORDS))], connections: 1024, resume: true };
    let mut bed = Bed::make(environment, peer, &wish).await?;
    let entrance = bed.entrance()?;
    one_after_the_other(entrance, environment.effort.warm_up).await?;
    let count = Count::begin(&bed)?;
    let made = one_after_the_other(entrance, environment.effort.duration).await?;
    let sample = count.end(&bed, made as f64)?;
    ensure!(made > 0, "no connection was made");
    bed.check().await?;
    Ok(sample)
}

/// All open at once, to a pair that has just started: each needs a handshake, and no session is resumed.
pub(super) async fn cold(peer: Peer, environment: &Environment) -> Result<Sample> {
    let number = environment.effort.cold;
    let wish = Wish {
        routes: &[(Carries::Tcp, Speaks::Echo(WORDS))],
        connections: number * 2 + 1024,
        resume: false,
    };
    let mut bed = Bed::make(environment, peer, &wish).await?;
    let entrance = bed.entrance()?;
    // The check that the bed passed has left a connection that may be used again.
    let first = Open::at(entrance).await?;
    let count = Count::begin(&bed)?;
    let open = open(entrance, number).await?;
    let sample = count.end(&bed, open.len() as f64)?;
    drop((first, open));
    bed.check().await?;
    Ok(sample)
}

/// A connection on which an exchange went well.
pub(super) struct Open {
    stream: TcpStream,
}

impl Open {
    pub(super) async fn at(entrance: SocketAddr) -> Result<Self> {
        let stream = timeout(DEADLINE, TcpStream::connect(entrance)).await.context("no connection")??;
        stream.set_nodelay(true)?;
        let mut open = Self { stream };
        open.exchange().await?;
        Ok(open)
    }

    /// What is sent has to come back.
    pub(super) async fn exchange(&mut self) -> Result<()> {
        let (sent, mut received) = (pattern(WORDS), [0; WORDS]);
        self.stream.write_all(&sent).await?;
        let read = timeout(DEADLINE, self.stream.read_exact(&mut received)).await;
        read.context("nothing came back in time")?.context("the connection ended before its time")?;
        ensure!(received == *sent, "what came back is not what was sent");
        Ok(())
    }

    /// Says that no more comes, and waits for the same.
    async fn end(mut self) -> Result<()> {
        self.stream.shutdown().await?;
        let mut more = [0; 1];
        let end =
            timeout(DEADLINE, self.stream.read(&mut more)).await.context("the other end does not end")??;
        ensure!(end == 0, "more came back than was sent");
        Ok(())
    }
}

/// That many connections to `entrance`, all open.
pub(super) async fn open(entrance: SocketAddr, number: usize) -> Result<Vec<Open>> {
    let left = Arc::new(AtomicUsize::new(number));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let left = Arc::clone(&left);
        callers.spawn(async move {
            let mut mine = Vec::new();
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                mine.push(Open::at(entrance).await?);
            }
            anyhow::Ok(mine)
        });
    }
    let mut all = Vec::with_capacity(number);
    while let Some(caller) = callers.join_next().await {
        all.extend(caller??);
    }
    Ok(all)
}

async fn one_after_the_other(entrance: SocketAddr, time: Duration) -> Result<usize> {
    let over = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let over = Arc::clone(&over);
        callers.spawn(async move {
            let mut made = 0;
            while !over.load(Ordering::Relaxed) {
                Open::at(entrance).await?.end().await?;
                made += 1;
            }
            anyhow::Ok(made)
        });
    }
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    let mut sum = 0;
    while let Some(caller) = callers.join_next().await {
        sum += caller??;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::super::super::service;
    use super::*;

    #[tokio::test]
    async fn connections_are_made_and_end_well() {
        let apps = service::start().await.unwrap();
        assert!(one_after_the_other(apps.echo, Duration::from_millis(50)).await.unwrap() > 0);
        let mut open = open(apps.echo, 20).await.unwrap();
        assert_eq!(open.len(), 20);
        open.first_mut().unwrap().exchange().await.unwrap();
    }

    #[tokio::test]
    async fn who_answers_something_else_is_found_out() {
        let apps = service::start().await.unwrap();
        assert!(Open::at(apps.http).await.is_err());
        assert!(one_after_the_other(apps.http, Duration::from_millis(1)).await.is_err());
    }
}
