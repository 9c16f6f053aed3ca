//! Taking it away, giving it back, and having it renewed.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use signet_proto::policy::Pattern;
use signet_proto::spiffe::certificate_handle;

use super::Wait;
use crate::roles::Scope;

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["id", "instance", "serial", "key", "owner", "issuer"])]
pub(in crate::cli) struct RevokeWhat {
    /// A whole identity with all its instances, or all below one: `spiffe://mesh.local/batch/*`
    #[arg(value_name = "ID|SUBTREE")]
    pub(in crate::cli) id: Option<Pattern>,
    /// One attested instance, as `signet identities` shows it
    #[arg(long)]
    pub(in crate::cli) instance: Option<String>,
    /// One certificate, and with it the instance that holds it
    #[arg(long)]
    pub(in crate::cli) serial: Option<String>,
    /// A key, with every instance that has it: SHA-256 of its SubjectPublicKeyInfo, or a PEM file with it or with a
    /// certificate for it
    #[arg(long, value_name = "SHA256|FILE")]
    pub(in crate::cli) key: Option<Key>,
    /// All workloads of a team
    #[arg(long, value_name = "TEAM")]
    pub(in crate::cli) owner: Option<String>,
    /// All that an intermediate signed which signs no more: its serial or SHA-256, as `signet ca status` shows it
    #[arg(long, value_name = "HEX")]
    pub(in crate::cli) issuer: Option<String>,
    /// Why, for the audit
    #[arg(long)]
    pub(in crate::cli) reason: String,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

/// A public key by its hash: hex of the SHA-256 of its SubjectPublicKeyInfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Key(pub(in crate::cli) String);

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if crate::hex::decode(text).is_some_and(|digest| digest.len() == 32) {
            return Ok(Self(text.to_owned()));
        }
        let pem = fs::read(Path::new(text)).map_err(|error| {
            format!("expected 64 hex digits, or a PEM file with a public key or a certificate: {error}")
        })?;
        let digest = match SubjectPublicKeyInfoDer::from_pem_slice(&pem) {
            Ok(key) => crate::sha256(&key),
            Err(_) => {
                let certificate = CertificateDer::from_pem_slice(&pem)
                    .map_err(|_| "neither a PUBLIC KEY nor a CERTIFICATE is in the file".to_owned())?;
                certificate_handle(&certificate).map_err(|error| error.to_string())?.spki_sha256
            }
        };
        Ok(Self(crate::hex::encode(&digest)))
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusChange {
    /// Its SPIFFE ID, or a template
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: String,
    /// Why, for the audit
    #[arg(long, default_value = "")]
    pub(in crate::cli) reason: String,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Rotation {
    /// Whose: one SPIFFE ID, all below one (`spiffe://.../*`), or `everything`
    #[arg(value_name = "SCOPE")]
    pub(in crate::cli) on: Scope,
    /// Now, instead of at half of their life, when they are renewed in any case
    #[arg(long, required = true)]
    pub(in crate::cli) now: bool,
    /// Why, for the audit
    #[arg(long)]
    pub(in crate::cli) reason: String,
    #[command(flatten)]
    pub(in crate::cli) wait: Wait,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_hash_by_themselves_or_by_a_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&pair).unwrap();
        let digest =
            crate::hex::encode(&crate::sha256(&rcgen::PublicKeyData::subject_public_key_info(&pair)));
        let upper = digest.to_uppercase();
        assert_eq!(upper.parse(), Ok(Key(upper.clone())));
        for (name, pem) in [("key.pem", pair.public_key_pem()), ("certificate.pem", certificate.pem())] {
            let path = directory.path().join(name);
            fs::write(&path, pem).unwrap();
            assert_eq!(path.to_str().unwrap().parse(), Ok(Key(digest.clone())), "{name}");
        }
        let path = directory.path().join("private.pem");
        fs::write(&path, pair.serialize_pem()).unwrap();
        for wrong in ["00", "no-such-file", path.to_str().unwrap()] {
            assert!(wrong.parse::<Key>().is_err(), "{wrong}");
        }
    }
}
