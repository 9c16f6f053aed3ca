//! Revocation lists of other authorities, as files hold them: no input panics, what is accepted stays accepted only as it
//! is, and of all lists the only one that counts is the one that the authority signed. Input that begins with `!` is
//! what to change in that one: a place and a byte each.
//!
//! `tests/fuzz/run 60 crl`

#![no_main]
#![forbid(unsafe_code)]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use signet_proto::handshake::{ListState, Lists};
use signet_proto::spiffe::{ListSigner, RevocationList, revocation_lists};

/// An authority, and the one list that it signed.
static SIGNED: LazyLock<(ListSigner, Vec<u8>)> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = params.self_signed(&key).expect("signed");
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        next_update: date_time_ymd(2026, 2, 1),
        crl_number: SerialNumber::from(7_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(0x1234_u64),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&Issuer::new(params, key)).expect("signed").der().to_vec();
    (ListSigner::of(root.der()).expect("well formed"), list)
});

fuzz_target!(|input: &[u8]| {
    if let Some(changes) = input.strip_prefix(b"!") {
        let mut list = SIGNED.1.clone();
        for change in changes.chunks_exact(2) {
            let place = usize::from(change[0]) * 2 % list.len();
            list[place] = change[1];
        }
        one(&list);
        return;
    }
    if let Ok(lists) = revocation_lists(input, 4) {
        assert!(!lists.is_empty() && lists.len() <= 4);
    }
    one(input);
});

fn one(der: &[u8]) {
    let Ok(list) = RevocationList::read(der) else { return };
    assert!(list.this_update() <= list.next_update());
    assert!(!list.names(&[]) && !list.names(&[1; 21]));
    assert!(!list.issuer().chars().any(char::is_control));
    assert!(RevocationList::read(&[der, &[0]].concat()).is_err());
    assert!(RevocationList::read(&der[..der.len() - 1]).is_err());
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_000_000);
    let taken = Lists::default().with(vec![list], std::slice::from_ref(&SIGNED.0), now).taken;
    if taken.iter().any(|list| list.state() == ListState::Used) {
        assert_eq!(der, SIGNED.1, "only what was signed counts");
    }
}
