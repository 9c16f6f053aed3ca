//! What policy says of a call, and what documents mean for proxies that read only a part of them.

use signet_proto::policy::{Asked, Direction, Document, Question, Schema, parse_json};
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;
use tonic::Status;

use super::super::Rooms;
use super::super::status::ToStatus;
use super::federation;

use crate::policy::{OlderReader, PolicyError, answers, warnings};
use crate::registry::{Applied, Write};
use crate::roles::{Operator, Permission, Scope};

pub(super) fn explain(
    rooms: &Rooms,
    operator: &Operator,
    request: &v1::ExplainRequest,
) -> Result<v1::ExplainResponse, Status> {
    let port = request.port.to_string();
    let asked = Asked {
        source: &request.source,
        destination: &request.destination,
        port: &port,
        method: &request.method,
        path: &request.path,
        host: &request.host,
        headers: request.headers.iter().map(String::as_str).collect(),
        address: &request.address,
    };
    let question = Question::parse(&asked).map_err(|error| PolicyError::from(error).to_status())?;
    // What is shown is the policy of the destination, and that of the source as far as the roles reach. What another trust
    // domain lets in is decided there.
    let own = rooms.authority.trust_domain();
    let is_ours = question.destination().trust_domain() == own;
    let shown = if is_ours { Some(question.destination()) } else { question.source() };
    let shown = shown.map_or(Scope::Everything, Scope::identity);
    operator.on(&shown).map_err(|refused| refused.to_status())?;
    let sees_source = question.source().is_some_and(|id| operator.on(&Scope::identity(id)).is_ok());
    let (policies, settings, bundles) = {
        let state = rooms.state.borrow();
        (state.policies.clone(), state.settings.clone(), state.bundles.clone())
    };
    let (shown, hidden): (Vec<_>, Vec<_>) = answers(&question, policies.compiled(), settings.parsed())
        .into_iter()
        .filter(|answer| is_ours || answer.direction == Direction::Egress.as_str())
        .partition(|answer| answer.direction == Direction::Inbound.as_str() || sees_source);
    let deciding = shown.iter().find(|answer| !answer.allowed).or(shown.last());
    let mut lines: Vec<String> = shown.iter().map(|answer| answer.explanation.clone()).collect();
    if let (false, Some(source)) = (hidden.is_empty(), question.source()) {
        lines.push(format!("Not shown: egress policy restricts {source}, and your roles do not reach it."));
    }
    let ends = [question.source(), Some(question.destination())].into_iter().flatten();
    let stranger =
        ends.map(SpiffeId::trust_domain).find(|domain| *domain != own && !bundles.believes(domain));
    if let Some(domain) = stranger {
        let remedy = federation::remedy(domain);
        lines.insert(
            0,
            format!("Refused before any policy: nobody of `{domain}` is believed here: {remedy}."),
        );
    } else if !is_ours {
        let domain = question.destination().trust_domain();
        lines.push(format!("What `{domain}` lets in is decided there, by its own policies."));
    }
    Ok(v1::ExplainResponse {
        allowed: stranger.is_none() && shown.iter().all(|answer| answer.allowed),
        policy: deciding.map(|answer| answer.policy.clone()).unwrap_or_default(),
        rule: deciding.map(|answer| answer.rule.clone()).unwrap_or_default(),
        explanation: lines.join("\n"),
        decisions: shown
            .into_iter()
            .map(|answer| v1::ExplainDecision {
                direction: answer.direction.to_owned(),
                allowed: answer.allowed,
                reason: answer.reason.to_owned(),
                policy: answer.policy,
                rule: answer.rule,
                explanation: answer.explanation,
            })
            .collect(),
    })
}

/// What one should know of what is applied: which connected proxies, here or at another replica, read only a part of it,
/// and whom it names of whom nobody is believed.
pub(super) async fn warnings_of(rooms: &Rooms, applied: &Applied) -> Result<Vec<String>, Status> {
    let written = applied.plan.writes().filter_map(|change| match &change.write {
        Write::Policy(new) => parse_json(&new.document).ok(),
        _ => None,
    });
    let documents: Vec<Document> = written.collect();
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let mut readers = rooms.watchers.older_readers();
    let elsewhere = rooms.store.standings_elsewhere().await.map_err(|error| error.to_status())?;
    let older = elsewhere.into_iter().filter(|standing| standing.schema < Schema::NEWEST);
    readers.extend(older.map(|standing| OlderReader {
        id: standing.spiffe_id,
        version: standing.version,
        schema: standing.schema,
    }));
    let mut lines = warnings(&documents, &readers);
    lines.extend(federation::not_federated(rooms, &documents));
    Ok(lines)
}
