//! Addresses without identity at one end of connections: counted as edges are, in the change of their report.

use std::time::SystemTime;

use signet_proto::spiffe::SpiffeId;

use super::change::Change;
use super::sql::{Row, values};
use super::{Store, StoreError};
use crate::inventory::{Outsider, PlaintextPort, Spoken, Way};

/// The row of `tally`: how many there are.
const OUTSIDERS: &str = "outsiders";
/// With one identity, each way; a proxy tells of as many apart.
const MOST_OF_IDENTITY: u64 = 1024;
const MOST_IN_ALL: u64 = 200_000;
/// Workloads and ports that are summed up.
const SUMMED_UP: u32 = 500;

pub(super) const COLUMNS: &str = "workload, way, address, port, protocol, first_at_ms, last_at_ms, connections, \
                                  requests, bytes_in, bytes_out, denied";

impl Store {
    /// Workloads and ports that were called in plaintext, the last one first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn plaintext_ports(&self) -> Result<Vec<PlaintextPort>, StoreError> {
        self.read(|sql| {
            sql.all(
                "SELECT workload, port, count(*), max(last_at_ms) FROM outsider WHERE way = ?1 AND connections > 0
                   GROUP BY workload, port ORDER BY max(last_at_ms) DESC, workload, port LIMIT ?2",
                values![number(Way::Plaintext), SUMMED_UP],
                |row| {
                    Ok(PlaintextPort {
                        workload: row.parsed(0)?,
                        port: row.get(1)?,
                        callers: row.get(2)?,
                        last_at: row.get(3)?,
                    })
                },
            )
        })
        .await
    }

    /// Drops at most `limit` that were silent since `silent_before`. Returns how many.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune_outsiders(&self, silent_before: SystemTime, limit: u32) -> Result<u64, StoreError> {
        self.write(move |change| {
            change.operational();
            let pruned = change.sql.execute(
                "DELETE FROM outsider WHERE (workload, way, address, port) IN
                   (SELECT workload, way, address, port FROM outsider WHERE last_at_ms < ?1
                      ORDER BY last_at_ms LIMIT ?2)",
                values![silent_before, limit],
            )?;
            if pruned > 0 {
                let statement = "UPDATE tally SET count = count - ?2 WHERE name = ?1";
                change.sql.post(statement, values![OUTSIDERS, pruned])?;
            }
            Ok(pruned)
        })
        .await
    }
}

/// Adds to those of `reporter`. Returns how many new ones there was no room for.
pub(super) fn count(change: &Change<'_>, reporter: &SpiffeId, seen: &[Outsider]) -> Result<u64, StoreError> {
    let mut dropped = 0;
    for more in seen {
        let known = change.sql.find(
            &format!(
                "SELECT {COLUMNS} FROM outsider WHERE workload = ?1 AND way = ?2 AND address = ?3 AND port = ?4"
            ),
            values![reporter.as_str(), number(more.way), more.address.to_string(), more.port],
            |row| read(row, 0),
        )?;
        match known {
            Some(mut known) => {
                known.add(more);
                write(change, &known)?;
            }
            None if has_room(change, reporter, more.way)? => {
                super::sightings::tally(change, OUTSIDERS, 1)?;
                write(change, more)?;
            }
            None => dropped += 1,
        }
    }
    Ok(dropped)
}

fn has_room(change: &Change<'_>, reporter: &SpiffeId, way: Way) -> Result<bool, StoreError> {
    let in_all: u64 = change
        .sql
        .one("SELECT coalesce((SELECT count FROM tally WHERE name = ?1), 0)", values![OUTSIDERS])?;
    let of_identity: u64 = change.sql.one(
        "SELECT count(*) FROM (SELECT 1 FROM outsider WHERE workload = ?1 AND way = ?2 LIMIT ?3) AS few",
        values![reporter.as_str(), number(way), MOST_OF_IDENTITY],
    )?;
    Ok(in_all < MOST_IN_ALL && of_identity < MOST_OF_IDENTITY)
}

fn write(change: &Change<'_>, outsider: &Outsider) -> Result<(), StoreError> {
    change.sql.post(
        &format!(
            "INSERT INTO outsider ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
             ON CONFLICT (workload, way, address, port) DO UPDATE SET protocol = excluded.protocol,
               first_at_ms = excluded.first_at_ms, last_at_ms = excluded.last_at_ms,
               connections = excluded.connections, requests = excluded.requests, bytes_in = excluded.bytes_in,
               bytes_out = excluded.bytes_out, denied = excluded.denied"
        ),
        values![
            outsider.workload.as_str(),
            number(outsider.way),
            outsider.address.to_string(),
            outsider.port,
            i64::from(i32::from(Spoken::message(outsider.protocol))),
            outsider.first_at,
            outsider.last_at,
            outsider.connections,
            outsider.requests,
            outsider.bytes_in,
            outsider.bytes_out,
            outsider.denied
        ],
    )
}

/// From [`COLUMNS`], after `from` others.
pub(super) fn read(row: &Row, from: usize) -> Result<Outsider, StoreError> {
    let way =
        Way::ALL.into_iter().find(|way| row.get::<i64>(from + 1).is_ok_and(|found| found == number(*way)));
    Ok(Outsider {
        workload: row.parsed(from)?,
        way: way.ok_or_else(|| StoreError::Damaged("an outsider neither in nor out".into()))?,
        address: row.parsed(from + 2)?,
        port: row.get(from + 3)?,
        protocol: Spoken::from_number(i32::from(row.get::<u16>(from + 4)?)),
        first_at: row.get(from + 5)?,
        last_at: row.get(from + 6)?,
        connections: row.get(from + 7)?,
        requests: row.get(from + 8)?,
        bytes_in: row.get(from + 9)?,
        bytes_out: row.get(from + 10)?,
        denied: row.get(from + 11)?,
    })
}

pub(super) fn number(way: Way) -> i64 {
    match way {
        Way::Plaintext => 0,
        Way::Passthrough => 1,
    }
}
