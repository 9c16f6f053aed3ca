//! Open connections of bytes in which nothing moves, and what each of them costs the pair in memory.

use anyhow::{Context as _, Result, ensure};

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::Speaks;
use super::super::peers::{Carries, Peer};
use super::connect::{Open, WORDS, open};
use super::{BYTES_EACH, Sample, UNITS};

/// Descriptors of a proxy that are not sockets of connections.
const OTHERS: u64 = 400;

pub(super) async fn measure(peer: Peer, environment: &Environment, number: usize) -> Result<Sample> {
    // Each takes two descriptors in each proxy; where there are not enough, several pairs share them.
    let room = usize::try_from(environment.descriptors.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX);
    ensure!(room > 0, "the limit of open files is too low: raise it (ulimit -Hn)");
    let pairs = number.div_ceil(room);
    let each = number.div_ceil(pairs);
    let routes = [(Carries::Tcp, Speaks::Echo(WORDS))];
    let wish = Wish { routes: &routes, connections: each + 64, resume: true };
    let mut beds = Vec::new();
    for _ in 0..pairs {
        let bed = Bed::make(environment, peer, &wish).await?;
        let first = Open::at(bed.entrance()?).await?;
        beds.push((bed, first));
    }
    tokio::time::sleep(environment.effort.settle).await;
    let before = memory(&beds)?;
    let mut all = Vec::with_capacity(number);
    for (bed, _) in &beds {
        all.extend(open(bed.entrance()?, each).await?);
    }
    tokio::time::sleep(environment.effort.settle).await;
    let after = memory(&beds)?;
    for (index, open) in all.iter_mut().enumerate() {
        open.exchange().await.with_context(|| format!("connection {index} of {number}"))?;
    }
    for (bed, _) in &mut beds {
        bed.check().await?;
    }
    let count = all.len() as f64;
    Ok(Sample::from([(UNITS, count), (BYTES_EACH, after.saturating_sub(before) as f64 / count)]))
}

fn memory(beds: &[(Bed, Open)]) -> Result<u64> {
    beds.iter().map(|(bed, _)| bed.memory()).sum()
}
