//! Where instances accept mutual TLS, so that a restart of control loses no endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;

use signet_proto::spiffe::InstanceId;

use super::change::Change;
use super::model::{Lease, Listener};
use super::sql::values;
use super::{Store, StoreError};

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
            change.sql.execute("UPDATE instance SET watched = 1, status = CASE WHEN status = 'departed' THEN 'active' ELSE status END
                     WHERE id = ?1 AND (watched = 0 OR status = 'departed')", values![&instance])?;
            for Listener { port, app_port } in &lease.listeners {
                change.sql.execute("INSERT INTO endpoint (instance, spiffe_id, address, port, app_port)
                         SELECT id, spiffe_id, CAST(?2 AS TEXT), CAST(?3 AS BIGINT), CAST(?4 AS BIGINT)
                         FROM instance WHERE id = ?1 AND status = 'active'", values![&instance, lease.address.to_string(), *port, *app_port])?;
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
        self.read(|sql| {
            let mut leases: BTreeMap<(String, String), Lease> = BTreeMap::new();
            let found = sql.rows(
                "SELECT instance, spiffe_id, address, port, app_port FROM endpoint ORDER BY 1, 3, 4, 5",
                &[],
            )?;
            for row in found {
                let address: IpAddr = row.parsed(2)?;
                let lease = leases.entry((row.get(0)?, row.get(2)?)).or_insert(Lease {
                    instance: row.parsed(0)?,
                    spiffe_id: row.parsed(1)?,
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
    change.sql.execute("DELETE FROM endpoint WHERE instance = ?1", values![instance])?;
    Ok(())
}
