//! The way from a leaf to a root: order, validity, usage, depth, keys, and whose roots they are.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd};

use super::pki::{CSR, Ca, KEY, RsaForm, attestor, attestor_with, domain, now, settings};
use super::{Usage, X509Attestor, X509Settings, believed, reason, refused};

#[test]
fn only_the_order_from_leaf_to_root_is_taken() {
    let root = Ca::root("root");
    let upper = root.intermediate("upper");
    let lower = upper.intermediate("lower");
    let attestor = attestor(&root);
    let device = lower.device().below(&[&lower, &upper]);
    believed(&attestor, &device);
    let good = device.prove(&attestor);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut changed = good.clone();
        changed.chain = order.iter().map(|index| good.chain[*index].clone()).collect();
        assert!(attestor.verify(&changed, CSR, now()).is_err(), "{order:?}");
    }
}

#[test]
fn whoever_brings_the_certificate_of_another_is_refused() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let (mine, another) = (root.device(), root.device());
    let stranger = Ca::root("stranger").device();
    let mut proof = mine.prove(&attestor);
    for (chain, expected) in [
        (vec![another.chain[0].clone()], "bad_signature"),
        (vec![another.chain[0].clone(), mine.chain[0].clone()], "unordered_chain"),
        (vec![mine.chain[0].clone(), another.chain[0].clone()], "unordered_chain"),
        (vec![stranger.chain[0].clone(), mine.chain[0].clone()], "unordered_chain"),
        (vec![mine.chain[0].clone(), mine.chain[0].clone()], "unordered_chain"),
        (vec![root.der, mine.chain[0].clone()], "unordered_chain"),
    ] {
        proof.chain = chain;
        assert_eq!(reason(&attestor, &proof), expected);
    }
}

#[test]
fn only_this_attestor_s_roots_count() {
    let (root, other) = (Ca::root("root"), Ca::root("root"));
    assert_eq!(refused(&attestor(&root), &other.device()), "untrusted");
    assert_eq!(refused(&attestor(&root), &other.device().below(&[&other])), "untrusted");
    assert_eq!(refused(&attestor(&root), &Ca::root("another").device()), "untrusted");
}

#[test]
fn the_root_may_be_sent_along_and_proves_nothing() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    believed(&attestor, &root.device().below(&[&root]));
    let mut device = root.device();
    device.chain = vec![root.der];
    assert_eq!(refused(&attestor, &device), "leaf_is_authority");
}

#[test]
fn intermediates_may_come_from_the_settings() {
    let root = Ca::root("root");
    let issuing = root.intermediate("issuing");
    assert_eq!(refused(&attestor(&root), &issuing.device()), "untrusted");
    let pem = Some(issuing.pem.as_bytes());
    let knowing =
        X509Attestor::new("devices", domain(), &settings(), root.pem.as_bytes(), pem, &KEY).unwrap();
    believed(&knowing, &issuing.device());
    // An intermediate is not a root, whoever named it.
    let alone =
        X509Attestor::new("devices", domain(), &settings(), Ca::root("x").pem.as_bytes(), pem, &KEY).unwrap();
    assert_eq!(refused(&alone, &issuing.device()), "untrusted");
}

#[test]
fn validity_counts_from_the_leaf_to_the_root() {
    let (past, future) = (date_time_ymd(2026, 5, 1), date_time_ymd(2026, 7, 1));
    let root = Ca::root("root");
    let here = attestor(&root);
    assert_eq!(refused(&here, &root.device_with(|params| params.not_after = past)), "expired");
    assert_eq!(refused(&here, &root.device_with(|params| params.not_before = future)), "not_yet_valid");
    let ended = root.intermediate_with("ended", |params| params.not_after = past);
    assert_eq!(refused(&here, &ended.device().below(&[&ended])), "expired");
    let early = root.intermediate_with("early", |params| params.not_before = future);
    assert_eq!(refused(&here, &early.device().below(&[&early])), "not_yet_valid");
    let old = Ca::root_with("old", |params| params.not_after = past);
    assert_eq!(refused(&attestor(&old), &old.device()), "untrusted");
}

#[test]
fn the_leaf_must_be_for_this() {
    let root = Ca::root("root");
    let usual = attestor(&root);
    let servers =
        root.device_with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let any = root.device_with(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]);
    let none = root.device_with(|params| params.extended_key_usages.clear());
    for device in [&servers, &any, &none] {
        assert_eq!(refused(&usual, device), "wrong_usage");
    }
    let with = |usages: &[&str]| {
        let usages: Vec<Usage> = usages.iter().map(|usage| usage.parse().unwrap()).collect();
        attestor_with(&root, &X509Settings { eku: Some(usages), ..settings() })
    };
    believed(&with(&["client-auth", "server-auth"]), &servers);
    believed(&with(&["any"]), &none);
    believed(&with(&["1.3.6.1.5.5.7.3.1"]), &servers);
    assert_eq!(refused(&with(&["server-auth"]), &root.device()), "wrong_usage");

    let agreeing = root.device_with(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert_eq!(refused(&usual, &agreeing), "wrong_usage");
    let mail = root.intermediate_with("mail", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    });
    assert_eq!(refused(&usual, &mail.device().below(&[&mail])), "wrong_usage");
    let everything = root.intermediate_with("everything", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    });
    believed(&usual, &everything.device().below(&[&everything]));
}

