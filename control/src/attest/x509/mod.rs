//! X.509 proof of possession: a certificate of another CA (a device's, a TPM's, a cloud's), and a signature by its
//! key over a challenge of ours.
//!
//! ```text
//!   Challenge: attestor, SHA-256 of the CSR ─▶ nonce, end, HMAC        nothing is kept: any replica can check it
//!   Attest:    chain, challenge, signature
//!     size ─▶ HMAC and end of the challenge ─▶ DER, keys and order of the chain      cheap, nothing is verified yet
//!          ─▶ leaf: no CA, valid now, usage ─▶ path to this attestor's own roots ─▶ signature by that leaf
//!          ─▶ selectors
//! ```
//!
//! The invariant: what is proven was read from the very bytes of the leaf from which the path was built and whose
//! key verified the signature; nothing is searched for in what the caller sent. A challenge is bound to the hash of
//! one signing request, so a replay within its minute can only certify the same key again.
//!
//! Pure but for [`X509Attestor::load`], which reads the CA's files.

mod authorities;
mod certificate;
mod challenge;
mod error;
mod names;
mod settings;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use signet_proto::possession;
use signet_proto::spiffe::{KeyKind, TrustDomain, sha256};
use signet_proto::v1::X509PopProof;
use webpki::{EndEntityCert, aws_lc_rs as algorithms};

use super::proven::Proven;
use authorities::Authorities;
use certificate::Certificate;
use challenge::Challenges;
use settings::Rules;

pub use error::{X509ConfigError, X509Error};
pub use settings::{Fact, Usage, X509Settings};

/// Certificates in a proof; a leaf, three intermediates and a root that need not be there.
const MAX_CHAIN: usize = 5;
const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
const MAX_CHAIN_BYTES: usize = 24 * 1024;
/// RSA-4096 makes 512 bytes, ECDSA P-384 about 104.
const MAX_SIGNATURE_BYTES: usize = 512;

/// Believes whoever has the key of a certificate of certain authorities.
#[derive(Debug)]
pub struct X509Attestor {
    name: String,
    domain: TrustDomain,
    authorities: Authorities,
    rules: Rules,
    challenges: Challenges,
}

impl X509Attestor {
    /// An attestor of this name in this mesh. `challenge_key` is the same at all replicas of control and serves
    /// nothing else.
    ///
    /// # Errors
    /// When the authorities or the rules are of no use.
    pub fn new(
        name: &str,
        domain: TrustDomain,
        settings: &X509Settings,
        roots: &[u8],
        intermediates: Option<&[u8]>,
        challenge_key: &[u8; 32],
    ) -> Result<Self, X509ConfigError> {
        Ok(Self {
            name: name.to_owned(),
            domain,
            authorities: Authorities::from_pem(roots, intermediates)?,
            rules: settings.rules()?,
            challenges: Challenges::new(name, challenge_key),
        })
    }

    /// The same, with the authorities in the files that the settings name.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it is of no use.
    pub fn load(
        name: &str,
        domain: TrustDomain,
        settings: &X509Settings,
        challenge_key: &[u8; 32],
    ) -> Result<Self, X509ConfigError> {
        let roots = read("ca-file", &settings.ca_file)?;
        let intermediates = settings
            .intermediates_file
            .as_deref()
            .map(|path| read("intermediates-file", path))
            .transpose()?;
        Self::new(name, domain, settings, &roots, intermediates.as_deref(), challenge_key)
    }

    /// A challenge for a signing request with this hash.
    ///
    /// # Errors
    /// When that is no SHA-256, or there is no randomness.
    pub fn challenge(&self, csr_sha256: &[u8], now: SystemTime) -> Result<Vec<u8>, X509Error> {
        let csr_sha256 =
            csr_sha256.try_into().map_err(|_| X509Error::CsrHash { length: csr_sha256.len() })?;
        self.challenges.make(csr_sha256, now)
    }

    /// Checks a proof that came with the signing request `csr`.
    ///
    /// # Errors
    /// Why it is not believed; for the log and the audit, not for the caller.
    pub fn verify(&self, proof: &X509PopProof, csr: &[u8], now: SystemTime) -> Result<Proven, X509Error> {
        let X509PopProof { attestor, chain, challenge, signature } = proof;
        if *attestor != self.name {
            return Err(X509Error::OtherAttestor);
        }
        within_budget(chain, signature)?;
        let csr_sha256 = sha256(csr);
        self.challenges.check(challenge, &csr_sha256, now)?;

        let chain: Vec<CertificateDer<'_>> = chain.iter().map(|der| der.as_slice().into()).collect();
        let chain = self.authorities.without_root(&chain);
        let (leaf, above) = chain.split_first().ok_or(X509Error::Size("no certificate"))?;
        if chain.len() > self.rules.max_depth {
            return Err(X509Error::TooDeep { allowed: self.rules.max_depth });
        }
        let read = Certificate::read_chain(chain)?;
        let (first, issuers) = read.split_first().ok_or(X509Error::Size("no certificate"))?;
        first.require_leaf(&self.rules.usages, now)?;
        issuers.iter().try_for_each(Certificate::require_issuer)?;

        let end_entity = EndEntityCert::try_from(leaf).map_err(X509Error::Untrusted)?;
        let root_sha256 = self.authorities.verify(&end_entity, above, &self.rules, now)?;
        let message = possession::message(&self.domain, challenge, &csr_sha256);
        end_entity
            .verify_signature(algorithm(first.key), &message, signature)
            .map_err(|_| X509Error::Signature)?;
        names::proven(&self.name, first, &self.rules.facts, &root_sha256)
    }
}

/// Before anything is looked at: nobody makes us hold or hash more than this.
fn within_budget(chain: &[Vec<u8>], signature: &[u8]) -> Result<(), X509Error> {
    if chain.is_empty() {
        return Err(X509Error::Size("no certificate"));
    }
    if chain.len() > MAX_CHAIN {
        return Err(X509Error::Size("more than 5 certificates"));
    }
    if chain.iter().any(|der| der.len() > MAX_CERTIFICATE_BYTES) {
        return Err(X509Error::Size("a certificate of more than 8 KiB"));
    }
    if chain.iter().map(Vec::len).sum::<usize>() > MAX_CHAIN_BYTES {
        return Err(X509Error::Size("a chain of more than 24 KiB"));
    }
    if signature.is_empty() || signature.len() > MAX_SIGNATURE_BYTES {
        return Err(X509Error::Size("a signature of a length that no accepted key makes"));
    }
    Ok(())
}

/// One algorithm for each kind of key: there is nothing to choose for whoever signs.
fn algorithm(kind: KeyKind) -> &'static dyn SignatureVerificationAlgorithm {
    match kind {
        KeyKind::P256 => algorithms::ECDSA_P256_SHA256,
        KeyKind::P384 => algorithms::ECDSA_P384_SHA384,
        KeyKind::Ed25519 => algorithms::ED25519,
        KeyKind::Rsa => algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, X509ConfigError> {
    const LARGEST_FILE: u64 = 1024 * 1024;
    let failed = |error| X509ConfigError::Read { key, path: path.to_path_buf(), error };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > LARGEST_FILE {
        let error = std::io::Error::other(format!("{length} bytes are more than {LARGEST_FILE}"));
        return Err(failed(error));
    }
    std::fs::read(path).map_err(failed)
}
