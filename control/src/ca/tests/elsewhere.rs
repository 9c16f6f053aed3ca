//! Roots that are kept elsewhere: rcgen is one here.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::*;

/// Somebody's root.
struct Elsewhere {
    params: CertificateParams,
    key: KeyPair,
    certificate: Vec<u8>,
}

impl Elsewhere {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, "Root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        lives(&mut params, Duration::from_secs(60), 3650 * DAY);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { params, key, certificate }
    }

    /// Signs a request, as `change` has it.
    fn chain(&self, pem: &str, change: impl FnOnce(&mut CertificateParams)) -> Vec<Vec<u8>> {
        let request = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, read) = X509CertificationRequest::from_der(&request).unwrap();
        let info = &read.certification_request_info;
        let mut params = CertificateParams::default();
        let name = info.subject.iter_common_name().next().unwrap().as_str().unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        lives(&mut params, Duration::from_secs(60), 90 * DAY);
        change(&mut params);
        let key = PublicKey {
            bytes: info.subject_pki.subject_public_key.data.to_vec(),
            algorithm: KeyCurve::P256.algorithm(),
        };
        let signed = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        vec![signed.der().to_vec(), self.certificate.clone()]
    }
}

fn lives(params: &mut CertificateParams, before: Duration, after: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = time::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    params.not_before = epoch + now - before;
    params.not_after = epoch + now + after;
}

async fn asked(authority: &Authority) -> String {
    authority.signing_request(false, Actor::control()).await.unwrap().1
}

#[tokio::test]
async fn root_elsewhere_takes_the_place_of_ours_and_signs_the_next_intermediate() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let root = Elsewhere::new(|_| {});
    let none = authority.install(&[], Actor::control()).await.unwrap_err();
    assert!(matches!(none, CaError::NothingAsked), "{none}");
    let first = asked(&authority).await;
    assert_eq!(first, asked(&authority).await, "until it is installed");
    let (_, anew) = authority.signing_request(true, Actor::control()).await.unwrap();
    assert_ne!(first, anew);
    drop(authority);
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let installed = authority.install(&root.chain(&anew, |_| {}), Actor::control()).await.unwrap().id;
    assert_ne!(authority.intermediate().certified().id(), installed, "nobody knows its root yet");
    assert_eq!(authority.bundle().authorities().len(), 2);

    let prepared = authority.named("root", &[Phase::Prepared]).await.unwrap();
    authority.activate(&prepared, false, Actor::control()).await.unwrap();
    assert_eq!(authority.intermediate().certified().id(), installed);
    drop(authority);
    let authority = open(&directory, 30 * DAY).await.unwrap();
    assert!(authority.root_is_elsewhere());
    let workload = WorkloadKey::generate().unwrap();
    let key = crate::issue::tests_csr(&workload, &id("/orders"));
    let ask = LeafRequest { id: &id("/orders"), instance: None, key: &key, dns: &[], ttl: DAY };
    let svid = Svid::new(authority.sign(&ask).unwrap().chain, workload.signing_key().unwrap()).unwrap();
    let trust = Trust::new([(*authority.bundle()).clone()], Revocations::default());
    svid.check(&trust, time::now()).unwrap();
    let alone = authority.rotate_intermediate(Actor::control()).await.unwrap_err();
    assert!(matches!(alone, CaError::RootElsewhere(_)), "{alone}");
    assert!(
        authority
            .due(Some(&[]), time::now() + 80 * DAY)
            .iter()
            .all(|step| !matches!(step, Step::ReplaceIntermediate(_)))
    );
    assert!(!authority.is_awaited(time::now()) && authority.is_awaited(time::now() + 80 * DAY));
    assert!(authority.warnings(time::now() + 80 * DAY).iter().any(|told| told.contains("signet ca csr")));

    let chain = root.chain(&asked(&authority).await, |_| {});
    let next = authority.install(&chain, Actor::control()).await.unwrap().id;
    assert_eq!(authority.intermediate().certified().id(), next, "below the same root it signs at once");
    let signers = crl_signers(&authority).await;
    assert!(
        signers.iter().any(|(_, signer)| signer.certified().id() == installed),
        "the one before signs its lists"
    );
}

