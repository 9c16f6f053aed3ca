//! What proxies see, counted: each report once, in one change with the mark that says so. Operational: nobody decides
//! by it, and no audit event tells of it.
//!
//! Rows are read, added to and written back inside the one write transaction, so that counts are exact and never wrap.
//! Each identity, and the table, has a bound: what is beyond is dropped, and said to be.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::change::Change;
use super::sql::{Row, Value, values};
use super::{Store, StoreError, outsiders};
use crate::inventory::{CertificateName, Edge, Increment, Link, Sightings, Spoken};

/// Processes of one instance whose repeated reports are known.
const RUNS: u32 = 4;
/// Rows of `tally`: how many edges there are, and how often anything was seen.
const EDGES: &str = "edges";
const SEEN: &str = "seen";
pub(super) const COLUMNS: &str = "destination, source, port, protocol, first_at_ms, last_at_ms, connections, requests, \
                                  bytes_in, bytes_out, denied, unreached, refused_at_ms, causes";

/// How many edges are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeBounds {
    /// With one identity as the caller, and as many with it as the one called.
    pub of_identity: u64,
    /// In all.
    pub in_all: u64,
}

/// Where the records are: as long as it is the same, so are the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The newest audit event.
    sequence: u64,
    /// How often anything was reported as seen.
    seen: u64,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// It is counted now.
    Now {
        /// New edges of it that there was no room for.
        dropped: u64,
    },
    /// It was before: its answer was lost.
    Before,
}

/// Which end of its edges an identity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Destination,
    Source,
}

impl Store {
    /// Counts a report of an instance of the identity `reporter`, unless it was counted before.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn count_sightings(
        &self,
        instance: InstanceId,
        reporter: SpiffeId,
        sightings: Sightings,
        bounds: EdgeBounds,
    ) -> Result<Counted, StoreError> {
        self.write(move |change| {
            change.operational();
            if !mark(change, &instance.to_string(), &sightings)? {
                return Ok(Counted::Before);
            }
            certificates_seen(change, &sightings.certificates)?;
            tally(change, SEEN, 1)?;
            let (called, calling): (Vec<_>, Vec<_>) =
                sightings.increments.iter().partition(|increment| increment.link.destination == reporter);
            let mut dropped = count(change, &reporter, End::Destination, &called, bounds)?;
            dropped += count(change, &reporter, End::Source, &calling, bounds)?;
            dropped += outsiders::count(change, &reporter, &sightings.outsiders)?;
            Ok(Counted::Now { dropped })
        })
        .await
    }

    /// Writes down when certificates were last seen in use; those that nobody issued here are passed over.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn certificates_seen(
        &self,
        seen: Vec<(CertificateName, SystemTime)>,
    ) -> Result<(), StoreError> {
        self.write(move |change| {
            change.operational();
            certificates_seen(change, &seen)?;
            tally(change, SEEN, 1)
        })
        .await
    }

    /// Where the records are now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn freshness(&self) -> Result<Freshness, StoreError> {
        let query = "SELECT coalesce((SELECT max(sequence) FROM audit), 0),
                            coalesce((SELECT count FROM tally WHERE name = ?1), 0)";
        self.read(move |sql| {
            let row = sql.row(query, values![SEEN])?;
            let row = row.ok_or_else(|| StoreError::Damaged("a question without an answer".into()))?;
            Ok(Freshness { sequence: row.get(0)?, seen: row.get(1)? })
        })
        .await
    }

    /// How many edges there are.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn edges_kept(&self) -> Result<u64, StoreError> {
        let query = "SELECT coalesce((SELECT count FROM tally WHERE name = ?1), 0)";
        self.read(move |sql| sql.one(query, values![EDGES])).await
    }

    /// Drops at most `limit` edges that were silent since `silent_before`. Returns how many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune_edges(&self, silent_before: SystemTime, limit: u32) -> Result<u64, StoreError> {
        self.write(move |change| {
            change.operational();
            let pruned = change.sql.execute(
                "DELETE FROM edge WHERE (destination, source, port) IN
                   (SELECT destination, source, port FROM edge WHERE last_at_ms < ?1 ORDER BY last_at_ms LIMIT ?2)",
                values![silent_before, limit],
            )?;
            if pruned > 0 {
                let statement = "UPDATE tally SET count = count - ?2 WHERE name = ?1";
                change.sql.post(statement, values![EDGES, pruned])?;
            }
            Ok(pruned)
        })
        .await
    }
}

