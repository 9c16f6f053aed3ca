//! Another seal key, with a kill anywhere.

use super::*;
use crate::audit::{AuditSigner, AuditStore as _};

#[tokio::test]
async fn everything_opens_with_the_other_seal_key_and_nothing_with_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| SealPlace::File(directory.path().join(name));
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let (root, store) = (authority.root().sha256(), authority.store.clone());
    authority.rotate_intermediate(Actor::control()).await.unwrap();
    store.create_audit_key(AuditSigner::generate(authority.seal()).unwrap()).await.unwrap();
    drop(authority);
    assert_eq!(reseal(&store, &place("seal.key"), &place("next.key")).await.unwrap(), Resealed::Done(5));
    assert_eq!(reseal(&store, &place("seal.key"), &place("next.key")).await.unwrap(), Resealed::Already(5));
    let open = async |place: &SealPlace| {
        Authority::open(store.clone(), domain(), place, Lives::with_intermediate(30 * DAY)).await
    };
    assert!(matches!(open(&place("seal.key")).await, Err(CaError::Seal(SealError::Refused { .. }))));
    let authority = open(&place("next.key")).await.unwrap();
    assert_eq!(authority.root().sha256(), root);
    assert_eq!(crl_signers(&authority).await.len(), 3);
    AuditSigner::unseal(&store.audit_key().await.unwrap().unwrap(), authority.seal()).unwrap();

    let before = store.sealed_keys().await.unwrap();
    let wrong = reseal(&store, &place("seal.key"), &place("third.key")).await.unwrap_err();
    assert!(matches!(wrong, CaError::Seal(SealError::Refused { .. })), "{wrong}");
    let missing = reseal(&store, &place("fourth.key"), &place("third.key")).await.unwrap_err();
    assert!(matches!(missing, CaError::Seal(SealError::Missing(_))), "{missing}");
    assert_eq!(store.sealed_keys().await.unwrap(), before);
    // The key of an attempt that was killed before its commit is taken up.
    assert!(directory.path().join("third.key").exists());
    assert_eq!(reseal(&store, &place("next.key"), &place("third.key")).await.unwrap(), Resealed::Done(5));
}
