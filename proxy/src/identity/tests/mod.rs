//! Joining, waiting and coming back, against a control that answers as it is told.

pub(crate) mod control;
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use signet_proto::handshake::{Revocations, Svid, WorkloadKey};
use signet_proto::spiffe::{certificate_handle, sha256};
use signet_proto::v1;
use signet_proto::v1::attest_request::Proof as Message;
use signet_proto::{because, possession};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use zeroize::Zeroizing;

use super::attest::{Request, attest};
use super::control::{join, renew};
use super::{Joining, Proof, vouch};
use crate::config::Attest;
use crate::connections::Connections;
use crate::control::Addresses;
use crate::mesh::Mesh;
use crate::testing::{TestAuthority, bundle};
use control::Control;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn mesh() -> Arc<Mesh> {
    Arc::new(Mesh::new(Arc::new(Connections::default())))
}

fn serial(mesh: &Mesh) -> Vec<u8> {
    mesh.credentials().unwrap().0.profile().serial.clone()
}

/// A proof by token, and where the token is.
pub(crate) fn by_token(text: &str) -> (TempDir, Proof) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, text).unwrap();
    (directory, Proof::Attest(Attest::Jwt { attestor: "kubernetes".into(), file }))
}

/// Joins, and keeps the SVID fresh until dropped.
struct Renewing {
    mesh: Arc<Mesh>,
    stop: CancellationToken,
}

