//! What there is to discover, by name, as SPIRE names it: `default` or the SPIFFE ID for the SVID; `ROOTCA` for the
//! authorities of our trust domain; `spiffe://DOMAIN` and `ALL` for Envoy's SPIFFE validator, of one domain or of all, each
//! verified with its own bundle only (invariant 7).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use prost::Message;
use prost_types::Any;
use signet_proto::spiffe::{TrustBundle, pem, sha256};
use signet_proto::standard::envoy::config::core::v3::data_source::Specifier;
use signet_proto::standard::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use signet_proto::standard::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use signet_proto::standard::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use signet_proto::standard::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate,
};
use tonic::Status;

use super::feed::Material;
use crate::identity::Lent;

pub(super) const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";
const SVID: &str = "default";
const AUTHORITIES: &str = "ROOTCA";
const EVERY_DOMAIN: &str = "ALL";
/// As the protocol writes that a client wants all that there is.
const EVERYTHING: &str = "*";
const MOST_NAMES: usize = 64;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Names {
    everything: bool,
    named: BTreeSet<String>,
}

/// What there is of that.
#[derive(Debug)]
pub(super) struct Looked {
    /// By name.
    pub(super) found: BTreeMap<String, Found>,
    /// The names that there is nothing for.
    pub(super) missing: BTreeSet<String>,
    /// The names of this caller, for people.
    there_are: String,
}

/// A secret as it is sent. Not to be printed: there may be a key in it.
pub(super) struct Found {
    /// Of what is in it.
    pub(super) version: String,
    pub(super) resource: Any,
}

impl Names {
    /// Nothing.
    pub(super) const NONE: Self = Self { everything: false, named: BTreeSet::new() };

    /// Those of a client's first request; none means all that there is.
    pub(super) fn of(names: Vec<String>) -> Result<Self, Status> {
        let mut wanted = Self::NONE;
        wanted.change(&[], names)?;
        wanted.everything |= wanted.named.is_empty();
        Ok(wanted)
    }

    /// Less of these, and more of those.
    pub(super) fn change(&mut self, less: &[String], more: Vec<String>) -> Result<(), Status> {
        for name in less {
            self.named.remove(name);
            self.everything &= name != EVERYTHING;
        }
        for name in more.into_iter().filter(|name| !name.is_empty()) {
            if name == EVERYTHING {
                self.everything = true;
            } else {
                self.named.insert(name);
            }
        }
        if self.named.len() > MOST_NAMES {
            return Err(Status::invalid_argument(format!("more than {MOST_NAMES} resource names")));
        }
        Ok(())
    }

    /// Whether anything is asked for by its name.
    pub(super) fn are_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// Whether that is among them.
    pub(super) fn include(&self, name: &str) -> bool {
        self.everything || self.named.contains(name)
    }

    /// Whether an SVID is asked for.
    pub(super) fn want_svid(&self) -> bool {
        let is_bundle = |name: &String| {
            let path = name.strip_prefix("spiffe://").map(|rest| rest.contains('/'));
            matches!(name.as_str(), AUTHORITIES | EVERY_DOMAIN) || path == Some(false)
        };
        self.everything || !self.named.iter().all(is_bundle)
    }
}

/// The secrets of these names.
pub(super) fn look_up(material: &Material, names: &Names) -> Looked {
    let everything = if names.everything { all(material) } else { Vec::new() };
    let mut found: BTreeMap<String, Found> = everything.iter().map(Found::named).collect();
    let mut missing = BTreeSet::new();
    for name in &names.named {
        match one(material, name) {
            Some(secret) => found.extend([Found::named(&secret)]),
            None => drop(missing.insert(name.clone())),
        }
    }
    Looked { found, missing, there_are: there_are(material) }
}