/// Whether the report is new; it is not from then on.
fn mark(change: &Change<'_>, instance: &str, sightings: &Sightings) -> Result<bool, StoreError> {
    let run = sightings.run.as_slice();
    let counted: Option<u64> = change.sql.find(
        "SELECT number FROM report_mark WHERE instance = ?1 AND run = ?2",
        values![instance, run],
        |row| row.get(0),
    )?;
    if counted.is_some_and(|counted| sightings.number <= counted) {
        return Ok(false);
    }
    change.sql.post(
        "INSERT INTO report_mark (instance, run, number, at_ms) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (instance, run) DO UPDATE SET number = excluded.number, at_ms = excluded.at_ms",
        values![instance, run, sightings.number, change.at],
    )?;
    if counted.is_none() {
        change.sql.post(
            "DELETE FROM report_mark WHERE instance = ?1 AND run NOT IN
               (SELECT run FROM report_mark WHERE instance = ?1 ORDER BY at_ms DESC, run LIMIT ?2)",
            values![instance, RUNS],
        )?;
    }
    Ok(true)
}

fn certificates_seen(change: &Change<'_>, seen: &[(CertificateName, SystemTime)]) -> Result<(), StoreError> {
    for ((issuer_sha256, serial), at) in seen {
        change.sql.post(
            "UPDATE certificate SET seen_at_ms = ?3 WHERE serial = ?1 AND issuer_sha256 = ?2
               AND (seen_at_ms IS NULL OR seen_at_ms < ?3)",
            values![serial, issuer_sha256, *at],
        )?;
    }
    Ok(())
}

/// Adds to the edges that `reporter` is this end of. Returns how many new ones were dropped.
fn count(
    change: &Change<'_>,
    reporter: &SpiffeId,
    end: End,
    increments: &[&Increment],
    bounds: EdgeBounds,
) -> Result<u64, StoreError> {
    if increments.is_empty() {
        return Ok(0);
    }
    let mut known = find(change, reporter, end, increments)?;
    let mut new: BTreeMap<Link, Edge> = BTreeMap::new();
    for &increment in increments {
        let edge = match known.get_mut(&increment.link) {
            Some(edge) => edge,
            None => new.entry(increment.link.clone()).or_insert_with(|| Edge::new(increment)),
        };
        edge.add(increment);
    }
    let wanted = new.len() as u64;
    let kept = if wanted == 0 { 0 } else { wanted.min(room(change, reporter, end, bounds)?) };
    if kept > 0 {
        tally(change, EDGES, kept)?;
    }
    let new = new.into_values().take(usize::try_from(kept).unwrap_or(usize::MAX));
    for edge in known.into_values().chain(new) {
        write(change, &edge)?;
    }
    Ok(wanted - kept)
}

pub(super) fn tally(change: &Change<'_>, name: &str, more: u64) -> Result<(), StoreError> {
    change.sql.post(
        "INSERT INTO tally (name, count) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET count = tally.count + excluded.count",
        values![name, more],
    )
}

