//! Documents: apply, compare, write out, check.

use comfy_table::Cell;
use serde_json::{Value, json};
use signet_proto::v1::{self, ApplyRequest, ApplyResponse, ExportRequest};

use super::applied::{self, Expect};
use crate::cli::args::{Apply, Diff, DocumentKind, Documents, Export, Validate};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::files;
use crate::cli::output::{self, Output, cell, standing};
use crate::count::many;
use crate::registry::{DocumentSet, File};

pub(in crate::cli) async fn apply(apply: Apply, session: &Session, output: Output) -> Result<(), CliError> {
    let Apply { documents, expected_revision, wait } = apply;
    let request =
        ApplyRequest { expected_revision: expected_revision.unwrap_or_default(), ..request(documents)? };
    let mut client = session.admin().await?;
    let answer = client.apply(request).await?.into_inner();
    if !output.is_json() {
        output::print(&people(&answer, output))?;
    }
    output::tell(&answer.warnings);
    let unchanged = answer.changes.iter().all(|change| change.action == "unchanged");
    let change = applied::Change {
        revision: answer.revision,
        committed_at: answer.committed_at,
        effects: Vec::new(),
        more: vec![("changes", changes(&answer)), ("warnings", json!(answer.warnings))],
    };
    applied::report(change, (!unchanged).then_some(wait), Expect::Connected, &mut client, output).await
}

/// As diff(1): exit code 1 means differences, so that what failed needs another one.
pub(in crate::cli) async fn diff(diff: Diff, session: &Session, output: Output) -> Result<(), CliError> {
    let compare = async {
        let request = ApplyRequest { dry_run: true, ..request(diff.documents)? };
        let answer = session.admin().await?.apply(request).await?.into_inner();
        let json = json!({
            "revision": answer.revision,
            "changes": changes(&answer),
            "refused": answer.refused,
            "warnings": answer.warnings,
        });
        output.print(&json, || people(&answer, output))?;
        Ok::<_, CliError>(answer)
    };
    let answer = compare.await.map_err(CliError::into_trouble)?;
    output::tell(&answer.warnings);
    if answer.changes.iter().all(|change| change.action == "unchanged") {
        return Ok(());
    }
    let differences = CliError::differences(match answer.refused.as_slice() {
        [] => format!("{} at revision {}", counts(&answer), answer.revision),
        refused => format!("an apply would be refused:\n{}", clean_lines(refused)),
    });
    Err(differences)
}

pub(in crate::cli) async fn export(export: Export, session: &Session) -> Result<(), CliError> {
    let Export { kinds, owner_label } = export;
    let kind = |kind: &DocumentKind| match kind {
        DocumentKind::Workload => "workload".to_owned(),
        DocumentKind::Policy => "policy".to_owned(),
        DocumentKind::Service => "service".to_owned(),
        DocumentKind::Mesh => "mesh".to_owned(),
    };
    let request = ExportRequest {
        kinds: kinds.iter().map(kind).collect(),
        owner_label: owner_label.map(|label| label.to_string()).unwrap_or_default(),
    };
    let yaml = session.admin().await?.export(request).await?.into_inner().yaml;
    output::print(&yaml)
}

/// Needs no control; so what depends on it, its trust domain and its bounds, is not checked.
pub(in crate::cli) fn validate(validate: &Validate, output: Output) -> Result<(), CliError> {
    let files = files::collect(&validate.files)?;
    let set = check(&files)?;
    let workload = |placed: &crate::registry::Placed<crate::registry::Declaration>| json!({ "kind": "workload", "name": placed.document.name.to_string(), "file": &*placed.file, "line": placed.line });
    let policy = |placed: &crate::registry::Placed<signet_proto::policy::Document>| json!({ "kind": "policy", "name": placed.document.name, "file": &*placed.file, "line": placed.line });
    let service = |placed: &crate::registry::Placed<signet_proto::traffic::Service>| json!({ "kind": "service", "name": placed.document.id.to_string(), "file": &*placed.file, "line": placed.line });
    let mesh = |placed: &crate::registry::Placed<signet_proto::settings::Settings>| json!({ "kind": "mesh", "name": "mesh", "file": &*placed.file, "line": placed.line });
    let documents: Vec<Value> = (set.workloads.iter().map(workload))
        .chain(set.policies.iter().map(policy))
        .chain(set.services.iter().map(service))
        .chain(set.mesh.iter().map(mesh))
        .collect();
    let json = json!({ "valid": true, "files": files.len(), "documents": documents });
    output.print(&json, || {
        format!(
            "{} in {}: {}, {} and {}{}\n",
            many(set.len() as u64, "document", "documents"),
            many(files.len() as u64, "file", "files"),
            many(set.workloads.len() as u64, "workload", "workloads"),
            many(set.policies.len() as u64, "policy", "policies"),
            many(set.services.len() as u64, "service", "services"),
            if set.mesh.is_empty() { "" } else { ", and the settings of the mesh" },
        )
    })
}

fn check(files: &[File]) -> Result<DocumentSet, CliError> {
    let set = DocumentSet::read(files).map_err(|error| CliError::failed(error.to_string()))?;
    if set.is_empty() {
        return Err(CliError::failed(
            "no document in these files: expected `kind: Workload`, `kind: Policy`, `kind: Service` or `kind: Mesh`",
        ));
    }
    Ok(set)
}

