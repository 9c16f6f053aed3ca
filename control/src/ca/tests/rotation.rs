//! One root after another, as those see it who know the old one, the new one, or both.

use rustls::pki_types::CertificateDer;

use super::*;
use crate::store::Refusal;
use crate::store::model::{KnownAuthority, Mutation};

/// A workload's key, by which SVIDs can be held against any bundle.
struct Workload(WorkloadKey);

impl Workload {
    fn svid(&self, authority: &Authority, ttl: Duration) -> Svid {
        let key = crate::issue::tests_csr(&self.0, &id("/orders"));
        let ask = LeafRequest { id: &id("/orders"), instance: None, key: &key, dns: &[], ttl };
        Svid::new(authority.sign(&ask).unwrap().chain, self.0.signing_key().unwrap()).unwrap()
    }
}

fn believed(svid: &Svid, roots: &[&CertificateDer<'static>]) -> bool {
    let roots = roots.iter().map(|root| (*root).clone()).collect();
    let bundle = TrustBundle::new(domain(), roots, 1).unwrap();
    svid.check(&Trust::new([bundle], Revocations::default()), time::now()).is_ok()
}

async fn in_phase(authority: &Authority, name: &str, phase: Phase) -> KnownAuthority {
    authority.named(name, &[phase]).await.unwrap()
}

async fn activate(authority: &Authority, name: &str) -> Result<Mutation, CaError> {
    let prepared = in_phase(authority, name, Phase::Prepared).await;
    authority.activate(&prepared, false, Actor::control()).await
}

async fn retire(authority: &Authority, name: &str) -> Result<Mutation, CaError> {
    let retiring = in_phase(authority, name, Phase::Retiring).await;
    authority.retire(&retiring, Actor::control()).await
}

#[tokio::test]
async fn svids_are_believed_by_whoever_knows_either_root_until_the_old_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let workload = Workload(WorkloadKey::generate().unwrap());
    let old = authority.root().certificate().clone();
    let before = workload.svid(&authority, DAY);

    authority.prepare(AuthorityKind::Root, Actor::control()).await.unwrap();
    let bundle = authority.bundle();
    let new = bundle.authorities().iter().find(|root| **root != old).unwrap().clone();
    assert_eq!(bundle.authorities().len(), 2);
    assert!(bundle.sequence() > 1);
    assert!(!believed(&workload.svid(&authority, DAY), &[&new]), "the old one signs still");

    activate(&authority, "root").await.unwrap();
    let after = workload.svid(&authority, DAY);
    assert_eq!(authority.root().certificate(), &new);
    assert!(believed(&after, &[&new]) && believed(&after, &[&old, &new]));
    assert!(believed(&after, &[&old]), "who has not heard of the new one goes by its cross certificate");
    assert!(believed(&before, &[&old, &new]));
    let hierarchy = authority.hierarchy();
    assert_eq!(hierarchy.shown().certificate(), &old, "tickets that were made before pin it");
    assert_eq!(hierarchy.others().collect::<Vec<_>>(), [crate::sha256(&new)]);

    // A second intermediate below the new root, while the old one is still believed.
    authority.rotate_intermediate(Actor::control()).await.unwrap();
    assert!(believed(&workload.svid(&authority, DAY), &[&old]));

    // Nothing was recorded, so that nothing live chains to anything.
    retire(&authority, "root").await.unwrap();
    let alone = workload.svid(&authority, DAY);
    assert!(believed(&alone, &[&new]) && !believed(&alone, &[&old]));
    assert_eq!(alone.chain().len(), 2);
    let (hierarchy, bundle) = (authority.hierarchy(), authority.bundle());
    assert_eq!(hierarchy.shown().certificate(), &new);
    assert_eq!((bundle.authorities(), bundle.retired()), (&[new][..], &[old][..]));
}

