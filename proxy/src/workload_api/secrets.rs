//! What there is to discover, by name, as SPIRE names it: `default` or the SPIFFE ID for the SVID; `ROOTCA` for the
//! authorities of our trust domain; `spiffe://DOMAIN` and `ALL` for Envoy's SPIFFE validator, of one domain or of all, each
//! verified with its own bundle only (invariant 7).

use std::collections::BTreeSet;

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
const MOST_NAMES: usize = 64;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// Those of a request; none means all that there is.
    pub(super) fn of(names: Vec<String>) -> Result<Self, Status> {
        if names.len() > MOST_NAMES {
            return Err(Status::invalid_argument(format!("more than {MOST_NAMES} resource names")));
        }
        Ok(Self(names.into_iter().filter(|name| !name.is_empty()).collect()))
    }

    /// Whether an SVID is asked for.
    pub(super) fn want_svid(&self) -> bool {
        let is_bundle = |name: &String| {
            let path = name.strip_prefix("spiffe://").map(|rest| rest.contains('/'));
            matches!(name.as_str(), AUTHORITIES | EVERY_DOMAIN) || path == Some(false)
        };
        self.0.is_empty() || !self.0.iter().all(is_bundle)
    }
}

/// The secrets of these names, and their version: that of what is in them.
pub(super) fn secrets(material: &Material, names: &Names) -> Result<(Vec<Any>, String), Status> {
    let found = if names.0.is_empty() { all(material) } else { named(material, names)? };
    let resources: Vec<Any> =
        found.iter().map(|secret| Any { type_url: TYPE.into(), value: secret.encode_to_vec() }).collect();
    let contents: Vec<u8> = resources.iter().flat_map(|resource| sha256(&resource.value)).collect();
    let version = sha256(&contents).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok((resources, version))
}

fn all(material: &Material) -> Vec<Secret> {
    let svid = material.lent.as_ref().map(|lent| certificate(lent.svid().id().as_str(), lent));
    let bundles = material.bundles.iter().map(|bundle| validator(&of_domain(bundle), &[bundle]));
    svid.into_iter().chain(bundles).collect()
}

fn named(material: &Material, names: &Names) -> Result<Vec<Secret>, Status> {
    names.0.iter().map(|name| one(material, name).ok_or_else(|| unknown(material, name))).collect()
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

fn unknown(material: &Material, name: &str) -> Status {
    let name: String = name.chars().take(256).collect();
    let svid = material.lent.as_ref().map(|lent| format!("`{SVID}`, `{}`, ", lent.svid().id()));
    let domains: Vec<_> = material.bundles.iter().map(|bundle| format!("`{}`", of_domain(bundle))).collect();
    Status::invalid_argument(format!(
        "no secret {name:?} for this caller: there are {}`{AUTHORITIES}`, `{EVERY_DOMAIN}`, {}",
        svid.unwrap_or_default(),
        domains.join(", ")
    ))
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