#[test]
fn authorities_do_not_prove_and_devices_do_not_certify() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    let authority = root.device_with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(refused(&attestor, &authority), "leaf_is_authority");
    let certifying = root.device_with(|params| {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    });
    assert_eq!(refused(&attestor, &certifying), "leaf_is_authority");

    let device = root.intermediate_with("device", |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(refused(&attestor, &device.device().below(&[&device])), "bad_certificate");
    let unable = root.intermediate_with("unable", |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    assert_eq!(refused(&attestor, &unable.device().below(&[&unable])), "bad_certificate");
}

#[test]
fn depth_is_bounded_by_the_settings_and_by_the_authorities() {
    let root = Ca::root("root");
    let one = root.intermediate("one");
    let two = one.intermediate("two");
    let three = two.intermediate("three");
    let here = attestor(&root);
    believed(&here, &two.device().below(&[&two, &one]));
    believed(&here, &two.device().below(&[&two, &one, &root]));
    assert_eq!(refused(&here, &three.device().below(&[&three, &two, &one])), "too_deep");
    let shallow = attestor_with(&root, &X509Settings { max_depth: Some(1), ..settings() });
    believed(&shallow, &root.device());
    assert_eq!(refused(&shallow, &one.device().below(&[&one])), "too_deep");

    // Not around the bound by way of the settings' own intermediates.
    let pem = Some(one.pem.as_bytes());
    let knowing = X509Settings { max_depth: Some(1), ..settings() };
    let knowing = X509Attestor::new("devices", domain(), &knowing, root.pem.as_bytes(), pem, &KEY).unwrap();
    assert_eq!(refused(&knowing, &one.device()), "too_deep");

    let constrained = |length| {
        move |params: &mut rcgen::CertificateParams| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        }
    };
    let last = root.intermediate_with("last", constrained(0));
    let below = last.intermediate("below");
    believed(&here, &last.device().below(&[&last]));
    assert_eq!(refused(&here, &below.device().below(&[&below, &last])), "too_deep");
    let flat = Ca::root_with("flat", constrained(0));
    let below = flat.intermediate("below");
    believed(&attestor(&flat), &flat.device());
    assert_eq!(refused(&attestor(&flat), &below.device().below(&[&below])), "too_deep");
}

#[test]
fn keys_that_are_weak_or_costly_are_refused_by_their_form() {
    let root = Ca::root("root");
    let attestor = attestor(&root);
    for bits in [1024, 2040, 4104, 16384] {
        let mut device = root.device();
        device.chain = vec![root.leaf(&RsaForm::new(bits), |_| {})];
        assert_eq!(refused(&attestor, &device), "bad_key", "{bits}");
    }
    let mut device = root.device();
    device.chain = vec![root.leaf(&RsaForm::new(2048), |_| {})];
    assert_eq!(refused(&attestor, &device), "bad_signature", "the form is right, the signature is not");
}

#[test]
fn roots_that_are_none_are_refused_when_they_are_loaded() {
    let load = |pem: &str| {
        X509Attestor::new("devices", domain(), &settings(), pem.as_bytes(), None, &KEY)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let root = Ca::root("root");
    load(&format!("{}{}", root.pem, Ca::root("other").pem)).unwrap();
    for (wrong, said) in [
        (String::new(), "`ca-file`: expected 1 to 64 certificates in PEM, found 0"),
        ("hello".to_owned(), "found 0"),
        (root.pem.repeat(65), "found 65"),
        (Ca::root_with("x", |params| params.is_ca = IsCa::ExplicitNoCa).pem, "certificate 1"),
        (Ca::root_with("x", |params| params.key_usages = vec![KeyUsagePurpose::CrlSign]).pem, "keyCertSign"),
        (root.pem.replacen("MII", "AAA", 1), "certificate 1"),
    ] {
        let error = load(&wrong).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    let critical = Ca::root_with("x", |params| {
        let mut unknown = rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
        unknown.set_criticality(true);
        params.custom_extensions = vec![unknown];
    });
    assert!(load(&critical.pem).unwrap_err().contains("critical extension"));
}

#[test]
fn name_constraints_of_the_authorities_hold() {
    use rcgen::{GeneralSubtree, NameConstraints};
    let constrained = |subtree: &str| {
        let subtree = GeneralSubtree::DnsName(subtree.to_owned());
        Ca::root_with("constrained", |params| {
            params.name_constraints =
                Some(NameConstraints { permitted_subtrees: vec![subtree], excluded_subtrees: Vec::new() });
        })
    };
    let (fitting, other) = (constrained("example"), constrained("elsewhere"));
    believed(&attestor(&fitting), &fitting.device());
    assert_eq!(refused(&attestor(&other), &other.device()), "untrusted");
}

#[test]
fn what_is_sent_is_on_the_path() {
    let (root, other) = (Ca::root("root"), Ca::root("root"));
    let line = root.intermediate("line");
    let attestor = attestor(&root);
    believed(&attestor, &line.device().below(&[&line]));
    believed(&attestor, &line.device().below(&[&line, &root]));
    let stray = line.device().below(&[&line, &other]);
    assert_eq!(refused(&attestor, &stray), "unused_certificate", "of the name of the root, and not it");
}
