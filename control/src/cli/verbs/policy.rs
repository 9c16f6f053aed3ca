//! Policy: apply, look, check, ask.

use std::path::Path;

use serde_json::{Value, json};
use signet_proto::policy::Direction;
use signet_proto::v1::{
    ApplyPolicyRequest, DeletePolicyRequest, ExplainDecision, ExplainRequest, ListPoliciesRequest, Policy,
};

use super::applied::{self, Change, Expect};
use crate::cli::args::{Explain, PolicyVerb, Wait};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::files;
use crate::cli::output::{self, Output, cell};
use crate::registry::File;
use crate::{policy, time};

pub(in crate::cli) async fn run(verb: PolicyVerb, session: &Session, output: Output) -> Result<(), CliError> {
    match verb {
        PolicyVerb::Apply { file, wait } => apply(&file, wait, session, output).await,
        PolicyVerb::List => list(session, output).await,
        PolicyVerb::Show { name } => show(&name, session).await,
        PolicyVerb::Delete { name, wait } => {
            let mut client = session.admin().await?;
            let mutation = client.delete_policy(DeletePolicyRequest { name }).await?.into_inner();
            applied::report(mutation.into(), Some(wait), Expect::Connected, &mut client, output).await
        }
        PolicyVerb::Validate { file } => validate(&file, output),
        PolicyVerb::Explain(call) => explain(call, session, output).await,
    }
}

async fn apply(file: &Path, wait: Wait, session: &Session, output: Output) -> Result<(), CliError> {
    let File { name, yaml } = files::read(file)?;
    // Found here, a mistake needs no control.
    policy::parse(&name, &yaml).map_err(|error| CliError::failed(error.to_string()))?;
    let mut client = session.admin().await?;
    let applied = client.apply_policy(ApplyPolicyRequest { yaml, file: name }).await?.into_inner();
    output::tell(&applied.warnings);
    let unchanged = applied.changes.iter().all(|change| change.change == "unchanged");
    let changes: Value = applied
        .changes
        .iter()
        .map(|change| json!({ "name": change.name, "change": change.change }))
        .collect();
    let change = Change {
        revision: applied.revision,
        committed_at: applied.committed_at,
        effects: applied
            .changes
            .iter()
            .map(|change| format!("policy `{}` {}", change.name, change.change))
            .collect(),
        more: vec![("changes", changes), ("warnings", applied.warnings.into())],
    };
    applied::report(change, (!unchanged).then_some(wait), Expect::Connected, &mut client, output).await
}

async fn list(session: &Session, output: Output) -> Result<(), CliError> {
    let policies = policies(session).await?;
    let json: Value = policies
        .iter()
        .map(|policy| {
            json!({
                "name": policy.name,
                "direction": direction(policy),
                "target": policy.target,
                "applied_at": output::instant(policy.applied_at.as_ref()),
                "applied_by": policy.applied_by,
                "document": document(policy),
            })
        })
        .collect();
    output.print(&json, || {
        let now = time::now();
        let rows = policies.iter().map(|policy| {
            vec![
                cell(&policy.name),
                cell(direction(policy)),
                cell(&policy.target),
                cell(output::relative(time::from_proto(policy.applied_at.as_ref()), now)),
                cell(&policy.applied_by),
            ]
        });
        output::table(&["name", "decides", "whom", "applied", "by"], rows)
    })
}

/// The document itself, whatever the output format: JSON is YAML, so that it can be applied again.
async fn show(name: &str, session: &Session) -> Result<(), CliError> {
    let found = policies(session).await?.into_iter().find(|policy| policy.name == name);
    match found {
        Some(policy) => output::print(&format!("{:#}\n", document(&policy))),
        None => Err(CliError::not_found(format!("policy `{name}` does not exist"))
            .with_hint("`signet policy list` shows what there is")),
    }
}

fn validate(file: &Path, output: Output) -> Result<(), CliError> {
    let File { name, yaml } = files::read(file)?;
    let documents = policy::parse(&name, &yaml).map_err(|error| CliError::failed(error.to_string()))?;
    let json = json!({
        "file": name,
        "valid": true,
        "documents": documents
            .iter()
            .map(|document| json!({
                "name": document.name,
                "direction": document.direction.as_str(),
                "target": document.whom.to_string(),
                "rules": document.rules.len(),
            }))
            .collect::<Vec<_>>(),
    });
    output.print(&json, || {
        documents
            .iter()
            .map(|document| {
                format!(
                    "{name}: `{}`, {} for {}: {} rules\n",
                    document.name,
                    document.direction,
                    document.whom,
                    document.rules.len()
                )
            })
            .collect()
    })
}

/// What would be decided about a call, on both sides, and why.
pub(in crate::cli) async fn explain(
    call: Explain,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let Explain { source, destination, port, method, path, host, header, address } = call;
    let request = ExplainRequest {
        source,
        destination,
        port: port.into(),
        method: method.unwrap_or_default(),
        path: path.unwrap_or_default(),
        host: host.unwrap_or_default(),
        headers: header,
        address: address.map(|address| address.to_string()).unwrap_or_default(),
    };
    let answer = session.admin().await?.explain(request).await?.into_inner();
    let decision = |decision: &ExplainDecision| {
        json!({
            "direction": decision.direction,
            "allowed": decision.allowed,
            "reason": decision.reason,
            "policy": decision.policy,
            "rule": decision.rule,
            "explanation": decision.explanation,
        })
    };
    let json = json!({
        "allowed": answer.allowed,
        "policy": answer.policy,
        "rule": answer.rule,
        "explanation": answer.explanation,
        "decisions": answer.decisions.iter().map(decision).collect::<Vec<_>>(),
    });
    output.print(&json, || {
        answer.explanation.lines().map(|line| format!("{}\n", output::clean(line))).collect()
    })
}

/// Which side it decides, if that can be read.
fn direction(policy: &Policy) -> &'static str {
    let document = document(policy);
    let has = |direction: Direction| document.get(direction.whom_field()).is_some();
    [Direction::Inbound, Direction::Egress].into_iter().find(|one| has(*one)).map_or("?", Direction::as_str)
}

async fn policies(session: &Session) -> Result<Vec<Policy>, CliError> {
    Ok(session.admin().await?.list_policies(ListPoliciesRequest {}).await?.into_inner().policies)
}

fn document(policy: &Policy) -> Value {
    serde_json::from_str(&policy.document).unwrap_or_else(|_| Value::String(policy.document.clone()))
}