/// Those of the edges that are there.
fn find(
    change: &Change<'_>,
    reporter: &SpiffeId,
    end: End,
    increments: &[&Increment],
) -> Result<HashMap<Link, Edge>, StoreError> {
    let (own, other) = end.columns();
    let peers = increments.iter().map(|increment| match end {
        End::Destination => increment.link.source.as_str(),
        End::Source => increment.link.destination.as_str(),
    });
    let mut parameters: Vec<Value<'_>> =
        std::iter::once(reporter.as_str()).chain(peers).map(Value::from).collect();
    // A few sizes, so that few statements are prepared: the rest is the last one once more.
    let size = increments.len().next_power_of_two() + 1;
    if let Some(last) = parameters.last().cloned() {
        parameters.resize(size, last);
    }
    let places: Vec<String> = (2..=size).map(|place| format!("?{place}")).collect();
    let query = format!("SELECT {COLUMNS} FROM edge WHERE {own} = ?1 AND {other} IN ({})", places.join(", "));
    let wanted: std::collections::HashSet<&Link> =
        increments.iter().map(|increment| &increment.link).collect();
    let mut found = HashMap::new();
    for row in change.sql.rows(&query, &parameters)? {
        let edge = read(&row, 0)?;
        if wanted.contains(&edge.link) {
            found.insert(edge.link.clone(), edge);
        }
    }
    Ok(found)
}

/// How many new edges there is room for.
fn room(change: &Change<'_>, reporter: &SpiffeId, end: End, bounds: EdgeBounds) -> Result<u64, StoreError> {
    let (own, _) = end.columns();
    let in_all: u64 =
        change.sql.one("SELECT coalesce((SELECT count FROM tally WHERE name = ?1), 0)", values![EDGES])?;
    let of_identity: u64 = change.sql.one(
        &format!("SELECT count(*) FROM (SELECT 1 FROM edge WHERE {own} = ?1 LIMIT ?2) AS few"),
        values![reporter.as_str(), bounds.of_identity],
    )?;
    Ok(bounds.in_all.saturating_sub(in_all).min(bounds.of_identity.saturating_sub(of_identity)))
}

fn write(change: &Change<'_>, edge: &Edge) -> Result<(), StoreError> {
    let causes =
        serde_json::to_string(&edge.causes).map_err(|error| StoreError::Damaged(error.to_string()))?;
    change.sql.post(
        &format!(
            "INSERT INTO edge ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
             ON CONFLICT (destination, source, port) DO UPDATE SET protocol = excluded.protocol,
               first_at_ms = excluded.first_at_ms, last_at_ms = excluded.last_at_ms,
               connections = excluded.connections, requests = excluded.requests, bytes_in = excluded.bytes_in,
               bytes_out = excluded.bytes_out, denied = excluded.denied, unreached = excluded.unreached,
               refused_at_ms = excluded.refused_at_ms, causes = excluded.causes"
        ),
        values![
            edge.link.destination.as_str(),
            edge.link.source.as_str(),
            edge.link.port,
            i64::from(i32::from(Spoken::message(edge.protocol))),
            edge.first_at,
            edge.last_at,
            edge.connections,
            edge.requests,
            edge.bytes_in,
            edge.bytes_out,
            edge.denied,
            edge.unreached,
            edge.refused_at,
            &causes
        ],
    )
}

/// From [`COLUMNS`], after `from` others.
pub(super) fn read(row: &Row, from: usize) -> Result<Edge, StoreError> {
    let causes: String = row.get(from + 13)?;
    let (destination, source) = (row.parsed(from)?, row.parsed(from + 1)?);
    Ok(Edge {
        link: Link { destination, source, port: row.get(from + 2)? },
        protocol: Spoken::from_number(i32::from(row.get::<u16>(from + 3)?)),
        first_at: row.get(from + 4)?,
        last_at: row.get(from + 5)?,
        connections: row.get(from + 6)?,
        requests: row.get(from + 7)?,
        bytes_in: row.get(from + 8)?,
        bytes_out: row.get(from + 9)?,
        denied: row.get(from + 10)?,
        unreached: row.get(from + 11)?,
        refused_at: row.get(from + 12)?,
        causes: serde_json::from_str(&causes)
            .map_err(|error| StoreError::Damaged(format!("causes of an edge: {error}")))?,
    })
}

impl End {
    /// The column of the one who reports, and that of the others.
    fn columns(self) -> (&'static str, &'static str) {
        match self {
            Self::Destination => ("destination", "source"),
            Self::Source => ("source", "destination"),
        }
    }
}