#[tokio::test]
async fn chain_that_a_proxy_would_not_believe_is_refused_and_the_request_waits_on() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let request = asked(&authority).await;
    let root = Elsewhere::new(|_| {});
    let other = Elsewhere::new(|params| lives(params, Duration::from_secs(60), 3650 * DAY));
    let mixed = vec![root.chain(&request, |_| {})[0].clone(), other.certificate.clone()];
    let name =
        |params: &mut CertificateParams| params.distinguished_name.push(DnType::OrganizationName, "Example");
    let foreign = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://other.example".try_into().unwrap())];
    };
    let domain_of = Elsewhere::new(|_| {});
    let another = {
        let elsewhere = tempfile::tempdir().unwrap();
        let authority = open(&elsewhere, 30 * DAY).await.unwrap();
        root.chain(&asked(&authority).await, |_| {})
    };
    let no_lists = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let short = Elsewhere::new(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let ends = Elsewhere::new(|params| lives(params, Duration::from_secs(60), 30 * DAY));
    let mut below = Elsewhere::new(|params| params.distinguished_name.push(DnType::CommonName, "Below"));
    let signed = below.params.signed_by(&below.key, &Issuer::from_params(&root.params, &root.key)).unwrap();
    below.certificate = signed.der().to_vec();
    let cases = [
        (vec![root.certificate.clone()], "expected two certificates"),
        (vec![vec![1], root.certificate.clone()], "the intermediate is no certificate"),
        (mixed, "would not be believed"),
        (another, "for another key"),
        (root.chain(&request, name), "without changing names"),
        (domain_of.chain(&request, foreign), "cannot sign SVIDs"),
        (root.chain(&request, no_lists), "the intermediate may not sign revocation lists"),
        (Elsewhere::new(no_lists).chain(&request, |_| {}), "the root may not sign revocation lists"),
        (root.chain(&request, |params| params.is_ca = IsCa::ExplicitNoCa), "cannot sign SVIDs"),
        (below.chain(&request, |_| {}), "expected a root, which is signed by itself"),
        (short.chain(&request, |_| {}), "path length of 0"),
        (ends.chain(&request, |_| {}), "after its root"),
        (root.chain(&request, |params| lives(params, DAY, Duration::from_secs(600))), "1h more"),
    ];
    for (chain, told) in cases {
        let error = authority.install(&chain, Actor::control()).await.unwrap_err().to_string();
        assert!(error.contains(told), "{told}: {error}");
    }
    assert_eq!(asked(&authority).await, request);
    assert_eq!(authority.bundle().authorities().len(), 1);
    authority.install(&root.chain(&request, |_| {}), Actor::control()).await.unwrap();
}

#[tokio::test]
async fn name_written_as_another_kind_of_string_is_the_same_name_in_all_that_it_signs() {
    let directory = tempfile::tempdir().unwrap();
    let authority = open(&directory, 30 * DAY).await.unwrap();
    let root = Elsewhere::new(|_| {});
    let narrow = |params: &mut CertificateParams| {
        let Some(rcgen::DnValue::Utf8String(name)) =
            params.distinguished_name.get(&DnType::CommonName).cloned()
        else {
            panic!("not what the request has");
        };
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = rcgen::DnValue::PrintableString(name.as_str().try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
    };
    let chain = root.chain(&asked(&authority).await, narrow);
    let plain = root.chain(&asked(&authority).await, |_| {});
    let subject = |chain: &[Vec<u8>]| {
        let (_, read) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
        read.subject().as_raw().to_vec()
    };
    assert_ne!(subject(&chain), subject(&plain), "else this shows nothing");
    let installed = authority.install(&chain, Actor::control()).await.unwrap();
    let prepared = authority.named("root", &[Phase::Prepared]).await.unwrap();
    assert_eq!(installed.root.as_deref(), Some(prepared.id.as_str()));
    authority.activate(&prepared, false, Actor::control()).await.unwrap();
    drop(authority);

    let authority = open(&directory, 30 * DAY).await.unwrap();
    let workload = WorkloadKey::generate().unwrap();
    let key = crate::issue::tests_csr(&workload, &id("/orders"));
    let ask = LeafRequest { id: &id("/orders"), instance: None, key: &key, dns: &[], ttl: DAY };
    let signed = authority.sign(&ask).unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&signed.chain[0]).unwrap();
    assert_eq!(leaf.issuer().as_raw(), subject(&chain));
    let svid = Svid::new(signed.chain.clone(), workload.signing_key().unwrap()).unwrap();
    svid.check(&Trust::new([(*authority.bundle()).clone()], Revocations::default()), time::now()).unwrap();
}
