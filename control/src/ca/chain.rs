//! What comes back from a root that is kept elsewhere: a certificate for the key that was asked for, and the root. Looked
//! at with the eyes of a proxy, before anything rests on it.

use std::time::{Duration, SystemTime};

use rcgen::PublicKeyData as _;
use rustls::pki_types::CertificateDer;
use signet_proto::handshake::{Revocations, Svid, Trust, WorkloadKey};
use signet_proto::spiffe::{
    BundleError, SpiffeId, SvidError, TrustBundle, TrustDomain, certificate_handle, check_intermediate,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

use super::keys::{PublicKey, SigningKey};
use super::profile::{self, LeafRequest};
use super::signer::{Certified, Signer};
use super::{CaError, KeyCurve};
use crate::duration::Span;
use crate::time;

/// Why a chain is not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Not two certificates.
    #[error("chain: expected two certificates, the intermediate and then its root, found {0}")]
    Count(usize),
    /// Not a certificate.
    #[error("chain: the {0} is no certificate that can be read")]
    Unreadable(&'static str),
    /// It is for another key.
    #[error("chain: the intermediate is for another key than the one of `signet ca csr`: sign that request")]
    Key,
    /// It names somebody else.
    #[error(
        "chain: the intermediate's subject is `{found}`, expected `{expected}` as in the request: sign it without changing names"
    )]
    Subject {
        /// Of the request.
        expected: String,
        /// Of the certificate.
        found: String,
    },
    /// It breaks a rule of the standard.
    #[error("chain: the intermediate cannot sign SVIDs: {0}")]
    Profile(#[from] SvidError),
    /// It may not sign revocation lists.
    #[error(
        "chain: the {0} may not sign revocation lists: expected `keyUsage = critical, keyCertSign, cRLSign`"
    )]
    NoCrlSign(&'static str),
    /// Verifiers look for it.
    #[error("chain: the {0} has no subject key identifier: sign it with `subjectKeyIdentifier = hash`")]
    NoKeyIdentifier(&'static str),
    /// It is below something else, which nobody knows here.
    #[error(
        "chain: what comes after the intermediate is signed by `{0}`: expected a root, which is signed by itself"
    )]
    NotRoot(String),
    /// The root allows too little.
    #[error(
        "chain: the root has a path length of 0: expected 1 at least, as there is an intermediate below it"
    )]
    PathLength,
    /// Somebody else may have it.
    #[error("chain: the root has the key of root {0}, which is compromised: make another key")]
    Compromised(String),
    /// It ends after its root.
    #[error(
        "chain: the intermediate ends {intermediate}, after its root ({root}): what ends later is not believed"
    )]
    Outlives {
        /// When it ends.
        intermediate: String,
        /// When the root does.
        root: String,
    },
    /// There is no time left.
    #[error("chain: the {what} is good from {from} to {to}, expected now and {least} more at least")]
    Time {
        /// Which certificate.
        what: &'static str,
        /// Its begin.
        from: String,
        /// Its end.
        to: String,
        /// How long it should be good from now on.
        least: Span,
    },
    /// The root is no anchor.
    #[error("chain: the root cannot be a trust anchor: {0}")]
    Root(#[from] BundleError),
    /// A proxy would not believe it.
    #[error("chain: what the intermediate signs would not be believed by the root: {0}")]
    Unbelievable(String),
}

/// A chain that holds.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) intermediate: Certified,
    pub(super) root: Certified,
}

/// Of the leaf that is looked at.
const LEAF: Duration = Duration::from_secs(60);

