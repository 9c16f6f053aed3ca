//! Federated trust domains: registering, fetching, forgetting; and what applying documents means for those that are not.

use std::collections::BTreeSet;

use signet_proto::policy::{Direction, Document, Effect, Mode, Rule};
use signet_proto::spiffe::{SpiffeId, TrustDomain};
use signet_proto::v1;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use crate::federation::{Asked, standing};
use crate::store::model::{Actor, Federation, Mutation};
use crate::time;

/// Documents that are named in one line.
const NAMED: usize = 5;

pub(super) async fn create(
    rooms: &Rooms,
    request: v1::CreateFederationRequest,
    actor: Actor,
) -> Result<Mutation, Status> {
    let v1::CreateFederationRequest { trust_domain, url, endpoint_spiffe_id, web_authorities, bundle } =
        request;
    let endpoint_id = (!endpoint_spiffe_id.is_empty()).then(|| endpoint_spiffe_id.parse::<SpiffeId>());
    let endpoint_id = endpoint_id
        .transpose()
        .map_err(|error| Status::invalid_argument(format!("endpoint_spiffe_id: {error}")))?;
    let asked = Asked { trust_domain: domain(&trust_domain)?, url, endpoint_id, web_authorities, bundle };
    let created = rooms.federations.create(asked, actor).await;
    let mut mutation = created.map_err(|error| error.to_status())?;
    mutation.effects.extend(open_to_anybody(rooms.state.borrow().policies.documents()));
    Ok(mutation)
}

pub(super) async fn list(rooms: &Rooms) -> Result<v1::ListFederationsResponse, Status> {
    let all = rooms.federations.list().await.map_err(|error| error.to_status())?;
    Ok(v1::ListFederationsResponse { federations: all.into_iter().map(message).collect() })
}

pub(super) async fn delete(
    rooms: &Rooms,
    request: v1::DeleteFederationRequest,
    actor: Actor,
) -> Result<Mutation, Status> {
    let domain = domain(&request.trust_domain)?;
    rooms.federations.delete(domain, actor).await.map_err(|error| error.to_status())
}

pub(super) async fn refresh(
    rooms: &Rooms,
    request: v1::RefreshFederationRequest,
    actor: Actor,
) -> Result<Mutation, Status> {
    let domain = domain(&request.trust_domain)?;
    let refreshed = match request.bundle.as_str() {
        "" => rooms.federations.refresh(domain, actor).await,
        bundle => rooms.federations.replace(domain, bundle, actor).await,
    };
    refreshed.map_err(|error| error.to_status())
}

/// What one should know of documents that name identities of trust domains that are not federated, one line each.
pub(super) fn not_federated(rooms: &Rooms, documents: &[Document]) -> Vec<String> {
    let state = rooms.state.borrow();
    let own = rooms.authority.trust_domain();
    let mut lines = Vec::new();
    for document in documents {
        let peers = document.rules.iter().flat_map(|rule| rule.peers.iter().flatten());
        let domains: BTreeSet<&TrustDomain> = peers.map(|peer| peer.trust_domain()).collect();
        let unknown = domains.into_iter().filter(|domain| *domain != own && !state.bundles.believes(domain));
        lines.extend(unknown.map(|domain| {
            format!(
                "policy `{}` names identities of `{domain}`, of whom nobody is believed here: {}",
                document.name,
                remedy(domain)
            )
        }));
    }
    lines
}

/// How a trust domain comes to be believed.
pub(super) fn remedy(domain: &TrustDomain) -> String {
    format!("`signet federation create {domain} --url https://...`, or look at `signet federation list`")
}

/// Rules without `from` let in whoever proves an identity: identities of other trust domains do that, too.
fn open_to_anybody<'a>(documents: impl Iterator<Item = &'a Document>) -> Option<String> {
    let anybody =
        |rule: &Rule| rule.effect == Effect::Allow && rule.mode == Mode::Enforce && rule.peers.is_none();
    let open =
        |document: &&Document| document.direction == Direction::Inbound && document.rules.iter().any(anybody);
    let open: Vec<&str> = documents.filter(open).map(|document| document.name.as_str()).collect();
    let (named, more) = open.split_at(open.len().min(NAMED));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    (!open.is_empty()).then(|| {
        format!("rules without `from` let in its identities, too: policy {}{more}", named.join(", "))
    })
}

fn domain(text: &str) -> Result<TrustDomain, Status> {
    let name = text.strip_prefix("spiffe://").unwrap_or(text);
    name.parse().map_err(|error| Status::invalid_argument(format!("trust_domain: {error}")))
}

fn message(one: Federation) -> v1::Federation {
    v1::Federation {
        state: standing(&one, time::now()).as_str().to_owned(),
        profile: one.endpoint.proof.profile().to_owned(),
        endpoint_spiffe_id: one.endpoint.proof.id().map(ToString::to_string).unwrap_or_default(),
        expires_at: one.bundle.as_ref().map(|bundle| time::to_proto(bundle.expires_at())),
        bundle: one.bundle.as_ref().map(v1::Bundle::from),
        trust_domain: one.trust_domain.to_string(),
        url: one.endpoint.url,
        fetched_at: one.fetched_at.map(time::to_proto),
        due_at: Some(time::to_proto(one.due)),
        failures: one.failures,
        error: one.error.unwrap_or_default(),
        created_at: Some(time::to_proto(one.created_at)),
        created_by: one.created_by,
    }
}