fn request(documents: Documents) -> Result<ApplyRequest, CliError> {
    let Documents { files, owner_label, prune, prune_all, take_over } = documents;
    let files = files::collect(&files)?;
    // Found here, a mistake needs no control. That there is no document is for control to judge: with
    // `--prune-all` it may be meant.
    DocumentSet::read(&files).map_err(|error| CliError::failed(error.to_string()))?;
    let file = |file: File| v1::apply_request::File { name: file.name, yaml: file.yaml };
    Ok(ApplyRequest {
        files: files.into_iter().map(file).collect(),
        owner_label: owner_label.to_string(),
        prune,
        prune_all,
        take_over,
        ..ApplyRequest::default()
    })
}

/// Each document that changes, with its fields below it; with `-o wide` the others too.
fn people(answer: &ApplyResponse, output: Output) -> String {
    let shown = answer.changes.iter().filter(|change| output.is_wide() || change.action != "unchanged");
    let rows: Vec<Vec<Cell>> = shown.flat_map(rows).collect();
    let table = match rows.is_empty() {
        true => String::new(),
        false => output::table(&["", "kind", "name", "change"], rows),
    };
    format!("{table}{}\n", counts(answer))
}

fn rows(change: &v1::Change) -> Vec<Vec<Cell>> {
    let place = match change.file.as_str() {
        "" => "not in these files".to_owned(),
        file => format!("{file}:{}", change.line),
    };
    let first = vec![
        standing(mark(&change.action)),
        cell(&change.kind),
        cell(&change.name),
        cell(format!("{} ({place})", change.action)),
    ];
    let field = |field: &v1::FieldChange| {
        let text = match (field.before.as_str(), field.after.as_str()) {
            ("", after) => after.to_owned(),
            (before, "") => format!("{before} → nothing"),
            (before, after) => format!("{before} → {after}"),
        };
        vec![cell(""), cell(""), cell(format!("  {}", field.field)), cell(text)]
    };
    std::iter::once(first).chain(change.fields.iter().map(field)).collect()
}

fn mark(action: &str) -> &'static str {
    match action {
        "created" => "+",
        "updated" => "~",
        "retired" | "deleted" => "-",
        "unchanged" => " ",
        _ => "!",
    }
}

/// `1 created, 3 unchanged`.
fn counts(answer: &ApplyResponse) -> String {
    let count = |action: &str| answer.changes.iter().filter(|change| change.action == action).count();
    let counted: Vec<String> = ["created", "updated", "retired", "deleted", "conflict", "unchanged"]
        .into_iter()
        .map(|action| (count(action), action))
        .filter(|(count, _)| *count > 0)
        .map(|(count, action)| format!("{count} {action}"))
        .collect();
    if counted.is_empty() { "nothing".into() } else { counted.join(", ") }
}

fn clean_lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  {}", output::clean(line))).collect::<Vec<_>>().join("\n")
}

fn changes(answer: &ApplyResponse) -> Value {
    let field = |field: &v1::FieldChange| json!({ "field": field.field, "before": field.before, "after": field.after });
    let change = |change: &v1::Change| {
        json!({
            "kind": change.kind,
            "name": change.name,
            "action": change.action,
            "fields": change.fields.iter().map(field).collect::<Vec<_>>(),
            "file": change.file,
            "line": change.line,
        })
    };
    answer.changes.iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Format;

    fn change(name: &str, action: &str, fields: &[(&str, &str, &str)]) -> v1::Change {
        let field = |(field, before, after): &(&str, &str, &str)| v1::FieldChange {
            field: (*field).into(),
            before: (*before).into(),
            after: (*after).into(),
        };
        v1::Change {
            kind: "workload".into(),
            name: name.into(),
            action: action.into(),
            fields: fields.iter().map(field).collect(),
            file: if action == "retired" { String::new() } else { "mesh.yaml".into() },
            line: 7,
        }
    }

    #[test]
    fn a_change_is_shown_with_its_fields_and_what_is_as_it_was_is_counted() {
        let answer = ApplyResponse {
            changes: vec![
                change("a", "created", &[("purpose", "", "p")]),
                change("b", "updated", &[("ttl.default", "1h", "2h"), ("until", "2027", "")]),
                change("c", "retired", &[("status", "active", "retired")]),
                change("d", "unchanged", &[]),
            ],
            ..ApplyResponse::default()
        };
        let text = people(&answer, Output::new(Format::Table));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["+", "workload", "a", "created", "(mesh.yaml:7)"]);
        assert_eq!(lines[2], ["purpose", "p"]);
        assert_eq!(lines[4], ["ttl.default", "1h", "→", "2h"]);
        assert_eq!(lines[5], ["until", "2027", "→", "nothing"]);
        assert_eq!(lines[6], ["-", "workload", "c", "retired", "(not", "in", "these", "files)"]);
        assert_eq!(
            *lines.last().unwrap(),
            ["1", "created,", "1", "updated,", "1", "retired,", "1", "unchanged"]
        );
        assert!(!text.contains(" d "), "{text}");
        assert!(people(&answer, Output::new(Format::Wide)).contains(" d "));
    }

    #[test]
    fn no_difference_is_one_line() {
        let answer =
            ApplyResponse { changes: vec![change("a", "unchanged", &[])], ..ApplyResponse::default() };
        assert_eq!(people(&answer, Output::new(Format::Table)), "1 unchanged\n");
    }
}
