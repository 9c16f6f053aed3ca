//! Taking identities away, giving them back, and having their SVIDs renewed.

use serde_json::{Value, json};
use signet_proto::policy::Pattern;
use signet_proto::v1::revoke_request::What;
use signet_proto::v1::{
    AwaitRotatedRequest, AwaitRotatedResponse, RevokeRequest, RotateRequest, RotateResponse,
    SetWorkloadStatusRequest, WorkloadStatus,
};

use super::applied::{self, Expect, named};
use crate::cli::args::{RevokeWhat, Rotation, StatusChange};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::{self, Output, cell};
use crate::count::many;
use crate::time;

pub(in crate::cli) async fn revoke(
    what: RevokeWhat,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let RevokeWhat { id, instance, serial, key, owner, issuer, reason, wait } = what;
    let what = id.map(|id| match id {
        Pattern::Exact(id) => What::SpiffeId(id.to_string()),
        subtree @ Pattern::Subtree(_) => What::Subtree(subtree.to_string()),
    });
    let what = what
        .or(instance.map(What::Instance))
        .or(serial.map(What::Serial))
        .or(key.map(|key| What::Key(key.0)))
        .or(owner.map(What::Owner))
        .or(issuer.map(What::Issuer));
    let mut client = session.admin().await?;
    let mutation = client.revoke(RevokeRequest { what, reason }).await?.into_inner();
    applied::report(mutation.into(), Some(wait), Expect::Everyone, &mut client, output).await
}

pub(in crate::cli) async fn set_status(
    change: StatusChange,
    to: WorkloadStatus,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let mut client = session.admin().await?;
    let StatusChange { id, reason, wait } = change;
    let request = SetWorkloadStatusRequest { spiffe_id: id, status: to.into(), reason };
    let mutation = client.set_workload_status(request).await?.into_inner();
    let expect = if to == WorkloadStatus::Active { Expect::Connected } else { Expect::Everyone };
    applied::report(mutation.into(), Some(wait), expect, &mut client, output).await
}

/// Orders it, and waits until everybody has an SVID that was issued since: an SVID that was not replaced is no
/// failure of anything that runs, but whoever rotates wants to know.
pub(in crate::cli) async fn rotate(
    rotation: Rotation,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let Rotation { on, now: _, reason, wait } = rotation;
    let mut client = session.admin().await?;
    let scope = on.to_string();
    let ordered = client.rotate(RotateRequest { scope: scope.clone(), reason }).await?.into_inner();
    let RotateResponse { mutation, issued_before, within } = ordered;
    let mutation = mutation.unwrap_or_default();
    if !output.is_json() {
        for effect in &mutation.effects {
            output::print(&format!("{}\n", output::clean(effect)))?;
        }
    }
    let rotated = match wait.no_wait {
        true => None,
        false => {
            // From the moment on that everybody may have chosen.
            let spread = time::duration_from_proto(within.as_ref()).unwrap_or_default();
            let timeout = Some(time::duration_to_proto(wait.timeout.0 + spread));
            let request = AwaitRotatedRequest { scope, issued_before, timeout };
            Some(client.await_rotated(request).await?.into_inner())
        }
    };
    let mut json = json!({
        "revision": mutation.revision,
        "committed_at": output::instant(mutation.committed_at.as_ref()),
        "effects": mutation.effects,
        "issued_before": output::instant(issued_before.as_ref()),
    });
    if let (Some(object), Some(rotated)) = (json.as_object_mut(), &rotated) {
        object.insert("rotated".into(), rotated.rotated.into());
        object.insert("left".into(), rotated.left.into());
        object.insert("left_some".into(), left(rotated).collect());
    }
    output.print(&json, || rotated.as_ref().map(people).unwrap_or_default())?;
    match rotated.map_or(0, |rotated| rotated.left) {
        0 => Ok(()),
        old => Err(CliError::unconfirmed(format!(
            "{} an SVID from before",
            many(old, "proxy still has", "proxies still have")
        ))
        .with_hint(
            "those that are connected try on; the others renew when they are back, or end with their SVID",
        )),
    }
}

fn left(rotated: &AwaitRotatedResponse) -> impl Iterator<Item = Value> {
    rotated.left_some.iter().map(|proxy| {
        json!({ "spiffe_id": proxy.spiffe_id, "instance": proxy.instance, "connected": proxy.connected })
    })
}

fn people(rotated: &AwaitRotatedResponse) -> String {
    let done = format!("{} renewed\n", many(rotated.rotated, "proxy has", "proxies have"));
    if rotated.left_some.is_empty() {
        return done;
    }
    let rows = rotated.left_some.iter().map(|proxy| {
        let standing = if proxy.connected { "not yet" } else { "not connected" };
        vec![cell(named(&proxy.spiffe_id)), cell(&proxy.instance), cell(standing)]
    });
    format!("{}{done}", output::table(&["not renewed", "instance", "standing"], rows))
}