#[tokio::test]
async fn revocation_lists_can_be_signed_as_long_as_anything_is_believed() {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let signers = async || {
        let mut told = Vec::new();
        for (kind, signer) in crl_signers(&authority).await {
            let (_, read) = x509_parser::parse_x509_certificate(signer.certified().certificate()).unwrap();
            assert!(read.key_usage().unwrap().unwrap().value.crl_sign(), "RFC 5280 4.2.1.3");
            let key =
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &read.public_key().subject_public_key.data);
            key.verify(b"list", &signer.sign(b"list").unwrap()).unwrap();
            told.push((kind, signer.certified().id().to_owned()));
        }
        told
    };
    let (root, first) = (authority.root(), authority.intermediate());
    authority.rotate_intermediate(Actor::control()).await.unwrap();
    authority.prepare(AuthorityKind::Root, Actor::control()).await.unwrap();
    let now = signers().await;
    assert_eq!(now.len(), 3, "the prepared root has signed nothing: {now:?}");
    assert_eq!(now[0], (AuthorityKind::Root, root.id().to_owned()));
    assert!(now.contains(&(AuthorityKind::Intermediate, first.certified().id().to_owned())), "{now:?}");
    activate(&authority, "root").await.unwrap();
    assert_eq!(signers().await.len(), 5);
    let compromised = authority.named(first.certified().id(), &[]).await.unwrap();
    authority.compromised(&compromised, DAY, "stolen".into(), Actor::control()).await.unwrap();
    retire(&authority, root.id()).await.unwrap();
    assert_eq!(signers().await.len(), 3, "a compromised and a removed one sign nothing any more");
}

#[tokio::test]
async fn rotation_goes_on_after_a_kill_at_every_step() {
    let directory = tempfile::tempdir().unwrap();
    let again = async || open(&directory, 30 * DAY).await.unwrap();
    let workload = Workload(WorkloadKey::generate().unwrap());
    let first = workload.svid(&again().await, DAY);
    let (id, _) = again().await.prepare(AuthorityKind::Root, Actor::control()).await.unwrap();
    let prepared = again().await;
    assert_eq!(prepared.bundle().authorities().len(), 2);
    assert!(first.check(&trust(&prepared), time::now()).is_ok());
    drop(prepared);
    activate(&again().await, &id[..8]).await.unwrap();
    let activated = again().await;
    assert_eq!(activated.root().id(), id);
    let second = workload.svid(&activated, DAY);
    assert!(first.check(&trust(&activated), time::now()).is_ok());
    assert!(second.check(&trust(&activated), time::now()).is_ok());
    drop(activated);
    let other = again().await.prepare(AuthorityKind::Root, Actor::control()).await.unwrap_err();
    assert!(
        matches!(other, CaError::Store(StoreError::Refused(Refusal::RotationUnderWay { .. }))),
        "{other}"
    );
    retire(&again().await, "root").await.unwrap();
    let removed = again().await;
    assert!(first.check(&trust(&removed), time::now()).is_err());
    assert!(second.check(&trust(&removed), time::now()).is_ok());
    drop(removed);
    retire(&again().await, "intermediate").await.unwrap();
    let rest = again().await;
    let phases: Vec<_> = rest.hierarchy().known().iter().map(|one| one.phase).collect();
    assert_eq!(phases, [Phase::Removed, Phase::Active, Phase::Removed, Phase::Active]);
    rest.prepare(AuthorityKind::Root, Actor::control()).await.unwrap();
}

fn trust(authority: &Authority) -> Trust {
    Trust::new([(*authority.bundle()).clone()], Revocations::default())
}

#[tokio::test]
async fn prepared_intermediate_signs_when_it_is_told_to_and_not_below_another_root() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let (id, _) = authority.prepare(AuthorityKind::Intermediate, Actor::control()).await.unwrap();
    assert_ne!(authority.intermediate().certified().id(), id);
    activate(&authority, "intermediate").await.unwrap();
    assert_eq!(authority.intermediate().certified().id(), id);
    sign(&authority, "/orders", DAY);
    authority.prepare(AuthorityKind::Intermediate, Actor::control()).await.unwrap();
    authority.prepare(AuthorityKind::Root, Actor::control()).await.unwrap();
    activate(&authority, "root").await.unwrap();
    let gone = authority.named("intermediate", &[Phase::Prepared]).await.unwrap_err();
    assert!(gone.to_string().contains("none of them"), "{gone}");
}

#[tokio::test]
async fn authority_is_named_by_its_kind_or_the_first_digits_of_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let root = authority.root();
    for name in [&root.id()[..4], root.id()] {
        assert_eq!(authority.named(name, &[Phase::Prepared]).await.unwrap().id, root.id());
    }
    for name in ["", &root.id()[..3], "root", "intermediate", "nonsense"] {
        let none = authority.named(name, &[Phase::Prepared]).await.unwrap_err();
        assert!(none.to_string().contains("signet ca status"), "{name}: {none}");
    }
}

