//! One attestation: a proof, a signing request, and what control made of them.

use signet_proto::handshake::{
    ALPN_H2, KeyError, Revocations, Trust, WorkloadKey, client_config, pinned_client_config,
};
use signet_proto::spiffe::{Pins, SpiffeId, TrustBundle, TrustDomain};
use signet_proto::v1;
use signet_proto::v1::attest_request::Proof as Message;
use signet_proto::v1::identity_client::IdentityClient;
use tonic::transport::Channel;

use super::control::{IdentityError, adopt, checked, hex, limited, reach};
use super::proof::Proof;
use crate::control::{Addresses, CALL_DEADLINE, ControlError, control_id};
use crate::mesh::Mesh;
use crate::upgrade::Predecessor;

/// Where control is, by what it is known, and how this proxy proves who it is.
#[derive(Debug, Clone)]
pub struct Joining {
    /// `host:port` of control's listeners.
    pub control: Vec<String>,
    /// The trust domain that is joined.
    pub trust_domain: TrustDomain,
    /// The roots by which control is known.
    pub pins: Pins,
    /// The proof.
    pub proof: Proof,
    /// Which identity is wanted, if the proof may fit several.
    pub spiffe_id: Option<SpiffeId>,
    /// The life of its SVIDs in seconds; 0: the usual one of its workload.
    pub ttl_seconds: u32,
}

/// A key and the request to certify it. The same for all tries: if only the answer of a try was lost, control knows
/// the key again; and while the request waits for approval, its hash is what is approved.
pub(super) struct Request {
    pub(super) key: WorkloadKey,
    pub(super) csr: Vec<u8>,
}

impl Request {
    pub(super) fn new() -> Result<Self, KeyError> {
        let key = WorkloadKey::generate()?;
        Ok(Self { csr: key.csr(None)?, key })
    }
}

/// Proves who this is and takes the SVID. If there was an identity before, it must be the same; and control is known by the
/// roots that we believe by now, no more by those of the ticket: the mesh may have dropped one since.
pub(super) async fn attest(
    joining: &Joining,
    control: &Addresses,
    request: &Request,
    before: Option<&SpiffeId>,
    mesh: &Mesh,
) -> Result<(), IdentityError> {
    let domain = &joining.trust_domain;
    let believed = mesh.bundles();
    let believed = believed.iter().find(|bundle| before.is_some() && bundle.trust_domain() == domain);
    let pins = believed.map_or_else(|| joining.pins.clone(), |bundle| bundle.fingerprints().collect());
    let tls = pinned_client_config(pins.clone(), control_id(domain)?, &[ALPN_H2])?;
    let (place, mut client) = reach(control, &tls).await?;
    let wanted = before.or(joining.spiffe_id.as_ref());
    let answered = async {
        let proof = joining.proof.present(&mut client, domain, &request.csr).await?;
        send(&mut client, message(request.csr.clone(), proof, wanted, joining.ttl_seconds)).await
    };
    let answer = answered.await.inspect_err(|error| {
        if error.blames_the_replica() {
            control.failed(place);
        }
    })?;
    take(joining, &pins, answer, request, wanted, mesh)
}

/// The same where the running proxy of this workload is there to prove it.
pub(super) async fn succeed(
    joining: &Joining,
    predecessor: &mut Predecessor,
    request: &Request,
    mesh: &Mesh,
) -> Result<(), IdentityError> {
    let answer = predecessor.certify(&request.csr, joining.ttl_seconds).await?;
    take(joining, &joining.pins, answer, request, joining.spiffe_id.as_ref(), mesh)
}

/// Believes what control answered only if it is for our key, from the mesh of our ticket, and what we wanted.
fn take(
    joining: &Joining,
    pins: &Pins,
    answer: v1::AttestResponse,
    request: &Request,
    wanted: Option<&SpiffeId>,
    mesh: &Mesh,
) -> Result<(), IdentityError> {
    let domain = &joining.trust_domain;
    let bundles = answer
        .bundles
        .iter()
        .map(TrustBundle::try_from)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| ControlError::Unusable(error.to_string()))?;
    if !bundles.iter().any(|bundle| bundle.trust_domain() == domain && pins.are_in(bundle)) {
        return Err(ControlError::Unusable("its bundle lacks the roots by which it is known".into()).into());
    }
    let trust = Trust::new(bundles.iter().cloned(), Revocations::default());
    let svid = checked(answer.svid, &request.key, &trust)?;
    if svid.id().trust_domain() != domain || wanted.is_some_and(|wanted| wanted != svid.id()) {
        let wanted = wanted.map_or_else(|| format!("one of `{domain}`"), |wanted| format!("`{wanted}`"));
        let issued = format!("it issued `{}`, and {wanted} was asked for", svid.id());
        return Err(ControlError::Unusable(issued).into());
    }
    tracing::info!(id = %svid.id(), instance = svid.profile().instance.map(tracing::field::display),
        serial = hex(&svid.profile().serial), "joined the mesh");
    adopt(mesh, svid, &request.key, |inputs| inputs.bundles = bundles)
}

/// Proves somebody else with our SVID, over mutual TLS: control's answer to the signing request of the process that
/// takes over from this one, or of what our app gets. The key in it is not the one that proves.
///
/// # Errors
/// When control cannot be reached or refuses.
pub async fn vouch(
    control: &Addresses,
    mesh: &Mesh,
    csr: Vec<u8>,
    ttl_seconds: u32,
) -> Result<v1::AttestResponse, IdentityError> {
    let no_svid = || ControlError::Unusable("no SVID to prove ourselves with".into());
    let (svid, trust) = mesh.credentials().ok_or_else(no_svid)?;
    let expected = control_id(svid.id().trust_domain())?;
    let tls = client_config(Some(&svid), trust, expected, &[ALPN_H2])?;
    let (place, mut client) = reach(control, &tls).await?;
    let proof = Message::Svid(v1::SvidProof {});
    let request = message(csr, proof, Some(svid.id()), ttl_seconds);
    send(&mut client, request).await.inspect_err(|error| {
        if error.blames_the_replica() {
            control.failed(place);
        }
    })
}

fn message(csr: Vec<u8>, proof: Message, wanted: Option<&SpiffeId>, ttl_seconds: u32) -> v1::AttestRequest {
    v1::AttestRequest {
        proof: Some(proof),
        csr,
        version: env!("CARGO_PKG_VERSION").into(),
        spiffe_id: wanted.map(ToString::to_string).unwrap_or_default(),
        ttl_seconds,
    }
}

async fn send(
    client: &mut IdentityClient<Channel>,
    request: v1::AttestRequest,
) -> Result<v1::AttestResponse, IdentityError> {
    let answer = client.attest(limited(request, CALL_DEADLINE)).await.map_err(ControlError::from)?;
    Ok(answer.into_inner())
}
