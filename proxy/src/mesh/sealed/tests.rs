//! A sealed copy is what was sealed, or it is refused.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

use super::*;

const DOMAIN: &str = "mesh.test";

struct Fixture {
    directory: TempDir,
    root: Vec<u8>,
    key: WorkloadKey,
    svid: Svid,
}

fn state_key(byte: u8) -> SealingKey {
    SealingKey::new(&[byte; 32]).unwrap()
}

impl Fixture {
    fn new() -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name = DistinguishedName::new();
        ca.distinguished_name.push(DnType::CommonName, "root");
        ca.subject_alt_names = vec![SanType::URI(format!("spiffe://{DOMAIN}").as_str().try_into().unwrap())];
        let root = ca.self_signed(&ca_key).unwrap();
        let key = WorkloadKey::generate().unwrap();
        let own = KeyPair::from_pem(&key.to_pem()).unwrap();
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.subject_alt_names =
            vec![SanType::URI(format!("spiffe://{DOMAIN}/web").as_str().try_into().unwrap())];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        let now = signet_proto::clock::now();
        leaf.not_before = (now - Duration::from_secs(60)).into();
        leaf.not_after = (now + Duration::from_secs(3600)).into();
        let leaf = leaf.signed_by(&own, &Issuer::from_params(&ca, &ca_key)).unwrap();
        let svid = Svid::new(vec![leaf.der().clone()], key.signing_key().unwrap()).unwrap();
        Self { directory: tempfile::tempdir().unwrap(), root: root.der().to_vec(), key, svid }
    }

    fn expected(&self) -> Expected {
        Expected {
            trust_domain: DOMAIN.parse().unwrap(),
            pins: signet_proto::spiffe::sha256(&self.root).into(),
            spiffe_id: None,
        }
    }

    fn keeper(&self, expected: Expected) -> Keeper {
        Keeper::new(self.directory.path().join("state"), state_key(7), expected)
    }

    fn told(&self) -> v1::WatchResponse {
        let bundle = v1::Bundle {
            trust_domain: DOMAIN.into(),
            x509_authorities: vec![self.root.clone()],
            sequence: 1,
            retired_x509_authorities: Vec::new(),
            superseded_issuers: Vec::new(),
            jwt_authorities: Vec::new(),
        };
        v1::WatchResponse {
            revision: 17,
            bundles: Some(v1::Bundles { bundles: vec![bundle] }),
            policies: Some(v1::Policies::default()),
            revocations: Some(v1::Revocations::default()),
            ..v1::WatchResponse::default()
        }
    }

    async fn written(&self) -> Vec<u8> {
        let keeper = self.keeper(self.expected());
        keeper.identity(&self.key, &self.svid);
        keeper.learned(self.told(), v1::Services::default());
        keeper.write().await.unwrap();
        fs::read(&keeper.path).unwrap()
    }
}

fn refusal(keeper: &Keeper) -> String {
    let error = keeper.restore().unwrap_err().to_string();
    assert!(error.contains(&keeper.path.display().to_string()), "it names the file: {error}");
    error
}

