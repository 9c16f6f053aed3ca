//! Revocation lists for those who are not proxies: what belongs in them, and the newest ones. What is revoked is
//! looked for from the revocations that cover something still: it costs as much as there are of those.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::model::{Crl, CrlHead, Listing, Reason, Revoked};
use super::revocations::certificate_name;
use super::sql::{Row, Sql, values};
use super::{Store, StoreError};

const HEAD: &str = "authority, number, this_update_ms, next_update_ms";
/// Certificates of `?1` that end at `?2` or later, by what names them.
const BY_IDENTITY: &str = "
    SELECT c.serial, c.not_after_ms, r.at_ms, coalesce(w.status, '')
    FROM revocation r JOIN certificate c ON c.spiffe_id = r.name LEFT JOIN workload w ON w.spiffe_id = r.name
    WHERE r.kind = 'identity' AND r.covers_until_ms >= ?2 AND c.authority = ?1 AND c.not_after_ms >= ?2";
const BY_INSTANCE: &str = "
    SELECT c.serial, c.not_after_ms, r.at_ms FROM revocation r JOIN certificate c ON c.instance = r.name
    WHERE r.kind = 'instance' AND r.lapsed = 0 AND r.covers_until_ms >= ?2
      AND c.authority = ?1 AND c.not_after_ms >= ?2";
const BY_KEY: &str = "
    SELECT serial, not_after_ms FROM certificate WHERE spki_sha256 = ?3 AND authority = ?1 AND not_after_ms >= ?2";
const BY_SERIAL: &str = "
    SELECT serial, not_after_ms FROM certificate WHERE serial = ?3 AND authority = ?1 AND not_after_ms >= ?2";
const NAMED: &str =
    "SELECT kind, name, at_ms FROM revocation WHERE kind IN ('key', 'certificate') AND covers_until_ms >= ?1";

impl Store {
    /// Certificates of an intermediate that are revoked and end at `since` or later, in the order of serials.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn revoked_certificates(
        &self,
        authority: String,
        since: SystemTime,
    ) -> Result<Vec<Revoked>, StoreError> {
        self.read(move |sql| revoked(sql, &authority, since)).await
    }

    /// Since when each of these certificates of authorities is revoked, if it is.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn revoked_authorities(
        &self,
        listings: Vec<Listing>,
    ) -> Result<Vec<Option<SystemTime>>, StoreError> {
        self.read(move |sql| {
            let since = |listing: &Listing| {
                let certificate = certificate_name(&listing.issuer_sha256, &listing.serial);
                let key = crate::hex::encode(&listing.spki_sha256);
                sql.one(
                    "SELECT min(at_ms) FROM revocation
                     WHERE kind = 'certificate' AND name = ?1 OR kind = 'key' AND name = ?2",
                    values![&certificate, &key],
                )
            };
            listings.iter().map(since).collect()
        })
        .await
    }

    /// Which lists are the newest.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn crl_heads(&self) -> Result<Vec<CrlHead>, StoreError> {
        self.read(move |sql| sql.all(&format!("SELECT {HEAD} FROM crl ORDER BY authority"), &[], head)).await
    }

    /// The newest lists of an authority.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn crl(&self, authority: String) -> Result<Option<Crl>, StoreError> {
        self.read(move |sql| {
            let query = format!("SELECT {HEAD}, contents, complete, delta FROM crl WHERE authority = ?1");
            sql.find(&query, values![&authority], |row| {
                Ok(Crl { head: head(row)?, contents: row.get(4)?, complete: row.get(5)?, delta: row.get(6)? })
            })
        })
        .await
    }

    /// What the next lists of an authority need to know of its newest ones.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn crl_contents(&self, authority: String) -> Result<Option<(CrlHead, String)>, StoreError> {
        self.read(move |sql| {
            let query = format!("SELECT {HEAD}, contents FROM crl WHERE authority = ?1");
            sql.find(&query, values![&authority], |row| Ok((head(row)?, row.get(4)?)))
        })
        .await
    }

    /// Keeps newer lists in the place of those with the number `replaces`. Returns whether those were the newest.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn put_crl(&self, new: Crl, replaces: Option<u64>) -> Result<bool, StoreError> {
        self.write(move |change| {
            change.operational();
            let Crl { head: CrlHead { authority, number, this_update, next_update }, contents, complete, delta } =
                &new;
            let written = match replaces {
                None => change.sql.execute(
                    "INSERT INTO crl (authority, number, this_update_ms, next_update_ms, contents, complete, delta)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (authority) DO NOTHING",
                    values![authority, *number, *this_update, *next_update, contents, complete, delta],
                ),
                Some(replaces) => change.sql.execute(
                    "UPDATE crl SET number = ?2, this_update_ms = ?3, next_update_ms = ?4, contents = ?5,
                                    complete = ?6, delta = ?7
                     WHERE authority = ?1 AND number = ?8",
                    values![
                        authority,
                        *number,
                        *this_update,
                        *next_update,
                        contents,
                        complete,
                        delta,
                        replaces
                    ],
                ),
            };
            Ok(written? > 0)
        })
        .await
    }

    /// Forgets the lists of an authority to which nothing chains any more.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn drop_crl(&self, authority: String) -> Result<(), StoreError> {
        self.write(move |change| {
            change.operational();
            change.sql.execute("DELETE FROM crl WHERE authority = ?1", values![&authority])?;
            Ok(())
        })
        .await
    }
}

fn head(row: &Row) -> Result<CrlHead, StoreError> {
    Ok(CrlHead {
        authority: row.get(0)?,
        number: row.get(1)?,
        this_update: row.get(2)?,
        next_update: row.get(3)?,
    })
}

fn revoked(sql: &Sql<'_>, authority: &str, since: SystemTime) -> Result<Vec<Revoked>, StoreError> {
    let mut found = Found::default();
    for row in sql.rows(BY_IDENTITY, values![authority, since])? {
        let status: String = row.get(3)?;
        let reason = match status.as_str() {
            "suspended" => Reason::CertificateHold,
            "retired" => Reason::CessationOfOperation,
            _ => Reason::Unspecified,
        };
        found.take(&row, row.get(2)?, reason)?;
    }
    for row in sql.rows(BY_INSTANCE, values![authority, since])? {
        found.take(&row, row.get(2)?, Reason::Unspecified)?;
    }
    for row in sql.rows(NAMED, values![since])? {
        let (kind, name, at): (String, String, SystemTime) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (query, named, reason) = match kind.as_str() {
            "key" => (BY_KEY, name.as_str(), Reason::KeyCompromise),
            _ => (BY_SERIAL, name.split_once(':').map_or("", |(_, serial)| serial), Reason::Unspecified),
        };
        let named = crate::hex::decode(named)
            .ok_or_else(|| StoreError::Damaged(format!("revocation `{kind}` `{name}`")))?;
        for row in sql.rows(query, values![authority, since, &named])? {
            found.take(&row, at, reason)?;
        }
    }
    Ok(found.0.into_values().collect())
}

/// Each once, since the first revocation and for the strongest reason.
#[derive(Default)]
struct Found(BTreeMap<Vec<u8>, Revoked>);

impl Found {
    fn take(&mut self, row: &Row, at: SystemTime, reason: Reason) -> Result<(), StoreError> {
        let (serial, ends): (Vec<u8>, SystemTime) = (row.get(0)?, row.get(1)?);
        let new = Revoked { serial: serial.clone(), at, reason, ends };
        let entry = self.0.entry(serial).or_insert(new);
        entry.at = entry.at.min(at);
        entry.reason = entry.reason.max(reason);
        Ok(())
    }
}
