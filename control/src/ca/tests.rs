use std::time::Duration;

use signet_proto::handshake::{Revocations, Svid, Trust, WorkloadKey};
use signet_proto::spiffe::{InstanceId, SpiffeId, check_leaf};
use tempfile::TempDir;

use super::*;
use crate::ca::profile::random;
use crate::store::model::{Actor, Phase};

mod elsewhere;
mod jwt;
mod reseal;
mod rotation;

const DAY: Duration = Duration::from_secs(86_400);

fn domain() -> TrustDomain {
    "mesh.local".parse().unwrap()
}

async fn open(directory: &TempDir, ttl: Duration) -> Result<Authority, CaError> {
    let store = Store::open(directory.path(), &domain()).unwrap();
    Authority::open(
        store,
        domain(),
        &SealPlace::File(directory.path().join("seal.key")),
        Lives::with_intermediate(ttl),
    )
    .await
}

fn key() -> PublicKey {
    let (key, _) = SigningKey::generate(KeyCurve::P256).unwrap();
    use rcgen::PublicKeyData;
    PublicKey { bytes: key.der_bytes().to_vec(), algorithm: key.algorithm() }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&domain(), path).unwrap()
}

fn sign(authority: &Authority, path: &str, ttl: Duration) -> (SignedLeaf, InstanceId) {
    let instance = InstanceId::random().unwrap();
    let request = LeafRequest { id: &id(path), instance: Some(instance), key: &key(), dns: &[], ttl };
    (authority.sign(&request).unwrap(), instance)
}

async fn crl_signers(authority: &Authority) -> Vec<(AuthorityKind, CrlSigner)> {
    let mut signers = Vec::new();
    for known in authority.hierarchy().known() {
        signers.extend(authority.crl_signer(known).await.unwrap().map(|signer| (known.kind, signer)));
    }
    signers
}

#[tokio::test]
async fn authorities_come_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let (root, intermediate) = (authority.root().sha256(), authority.intermediate().certified().sha256());
    drop(authority);
    let authority = open(&directory, 30 * DAY).await.unwrap();
    assert_eq!(
        (authority.root().sha256(), authority.intermediate().certified().sha256()),
        (root, intermediate)
    );
    sign(&authority, "/orders", DAY);
}

#[tokio::test]
async fn leaf_says_what_was_asked_and_verifies_with_the_bundle() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let key = WorkloadKey::generate().unwrap();
    let request = crate::issue::tests_csr(&key, &id("/shop/orders"));
    let instance = InstanceId::random().unwrap();
    let leaf = authority
        .sign(&LeafRequest {
            id: &id("/shop/orders"),
            instance: Some(instance),
            key: &request,
            dns: &[],
            ttl: DAY,
        })
        .unwrap();
    let profile = check_leaf(&leaf.chain[0]).unwrap();
    assert_eq!(profile.id, id("/shop/orders"));
    assert_eq!(profile.instance, Some(instance));
    assert_eq!(profile.not_after, leaf.issuance.not_after);
    assert_eq!(profile.serial.len(), 16);
    let svid = Svid::new(leaf.chain, key.signing_key().unwrap()).unwrap();
    let trust = Trust::new([(*authority.bundle()).clone()], Revocations::default());
    svid.check(&trust, time::now()).unwrap();
    assert!(svid.check(&trust, time::now() + DAY + Duration::from_secs(1)).is_err());
}

#[tokio::test]
async fn leaf_never_outlives_the_intermediate_nor_starts_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, Duration::from_secs(120)).await.unwrap();
    let (leaf, _) = sign(&authority, "/orders", 7 * DAY);
    let intermediate = authority.intermediate().certified().clone();
    assert_eq!(leaf.issuance.not_after, intermediate.not_after());
    assert!(leaf.issuance.not_before >= intermediate.not_before());
    assert!(intermediate.not_after() <= authority.root().not_after());
    assert!(intermediate.not_before() >= authority.root().not_before());
}

