//! Where instances accept mutual TLS, so that a restart of control loses no endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rusqlite::params;
use signet_proto::spiffe::InstanceId;

use super::change::Change;
use super::model::{Lease, Listener};
use super::{Store, StoreError, rows};

impl Store {
    /// Replaces the endpoints of an instance. Nothing is written for one that is no longer active; one that
    /// had departed is back.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_lease(&self, lease: Lease) -> Result<(), StoreError> {
        self.write(move |change| {
            let instance = lease.instance.to_string();
            remove(change, &instance)?;
            change
                .connection
                .prepare_cached(
                    "UPDATE instance SET watched = 1, status = iif(status = 'departed', 'active', status)
                     WHERE id = ?1 AND (watched = 0 OR status = 'departed')",
                )?
                .execute([&instance])?;
            for Listener { port, app_port } in &lease.listeners {
                change
                    .connection
                    .prepare_cached(
                        "INSERT INTO endpoint (instance, spiffe_id, address, port, app_port)
                         SELECT id, spiffe_id, ?2, ?3, ?4 FROM instance WHERE id = ?1 AND status = 'active'",
                    )?
                    .execute(params![instance, lease.address.to_string(), port, app_port])?;
            }
            change.operational();
            Ok(())
        })
        .await
    }

    /// Forgets the endpoints of instances.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn remove_leases(&self, instances: Vec<InstanceId>) -> Result<(), StoreError> {
        self.write(move |change| {
            for instance in &instances {
                remove(change, &instance.to_string())?;
            }
            change.operational();
            Ok(())
        })
        .await
    }

    /// All endpoints known.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.read(|connection| {
            let mut leases: BTreeMap<(String, String), Lease> = BTreeMap::new();
            let mut statement = connection.prepare_cached(
                "SELECT instance, spiffe_id, address, port, app_port FROM endpoint ORDER BY 1, 3, 4, 5",
            )?;
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                let address: IpAddr = rows::parsed(row, 2)?;
                let lease = leases.entry((row.get(0)?, row.get(2)?)).or_insert(Lease {
                    instance: rows::parsed(row, 0)?,
                    spiffe_id: rows::parsed(row, 1)?,
                    address,
                    listeners: Vec::new(),
                });
                lease.listeners.push(Listener { port: row.get(3)?, app_port: row.get(4)? });
            }
            Ok(leases.into_values().collect())
        })
        .await
    }
}

pub(super) fn remove(change: &Change<'_>, instance: &str) -> Result<(), StoreError> {
    change.connection.prepare_cached("DELETE FROM endpoint WHERE instance = ?1")?.execute([instance])?;
    Ok(())
}
