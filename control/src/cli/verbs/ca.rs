//! Roots, intermediates and keys of tokens: where each is, and one step further.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use signet_proto::v1::{
    ActivateAuthorityRequest, AuthorityResponse, CompromisedAuthorityRequest, InstallAuthorityRequest,
    KnownAuthority, ListAuthoritiesRequest, PrepareAuthorityRequest, RequestAuthorityRequest,
    RetireAuthorityRequest, RotateIntermediateRequest, RotatedIntermediate, StatusRequest,
};

use super::applied::{self, Change, Expect};
use super::authority::{authorities_table, object};
use crate::cli::args::{CaVerb, Compromised, Wait};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::time;

/// Of an id, for people: as many digits as a name takes.
const SHOWN: usize = 8;

pub(in crate::cli) async fn run(verb: CaVerb, session: &Session, output: Output) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let (answer, wait, expect) = match verb {
        CaVerb::Status => return status(session, output).await,
        CaVerb::Csr { out, anew } => return csr(out.as_deref(), anew, session).await,
        CaVerb::RotateIntermediate { replica } => return rotate(replica, session, output).await,
        CaVerb::Prepare { kind, replica, wait } => {
            let replica = replica.unwrap_or_default();
            let request = PrepareAuthorityRequest { kind: kind.as_str().to_owned(), replica };
            (client.prepare_authority(request).await?, Some(wait), Expect::Connected)
        }
        CaVerb::Activate(activate) => {
            let request = ActivateAuthorityRequest {
                authority: activate.authority,
                timeout: Some(time::duration_to_proto(activate.timeout.0)),
                force: activate.force,
            };
            (client.activate_authority(request).await?, None, Expect::Connected)
        }
        CaVerb::Compromised(Compromised { authority, replica, within, reason, wait }) => {
            let (within, replica) = (Some(time::duration_to_proto(within.0)), replica.unwrap_or_default());
            let request = CompromisedAuthorityRequest { authority, reason, within, replica };
            (client.compromised_authority(request).await?, Some(wait), Expect::Everyone)
        }
        CaVerb::Install { chain, wait } => {
            let request = InstallAuthorityRequest { chain: certificates(&chain)? };
            (client.install_authority(request).await?, Some(wait), Expect::Connected)
        }
        CaVerb::Retire { authority, wait } => {
            let request = RetireAuthorityRequest { authority };
            (client.retire_authority(request).await?, Some(wait), Expect::Connected)
        }
    };
    report(answer.into_inner(), wait, expect, session, output).await
}

async fn report(
    answer: AuthorityResponse,
    wait: Option<Wait>,
    expect: Expect,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let mut change = Change::from(answer.mutation.unwrap_or_default());
    change.more.push(("id", json!(answer.id)));
    applied::report(change, wait, expect, &mut session.admin().await?, output).await
}

async fn csr(out: Option<&Path>, anew: bool, session: &Session) -> Result<(), CliError> {
    let made = session.admin().await?.request_authority(RequestAuthorityRequest { anew }).await?.into_inner();
    match out {
        None => output::print(&made.pem),
        Some(path) => std::fs::write(path, &made.pem)
            .map_err(|error| CliError::failed(format!("--out: cannot write {}: {error}", path.display()))),
    }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, CliError> {
    let failed = |problem: String| CliError::usage(format!("--chain: {}: {problem}", path.display()));
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()).map(String::into_bytes),
        _ => std::fs::read(path),
    };
    let text = text.map_err(|error| failed(error.to_string()))?;
    let read = CertificateDer::pem_slice_iter(&text).map(|one| one.map(|one| one.to_vec()));
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
    if read.is_empty() {
        return Err(failed("expected certificates in PEM, found none".to_owned()));
    }
    Ok(read)
}

async fn status(session: &Session, output: Output) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let status = client.status(StatusRequest {}).await?.into_inner();
    let all = client.list_authorities(ListAuthoritiesRequest {}).await?.into_inner().authorities;
    let json = json!({
        "trust_domain": status.trust_domain,
        "replica": status.replica,
        "root": status.root.as_ref().map(object),
        "intermediate": status.intermediate.as_ref().map(object),
        "authorities": all.iter().map(known).collect::<Vec<_>>(),
    });
    output.print(&json, || table(&all))
}

async fn rotate(replica: Option<String>, session: &Session, output: Output) -> Result<(), CliError> {
    let request = RotateIntermediateRequest { replica: replica.unwrap_or_default() };
    let answer = session.admin().await?.rotate_intermediate(request).await?.into_inner();
    let of_one = |one: &RotatedIntermediate| {
        json!({
            "replica": one.replica,
            "previous": one.previous.as_ref().map(object),
            "current": one.current.as_ref().map(object),
        })
    };
    let json = json!({
        "previous": answer.previous.as_ref().map(object),
        "current": answer.current.as_ref().map(object),
        "rotated": answer.rotated.iter().map(of_one).collect::<Vec<_>>(),
    });
    let each = |one: &RotatedIntermediate| {
        let of = shown(&one.replica);
        let of = if of.is_empty() { of } else { format!(" of replica {of}") };
        [
            (format!("previous{of} (signs no more)"), one.previous.clone()),
            (format!("current{of}"), one.current.clone()),
        ]
    };
    let authorities: Vec<_> = answer.rotated.iter().flat_map(each).collect();
    output.print(&json, || authorities_table(&authorities))
}

/// As many digits as people need.
fn shown(id: &str) -> String {
    id.chars().take(SHOWN).collect()
}

fn known(authority: &KnownAuthority) -> Value {
    let waiting = authority.unacknowledged_some.iter().map(|proxy| {
        json!({ "spiffe_id": proxy.spiffe_id, "instance": proxy.instance, "connected": proxy.connected })
    });
    let mut known = authority.certificate.as_ref().map_or_else(|| json!({}), object);
    let more = json!({
        "id": authority.id,
        "replica": authority.replica,
        "kind": authority.kind,
        "phase": authority.phase,
        "since": output::instant(authority.phase_at.as_ref()),
        "issuer": authority.issuer,
        "live_certificates": authority.chained,
        "live_until": output::instant(authority.chained_until.as_ref()),
        "identities": authority.chained_some,
        "unspent_tickets": authority.tickets,
        "unacknowledged": authority.unacknowledged,
        "waits_for": waiting.collect::<Vec<_>>(),
        "next": authority.next,
        "distrusted_at": output::instant(authority.distrusted_at.as_ref()),
    });
    if let (Some(known), Value::Object(more)) = (known.as_object_mut(), more) {
        known.extend(more);
    }
    known
}

fn table(all: &[KnownAuthority]) -> String {
    let now = time::now();
    let rows = all.iter().map(|authority| {
        let ends = authority.certificate.as_ref().and_then(|certificate| certificate.not_after.as_ref());
        vec![
            cell(&authority.kind),
            cell(shown(&authority.id)),
            cell(shown(&authority.replica)),
            output::standing(&authority.phase),
            cell(output::relative(time::from_proto(authority.phase_at.as_ref()), now)),
            cell(output::relative(time::from_proto(ends), now)),
            cell(authority.chained.to_string()),
            cell(&authority.next),
        ]
    });
    output::table(&["authority", "id", "replica", "phase", "since", "ends", "live below", "next"], rows)
}
