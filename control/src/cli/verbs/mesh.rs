//! The settings of the whole mesh.

use comfy_table::Cell;
use serde_json::{Value, json};
use signet_proto::settings::{self, Exception, Settings};
use signet_proto::v1::{DeleteMeshRequest, GetMeshRequest, GetMeshResponse};

use super::applied::{self, Expect};
use crate::cli::args::MeshVerb;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::time;

pub(in crate::cli) async fn run(verb: MeshVerb, session: &Session, output: Output) -> Result<(), CliError> {
    match verb {
        MeshVerb::Show => show(session, output).await,
        MeshVerb::Delete { wait } => {
            let mut client = session.admin().await?;
            let mutation = client.delete_mesh(DeleteMeshRequest {}).await?.into_inner();
            applied::report(mutation.into(), Some(wait), Expect::Connected, &mut client, output).await
        }
    }
}

async fn show(session: &Session, output: Output) -> Result<(), CliError> {
    let mesh = session.admin().await?.get_mesh(GetMeshRequest {}).await?.into_inner();
    let json = json!({
        "document": document(&mesh),
        "applied_at": output::instant(mesh.applied_at.as_ref()),
        "applied_by": mesh.applied_by,
        "revision": mesh.revision,
        "managed_by": mesh.managed_by,
        "plaintext": mesh.plaintext.iter().map(|found| json!({
            "workload": found.workload,
            "port": found.port,
            "callers": found.callers,
            "last_at": output::instant(found.last_at.as_ref()),
        })).collect::<Vec<_>>(),
    });
    output.print(&json, || people(&mesh))
}

/// Nothing if there is none; a text if it is no JSON.
fn document(mesh: &GetMeshResponse) -> Value {
    match mesh.document.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}

fn people(mesh: &GetMeshResponse) -> String {
    let read = match mesh.document.as_str() {
        "" => Ok(Settings::default()),
        text => settings::parse_json(text),
    };
    let applied = match mesh.document.as_str() {
        "" => "never: there is no document of `kind: Mesh`".to_owned(),
        _ => format!(
            "{} by {}, managed by `{}`, revision {}",
            output::relative(time::from_proto(mesh.applied_at.as_ref()), time::now()),
            mesh.applied_by,
            mesh.managed_by,
            mesh.revision
        ),
    };
    let Ok(settings) = read else {
        return output::facts(&[
            ("mode", "strict: the document cannot be read, apply it anew".to_owned()),
            ("applied", applied),
        ]);
    };
    let unknown = match settings.unknown_destinations {
        Some(said) => said.as_str().to_owned(),
        None => "as each proxy is configured".to_owned(),
    };
    let facts = output::facts(&[
        ("mode", settings.mode.as_str().to_owned()),
        ("unknown destinations", unknown),
        ("applied", applied),
    ]);
    let rows: Vec<Vec<Cell>> = (settings.permissive.iter().map(|exception| row("permissive", exception)))
        .chain(settings.strict.iter().map(|exception| row("strict", exception)))
        .collect();
    let exceptions = match rows.is_empty() {
        true => String::new(),
        false => format!("\n{}", output::table(&["except", "target", "ports", "until"], rows)),
    };
    format!("{facts}{exceptions}{}", plaintext(mesh))
}

/// Who is still called in plaintext.
fn plaintext(mesh: &GetMeshResponse) -> String {
    if mesh.plaintext.is_empty() {
        return String::new();
    }
    let now = time::now();
    let rows = mesh.plaintext.iter().map(|found| {
        vec![
            cell(&found.workload),
            cell(found.port.to_string()),
            cell(found.callers.to_string()),
            cell(output::relative(time::from_proto(found.last_at.as_ref()), now)),
        ]
    });
    let table = output::table(&["called in plaintext", "port", "addresses", "last"], rows);
    format!("\n{table}`signet connections --plaintext` lists the callers\n")
}

fn row(mode: &str, exception: &Exception) -> Vec<Cell> {
    let ports = exception.ports.as_ref().map(|ports| ports.iter().map(u16::to_string).collect::<Vec<_>>());
    let until = match exception.until {
        None => String::new(),
        Some(until) if until <= time::now() => format!("{} (ended)", time::rfc3339_shortest(until)),
        Some(until) => time::rfc3339_shortest(until),
    };
    vec![
        cell(mode),
        cell(exception.target.to_string()),
        cell(ports.map_or("all".to_owned(), |ports| ports.join(", "))),
        cell(until),
    ]
}