/// Checks a chain for the request `id`, whose key is at hand; it should be good for `least` from now on.
pub(super) fn check(
    request: &[u8],
    id: &str,
    key: SigningKey,
    chain: &[Vec<u8>],
    domain: &TrustDomain,
    least: Duration,
    now: SystemTime,
) -> Result<Checked, CaError> {
    let [intermediate_der, root_der] = chain else { return Err(ChainError::Count(chain.len()).into()) };
    let intermediate = parsed(intermediate_der).ok_or(ChainError::Unreadable("intermediate"))?;
    let root = parsed(root_der).ok_or(ChainError::Unreadable("root"))?;
    let (_, asked) = X509CertificationRequest::from_der(request)
        .map_err(|_| CaError::Crypto("the stored request cannot be read".into()))?;
    let asked = &asked.certification_request_info;
    if intermediate.public_key().raw != asked.subject_pki.raw {
        return Err(ChainError::Key.into());
    }
    if !same_name(intermediate.subject(), &asked.subject) {
        let (expected, found) = (asked.subject.to_string(), intermediate.subject().to_string());
        return Err(ChainError::Subject { expected, found }.into());
    }
    check_intermediate(intermediate_der, domain).map_err(ChainError::Profile)?;
    for (what, certificate) in [("intermediate", &intermediate), ("root", &root)] {
        let usage = certificate.key_usage().ok().flatten();
        if !usage.is_some_and(|usage| usage.value.crl_sign()) {
            return Err(ChainError::NoCrlSign(what).into());
        }
        let (from, to) = (not_before(certificate), not_after(certificate));
        if from > now || to < now + least {
            let (from, to) = (time::rfc3339(from), time::rfc3339(to));
            return Err(ChainError::Time { what, from, to, least: Span(least) }.into());
        }
    }
    if root.issuer().as_raw() != root.subject().as_raw() {
        return Err(ChainError::NotRoot(root.issuer().to_string()).into());
    }
    let constraints = root.basic_constraints().ok().flatten();
    if constraints.is_some_and(|one| one.value.path_len_constraint == Some(0)) {
        return Err(ChainError::PathLength.into());
    }
    if not_after(&intermediate) > not_after(&root) {
        let (intermediate, root) = (time::rfc3339(not_after(&intermediate)), time::rfc3339(not_after(&root)));
        return Err(ChainError::Outlives { intermediate, root }.into());
    }
    let root =
        certified(crate::hex::encode(crate::sha256(root_der).get(..16).unwrap_or_default()), &root, root_der)
            .ok_or(ChainError::NoKeyIdentifier("root"))?;
    let intermediate = certified(id.to_owned(), &intermediate, intermediate_der)
        .ok_or(ChainError::NoKeyIdentifier("intermediate"))?;
    let bundle =
        TrustBundle::new(domain.clone(), vec![root.certificate.clone()], 1).map_err(ChainError::Root)?;
    let signer = Signer::new(intermediate, key);
    believed(&signer, bundle, domain, now)?;
    Ok(Checked { intermediate: signer.certified().clone(), root })
}

/// A leaf is signed for nobody, and verified as a proxy does.
fn believed(
    signer: &Signer,
    bundle: TrustBundle,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), CaError> {
    let failed = |error: &dyn std::fmt::Display| CaError::Crypto(error.to_string());
    let (key, pkcs8) = SigningKey::generate(KeyCurve::P256)?;
    let id = SpiffeId::new(domain, "/signet/nobody").map_err(|error| failed(&error))?;
    let point = PublicKey { bytes: key.der_bytes().to_vec(), algorithm: key.algorithm() };
    let request = LeafRequest { id: &id, instance: None, key: &point, dns: &[], ttl: LEAF };
    let leaf = profile::leaf(&request, signer, None, now)?.certificate;
    let key = WorkloadKey::signing_key_from_der(&pkcs8).map_err(|error| failed(&error))?;
    let chain = vec![leaf, signer.certified().certificate().clone()];
    let svid = Svid::new(chain, key).map_err(|error| ChainError::Unbelievable(error.to_string()))?;
    let trust = Trust::new([bundle], Revocations::default());
    svid.check(&trust, now).map_err(|error| ChainError::Unbelievable(error.to_string()))?;
    Ok(())
}

/// When the first certificate of a chain ends, whatever else is to be said of it.
pub(super) fn ends(chain: &[Vec<u8>]) -> Option<SystemTime> {
    parsed(chain.first()?).map(|one| not_after(&one))
}

/// Whether both are one common name and the same. An issuer may write its letters as another kind of string (as all do that
/// are made with Go): what is signed names it as its certificate does.
fn same_name(found: &X509Name<'_>, asked: &X509Name<'_>) -> bool {
    match (profile::sole_common_name(found), profile::sole_common_name(asked)) {
        (Some((found, _)), Some((asked, _))) => found == asked,
        _ => false,
    }
}

fn parsed(der: &[u8]) -> Option<X509Certificate<'_>> {
    let (rest, read) = X509Certificate::from_der(der).ok()?;
    rest.is_empty().then_some(read)
}

fn certified(id: String, read: &X509Certificate<'_>, der: &[u8]) -> Option<Certified> {
    profile::key_identifier(der)?;
    let name = read.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Some(Certified {
        id,
        subject: name.map_or_else(|| read.subject().to_string(), str::to_owned),
        certificate: CertificateDer::from(der.to_vec()),
        not_before: not_before(read),
        not_after: not_after(read),
    })
}

fn not_before(read: &X509Certificate<'_>) -> SystemTime {
    time::from_millis(read.validity().not_before.timestamp().saturating_mul(1000))
}

fn not_after(read: &X509Certificate<'_>) -> SystemTime {
    time::from_millis(read.validity().not_after.timestamp().saturating_mul(1000))
}
/// Whether two certificates are for one key.
pub(super) fn same_key(one: &[u8], other: &[u8]) -> bool {
    let key = |der| certificate_handle(der).map(|handle| handle.spki_sha256).ok();
    key(one).is_some_and(|one| key(other) == Some(one))
}
