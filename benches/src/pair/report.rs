//! All that one run found.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::bed::Environment;
use super::loads::{Load, Sample};
use super::machine::{Machine, versions};
use super::peers::Peer;
use super::{Plan, aims, table};
use crate::numbers::percentile;

/// Figures, and what they were measured with.
#[derive(Debug)]
pub struct Report {
    pub(super) measured_at: String,
    pub(super) machine: Machine,
    /// By name, as each says it.
    pub(super) versions: BTreeMap<String, String>,
    pub(super) rounds: usize,
    pub(super) cells: Vec<Cell>,
}

/// One load with one peer, round after round.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    #[serde(serialize_with = "load_name")]
    pub(super) load: Load,
    #[serde(serialize_with = "peer_name")]
    pub(super) peer: Peer,
    pub(super) rounds: Vec<Sample>,
    pub(super) failures: Vec<String>,
}

impl Report {
    pub(super) async fn new(plan: &Plan, environment: &Environment) -> Result<Self> {
        let versions = versions(plan, environment).await?;
        Ok(Self { versions, rounds: plan.rounds, ..Self::empty() })
    }

    /// Without any figures.
    pub(super) fn empty() -> Self {
        let now = jiff::Timestamp::try_from(signet_proto::clock::now());
        Self {
            measured_at: now.map(|now| now.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default(),
            machine: Machine::this(),
            versions: BTreeMap::new(),
            rounds: 1,
            cells: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, load: Load, peer: Peer, measured: Result<Sample>) {
        let at = self.cells.iter().position(|cell| cell.load == load && cell.peer == peer);
        let at = at.unwrap_or_else(|| {
            self.cells.push(Cell { load, peer, rounds: Vec::new(), failures: Vec::new() });
            self.cells.len() - 1
        });
        let Some(cell) = self.cells.get_mut(at) else { return };
        match measured {
            Ok(sample) => cell.rounds.push(sample),
            Err(error) => cell.failures.push(format!("{error:#}")),
        }
    }

    pub(super) fn cell(&self, load: Load, peer: Peer) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.load == load && cell.peer == peer)
    }

    /// The median of a figure; none when any round failed.
    pub(super) fn median(&self, load: Load, peer: Peer, figure: &str) -> Option<f64> {
        self.cell(load, peer).filter(|cell| cell.failures.is_empty())?.median(figure)
    }

    /// Whose figures are there, in their order.
    pub(super) fn peers(&self) -> Vec<Peer> {
        let mut peers: Vec<Peer> = self.cells.iter().map(|cell| cell.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    /// What went wrong, a line each.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let lines = self.cells.iter().flat_map(|cell| {
            cell.failures.iter().map(|failure| format!("{}, {}: {failure}", cell.load, cell.peer))
        });
        lines.collect()
    }

    /// For people: figures, then aims.
    #[must_use]
    pub fn table(&self) -> String {
        table::all(self)
    }
}

impl Cell {
    fn median(&self, figure: &str) -> Option<f64> {
        let mut values: Vec<f64> =
            self.rounds.iter().filter_map(|round| round.get(figure).copied()).collect();
        (!values.is_empty()).then(|| percentile(&mut values, 0.5))
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 6)?;
        report.serialize_field("measured_at", &self.measured_at)?;
        report.serialize_field("machine", &self.machine)?;
        report.serialize_field("versions", &self.versions)?;
        report.serialize_field("rounds", &self.rounds)?;
        report.serialize_field("cells", &self.cells)?;
        report.serialize_field("aims", &aims::outcomes(self))?;
        report.end()
    }
}

fn load_name<S: Serializer>(load: &Load, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(load.name())
}

fn peer_name<S: Serializer>(peer: &Peer, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(peer.name())
}

#[cfg(test)]
mod tests {
    use super::super::loads::CPU_US;
    use super::*;

    #[test]
    fn figure_is_the_median_of_its_rounds_and_none_when_one_failed() {
        let mut report = Report::empty();
        for value in [30.0, 10.0, 20.0] {
            report.add(Load::Grpc, Peer::Envoy, Ok(Sample::from([(CPU_US, value)])));
        }
        assert_eq!(report.median(Load::Grpc, Peer::Envoy, CPU_US), Some(20.0));
        assert_eq!(report.median(Load::Grpc, Peer::Signet, CPU_US), None);
        report.add(Load::Grpc, Peer::Envoy, Err(anyhow::anyhow!("two answers were short")));
        assert_eq!(report.median(Load::Grpc, Peer::Envoy, CPU_US), None);
        assert_eq!(report.failures(), ["gRPC call, Envoy: two answers were short"]);
    }
}