#[tokio::test]
async fn what_was_sealed_comes_back_whole_and_is_for_nobody_else_to_read() {
    let fixture = Fixture::new();
    let keeper = fixture.keeper(fixture.expected());
    assert!(keeper.restore().unwrap().is_none(), "there is none yet");
    let bytes = fixture.written().await;
    let restored = keeper.restore().unwrap().unwrap();
    assert_eq!(restored.svid.chain(), fixture.svid.chain());
    assert_eq!(restored.told.revision, 17);
    assert!(restored.saved_at.elapsed().unwrap() < Duration::from_secs(60));
    let mode = fs::metadata(&keeper.path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let clear = |content: &[u8]| bytes.windows(content.len()).any(|window| window == content);
    assert!(!clear(&fixture.key.to_der()) && !clear(&fixture.root) && !clear(b"spiffe://"));
    assert_eq!(fs::read_dir(fixture.directory.path()).unwrap().count(), 1, "no draft is left");
}

#[tokio::test]
async fn what_apps_had_comes_back_for_their_rule_and_no_other() {
    let (fixture, app) = (Fixture::new(), Fixture::new());
    let before = fixture.written().await;
    assert!(before.starts_with(b"signet-state\0\0\0\x01"), "an older proxy reads it, too");
    let keeper = fixture.keeper(fixture.expected());
    let _ = keeper.restore().unwrap().unwrap();
    assert!(keeper.app_before("uid=1000").is_none());
    keeper.app("uid=1000", &app.key, &app.svid);
    keeper.write().await.unwrap();

    let keeper = fixture.keeper(fixture.expected());
    assert!(keeper.app_before("uid=1000").is_none(), "before the file is read");
    let restored = keeper.restore().unwrap().unwrap();
    assert_eq!(restored.svid.chain(), fixture.svid.chain(), "ours is what it was");
    let (key, svid) = keeper.app_before("uid=1000").unwrap();
    assert_eq!((svid.chain(), key.to_der()), (app.svid.chain(), app.key.to_der()));
    assert!(keeper.app_before("uid=1001").is_none());
    let bytes = fs::read(&keeper.path).unwrap();
    let clear = |content: &[u8]| bytes.windows(content.len()).any(|window| window == content);
    assert!(!clear(&app.key.to_der()) && !clear(&app.svid.chain()[0]));

    // What is sealed for a rule opens for that rule only.
    let mut sealed = Sealed::read(&bytes).unwrap();
    let content = sealed.apps.remove("uid=1000").unwrap();
    sealed.apps.insert("uid=1001".into(), content);
    fs::write(&keeper.path, sealed.bytes()).unwrap();
    let moved = fixture.keeper(fixture.expected());
    let _ = moved.restore().unwrap().unwrap();
    assert!(moved.app_before("uid=1001").is_none() && moved.app_before("uid=1000").is_none());

    // Rules that are no more leave nothing behind.
    keeper.only_apps_of(|rule| rule != "uid=1000");
    keeper.write().await.unwrap();
    assert!(fs::read(&keeper.path).unwrap().starts_with(b"signet-state\0\0\0\x01"));
    assert!(keeper.app_before("uid=1000").is_none());
}

#[tokio::test]
async fn without_all_of_it_nothing_is_written() {
    let fixture = Fixture::new();
    let keeper = fixture.keeper(fixture.expected());
    keeper.identity(&fixture.key, &fixture.svid);
    keeper.write().await.unwrap();
    keeper.learned(v1::WatchResponse { policies: None, ..fixture.told() }, v1::Services::default());
    keeper.write().await.unwrap();
    assert!(!keeper.path.exists());
    keeper.learned(v1::WatchResponse { bundles: None, ..fixture.told() }, v1::Services::default());
    keeper.write().await.unwrap();
    assert!(keeper.restore().unwrap().is_some(), "sections that were not said again are still known");
}

#[tokio::test]
async fn every_changed_or_missing_byte_is_refused() {
    let fixture = Fixture::new();
    let bytes = fixture.written().await;
    let keeper = fixture.keeper(fixture.expected());
    let now = signet_proto::clock::now();
    keeper.open(&bytes, now).expect("as it was written");
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        assert!(keeper.open(&changed, now).is_err(), "byte {index}");
        assert!(keeper.open(&bytes[..index], now).is_err(), "cut at {index}");
    }
    assert!(keeper.open(&[bytes.as_slice(), b"x"].concat(), now).is_err());
}

#[tokio::test]
async fn parts_of_two_copies_make_no_third() {
    let fixture = Fixture::new();
    let (one, other) = (fixture.written().await, fixture.written().await);
    let (one, other) = (Sealed::read(&one).unwrap(), Sealed::read(&other).unwrap());
    let mixed = Sealed { identity: other.identity, knowledge: one.knowledge, apps: BTreeMap::new() }.bytes();
    assert!(fixture.keeper(fixture.expected()).open(&mixed, signet_proto::clock::now()).is_err());
}

