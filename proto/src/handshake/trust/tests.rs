//! A chain that was believed a moment ago is believed again only if everything still holds.

use std::time::Duration;

use super::*;
use crate::clock;
use crate::handshake::test_ca::{Listing, TestCa};
use crate::handshake::{PeerIdentity, Svid};
use crate::spiffe::{CertificateHandle, certificate_handle};
use crate::v1;

const HOUR: Duration = Duration::from_secs(3600);

fn verdict_at(trust: &Trust, chain: &[CertificateDer<'_>], at: SystemTime) -> Option<&'static str> {
    let (leaf, above) = chain.split_first().unwrap();
    trust.verify(leaf, above, at, Role::Client).err().map(|error| error.reason())
}

fn verdict(trust: &Trust, chain: &[CertificateDer<'_>]) -> Option<&'static str> {
    verdict_at(trust, chain, clock::now())
}

/// An SVID that was verified twice already.
fn known(ca: &TestCa, path: &str) -> Svid {
    let svid = ca.svid(path);
    assert_eq!([(); 2].map(|()| verdict(&ca.trust(), svid.chain())), [None, None]);
    svid
}

fn presented(chain: &[CertificateDer<'_>]) -> Arc<Presented> {
    Presented::read(&chain[0], &chain[1..]).unwrap()
}

#[test]
fn known_chain_is_held_against_the_clock() {
    let brief = clock::now() + HOUR / 4;
    let ca = TestCa::with_root("td", |root| root.not_after = brief.into());
    let svid = known(&ca, "/a");
    let at = |when| verdict_at(&ca.trust(), svid.chain(), when);
    assert_eq!(at(clock::now() + HOUR / 8), None);
    assert_eq!(at(clock::now() - HOUR), Some("not_yet_valid"));
    assert_eq!(at(clock::now() + HOUR / 2), Some("untrusted"), "the root's time is over");
    let lasting = TestCa::new("td");
    let svid = known(&lasting, "/a");
    assert_eq!(verdict_at(&lasting.trust(), svid.chain(), svid.end()), Some("expired"));
}

#[test]
fn known_chain_is_held_against_the_bundle_of_its_own_domain_now() {
    let (ca, other) = (TestCa::new("td"), TestCa::new("other"));
    let svid = known(&ca, "/a");
    let twin = TestCa::imitating(&ca, "td");
    let trust = |bundles: Vec<TrustBundle>| Trust::new(bundles, Revocations::default());
    assert_eq!(verdict(&trust(vec![ca.bundle(), other.bundle()]), svid.chain()), None);
    assert_eq!(verdict(&trust(vec![other.bundle()]), svid.chain()), Some("unknown_trust_domain"));
    assert_eq!(verdict(&trust(vec![twin.bundle()]), svid.chain()), Some("untrusted"));
    let retired = twin.bundle().with_retired(vec![ca.root().clone()]).unwrap();
    assert_eq!(verdict(&trust(vec![retired]), svid.chain()), Some("untrusted"));
    // Both domains are trusted, each by the root of a mesh that calls itself `td`.
    let swapped = TestCa::imitating(&ca, "other");
    let both = trust(vec![twin.bundle(), swapped.bundle()]);
    assert_eq!(verdict(&both, known(&swapped, "/a").chain()), None);
    assert_eq!(verdict(&both, svid.chain()), Some("untrusted"));
}

#[test]
fn known_chain_is_held_against_what_is_revoked_now() {
    let ca = TestCa::new("td");
    let svid = known(&ca, "/a");
    let [leaf, issuer] = [0, 1].map(|index| certificate_handle(&svid.chain()[index]).unwrap());
    let certificate = |handle: &CertificateHandle| v1::RevokedCertificate {
        issuer_sha256: handle.issuer_sha256.to_vec(),
        serial: handle.serial.clone(),
    };
    let instance = svid.profile().instance.unwrap().to_string();
    for (revoked, reason) in [
        (
            v1::Revocations { identities: vec![svid.id().to_string()], ..Default::default() },
            "revoked_identity",
        ),
        (
            v1::Revocations {
                instances: vec![v1::RevokedInstance { instance, lapsed: true }],
                ..Default::default()
            },
            "lapsed",
        ),
        (
            v1::Revocations { certificates: vec![certificate(&leaf)], ..Default::default() },
            "revoked_certificate",
        ),
        (
            v1::Revocations { certificates: vec![certificate(&issuer)], ..Default::default() },
            "revoked_certificate",
        ),
        (v1::Revocations { keys: vec![issuer.spki_sha256.to_vec()], ..Default::default() }, "revoked_key"),
    ] {
        let trust = Trust::new([ca.bundle()], revoked.try_into().unwrap());
        assert_eq!(verdict(&trust, svid.chain()), Some(reason));
    }
    let now = clock::now();
    let listing = Listing { number: 1, made: now - HOUR, until: now + HOUR, names: &[&leaf.serial] };
    let signers: Vec<_> = list_signers(&ca.bundle()).collect();
    let lists = Lists::default().with(vec![listing.signed_by(ca.issuer())], &signers, now).lists;
    let trust = Trust::new([ca.bundle()], Revocations::default()).with_lists(lists);
    assert_eq!(verdict(&trust, svid.chain()), Some("revoked_certificate"));
}

#[test]
fn known_leaf_is_judged_by_the_chain_that_comes_with_it() {
    let ca = TestCa::new("td");
    let (svid, twin) = (known(&ca, "/a"), TestCa::imitating(&ca, "td"));
    let [leaf, issuer] = [svid.chain()[0].clone(), svid.chain()[1].clone()];
    let theirs = known(&twin, "/a").chain()[1].clone();
    assert_eq!(verdict(&ca.trust(), std::slice::from_ref(&leaf)), Some("untrusted"));
    assert_eq!(verdict(&ca.trust(), &[leaf.clone(), theirs.clone()]), Some("untrusted"));
    assert_eq!(verdict(&twin.trust(), &[leaf.clone(), theirs.clone()]), Some("untrusted"));
    let beside = [leaf.clone(), issuer.clone(), theirs.clone()];
    assert_eq!([(); 2].map(|()| verdict(&ca.trust(), &beside)), [None, None]);
    let key = certificate_handle(&theirs).unwrap().spki_sha256.to_vec();
    let revoked = v1::Revocations { keys: vec![key], ..Default::default() };
    let trust = Trust::new([ca.bundle()], revoked.try_into().unwrap());
    assert_eq!(verdict(&trust, &beside), Some("revoked_key"));
    assert_eq!(verdict(&trust, &[leaf, issuer]), None);
}

#[test]
fn known_chain_with_one_bit_changed_is_unknown_and_refused() {
    let ca = TestCa::new("td");
    let svid = known(&ca, "/a");
    for (element, length) in svid.chain().iter().map(|certificate| certificate.len()).enumerate() {
        for position in 0..length {
            let mut chain = svid.chain().to_vec();
            let mut bytes = chain[element].to_vec();
            bytes[position] ^= 1;
            chain[element] = bytes.into();
            assert!(verdict(&ca.trust(), &chain).is_some(), "byte {position} of certificate {element}");
        }
    }
    assert_eq!(verdict(&ca.trust(), svid.chain()), None);
}

#[test]
fn what_is_kept_is_what_was_read_and_only_of_who_was_believed() {
    let (ca, stranger) = (TestCa::new("td"), TestCa::new("td"));
    let refused = stranger.svid("/a");
    assert_eq!(verdict(&ca.trust(), refused.chain()), Some("untrusted"));
    assert!(!Arc::ptr_eq(&presented(refused.chain()), &presented(refused.chain())));

    let svid = ca.svid("/a");
    let read = presented(svid.chain());
    assert_eq!(verdict(&ca.trust(), svid.chain()), None);
    assert!(!Arc::ptr_eq(&read, &presented(svid.chain())), "to show a chain is not to have its key");
    PeerIdentity::from_verified(Some(svid.chain())).unwrap();
    let kept = presented(svid.chain());
    assert!(Arc::ptr_eq(&kept, &presented(svid.chain())));
    assert_eq!(read.profile, *svid.profile());
    assert_eq!((&read.profile, read.leaf_sha256), (&kept.profile, kept.leaf_sha256));
    assert_eq!((&read.handles, &read.chain), (&kept.handles, &kept.chain));
    assert_eq!(&*read.chain, svid.chain());
    let handles = svid.chain().iter().map(|element| certificate_handle(element).unwrap());
    assert_eq!(&*read.handles, handles.collect::<Vec<_>>());
    let leaf_alone = presented(&svid.chain()[..1]);
    assert_eq!((leaf_alone.handles.len(), leaf_alone.chain.len()), (1, 1));
}
