//! Pairs side by side: client → outbound proxy =mTLS=> inbound proxy with rules → app, on loopback, for Signet, for
//! others that do the same, and without any proxy.
//!
//! ```text
//!   load (wrk, h2load, iperf3, this process) ─▶ outbound ═ mutual TLS 1.3 ═▶ inbound, rules ─▶ app (a child)
//!                                               '---- processor time and memory of these two ----'
//! ```
//!
//! Invariant: a figure is reported only if what it counts came back as it should: status, length and content. A cell
//! in which something did not is shown as failed, and so does the run.

mod aims;
mod apps;
mod bed;
mod check;
mod credentials;
mod effort;
mod loads;
mod machine;
mod mesh;
mod peers;
mod readme;
mod report;
mod service;
mod svg;
mod table;
mod tool;

use std::path::PathBuf;

use anyhow::Result;

use crate::limits;
use bed::Environment;

pub use effort::Effort;
pub use loads::Load;
pub use peers::Peer;
pub use readme::write as write_readme;
pub use report::Report;
pub use service::serve;

/// What is measured, and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Whose pairs.
    pub peers: Vec<Peer>,
    /// What they carry.
    pub loads: Vec<Load>,
    /// How often all of it is measured; the figures are medians.
    pub rounds: usize,
    /// How much of each load.
    pub effort: Effort,
    /// The `signet-proxy` under measurement, and the `signet-control` that it joins; none without Signet.
    pub signet: Option<(PathBuf, PathBuf)>,
}

/// Measures every load with every peer in turn, round after round. Every process that it starts has ended when this
/// returns or is dropped.
///
/// # Errors
/// When something cannot be set up. What fails while it is measured is in the report.
pub async fn run(plan: &Plan) -> Result<Report> {
    let descriptors = limits::raise()?;
    let environment = Environment::prepare(plan, descriptors).await?;
    let mut report = Report::new(plan, &environment).await?;
    for round in 1..=plan.rounds {
        for &load in &plan.loads {
            for &peer in plan.peers.iter().filter(|&&peer| load.applies(peer)) {
                eprint!("round {round} of {}, {load}, {peer}: ", plan.rounds);
                let measured = Box::pin(loads::measure(load, peer, &environment)).await;
                match &measured {
                    Ok(sample) => eprintln!("{}", load.summary(sample)),
                    Err(error) => eprintln!("failed: {error:#}"),
                }
                report.add(load, peer, measured);
            }
        }
    }
    Ok(report)
}
