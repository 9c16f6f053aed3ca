//! What our certificates look like: RFC 5280 and the X509-SVID standard, one function per kind.

use std::time::{Duration, SystemTime};

use rcgen::string::PrintableString;
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use signet_proto::spiffe::{InstanceId, SpiffeId, TrustDomain, check_leaf};

use x509_parser::asn1_rs::Tag;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

use super::CaError;
use super::keys::{KeyCurve, PublicKey, SigningKey};
use super::seal::SealKey;
use super::signer::{Certified, Signer};
use crate::crl::ListsUrl;
use crate::store::model::{AuthorityKind, KeptKey};
use crate::time::whole_seconds;

/// Clocks of verifiers may be behind ours; and what an authority signs starts later than the authority.
const ROOT_BACKDATED: Duration = Duration::from_secs(3600);
const INTERMEDIATE_BACKDATED: Duration = Duration::from_secs(300);
const LEAF_BACKDATED: Duration = Duration::from_secs(10);
/// Upper bound of a common name (RFC 5280, ub-common-name).
const COMMON_NAME: usize = 64;
/// X.520 serialNumber: where the instance is.
const SUBJECT_SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// What a leaf is asked to be.
#[derive(Debug)]
pub struct LeafRequest<'a> {
    /// Whom it names.
    pub id: &'a SpiffeId,
    /// The instance it belongs to; control's own has none.
    pub instance: Option<InstanceId>,
    /// The certified key.
    pub key: &'a PublicKey,
    /// Its DNS names, for clients that check names instead of identities.
    pub dns: &'a [String],
    /// Its life from now.
    pub ttl: Duration,
}

/// An authority that is not certified yet.
pub(super) struct Draft {
    pub(super) id: String,
    pub(super) subject: String,
    pub(super) key: SigningKey,
    pub(super) kept: KeptKey,
}

pub(super) struct Signed {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Draft {
    /// With a key that is sealed.
    pub(super) fn sealed(kind: AuthorityKind, curve: KeyCurve, seal: &SealKey) -> Result<Self, CaError> {
        let id = crate::hex::encode(&random::<16>()?);
        let (key, pkcs8) = SigningKey::generate(curve)?;
        let kept = KeptKey::Sealed(seal.seal(kind.as_str(), &id, &pkcs8)?);
        Ok(Self::new(kind, id, key, kept))
    }

    /// With a key that is kept already.
    pub(super) fn new(kind: AuthorityKind, id: String, key: SigningKey, kept: KeptKey) -> Self {
        let subject = subject(kind, &id);
        Self { id, subject, key, kept }
    }
}

/// What an authority is called.
pub(super) fn subject(kind: AuthorityKind, id: &str) -> String {
    match kind {
        AuthorityKind::Root => format!("Signet Root {id}"),
        AuthorityKind::Intermediate => format!("Signet Intermediate {id}"),
    }
}

pub(super) fn root(
    draft: &Draft,
    domain: &TrustDomain,
    ttl: Duration,
    now: SystemTime,
) -> Result<Signed, CaError> {
    let (not_before, not_after) = (whole_seconds(now - ROOT_BACKDATED), whole_seconds(now + ttl));
    // Below it an intermediate, and above that perhaps the root that takes its place, certified by it.
    let mut params = authority(&draft.subject, domain, 2)?;
    validity(&mut params, not_before, not_after);
    // RFC 5280 4.2.1.1: a self-signed certificate needs no authority key identifier.
    params.use_authority_key_identifier_extension = false;
    let certificate = params.self_signed(&draft.key).map_err(|error| draft.key.explain(error))?.into();
    Ok(Signed { certificate, not_before, not_after })
}

/// The key of a root, certified by the root whose place it takes: whoever knows only that one believes what the new one
/// signed.
pub(super) fn cross(
    root: &Signer,
    by: &Signer,
    domain: &TrustDomain,
    lists: Option<&ListsUrl>,
    now: SystemTime,
) -> Result<CertificateDer<'static>, CaError> {
    let (new, old) = (root.certified(), by.certified());
    let not_before = whole_seconds(now - INTERMEDIATE_BACKDATED).max(old.not_before()).max(new.not_before());
    let mut params = authority(new.subject(), domain, 1)?;
    params.crl_distribution_points = lists_of(by, lists);
    validity(&mut params, not_before, new.not_after().min(old.not_after()));
    let certificate = params.signed_by(root.key(), &issuer(by)).map_err(|error| by.key().explain(error))?;
    Ok(certificate.into())
}

pub(super) fn intermediate(
    draft: &Draft,
    domain: &TrustDomain,
    root: &Signer,
    ttl: Duration,
    lists: Option<&ListsUrl>,
    now: SystemTime,
) -> Result<Signed, CaError> {
    let not_before = whole_seconds(now - INTERMEDIATE_BACKDATED).max(root.certified().not_before());
    let not_after = whole_seconds(now + ttl).min(root.certified().not_after());
    let mut params = authority(&draft.subject, domain, 0)?;
    params.crl_distribution_points = lists_of(root, lists);
    validity(&mut params, not_before, not_after);
    let certificate = params.signed_by(&draft.key, &issuer(root));
    let certificate = certificate.map_err(|error| root.key().explain(error))?.into();
    Ok(Signed { certificate, not_before, not_after })
}

