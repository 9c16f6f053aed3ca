//! Certificates: all that were issued and are not pruned.

use std::time::SystemTime;

use signet_proto::policy::Pattern;

use super::{Cursor, CursorError, Key, Listed, Page, Scan, bytes, number, text};
use crate::store::model::IssuedCertificate;
use crate::store::sql::Row;
use crate::store::{Store, StoreError};

/// An order in which they can be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateOrder {
    /// By the end of their validity.
    #[default]
    End,
    /// By identity, and then by end.
    Identity,
}

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateQuery {
    /// In which order.
    pub order: CertificateOrder,
    /// Of these identities; `None`: of all.
    pub of: Option<Pattern>,
    /// Only such as end after this.
    pub ending_after: Option<SystemTime>,
    /// Only such as end before this.
    pub ending_before: Option<SystemTime>,
    /// Only with this serial.
    pub serial: Option<Vec<u8>>,
    /// Which page.
    pub page: Page,
}

const BY_END: [Key; 2] = [number("c.not_after_ms"), bytes("c.serial")];
const BY_IDENTITY: [Key; 3] = [text("c.spiffe_id"), number("c.not_after_ms"), bytes("c.serial")];

/// With the columns of both orders first.
macro_rules! select {
    ($keys:literal) => {
        concat!(
            "SELECT ",
            $keys,
            ", c.serial, c.spiffe_id, c.not_before_ms, c.not_after_ms, c.issued_at_ms, c.seen_at_ms, c.issuer_sha256,
                    c.spki_sha256, c.authority, coalesce(a.subject, ''), c.instance, coalesce(i.status, ''),
                    coalesce(i.serial, c.serial) = c.serial, coalesce(w.owner, ''), coalesce(w.contact, ''),
                    coalesce(w.purpose, '')
             FROM certificate c LEFT JOIN authority a ON a.id = c.authority
               LEFT JOIN instance i ON i.id = c.instance LEFT JOIN workload w ON w.spiffe_id = c.spiffe_id"
        )
    };
}

impl CertificateOrder {
    fn keys(self) -> &'static [Key] {
        match self {
            Self::End => &BY_END,
            Self::Identity => &BY_IDENTITY,
        }
    }

    /// A place in this order.
    ///
    /// # Errors
    /// When it is none.
    pub fn place(self, text: &str) -> Result<Cursor, CursorError> {
        Cursor::parse(text, self.keys())
    }
}

impl Store {
    /// One page of the certificates; `take` says what becomes of each, or that it is passed over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn certificates<T: Send + 'static>(
        &self,
        query: CertificateQuery,
        mut take: impl FnMut(IssuedCertificate) -> Option<T> + Send + 'static,
    ) -> Result<Listed<T>, StoreError> {
        self.read(move |sql| {
            let CertificateQuery { order, of, ending_after, ending_before, serial, page } = query;
            let select = match order {
                CertificateOrder::End => select!("c.not_after_ms, c.serial"),
                CertificateOrder::Identity => select!("c.spiffe_id, c.not_after_ms, c.serial"),
            };
            let mut scan = Scan::new(select.to_owned(), order.keys());
            match (&of, order) {
                (Some(of @ Pattern::Exact(_)), _) | (Some(of), CertificateOrder::Identity) => {
                    scan.within("c.spiffe_id", of);
                }
                _ => {}
            }
            // In the other order, asked of each row: a condition could pass over any number of them.
            if order == CertificateOrder::End {
                if let Some(after) = ending_after {
                    scan.only("c.not_after_ms > ?", after);
                }
                if let Some(before) = ending_before {
                    scan.only("c.not_after_ms < ?", before);
                }
            }
            if let Some(serial) = serial {
                scan.only("c.serial = ?", crate::store::sql::Value::Bytes(serial.into()));
            }
            let keys = order.keys().len();
            scan.page(sql, &page, |row| {
                let certificate = read(row, keys)?;
                let meant = of.as_ref().is_none_or(|of| of.matches(&certificate.spiffe_id))
                    && ending_after.is_none_or(|after| certificate.not_after > after)
                    && ending_before.is_none_or(|before| certificate.not_after < before);
                Ok(if meant { take(certificate) } else { None })
            })
        })
        .await
    }
}

fn read(row: &Row, from: usize) -> Result<IssuedCertificate, StoreError> {
    let instance: Option<String> = row.get(from + 10)?;
    Ok(IssuedCertificate {
        serial: row.get(from)?,
        spiffe_id: row.parsed(from + 1)?,
        not_before: row.get(from + 2)?,
        not_after: row.get(from + 3)?,
        issued_at: row.get(from + 4)?,
        seen_at: row.get(from + 5)?,
        issuer_sha256: row.get(from + 6)?,
        spki_sha256: row.get(from + 7)?,
        authority: row.get(from + 8)?,
        issuer: row.get(from + 9)?,
        instance: instance
            .map(|text| {
                text.parse().map_err(|error| StoreError::Damaged(format!("instance `{text}`: {error}")))
            })
            .transpose()?,
        instance_lapsed: row.get::<String>(from + 11)? == "lapsed",
        is_newest: row.get(from + 12)?,
        owner: row.get(from + 13)?,
        contact: row.get(from + 14)?,
        purpose: row.get(from + 15)?,
    })
}