#[tokio::test]
async fn control_is_known_by_the_old_root_and_the_new_one_to_those_who_join() {
    use signet_proto::handshake::{ALPN_H2, ClientAuth, pinned_client_config, server_config};
    let directory = tempfile::tempdir().unwrap();
    let authority = Arc::new(open(&directory, 30 * DAY).await.unwrap());
    let (control, old) = (id("/signet/control"), authority.root().sha256());
    authority.prepare(AuthorityKind::Root, Actor::control()).await.unwrap();
    activate(&authority, "root").await.unwrap();
    let new = authority.root().sha256();
    let workload = WorkloadKey::generate().unwrap();
    let key = crate::issue::tests_csr(&workload, &control);
    let ask = LeafRequest { id: &control, instance: None, key: &key, dns: &[], ttl: DAY };
    let mut chain = authority.sign(&ask).unwrap().chain;
    chain.push(authority.hierarchy().shown().certificate().clone());
    assert_eq!(chain.len(), 4, "as many as anybody looks at");
    let svid = Svid::new(chain, workload.signing_key().unwrap()).unwrap();
    let server = server_config(&svid, Arc::new(trust(&authority)), ClientAuth::Optional, &[ALPN_H2]).unwrap();
    let joins = |pins: &[[u8; 32]]| {
        let pins: signet_proto::spiffe::Pins = pins.iter().copied().collect();
        let client = pinned_client_config(pins, control.clone(), &[ALPN_H2]).unwrap();
        let name = signet_proto::handshake::server_name();
        let mut client = rustls::ClientConnection::new(client, name).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
        while client.wants_write() {
            let mut there = Vec::new();
            client.write_tls(&mut there).unwrap();
            server.read_tls(&mut there.as_slice()).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut rest = back.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        !client.is_handshaking()
    };
    assert!(joins(&[old]) && joins(&[old, new]));
    assert!(!joins(&[[0; 32]]));
}

#[tokio::test]
async fn compromised_authorities_are_believed_by_nobody_once_their_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let workload = Workload(WorkloadKey::generate().unwrap());
    let first = workload.svid(&authority, DAY);
    let active = in_phase(&authority, "intermediate", Phase::Active).await;
    let told = authority.compromised(&active, DAY, "stolen".into(), Actor::control()).await.unwrap();
    assert!(told.effects.iter().any(|effect| effect.contains("nobody is believed by it from")), "{told:?}");
    let second = workload.svid(&authority, DAY);
    assert_ne!(first.chain()[1], second.chain()[1]);
    let revocations = async || {
        let read = authority.store.mesh_since(None).await.unwrap().revocations.unwrap();
        let message = signet_proto::v1::Revocations {
            certificates: read
                .certificates
                .into_iter()
                .map(|(issuer, serial)| signet_proto::v1::RevokedCertificate {
                    issuer_sha256: issuer.to_vec(),
                    serial,
                })
                .collect(),
            keys: read.keys.into_iter().map(|key| key.to_vec()).collect(),
            ..Default::default()
        };
        Trust::new([(*authority.bundle()).clone()], Revocations::try_from(message).unwrap())
    };
    assert!(first.check(&revocations().await, time::now()).is_ok(), "there is time to renew");
    let retiring = in_phase(&authority, "intermediate", Phase::Retiring).await;
    authority.distrust(&retiring, Actor::control()).await.unwrap();
    let error = first.check(&revocations().await, time::now()).unwrap_err();
    assert_eq!(error.reason(), "revoked_certificate");
    assert!(second.check(&revocations().await, time::now()).is_ok());

    let root = in_phase(&authority, "root", Phase::Active).await;
    authority.compromised(&root, Duration::ZERO, "stolen".into(), Actor::control()).await.unwrap();
    assert_ne!(authority.root().id(), root.id);
    let third = workload.svid(&authority, DAY);
    assert!(second.check(&revocations().await, time::now()).is_err());
    assert!(third.check(&revocations().await, time::now()).is_ok());
    assert!(authority.bundle().retired().is_empty(), "connections that it let in end");
}