pub(super) fn leaf(
    request: &LeafRequest<'_>,
    intermediate: &Signer,
    lists: Option<&ListsUrl>,
    now: SystemTime,
) -> Result<Signed, CaError> {
    let Certified { not_before: begins, not_after: ends, .. } = intermediate.certified();
    let not_before = whole_seconds(now - LEAF_BACKDATED).max(*begins);
    let not_after = whole_seconds(now + request.ttl).min(*ends);
    let mut params = CertificateParams::default();
    params.distinguished_name = leaf_subject(request)?;
    params.subject_alt_names = vec![SanType::URI(request.id.as_str().try_into()?)];
    for name in request.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    params.crl_distribution_points = lists_of(intermediate, lists);
    validity(&mut params, not_before, not_after);
    let certificate = params.signed_by(request.key, &issuer(intermediate));
    let certificate: CertificateDer<'static> =
        certificate.map_err(|error| intermediate.key().explain(error))?.into();
    // What every peer will check, checked before anyone gets it.
    let read = check_leaf(&certificate)?;
    if read.id != *request.id || read.instance != request.instance {
        return Err(CaError::Crypto("signed certificate names another identity".into()));
    }
    Ok(Signed { certificate, not_before, not_after })
}

fn authority(subject: &str, domain: &TrustDomain, path_length: u8) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(subject);
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").as_str().try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// Where it is said whether what `signer` signed is revoked.
fn lists_of(signer: &Signer, lists: Option<&ListsUrl>) -> Vec<CrlDistributionPoint> {
    let uri = lists.map(|lists| lists.complete(signer.certified().id()));
    uri.map(|uri| CrlDistributionPoint { uris: vec![uri] }).into_iter().collect()
}

/// What a root elsewhere is asked to certify.
pub(super) fn request(draft: &Draft, domain: &TrustDomain) -> Result<CertificateParams, CaError> {
    let mut params = authority(&draft.subject, domain, 0)?;
    // These are for its issuer to say.
    params.serial_number = None;
    params.use_authority_key_identifier_extension = false;
    Ok(params)
}

/// Of a certificate: whoever signs with its key names it by this.
pub(super) fn key_identifier(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    read.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    })
}

/// The common name, if a name is nothing else, in a kind of string that can be written as it was read; and whether that is
/// the narrow one.
pub(super) fn sole_common_name<'n>(name: &'n X509Name<'_>) -> Option<(&'n str, bool)> {
    let mut attributes = name.iter_attributes();
    let (only, None) = (attributes.next()?, attributes.next()) else { return None };
    let narrow = match only.attr_value().tag() {
        Tag::Utf8String => false,
        Tag::PrintableString => true,
        _ => return None,
    };
    let is_common_name = *only.attr_type() == OID_X509_COMMON_NAME;
    is_common_name.then(|| Some((only.as_str().ok()?, narrow))).flatten()
}

/// A name as the certificate of a signer has it: who compares names compares their bytes.
pub(super) fn name_in(certificate: &[u8]) -> Option<DistinguishedName> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let (name, narrow) = sole_common_name(read.subject())?;
    let value = match narrow {
        true => DnValue::PrintableString(PrintableString::try_from(name).ok()?),
        false => DnValue::Utf8String(name.to_owned()),
    };
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, value);
    Some(subject)
}

fn issuer(signer: &Signer) -> Issuer<'static, &SigningKey> {
    let mut params = CertificateParams::default();
    if let Some(identifier) = signer.key_identifier() {
        params.key_identifier_method = KeyIdMethod::PreSpecified(identifier.to_vec());
    }
    params.distinguished_name =
        signer.name().cloned().unwrap_or_else(|| common_name(signer.certified().subject()));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Issuer::new(params, signer.key())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
    subject
}

fn leaf_subject(request: &LeafRequest<'_>) -> Result<DistinguishedName, CaError> {
    // The path of a SPIFFE ID is ASCII, so that a byte is a character.
    let name: String =
        request.id.path().rsplit('/').next().unwrap_or_default().chars().take(COMMON_NAME).collect();
    let mut subject = common_name(&name);
    if let Some(instance) = request.instance {
        subject.push(
            DnType::CustomDnType(SUBJECT_SERIAL_NUMBER.to_vec()),
            DnValue::PrintableString(PrintableString::try_from(instance.to_string())?),
        );
    }
    Ok(subject)
}

/// 128 random bits (invariant 9) as a positive INTEGER that takes exactly 16 bytes: top bit clear, first
/// byte not zero (RFC 5280 4.1.2.2).
fn serial() -> Result<SerialNumber, CaError> {
    loop {
        let mut bytes = random::<16>()?;
        if let Some(first) = bytes.first_mut() {
            *first &= 0x7f;
            if *first != 0 {
                return Ok(SerialNumber::from_slice(&bytes));
            }
        }
    }
}

fn validity(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    let since_epoch = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(not_before);
    params.not_after = epoch + since_epoch(not_after);
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| CaError::Crypto("the system has no randomness to give".into()))?;
    Ok(bytes)
}
