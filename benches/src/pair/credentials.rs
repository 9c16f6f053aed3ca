//! One authority and two workloads, P-256, valid now, for all but Signet, whose come from its control. Beside its SPIFFE ID each certificate has a common name and a
//! DNS name, for those who cannot look at a SPIFFE ID.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

pub(super) const TRUST_DOMAIN: &str = "bench.test";
const VALID: Duration = Duration::from_secs(24 * 3600);
const BACKDATED: Duration = Duration::from_secs(3600);

/// What one end proves itself with.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    /// The SPIFFE ID.
    pub(super) id: String,
    /// Common name and DNS name.
    pub(super) name: String,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file.
    pub(super) combined: PathBuf,
}

/// Everybody who takes part.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) client: Identity,
    pub(super) server: Identity,
    /// The authority's certificate.
    pub(super) bundle: PathBuf,
}

impl Credentials {
    /// Makes them and writes them into `directory`.
    pub(super) fn write(directory: &Path) -> Result<Self> {
        let root = CertifiedIssuer::self_signed(authority()?, KeyPair::generate()?)?;
        let bundle = directory.join("bundle.pem");
        fs::write(&bundle, root.as_ref().pem())?;
        let identity = |name: &str| -> Result<Identity> {
            let id = format!("spiffe://{TRUST_DOMAIN}/{name}");
            let host = format!("{name}.{TRUST_DOMAIN}");
            let pair = KeyPair::generate()?;
            let pem = leaf(&id, &host)?.signed_by(&pair, &root)?.pem();
            let at = |kind: &str| directory.join(format!("{name}{kind}"));
            let (certificate, key, combined) = (at(".pem"), at(".key"), at(".both"));
            fs::write(&certificate, &pem)?;
            fs::write(&key, pair.serialize_pem())?;
            fs::write(&combined, pem + &pair.serialize_pem())?;
            Ok(Identity { id, name: host, certificate, key, combined })
        };
        Ok(Self { client: identity("client")?, server: identity("server")?, bundle })
    }
}

fn authority() -> Result<CertificateParams> {
    let mut params = params("authority")?;
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{TRUST_DOMAIN}").try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf(id: &str, host: &str) -> Result<CertificateParams> {
    let mut params = params(host)?;
    params.subject_alt_names = vec![SanType::URI(id.try_into()?), SanType::DnsName(host.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(common_name: &str) -> Result<CertificateParams> {
    let now = signet_proto::clock::now().duration_since(UNIX_EPOCH)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BACKDATED);
    params.not_after = date_time_ymd(1970, 1, 1) + now + VALID;
    Ok(params)
}