#[tokio::test]
async fn a_copy_is_for_its_key_its_mesh_its_identity_and_its_time() {
    let fixture = Fixture::new();
    let bytes = fixture.written().await;
    let now = signet_proto::clock::now();
    let expected = fixture.expected();
    let open = |expected: Expected, now| fixture.keeper(expected).open(&bytes, now).map(drop);
    let refused = |result: Result<(), String>, why: &str| {
        let error = result.unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    let wanted = |id: &str| Expected { spiffe_id: Some(id.parse().unwrap()), ..expected.clone() };
    open(wanted("spiffe://mesh.test/web"), now).unwrap();
    refused(open(wanted("spiffe://mesh.test/other"), now), "`spiffe-id` is `spiffe://mesh.test/other`");
    refused(open(Expected { pins: [0; 32].into(), ..expected.clone() }, now), "root that the ticket pins");
    let elsewhere = Expected { trust_domain: "other.test".parse().unwrap(), ..expected.clone() };
    refused(open(elsewhere, now), "does not open");
    refused(open(expected.clone(), now + Duration::from_secs(7200)), "has ended");
    refused(open(expected.clone(), now - Duration::from_secs(3600)), "clock");
    let keeper = Keeper::new(fixture.directory.path().join("state"), state_key(8), expected.clone());
    assert!(refusal(&keeper).contains("another `state-key`"));
    // A revocation that was known holds.
    let revoked = v1::Revocations { identities: vec!["spiffe://mesh.test/web".into()], ..Default::default() };
    let keeper = fixture.keeper(expected);
    keeper.identity(&fixture.key, &fixture.svid);
    let told = v1::WatchResponse { revocations: Some(revoked), ..fixture.told() };
    keeper.learned(told, v1::Services::default());
    keeper.write().await.unwrap();
    assert!(refusal(&keeper).contains("revoked"), "{}", refusal(&keeper));
}

#[tokio::test]
async fn a_file_that_others_can_read_or_that_is_something_else_is_refused() {
    let fixture = Fixture::new();
    let bytes = fixture.written().await;
    let keeper = fixture.keeper(fixture.expected());
    fs::set_permissions(&keeper.path, Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(&keeper).contains("chmod 600"));
    fs::set_permissions(&keeper.path, Permissions::from_mode(0o600)).unwrap();
    for (content, why) in [
        (&b""[..], "damaged or cut short"),
        (b"[[inbound]] listen = \"15443\"", "no state file"),
        (b"signet-state\0\0\0\x03 and something else", "another version"),
    ] {
        fs::write(&keeper.path, content).unwrap();
        assert!(refusal(&keeper).contains(why), "{}", refusal(&keeper));
    }
    let elsewhere = fixture.directory.path().join("elsewhere");
    fs::write(&elsewhere, &bytes).unwrap();
    fs::remove_file(&keeper.path).unwrap();
    symlink(&elsewhere, &keeper.path).unwrap();
    assert!(refusal(&keeper).contains("symbolic link"));
    fs::remove_file(&keeper.path).unwrap();
    fs::create_dir(&keeper.path).unwrap();
    assert!(refusal(&keeper).contains("no regular file"));
}

#[tokio::test]
async fn what_cannot_be_written_leaves_the_older_copy() {
    let fixture = Fixture::new();
    fixture.written().await;
    let keeper = fixture.keeper(fixture.expected());
    keeper.identity(&fixture.key, &fixture.svid);
    keeper.learned(v1::WatchResponse { revision: 18, ..fixture.told() }, v1::Services::default());
    // The draft's place is taken by something that cannot be removed like a file.
    let draft = fixture.directory.path().join("state.new");
    fs::create_dir(&draft).unwrap();
    assert!(keeper.write().await.is_err());
    let there = || fixture.keeper(fixture.expected()).restore().unwrap().unwrap().told.revision;
    assert_eq!(there(), 17);
    fs::remove_dir(&draft).unwrap();
    // What a process left that was killed while it wrote is in nobody's way.
    fs::write(&draft, b"half").unwrap();
    keeper.write().await.unwrap();
    assert_eq!(there(), 18);
}

proptest! {
    #[test]
    fn noise_is_refused_and_harms_nothing(noise in proptest::collection::vec(any::<u8>(), 0..512), ours in prop::option::of(1..3_u8)) {
        let mark = |number| [b"signet-state\0\0\0", &[number][..]].concat();
        let mut bytes = ours.map(mark).unwrap_or_default();
        bytes.extend(noise);
        let read = Sealed::read(&bytes);
        if let Ok(sealed) = read {
            prop_assert!(sealed.open(&state_key(7), &DOMAIN.parse().unwrap()).is_err());
        }
    }
}
