//! A certificate authority that is not ours: it signs what a test asks for, well-formed or not, for proxies
//! with the `files` identity source and for foreign clients.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::client::file;

/// Distance of a usual validity from now, both ways.
const HOUR: i64 = 3600;

/// A root and an intermediate of one trust domain.
#[derive(Debug)]
pub struct Authority {
    trust_domain: String,
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, as PEM.
#[derive(Debug, Clone)]
pub struct Svid {
    /// The leaf alone.
    pub leaf_pem: String,
    /// What stands between the leaf and the root; may be empty.
    pub chain_pem: String,
    /// PKCS#8.
    pub key_pem: String,
    /// The leaf, DER.
    pub leaf_der: Vec<u8>,
}

/// An [`Svid`] on disk, as `--svid-file` and `--key-file` want it.
#[derive(Debug, Clone)]
pub struct SvidFiles {
    /// Leaf, then intermediates.
    pub svid: PathBuf,
    /// Only the intermediates.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority.
    ///
    /// # Panics
    /// Never on a sane machine.
    #[must_use]
    pub fn new(trust_domain: &str) -> Self {
        let root = CertifiedIssuer::self_signed(
            authority("root", trust_domain, BasicConstraints::Unconstrained),
            key(),
        )
        .expect("a root is signed");
        let params = authority("intermediate", trust_domain, BasicConstraints::Constrained(0));
        let intermediate =
            CertifiedIssuer::signed_by(params, key(), &root).expect("an intermediate is signed");
        Self { trust_domain: trust_domain.to_owned(), root, intermediate }
    }

    /// A SPIFFE ID of its domain.
    #[must_use]
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.trust_domain)
    }

    /// The root certificate, PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.root.as_ref().pem()
    }

    /// The certificate and the key of whom leaves are signed by, PEM.
    #[must_use]
    pub fn issuer_pem(&self) -> (String, String) {
        (self.intermediate.as_ref().pem(), self.intermediate.key().serialize_pem())
    }

    /// Those of the root.
    #[must_use]
    pub fn root_pem(&self) -> (String, String) {
        (self.bundle_pem(), self.root.key().serialize_pem())
    }

    /// The bundle in a file.
    #[must_use]
    pub fn write_bundle(&self, directory: &Path) -> PathBuf {
        file(directory, &format!("{}.bundle.pem", self.trust_domain), self.bundle_pem())
    }

    /// A well-formed SVID for `id`, valid for an hour.
    #[must_use]
    pub fn svid(&self, id: &str) -> Svid {
        self.svid_with(id, |_| ())
    }

    /// An SVID for `id` that `change` bent out of shape.
    #[must_use]
    pub fn svid_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Svid {
        let mut params = leaf(id);
        change(&mut params);
        sign(&params, &self.intermediate, &self.intermediate.as_ref().pem())
    }

    /// A well-formed leaf that the root signed itself.
    #[must_use]
    pub fn svid_from_root(&self, id: &str) -> Svid {
        sign(&leaf(id), &self.root, "")
    }

    /// A well-formed leaf below an intermediate that `change` bent out of shape.
    #[must_use]
    pub fn svid_below(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Svid {
        let mut params = authority("bent intermediate", &self.trust_domain, BasicConstraints::Constrained(0));
        change(&mut params);
        let intermediate = CertifiedIssuer::signed_by(params, key(), &self.root).expect("it signs anything");
        sign(&leaf(id), &intermediate, &intermediate.as_ref().pem())
    }

    /// A leaf signed by another leaf: its holder plays authority.
    #[must_use]
    pub fn svid_signed_by_a_leaf(&self, id: &str) -> Svid {
        let holder =
            CertifiedIssuer::signed_by(leaf(&self.id("/holder")), key(), &self.intermediate).expect("signed");
        let chain = format!("{}{}", holder.as_ref().pem(), self.intermediate.as_ref().pem());
        sign(&leaf(id), &holder, &chain)
    }
}

impl Svid {
    /// Writes `name.pem`, `name.chain.pem` and `name.key`.
    #[must_use]
    pub fn write(&self, directory: &Path, name: &str) -> SvidFiles {
        SvidFiles {
            svid: file(directory, &format!("{name}.pem"), self.svid_pem()),
            chain: file(directory, &format!("{name}.chain.pem"), &self.chain_pem),
            key: file(directory, &format!("{name}.key"), &self.key_pem),
        }
    }

    /// Leaf, then intermediates.
    #[must_use]
    pub fn svid_pem(&self) -> String {
        format!("{}{}", self.leaf_pem, self.chain_pem)
    }
}

/// Sets the validity, as seconds from now.
pub fn valid_between(params: &mut CertificateParams, from: i64, until: i64) {
    let now = signet_proto::clock::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let at = |offset: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(now.saturating_add_signed(offset));
    params.not_before = at(from);
    params.not_after = at(until);
}

/// A URI subject alternative name, without any check.
///
/// # Panics
/// When it is not ASCII, which the field cannot hold.
#[must_use]
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// A DNS subject alternative name.
///
/// # Panics
/// When it is not ASCII.
#[must_use]
pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

fn key() -> KeyPair {
    KeyPair::generate().expect("keys are generated")
}

fn authority(name: &str, trust_domain: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&format!("{trust_domain} {name}"));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_between(&mut params, -HOUR, 24 * HOUR);
    params
}

fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("workload");
    params.subject_alt_names = vec![uri(id)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid_between(&mut params, -10, HOUR);
    params
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn sign(params: &CertificateParams, issuer: &CertifiedIssuer<'static, KeyPair>, chain_pem: &str) -> Svid {
    let key = key();
    let certificate = params.signed_by(&key, issuer).expect("it signs anything");
    Svid {
        leaf_pem: certificate.pem(),
        chain_pem: chain_pem.to_owned(),
        key_pem: key.serialize_pem(),
        leaf_der: certificate.der().to_vec(),
    }
}