impl Looked {
    /// All of them, with a version that is that of what is in them.
    ///
    /// # Errors
    /// When there is nothing for one of the names.
    pub(super) fn whole(self) -> Result<(String, Vec<Any>), Status> {
        if let Some(name) = self.missing.first() {
            return Err(Status::invalid_argument(self.unknown(name)));
        }
        let version = self.version();
        Ok((version, self.found.into_values().map(|found| found.resource).collect()))
    }

    /// Of all that was found.
    pub(super) fn version(&self) -> String {
        let versions: Vec<&str> = self.found.values().map(|found| found.version.as_str()).collect();
        version(versions.concat().as_bytes())
    }

    /// That there is nothing for this name.
    pub(super) fn unknown(&self, name: &str) -> String {
        let name: String = name.chars().take(256).collect();
        format!("no secret {name:?} for this caller: there are {}", self.there_are)
    }
}

impl Found {
    fn named(secret: &Secret) -> (String, Self) {
        let value = secret.encode_to_vec();
        (
            secret.name.clone(),
            Self { version: version(&value), resource: Any { type_url: TYPE.into(), value } },
        )
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("version", &self.version).finish_non_exhaustive()
    }
}

fn version(of: &[u8]) -> String {
    sha256(of).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn all(material: &Material) -> Vec<Secret> {
    let svid = material.lent.as_ref().map(|lent| certificate(lent.svid().id().as_str(), lent));
    let bundles = material.bundles.iter().map(|bundle| validator(&of_domain(bundle), &[bundle]));
    svid.into_iter().chain(bundles).collect()
}

fn one(material: &Material, name: &str) -> Option<Secret> {
    match name {
        AUTHORITIES => Some(authorities(name, material.own_bundle()?)),
        EVERY_DOMAIN => Some(validator(name, &material.bundles.iter().collect::<Vec<_>>())),
        name => {
            if let Some(bundle) = material.bundles.iter().find(|bundle| of_domain(bundle) == name) {
                return Some(validator(name, &[bundle]));
            }
            let lent = material.lent.as_ref()?;
            (name == SVID || name == lent.svid().id().as_str()).then(|| certificate(name, lent))
        }
    }
}

fn there_are(material: &Material) -> String {
    let svid = material.lent.as_ref().map(|lent| format!("`{SVID}`, `{}`, ", lent.svid().id()));
    let domains: Vec<_> = material.bundles.iter().map(|bundle| format!("`{}`", of_domain(bundle))).collect();
    format!("{}`{AUTHORITIES}`, `{EVERY_DOMAIN}`, {}", svid.unwrap_or_default(), domains.join(", "))
}

fn of_domain(bundle: &TrustBundle) -> String {
    format!("spiffe://{}", bundle.trust_domain())
}

fn certificate(name: &str, lent: &Lent) -> Secret {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(pem(lent.svid().chain()).into_bytes())),
        private_key: Some(inline(lent.key_pem().as_bytes().to_vec())),
    };
    Secret { name: name.into(), r#type: Some(Type::TlsCertificate(certificate)) }
}

fn authorities(name: &str, bundle: &TrustBundle) -> Secret {
    let trusted_ca = Some(inline(bundle.to_pem().into_bytes()));
    let context = CertificateValidationContext { trusted_ca, custom_validator_config: None };
    Secret { name: name.into(), r#type: Some(Type::ValidationContext(context)) }
}

fn validator(name: &str, bundles: &[&TrustBundle]) -> Secret {
    let domain = |bundle: &&TrustBundle| TrustDomain {
        name: bundle.trust_domain().to_string(),
        trust_bundle: Some(inline(bundle.to_pem().into_bytes())),
    };
    let config = SpiffeCertValidatorConfig { trust_domains: bundles.iter().map(domain).collect() };
    let typed_config = Some(Any { type_url: VALIDATOR_TYPE.into(), value: config.encode_to_vec() });
    let custom_validator_config = Some(TypedExtensionConfig { name: VALIDATOR.into(), typed_config });
    let context = CertificateValidationContext { trusted_ca: None, custom_validator_config };
    Secret { name: name.into(), r#type: Some(Type::ValidationContext(context)) }
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }
}