impl Renewing {
    async fn start(joining: Joining) -> Self {
        let (mesh, stop) = (mesh(), CancellationToken::new());
        let addresses = Arc::new(Addresses::new(joining.control.clone()));
        join(&joining, &addresses, &mesh).await.unwrap();
        tokio::spawn(renew(joining, addresses, Arc::clone(&mesh), stop.clone()));
        Self { mesh, stop }
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_held_request_is_repeated_to_the_byte_until_it_is_approved() {
    let control = Control::start(HOUR).await;
    control.state(|state| {
        state.to_attest.extend([
            Status::failed_precondition("request 7 waits for one approval"),
            Status::unavailable("restarting"),
            Status::failed_precondition("request 7 waits for one approval"),
        ]);
    });
    let (directory, proof) = by_token("eyJ.first.token\n");
    let (joining, mesh) = (control.joining(proof), mesh());
    let addresses = Addresses::new(joining.control.clone());
    let rotated = async {
        eventually("asked once", || control.state(|state| !state.attested.is_empty())).await;
        std::fs::write(directory.path().join("token"), "eyJ.second.token").unwrap();
    };
    let (joined, ()) = tokio::join!(join(&joining, &addresses, &mesh), rotated);
    joined.unwrap();
    assert_eq!(mesh.credentials().unwrap().0.id().path(), "/orders");

    let asked = control.state(|state| std::mem::take(&mut state.attested));
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|request| request.csr == asked[0].csr), "its hash is what is approved");
    let token = |index: usize| match &asked[index].proof {
        Some(Message::Jwt(proof)) => (proof.attestor.clone(), proof.token.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(token(0), ("kubernetes".into(), "eyJ.first.token".into()));
    assert_eq!(token(3), ("kubernetes".into(), "eyJ.second.token".into()));
}

#[tokio::test]
async fn a_certificate_s_key_signs_the_challenge_for_this_request() {
    let control = Control::start(HOUR).await;
    let directory = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let [chain, file] = ["device.pem", "device.key"].map(|name| directory.path().join(name));
    std::fs::write(&chain, certificate.pem()).unwrap();
    std::fs::write(&file, key.serialize_pem()).unwrap();
    let proof = Proof::Attest(Attest::X509 { attestor: "devices".into(), chain, key: file });
    let joining =
        Joining { spiffe_id: Some("spiffe://mesh.test/orders".parse().unwrap()), ..control.joining(proof) };
    join(&joining, &Addresses::new(joining.control.clone()), &mesh()).await.unwrap();

    let (challenged, attested) = control.state(|state| (state.challenged.clone(), state.attested.clone()));
    let csr_sha256 = sha256(&attested[0].csr);
    assert_eq!(
        (challenged[0].attestor.as_str(), &challenged[0].csr_sha256[..]),
        ("devices", &csr_sha256[..])
    );
    assert_eq!(attested[0].spiffe_id, "spiffe://mesh.test/orders");
    let Some(Message::X509Pop(proof)) = &attested[0].proof else { panic!("another proof") };
    assert_eq!(proof.chain, [certificate.der().to_vec()]);
    let message = possession::message(&joining.trust_domain, &proof.challenge, &csr_sha256);
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.der_bytes())
        .verify(&message, &proof.signature)
        .unwrap();
}

#[tokio::test]
async fn what_is_refused_for_good_or_cannot_be_proven_ends_the_start() {
    let control = Control::start(HOUR).await;
    control.state(|state| state.to_attest.push_back(Status::permission_denied("no")));
    let (_directory, proof) = by_token("eyJ.the.token");
    let joining = control.joining(proof);
    let addresses = Addresses::new(joining.control.clone());
    let refused = join(&joining, &addresses, &mesh()).await.unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");

    let (_directory, proof) = by_token("");
    let refused = join(&control.joining(proof), &addresses, &mesh()).await.unwrap_err();
    assert!(refused.to_string().starts_with("`attest`: "), "{refused}");
}

#[tokio::test]
async fn a_proof_that_is_not_believed_yet_is_sent_again_if_it_can_be() {
    let control = Control::start(HOUR).await;
    control.state(|state| state.to_attest.push_back(Status::unauthenticated("no")));
    let (_directory, proof) = by_token("eyJ.the.token");
    let joining = control.joining(proof);
    let (addresses, mesh) = (Addresses::new(joining.control.clone()), mesh());
    join(&joining, &addresses, &mesh).await.unwrap();
    assert_eq!(control.state(|state| state.attested.len()), 2);
}

#[tokio::test]
async fn another_identity_than_the_wanted_one_is_not_taken() {
    let control = Control::start(HOUR).await;
    let (_directory, proof) = by_token("eyJ.the.token");
    let wanted = Some("spiffe://mesh.test/payments".parse().unwrap());
    let joining = Joining { spiffe_id: wanted, ..control.joining(proof) };
    let (addresses, mesh) = (Addresses::new(joining.control.clone()), mesh());
    let join = join(&joining, &addresses, &mesh);
    assert!(tokio::time::timeout(Duration::from_secs(1), join).await.is_err(), "it goes on asking");
    assert!(mesh.credentials().is_none());
}

#[tokio::test]
async fn a_forgotten_instance_proves_itself_again() {
    let control = Control::start(Duration::from_secs(2)).await;
    let forgotten = Status::permission_denied("instance is not known here");
    control.state(|state| state.to_renew.push_back(because::with(forgotten, because::INSTANCE_UNKNOWN)));
    let (_directory, proof) = by_token("eyJ.the.token");
    let proxy = Renewing::start(control.joining(proof)).await;
    let first = serial(&proxy.mesh);
    eventually("attested again", || control.state(|state| state.attested.len() == 2)).await;
    eventually("another SVID", || serial(&proxy.mesh) != first).await;
    let (asked, renewed) = control.state(|state| (state.attested.clone(), state.renewed));
    assert_eq!(renewed, 1, "control said that there is nothing to renew");
    assert_ne!(asked[0].csr, asked[1].csr, "a new instance has a new key");
    assert_eq!(asked[1].spiffe_id, "spiffe://mesh.test/orders", "whoever it was before");
}

#[tokio::test]
async fn a_root_that_the_mesh_dropped_is_not_believed_again_because_the_ticket_pins_it() {
    let control = Control::start(HOUR).await;
    let (_directory, proof) = by_token("eyJ.the.token");
    let joining = control.joining(proof);
    let (addresses, mesh) = (Addresses::new(joining.control.clone()), mesh());
    join(&joining, &addresses, &mesh).await.unwrap();
    let id = mesh.credentials().unwrap().0.id().clone();
    let again = async || attest(&joining, &addresses, &Request::new().unwrap(), Some(&id), &mesh).await;
    again().await.unwrap();
    mesh.update(|inputs| inputs.bundles = vec![bundle([&TestAuthority::new()])]).unwrap();
    let refused = again().await.unwrap_err();
    assert_eq!(control.state(|state| state.attested.len()), 2, "it hears no proof: {refused}");
}

#[tokio::test]
async fn who_slept_longer_than_its_svid_proves_itself_again() {
    let control = Control::start(Duration::from_secs(2)).await;
    control.state(|state| state.to_renew.extend((0..50).map(|_| Status::unavailable("away"))));
    let (_directory, proof) = by_token("eyJ.the.token");
    let _proxy = Renewing::start(control.joining(proof)).await;
    eventually("attested again", || control.state(|state| state.attested.len() == 2)).await;
    assert!(control.state(|state| state.renewed) > 0);
}

#[tokio::test]
async fn what_an_operator_revoked_stays_out() {
    let control = Control::start(Duration::from_secs(2)).await;
    let revoked = because::with(Status::permission_denied("no"), "revoked_instance");
    control.state(|state| state.to_renew.extend((0..50).map(|_| revoked.clone())));
    let (_directory, proof) = by_token("eyJ.the.token");
    let _proxy = Renewing::start(control.joining(proof)).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(control.state(|state| state.attested.len()), 1, "not even when its SVID has ended");
}

#[tokio::test]
async fn what_our_own_list_says_of_us_holds_while_control_is_away() {
    let control = Control::start(Duration::from_secs(2)).await;
    control.state(|state| state.to_renew.extend((0..50).map(|_| Status::unavailable("away"))));
    let (_directory, proof) = by_token("eyJ.the.token");
    let proxy = Renewing::start(control.joining(proof)).await;
    let (own, _) = proxy.mesh.credentials().unwrap();
    let instance = own.profile().instance.unwrap().to_string();
    let list = v1::Revocations {
        instances: vec![v1::RevokedInstance { instance, lapsed: false }],
        ..v1::Revocations::default()
    };
    proxy.mesh.update(|inputs| inputs.revocations = Revocations::try_from(list).unwrap()).unwrap();
    eventually("its SVID has ended", || own.end() < signet_proto::clock::now()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(control.state(|state| state.attested.len()), 1, "and does not come back as somebody else");
}

#[tokio::test]
async fn whose_issuer_alone_is_revoked_proves_itself_again() {
    let control = Control::start(Duration::from_secs(2)).await;
    let refused = because::with(Status::permission_denied("no"), "revoked_certificate");
    let intermediate = Some(control.intermediate());
    control.state(|state| {
        state.intermediate = intermediate;
        state.to_renew.extend((0..3).map(|_| refused.clone()));
    });
    let (_directory, proof) = by_token("eyJ.the.token");
    let proxy = Renewing::start(control.joining(proof)).await;
    let first = proxy.mesh.credentials().unwrap().0;
    let issuer = certificate_handle(&first.chain()[1]).unwrap();
    control.state(|state| state.intermediate = None);
    let list = v1::Revocations { keys: vec![issuer.spki_sha256.to_vec()], ..v1::Revocations::default() };
    proxy.mesh.update(|inputs| inputs.revocations = Revocations::try_from(list).unwrap()).unwrap();
    eventually("another SVID", || serial(&proxy.mesh) != first.profile().serial).await;
    assert_eq!(control.state(|state| state.attested.len()), 2);
}

#[tokio::test]
async fn a_ticket_is_spent() {
    let control = Control::start(Duration::from_secs(2)).await;
    let forgotten = because::with(Status::permission_denied("no"), because::INSTANCE_UNKNOWN);
    control.state(|state| state.to_renew.extend((0..50).map(|_| forgotten.clone())));
    let ticket = Proof::Ticket(Zeroizing::new(vec![7; 32]));
    let _proxy = Renewing::start(control.joining(ticket)).await;
    eventually("tried to renew", || control.state(|state| state.renewed > 1)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(control.state(|state| state.attested.len()), 1);
}

#[tokio::test]
async fn the_svid_in_hand_proves_the_key_of_a_successor() {
    let control = Control::start(HOUR).await;
    let (_directory, proof) = by_token("eyJ.the.token");
    let (joining, mesh) = (control.joining(proof), mesh());
    let addresses = Addresses::new(joining.control.clone());
    join(&joining, &addresses, &mesh).await.unwrap();
    let first = serial(&mesh);
    let key = WorkloadKey::generate().unwrap();
    let answer = vouch(&addresses, &mesh, key.csr(None).unwrap(), 0).await.unwrap();
    let chain = answer.svid.unwrap().chain.into_iter().map(Into::into).collect();
    Svid::new(chain, key.signing_key().unwrap()).expect("it is for that key");
    assert_eq!(serial(&mesh), first, "and changes nothing here");
    let proof = control.state(|state| state.attested.pop().unwrap().proof);
    assert!(matches!(proof, Some(Message::Svid(_))), "{proof:?}");
}
