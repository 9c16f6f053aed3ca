//! Where instances accept mutual TLS, and their Watch streams: so that a restart of control loses no endpoint, and
//! replicas know what the others hold. Whose stream is newest owns the row; whoever held it before changes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use signet_proto::locality::Locality;
use signet_proto::policy::Schema;
use signet_proto::spiffe::InstanceId;

use super::change::Change;
use super::model::{ElsewhereStanding, Lease, Listener, Standing};
use super::sql::{Row, values};
use super::{Store, StoreError};
use crate::time;

impl Store {
    /// Writes down how Watch streams stand: open, or ended (`None`). Of one that was opened the endpoints are written,
    /// unless its instance is no longer active. Returns those that have a newer stream at another replica.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_standings(
        &self,
        standings: Vec<(InstanceId, Option<Standing>)>,
    ) -> Result<Vec<InstanceId>, StoreError> {
        let replica = self.replica().to_owned();
        self.write(move |change| {
            let mut superseded = Vec::new();
            for (instance, standing) in &standings {
                match standing {
                    Some(standing) if standing.opened => {
                        if !opened(change, standing, &replica)? {
                            superseded.push(*instance);
                        }
                    }
                    Some(standing) => change.sql.post(
                        "UPDATE session SET seen_at_ms = ?3, in_force = ?4, in_force_at_ms = ?5, closed = ?6
                         WHERE instance = ?1 AND replica = ?2 AND claim = ?7",
                        values![
                            instance.to_string(),
                            &replica,
                            standing.seen_at,
                            standing.in_force,
                            standing.in_force_at,
                            standing.closed,
                            standing.claim
                        ],
                    )?,
                    None => change.sql.post(
                        "UPDATE session SET open = 0 WHERE instance = ?1 AND replica = ?2",
                        values![instance.to_string(), &replica],
                    )?,
                }
            }
            change.operational();
            Ok(superseded)
        })
        .await
    }

    /// Whether an instance said goodbye, at whatever replica, and has not come back.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_departed(&self, instance: InstanceId) -> Result<bool, StoreError> {
        self.read(move |sql| {
            sql.one(
                "SELECT EXISTS (SELECT 1 FROM instance WHERE id = ?1 AND status = 'departed')",
                values![instance.to_string()],
            )
        })
        .await
    }

    /// A Watch stream opens: from now on the instance may go by what it is told; one that had departed is back.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn watched(&self, instance: InstanceId) -> Result<(), StoreError> {
        let news = "status IN ('active', 'departed') AND (watched = 0 OR status = 'departed')";
        let name = instance.to_string();
        let found: u64 = self
            .read(move |sql| {
                sql.one(&format!("SELECT count(*) FROM instance WHERE id = ?1 AND {news}"), values![&name])
            })
            .await?;
        if found == 0 {
            return Ok(());
        }
        self.write(move |change| {
            change.operational();
            change.sql.post(
                &format!("UPDATE instance SET watched = 1, status = 'active' WHERE id = ?1 AND {news}"),
                values![instance.to_string()],
            )
        })
        .await
    }

    /// Forgets the endpoints of instances, unless another replica holds them.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn remove_leases(&self, instances: Vec<InstanceId>) -> Result<(), StoreError> {
        let replica = self.replica().to_owned();
        self.write(move |change| {
            for instance in &instances {
                let instance = instance.to_string();
                let removed = change.sql.execute(
                    "DELETE FROM endpoint WHERE instance = ?1 AND NOT EXISTS (
                       SELECT 1 FROM session WHERE session.instance = ?1 AND replica <> ?2)",
                    values![&instance, &replica],
                )?;
                if removed > 0 {
                    change.tell_endpoints(&instance)?;
                }
            }
            change.operational();
            Ok(())
        })
        .await
    }

    /// All endpoints known; with each, whether another replica holds its stream.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn leases(&self) -> Result<Vec<(Lease, bool)>, StoreError> {
        let replica = self.replica().to_owned();
        self.read(move |sql| {
            let found = sql.rows(
                "SELECT e.instance, e.spiffe_id, e.address, e.port, e.app_port, coalesce(s.replica, ?1), e.locality
                 FROM endpoint e LEFT JOIN session s ON s.instance = e.instance ORDER BY 1, 3, 4, 5",
                values![&replica],
            )?;
            collect(&found, &replica)
        })
        .await
    }

    /// The endpoints of an instance whose stream another replica holds; `None` if there are none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn lease_elsewhere(&self, instance: InstanceId) -> Result<Option<Lease>, StoreError> {
        let replica = self.replica().to_owned();
        self.read(move |sql| {
            let found = sql.rows(
                "SELECT e.instance, e.spiffe_id, e.address, e.port, e.app_port, s.replica, e.locality
                 FROM endpoint e JOIN session s ON s.instance = e.instance
                 WHERE e.instance = ?1 AND s.replica <> ?2 ORDER BY 1, 3, 4, 5",
                values![instance.to_string(), &replica],
            )?;
            Ok(collect(&found, &replica)?.into_iter().next().map(|(lease, _)| lease))
        })
        .await
    }

    /// Open Watch streams that other replicas hold.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn standings_elsewhere(&self) -> Result<Vec<ElsewhereStanding>, StoreError> {
        if !self.is_shared() {
            return Ok(Vec::new());
        }
        let (replica, now) = (self.replica().to_owned(), time::now());
        self.read(move |sql| {
            sql.all(
                "SELECT i.spiffe_id, s.instance, s.address, s.version, s.in_force, s.in_force_at_ms, s.closed,
                        s.policy_schema
                 FROM session s JOIN instance i ON i.id = s.instance
                 WHERE s.open = 1 AND s.replica <> ?1 AND i.status = 'active' AND i.not_after_ms > ?2
                 ORDER BY 1, 2",
                values![&replica, now],
                |row| {
                    Ok(ElsewhereStanding {
                        spiffe_id: row.parsed(0)?,
                        instance: row.parsed(1)?,
                        address: row.get(2)?,
                        version: row.get(3)?,
                        in_force: row.get(4)?,
                        in_force_at: row.get(5)?,
                        closed: row.get(6)?,
                        schema: Schema::of_number(row.get(7)?),
                    })
                },
            )
        })
        .await
    }

    /// Closes what this replica held before it was started: nobody wrote down how that ended.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn close_standings(&self) -> Result<(), StoreError> {
        let replica = self.replica().to_owned();
        self.write(move |change| {
            change.operational();
            change.sql.post("UPDATE session SET open = 0 WHERE replica = ?1 AND open = 1", values![&replica])
        })
        .await
    }

    /// Says that this replica runs. False: the others took it for gone, or never knew it; what it holds has to be
    /// written down anew.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn heartbeat(&self, started_at: SystemTime) -> Result<bool, StoreError> {
        // By a clock of its own, one that is behind would be gone whenever it says that it is there.
        let (replica, seen_at) = (self.replica().to_owned(), self.shared_now());
        self.write(move |change| {
            change.operational();
            let known = "SELECT EXISTS (SELECT 1 FROM replica WHERE id = ?1)";
            let known = change.sql.one(known, values![&replica])?;
            change.sql.post(
                "INSERT INTO replica (id, version, started_at_ms, seen_at_ms, rotates, jwt)
                 VALUES (?1, ?2, ?3, ?4, 1, 1)
                 ON CONFLICT (id) DO UPDATE SET version = excluded.version, seen_at_ms = excluded.seen_at_ms,
                   started_at_ms = excluded.started_at_ms, rotates = 1, jwt = 1",
                values![&replica, env!("CARGO_PKG_VERSION"), started_at, seen_at],
            )?;
            Ok(known)
        })
        .await
    }

    /// Forgets replicas that were not seen since `seen_before`, by the clock of [`Store::shared_now`], and the endpoints of those of their proxies that have
    /// not come to another one. Returns how many replicas.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn forget_replicas(&self, seen_before: SystemTime) -> Result<u64, StoreError> {
        self.write(move |change| {
            let gone: Vec<String> = change.sql.all(
                "SELECT id FROM replica WHERE seen_at_ms < ?1",
                values![seen_before],
                |row| row.get(0),
            )?;
            for replica in &gone {
                let instances: Vec<String> = change.sql.all(
                    "SELECT DISTINCT e.instance FROM endpoint e JOIN session s ON s.instance = e.instance
                     WHERE s.replica = ?1",
                    values![replica],
                    |row| row.get(0),
                )?;
                for instance in &instances {
                    remove(change, instance)?;
                }
                change.sql.post("UPDATE session SET open = 0 WHERE replica = ?1", values![replica])?;
                change.sql.post("DELETE FROM replica WHERE id = ?1", values![replica])?;
            }
            change.operational();
            Ok(gone.len() as u64)
        })
        .await
    }
}