#[tokio::test]
async fn rotated_intermediate_signs_at_once_and_the_old_leaves_stay_valid() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let key = WorkloadKey::generate().unwrap();
    let request = crate::issue::tests_csr(&key, &id("/orders"));
    let sign = || {
        let ask = LeafRequest { id: &id("/orders"), instance: None, key: &request, dns: &[], ttl: DAY };
        authority.sign(&ask).unwrap()
    };
    let before = sign();
    let (old, new) = authority.rotate_intermediate(Actor::control()).await.unwrap();
    assert_ne!(old.certified().subject(), new.certified().subject());
    let after = sign();
    assert_ne!(before.chain[1], after.chain[1]);
    assert_ne!(before.issuance.issuer_sha256, after.issuance.issuer_sha256);
    let trust = Trust::new([(*authority.bundle()).clone()], Revocations::default());
    for leaf in [before, after] {
        Svid::new(leaf.chain, key.signing_key().unwrap()).unwrap().check(&trust, time::now()).unwrap();
    }
    let stored = authority.store.authorities().await.unwrap();
    let stored = hierarchy::own(&stored, "").unwrap();
    assert_eq!(stored.subject, new.certified().subject());
}

#[tokio::test]
async fn rotation_is_due_at_half_of_the_life() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let due = authority.rotation_due().duration_since(time::now()).unwrap();
    assert!(due > 14 * DAY && due < 16 * DAY, "{due:?}");
    drop(authority);
    let authority = open(&directory, 80 * DAY).await.unwrap();
    assert!(authority.rotation_due() < time::now(), "too short for what may be signed now");
    authority.rotate_intermediate(Actor::control()).await.unwrap();
    assert!(authority.rotation_due() > time::now());
}

#[tokio::test]
async fn short_intermediate_is_not_due_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, Duration::from_secs(60)).await.unwrap();
    let due = authority.rotation_due().duration_since(time::now()).unwrap();
    assert!(due > Duration::from_secs(25) && due <= Duration::from_secs(30), "{due:?}");
}

#[tokio::test]
async fn wrong_or_missing_seal_key_is_refused_and_nothing_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory, 30 * DAY).await.unwrap());
    let path = directory.path().join("seal.key");
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, random::<32>().unwrap()).unwrap();
    assert!(matches!(open(&directory, DAY).await, Err(CaError::Seal(SealError::Refused { .. }))));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(open(&directory, DAY).await, Err(CaError::Seal(SealError::Missing(_)))));
    assert!(!path.exists());
    let private = std::os::unix::fs::OpenOptionsExt::mode(std::fs::OpenOptions::new().create(true), 0o600)
        .write(true)
        .open(&path);
    std::io::Write::write_all(&mut private.unwrap(), &good).unwrap();
    open(&directory, DAY).await.unwrap();
}

#[tokio::test]
async fn serials_are_random_and_sixteen_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let serials: std::collections::HashSet<_> = (0..50)
        .map(|_| {
            let serial = sign(&authority, "/orders", DAY).0.issuance.serial;
            assert!(serial.len() == 16 && serial[0] != 0 && serial[0] < 0x80);
            serial
        })
        .collect();
    assert_eq!(serials.len(), 50);
}

#[tokio::test]
async fn long_last_segment_still_makes_a_valid_subject() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    sign(&authority, &format!("/{}", "x".repeat(200)), DAY);
}

#[tokio::test]
async fn of_two_first_starts_one_makes_the_mesh_and_the_other_keeps_no_key_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &domain()).unwrap();
    let path = |name: &str| directory.path().join(name);
    let open = async |name| {
        Authority::open(
            store.clone(),
            domain(),
            &SealPlace::File(path(name)),
            Lives::with_intermediate(30 * DAY),
        )
        .await
    };
    let (one, two) = tokio::join!(open("one"), open("two"));
    let (lost, refused) = match (one, two) {
        (Ok(_), Err(refused)) => ("two", refused),
        (Err(refused), Ok(_)) => ("one", refused),
        both => panic!("one wins: {:?}", (both.0.is_ok(), both.1.is_ok())),
    };
    assert!(matches!(refused, CaError::Second(_) | CaError::Seal(SealError::Missing(_))), "{refused}");
    assert!(!path(lost).exists(), "a key that seals nothing must not be taken for the mesh's");
    let won = if lost == "one" { "two" } else { "one" };
    std::fs::copy(path(won), path(lost)).unwrap();
    open(lost).await.unwrap();
}

#[tokio::test]
async fn two_first_starts_with_one_seal_key_agree() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), &domain()).unwrap();
    let open = async || {
        let seal = SealPlace::File(directory.path().join("seal.key"));
        Authority::open(store.clone(), domain(), &seal, Lives::with_intermediate(30 * DAY)).await.unwrap()
    };
    let (one, two) = tokio::join!(open(), open());
    assert_eq!(one.root().certificate(), two.root().certificate());
}
