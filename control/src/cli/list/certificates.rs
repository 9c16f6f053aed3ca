//! Certificates: the next one to expire first.

use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{self, Certificate, ListCertificatesRequest};
use tonic::transport::Channel;

use super::column::{Column, Field};
use super::{List, Order};
use crate::cli::args::CertificatesQuery;
use crate::cli::error::CliError;
use crate::time;

/// Those that a query asks for.
pub(in crate::cli) struct Certificates(ListCertificatesRequest);

impl From<&CertificatesQuery> for Certificates {
    fn from(query: &CertificatesQuery) -> Self {
        let now = time::now();
        let ended =
            query.all || query.status.iter().any(|status| matches!(status.as_str(), "expired" | "lapsed"));
        let before = query.expiring_within.map(|span| time::to_proto(span.ahead()));
        Self(ListCertificatesRequest {
            page: None,
            id: query.id.clone().unwrap_or_default(),
            owner: query.owner.clone().unwrap_or_default(),
            status: query.status.clone(),
            expires_after: (!ended).then(|| time::to_proto(now)),
            expires_before: before,
            unused_since: query.unused_for.map(|span| time::to_proto(span.ago())),
            instance: query.instance.clone().unwrap_or_default(),
            serial: query.serial.clone().unwrap_or_default(),
        })
    }
}

impl List for Certificates {
    type Row = Certificate;

    const COLUMNS: &'static [Column<Certificate>] = &[
        Column::new("spiffe id", "spiffe_id", |row| Field::Text(row.spiffe_id.clone())),
        Column::new("owner", "owner", |row| Field::Text(row.owner.clone())),
        Column::new("status", "status", |row| Field::Word(row.status.clone())),
        Column::new("expires", "expires_at", |row| Field::time(row.not_after.as_ref())),
        Column::new("last seen", "last_seen", |row| Field::time(row.last_seen.as_ref())),
        Column::new("instance", "instance", |row| Field::Text(row.instance.clone())),
        Column::new("serial", "serial", |row| Field::Text(row.serial.clone())),
        Column::wide("revoked by", "revoked_by", |row| Field::Text(row.revoked_by.clone())),
        Column::wide("contact", "contact", |row| Field::Text(row.contact.clone())),
        Column::wide("purpose", "purpose", |row| Field::Text(row.purpose.clone())),
        Column::wide("issuer", "issuer", |row| Field::Text(row.issuer.clone())),
        Column::wide("authority", "authority", |row| Field::Text(row.authority.clone())),
        Column::wide("key", "key_sha256", |row| Field::Text(row.key_sha256.clone())),
        Column::wide("issued", "issued_at", |row| Field::time(row.issued_at.as_ref())),
        Column::hidden("not before", "not_before", |row| Field::time(row.not_before.as_ref())),
    ];

    fn orders(&self) -> Vec<Order> {
        let expires = Order { name: "expires", column: "expires", descending: false };
        let id = Order { name: "id", column: "spiffe id", descending: false };
        // What is asked for of a subtree is found in the order of identities.
        if self.0.id.is_empty() { vec![expires, id] } else { vec![id, expires] }
    }

    fn key(row: &Certificate) -> String {
        format!("{} {}", row.authority, row.serial)
    }

    async fn page(
        &self,
        client: &mut AdminClient<Channel>,
        page: v1::Page,
    ) -> Result<(Vec<Certificate>, String), CliError> {
        let request = ListCertificatesRequest { page: Some(page), ..self.0.clone() };
        let answer = client.list_certificates(request).await?.into_inner();
        Ok((answer.certificates, answer.next))
    }
}