/// False: another replica has a newer stream of the instance.
fn opened(change: &Change<'_>, standing: &Standing, replica: &str) -> Result<bool, StoreError> {
    let Standing {
        lease,
        claim,
        version,
        schema,
        opened_at,
        seen_at,
        in_force,
        in_force_at,
        closed,
        opened: _,
    } = standing;
    let instance = lease.instance.to_string();
    let live: bool = change.sql.one(
        "SELECT EXISTS (SELECT 1 FROM instance WHERE id = ?1 AND status = 'active')",
        values![&instance],
    )?;
    if !live {
        remove(change, &instance)?;
        return Ok(true);
    }
    let holder: Option<String> =
        change
            .sql
            .find("SELECT replica FROM session WHERE instance = ?1", values![&instance], |row| row.get(0))?;
    let taken = change.sql.execute(
        "INSERT INTO session (instance, replica, open, address, version, opened_at_ms, seen_at_ms, in_force,
                              in_force_at_ms, closed, claim, policy_schema)
         VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (instance) DO UPDATE SET replica = excluded.replica, open = 1, address = excluded.address,
           version = excluded.version, opened_at_ms = excluded.opened_at_ms, seen_at_ms = excluded.seen_at_ms,
           in_force = excluded.in_force, in_force_at_ms = excluded.in_force_at_ms, closed = excluded.closed,
           claim = excluded.claim, policy_schema = excluded.policy_schema
         WHERE session.open = 0 OR session.replica = excluded.replica OR session.claim <= excluded.claim",
        values![
            &instance,
            replica,
            lease.address.to_string(),
            version,
            *opened_at,
            *seen_at,
            *in_force,
            *in_force_at,
            *closed,
            *claim,
            schema.number()
        ],
    )?;
    if taken == 0 {
        return Ok(false);
    }
    let listed: Vec<(String, u16, u16, String)> = change.sql.all(
        "SELECT address, port, app_port, locality FROM endpoint WHERE instance = ?1 ORDER BY port, app_port",
        values![&instance],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    let address = lease.address.to_string();
    let locality = lease.locality.as_ref().map_or("", Locality::as_str);
    let wanted = lease
        .listeners
        .iter()
        .map(|listener| (address.clone(), listener.port, listener.app_port, locality.to_owned()));
    let moved = holder.is_some_and(|holder| holder != replica);
    if listed == wanted.collect::<Vec<_>>() {
        if moved {
            // Who held it before must not take it out.
            change.tell_endpoints(&instance)?;
        }
        return Ok(true);
    }
    change.sql.execute("DELETE FROM endpoint WHERE instance = ?1", values![&instance])?;
    for Listener { port, app_port } in &lease.listeners {
        change.sql.post(
            "INSERT INTO endpoint (instance, spiffe_id, address, port, app_port, locality)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            values![&instance, lease.spiffe_id.as_str(), &address, *port, *app_port, locality],
        )?;
    }
    change.tell_endpoints(&instance)?;
    Ok(true)
}

fn collect(rows: &[Row], replica: &str) -> Result<Vec<(Lease, bool)>, StoreError> {
    let mut leases: BTreeMap<(String, String), (Lease, bool)> = BTreeMap::new();
    for row in rows {
        let address: IpAddr = row.parsed(2)?;
        let holder: String = row.get(5)?;
        let (lease, _) = leases.entry((row.get(0)?, row.get(2)?)).or_insert((
            Lease {
                instance: row.parsed(0)?,
                spiffe_id: row.parsed(1)?,
                address,
                listeners: Vec::new(),
                // A label that this version cannot read is as good as none.
                locality: row.get::<String>(6)?.parse().ok(),
            },
            holder != replica,
        ));
        lease.listeners.push(Listener { port: row.get(3)?, app_port: row.get(4)? });
    }
    Ok(leases.into_values().collect())
}

pub(super) fn remove(change: &Change<'_>, instance: &str) -> Result<(), StoreError> {
    let removed = change.sql.execute("DELETE FROM endpoint WHERE instance = ?1", values![instance])?;
    if removed > 0 { change.tell_endpoints(instance) } else { Ok(()) }
}
