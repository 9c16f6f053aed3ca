//! The authorities of one attestor, and the path from a leaf to one of them. Never pooled with anybody else's.
//!
//! rustls-webpki does not look at the validity, the constraints or the path length of trust anchors, nor at the key
//! usage of issuers: that is done here, when they are loaded or when a path is found.

use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use signet_proto::spiffe::sha256;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, VerifiedPath};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS,
};

use super::certificate::{Certificate, Standing, Validity};
use super::error::{X509ConfigError, X509Error};
use super::settings::{Rules, Usages};

const MAX_ROOTS: usize = 64;
const MAX_INTERMEDIATES: usize = 16;
const ROOTS: &str = "ca-file";
const INTERMEDIATES: &str = "intermediates-file";

/// Roots, and intermediates for joiners that do not send theirs.
#[derive(Debug)]
pub(super) struct Authorities {
    roots: Vec<Root>,
    intermediates: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    sha256: [u8; 32],
    validity: Validity,
    path_length: Option<u32>,
}

impl Authorities {
    pub(super) fn from_pem(roots: &[u8], intermediates: Option<&[u8]>) -> Result<Self, X509ConfigError> {
        let roots = certificates(ROOTS, roots, MAX_ROOTS)?;
        let intermediates = intermediates
            .map(|pem| certificates(INTERMEDIATES, pem, MAX_INTERMEDIATES))
            .transpose()?
            .unwrap_or_default();
        for (index, der) in intermediates.iter().enumerate() {
            authority(INTERMEDIATES, index, der)?;
        }
        let roots = roots.into_iter().enumerate().map(|(index, der)| Root::new(index, der));
        Ok(Self { roots: roots.collect::<Result<_, _>>()?, intermediates })
    }

    /// A root sent along is harmless but is no part of the path: the anchor comes from the settings.
    pub(super) fn without_root<'c, 'a>(&self, chain: &'c [CertificateDer<'a>]) -> &'c [CertificateDer<'a>] {
        match chain.split_last() {
            Some((last, rest)) if !rest.is_empty() && self.roots.iter().any(|root| root.der == *last) => rest,
            _ => chain,
        }
    }

    /// Finds a path from a leaf to a root, and says to which.
    pub(super) fn verify<'p>(
        &self,
        leaf: &'p EndEntityCert<'p>,
        above: &[CertificateDer<'_>],
        rules: &Rules,
        now: SystemTime,
    ) -> Result<[u8; 32], X509Error> {
        let allowed = rules.max_depth;
        let valid: Vec<&Root> =
            self.roots.iter().filter(|root| root.validity.at(now) == Standing::Valid).collect();
        let anchors: Vec<TrustAnchor<'_>> = valid.iter().map(|root| root.anchor.clone()).collect();
        let sent = above;
        let above: Vec<CertificateDer<'_>> = sent.iter().chain(&self.intermediates).cloned().collect();
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        // By the name and key of an anchor: two certificates of one root are as good as each other.
        let root_of = |path: &VerifiedPath<'_>| {
            let anchor = path.anchor();
            valid.iter().find(|root| {
                root.anchor.subject == anchor.subject
                    && root.anchor.subject_public_key_info == anchor.subject_public_key_info
                    && root.allows(path.intermediate_certificates().count())
            })
        };
        let acceptable = |path: &VerifiedPath<'_>| {
            if path.intermediate_certificates().count() < allowed && root_of(path).is_some() {
                Ok(())
            } else {
                Err(webpki::Error::PathLenConstraintViolated)
            }
        };
        let path = leaf
            .verify_for_usage(
                aws_lc_rs::default_provider().signature_verification_algorithms.all,
                &anchors,
                &above,
                now,
                OnPath(&rules.usages),
                None,
                Some(&acceptable),
            )
            .map_err(|error| untrusted(error, allowed))?;
        // Nothing that was sent is without meaning: nobody could say later what it was sent for.
        let mut used = path.intermediate_certificates().map(webpki::Cert::der);
        let unused = sent.iter().position(|certificate| used.next().is_none_or(|used| used != *certificate));
        if let Some(above) = unused {
            return Err(X509Error::Unused { position: above + 2 });
        }
        root_of(&path).map(|root| root.sha256).ok_or(X509Error::TooDeep { allowed })
    }
}

impl Root {
    fn new(index: usize, der: CertificateDer<'static>) -> Result<Self, X509ConfigError> {
        let wrong = |problem: &dyn std::fmt::Display| X509ConfigError::Authority {
            key: ROOTS,
            position: index + 1,
            problem: problem.to_string(),
        };
        let certificate = authority(ROOTS, index, &der)?;
        let understood =
            [OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS];
        let unknown = certificate
            .parsed
            .extensions()
            .iter()
            .find(|extension| extension.critical && !understood.contains(&extension.oid));
        if let Some(extension) = unknown {
            return Err(wrong(&format_args!(
                "it has the critical extension {}, which is not understood",
                extension.oid
            )));
        }
        let (validity, path_length) = (certificate.validity, certificate.path_length);
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| wrong(&error))?.to_owned();
        Ok(Self { sha256: sha256(&der), anchor, validity, path_length, der })
    }

    /// RFC 5280 section 4.2.1.9: how many intermediates may follow.
    fn allows(&self, intermediates: usize) -> bool {
        self.path_length.is_none_or(|most| u32::try_from(intermediates).is_ok_and(|found| found <= most))
    }
}

/// Wanted usages, for every certificate of a path: who states any has to state one that suits. The leaf has been
/// looked at before, more strictly.
struct OnPath<'a>(&'a Usages);

impl ExtendedKeyUsageValidator for OnPath<'_> {
    fn validate(&self, stated: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let (mut any, mut suits) = (false, false);
        for purpose in stated {
            any = true;
            suits |= self.0.suit_path(purpose?);
        }
        if suits || !any {
            return Ok(());
        }
        let required = webpki::KeyUsage::client_auth();
        Err(webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext {
            required,
            present: Vec::new(),
        }))
    }
}

fn untrusted(error: webpki::Error, allowed: usize) -> X509Error {
    match error {
        webpki::Error::CertExpired { .. } => X509Error::Expired,
        webpki::Error::CertNotValidYet { .. } => X509Error::NotYetValid,
        webpki::Error::PathLenConstraintViolated => X509Error::TooDeep { allowed },
        webpki::Error::CaUsedAsEndEntity => X509Error::LeafIsAuthority,
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            X509Error::Usage("an issuer states other extended key usages than those in `eku`")
        }
        error => X509Error::Untrusted(error),
    }
}

fn certificates(
    key: &'static str,
    pem: &[u8],
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, X509ConfigError> {
    let mut found = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(pem).enumerate() {
        let damaged = |error: rustls::pki_types::pem::Error| X509ConfigError::Authority {
            key,
            position: index + 1,
            problem: error.to_string(),
        };
        found.push(certificate.map_err(damaged)?);
    }
    if found.is_empty() || found.len() > most {
        return Err(X509ConfigError::Count { key, most, found: found.len() });
    }
    Ok(found)
}

fn authority<'a>(
    key: &'static str,
    index: usize,
    der: &'a CertificateDer<'_>,
) -> Result<Certificate<'a>, X509ConfigError> {
    let wrong = |error: &dyn std::fmt::Display| X509ConfigError::Authority {
        key,
        position: index + 1,
        problem: error.to_string(),
    };
    let certificate = Certificate::read(index, der).map_err(|error| wrong(&error))?;
    certificate.require_issuer().map_err(|error| wrong(&error))?;
    Ok(certificate)
}
