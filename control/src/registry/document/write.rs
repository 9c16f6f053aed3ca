//! Documents in their canonical form: fields in the order of the documentation, what is usual left out.

use serde::Serialize;
use signet_proto::document::{ParseError, from_json, to_yaml};
use signet_proto::policy::Document;
use signet_proto::settings::{self, Settings};
use signet_proto::traffic::Service;

use super::read::KIND;
use crate::duration::Span;
use crate::registry::declaration::{Approval, Declaration, Ttl};
use crate::store::model::WorkloadStatus;
use crate::time;

#[derive(Serialize)]
struct WorkloadText<'a> {
    kind: &'static str,
    id: &'a str,
    owner: OwnerText<'a>,
    purpose: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    selectors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<TtlText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<&'static str>,
}

#[derive(Serialize)]
struct OwnerText<'a> {
    team: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<&'a str>,
}

#[derive(Serialize)]
struct TtlText {
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<String>,
}

/// A workload's document, which reads as this declaration.
///
/// # Errors
/// Never for what was read from a document: it is smaller than any text may be.
pub fn workload_yaml(declaration: &Declaration) -> Result<String, ParseError> {
    let Declaration { owner, ttl, status, approval, .. } = declaration;
    let text = WorkloadText {
        kind: KIND,
        id: declaration.name.as_str(),
        owner: OwnerText { team: &owner.team, contact: owner.contact.as_deref() },
        purpose: &declaration.purpose,
        environment: declaration.environment.as_deref(),
        selectors: declaration.selectors.iter().map(ToString::to_string).collect(),
        ttl: (*ttl != Ttl::default()).then(|| ttl_text(*ttl)),
        dns: declaration.dns.iter().map(ToString::to_string).collect(),
        status: (*status != WorkloadStatus::Active).then(|| status.as_str()),
        until: declaration.until.map(time::rfc3339_shortest),
        approval: (*approval != Approval::None).then(|| approval.as_str()),
    };
    let json = serde_json::to_string(&text)
        .map_err(|error| ParseError::somewhere(declaration.name.as_str(), &error.to_string()))?;
    yaml(declaration.name.as_str(), &json)
}

/// A policy's document, which reads as this one.
///
/// # Errors
/// When it is larger as JSON than any text may be.
pub fn policy_yaml(document: &Document) -> Result<String, ParseError> {
    yaml(&document.name, &document.to_json())
}

/// The document of the mesh, which reads as these settings.
///
/// # Errors
/// When it is larger as JSON than any text may be.
pub(in crate::registry) fn mesh_yaml(settings: &Settings) -> Result<String, ParseError> {
    yaml(settings::KIND, &settings.to_json())
}

/// A service's document, which reads as this one.
///
/// # Errors
/// When it is larger as JSON than any text may be.
pub(in crate::registry) fn service_yaml(service: &Service) -> Result<String, ParseError> {
    yaml(service.id.as_str(), &service.to_json())
}

fn yaml(name: &str, json: &str) -> Result<String, ParseError> {
    from_json(name, json).map(|node| to_yaml(&node))
}

fn ttl_text(ttl: Ttl) -> TtlText {
    let [default, min, max] =
        [ttl.default, ttl.min, ttl.max].map(|life| life.map(|life| Span(life).to_string()));
    TtlText { default, min, max }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use signet_proto::document::{Limits, from_yaml};

    use super::super::read::read;
    use super::*;
    use crate::registry::testing::{PAYMENTS, declarations};

    fn parse(text: &str) -> Declaration {
        read("w.yaml", &from_yaml("w.yaml", text, Limits { bytes: 10_000, documents: 1 }).unwrap()[0])
            .unwrap()
    }

    #[test]
    fn the_example_is_written_in_its_order() {
        assert_eq!(
            workload_yaml(&parse(PAYMENTS)).unwrap(),
            "\
kind: Workload
id: spiffe://prod.example/payments
owner:
  team: payments
  contact: payments@prod.example
purpose: charges cards
environment: production
selectors: [prod-cluster:namespace:shop, prod-cluster:serviceaccount:payments]
ttl:
  default: 1h
  min: 5m
  max: 1d
dns: [payments.shop.svc.cluster.local]
until: 2027-01-31T00:00:00Z
"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(declaration in declarations()) {
            let text = workload_yaml(&declaration).unwrap();
            prop_assert_eq!(parse(&text), declaration, "{}", text);
        }
    }
}
