//! `/identity`: who this proxy is, until when, and whom it believes.

use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use signet_proto::handshake::{KnownList, ListState, Svid};
use signet_proto::spiffe::{TrustBundle, certificate_handle, sha256};

use super::{Admin, Ask, Refused, Reply};
use crate::identity::Standing;
use crate::workload_api::{Gives, Shelf, WorkloadApi};

pub(super) fn show(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    let mesh = &admin.shared.mesh;
    let Some((svid, trust)) = mesh.credentials() else {
        let text = format!("no identity yet: {}", mesh.missing().join("; "));
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let now = signet_proto::clock::now();
    let profile = svid.profile();
    let revocations = trust.revocations();
    Reply::json(&json!({
        "id": svid.id().as_str(),
        "instance": profile.instance.map(|instance| instance.to_string()),
        "source": admin.source,
        "serial": hex(&profile.serial),
        "not_before": moment(profile.not_before),
        "not_after": moment(profile.not_after),
        "remaining_seconds": profile.not_after.duration_since(now).unwrap_or_default().as_secs(),
        "next_renewal": mesh.next_renewal().and_then(moment),
        "key_sha256": hex(&profile.spki_sha256),
        "chain": chain(&svid),
        "bundles": trust.bundles().map(|bundle| bundle_of(bundle, now)).collect::<Vec<_>>(),
        "revocations": revocations.len(),
        "revocation_lists": trust.lists().all().map(|list| list_of(list)).collect::<Vec<_>>(),
        "workload_api": admin.workload_api.as_ref().map(|api| apps(api)),
    }))
}

fn list_of(list: &KnownList) -> Value {
    let content = list.content();
    json!({
        "issuer": content.issuer(),
        "number": content.number(),
        "entries": content.len(),
        "this_update": moment(content.this_update()),
        "next_update": moment(content.next_update()),
        "state": match list.state() {
            ListState::Used => "used",
            ListState::Waiting => "waiting",
            ListState::Unusable => "unusable",
        },
    })
}

/// What apps that do their own TLS have, and who of them is connected.
fn apps(api: &WorkloadApi) -> Value {
    let svid = |shelf: &Arc<Shelf>| {
        let (state, lent, why) = match shelf.now() {
            Standing::Has(lent) => ("valid", Some(lent), None),
            Standing::Without(why) => ("none", None, Some(why)),
            Standing::Refused(why) => ("refused", None, Some(why)),
        };
        let profile = lent.as_ref().map(|lent| lent.svid().profile());
        json!({
            "rule": shelf.rule.to_string(),
            "state": state,
            "because": why.as_deref(),
            "id": profile.map(|profile| profile.id.as_str()),
            "instance": profile.and_then(|profile| profile.instance).map(|instance| instance.to_string()),
            "serial": profile.map(|profile| hex(&profile.serial)),
            "not_after": profile.and_then(|profile| moment(profile.not_after)),
        })
    };
    let lending = api.shelves().iter().filter(|shelf| shelf.rule.gives == Gives::Svid);
    json!({ "svids": lending.map(svid).collect::<Vec<_>>(), "callers": api.board().show(moment) })
}

/// Leaf first, without the root: that is among the bundles.
fn chain(svid: &Svid) -> Vec<Value> {
    let certificate = |der: &rustls::pki_types::CertificateDer<'_>| {
        let handle = certificate_handle(der).ok();
        json!({
            "sha256": hex(&sha256(der)),
            "serial": handle.as_ref().map(|handle| hex(&handle.serial)),
            "key_sha256": handle.as_ref().map(|handle| hex(&handle.spki_sha256)),
            "issuer_sha256": handle.as_ref().map(|handle| hex(&handle.issuer_sha256)),
        })
    };
    svid.chain().iter().map(certificate).collect()
}

fn bundle_of(bundle: &TrustBundle, now: SystemTime) -> Value {
    json!({
        "trust_domain": bundle.trust_domain().as_str(),
        "sequence": bundle.sequence(),
        "expires_at": moment(bundle.expires_at()),
        "valid_now": bundle.authorities_at(now).count(),
        "authorities_sha256": bundle.fingerprints().map(|sha256| hex(&sha256)).collect::<Vec<_>>(),
    })
}

/// As in RFC 3339.
pub(super) fn moment(time: SystemTime) -> Option<String> {
    Timestamp::try_from(time).ok().map(|time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
