//! A pair that has carried one request, and nothing since; and how large its program is.

use anyhow::{Context as _, Result};

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::Speaks;
use super::super::peers::{Carries, Peer};
use super::{BINARY, MEMORY, Sample};

pub(super) async fn measure(peer: Peer, environment: &Environment) -> Result<Sample> {
    let carries = if peer == Peer::Stunnel { Carries::Tcp } else { Carries::Http1 };
    let wish = Wish { routes: &[(carries, Speaks::Http)], connections: 1024, resume: true };
    let mut bed = Bed::make(environment, peer, &wish).await?;
    tokio::time::sleep(environment.effort.settle).await;
    let memory = bed.memory()?;
    bed.check().await?;
    let program = environment.programs.of(peer)?;
    let size = program.metadata().with_context(|| format!("no {}", program.display()))?.len();
    Ok(Sample::from([(MEMORY, memory as f64), (BINARY, size as f64)]))
}
