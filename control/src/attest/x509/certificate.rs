//! One presented certificate, read: DER beyond doubt, a key of an accepted kind, and the few extensions that decide
//! what it may be. Signatures and constraints are for the path.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use signet_proto::spiffe::{KeyKind, require_der};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE, Oid,
};
use x509_parser::prelude::FromDer;

use super::error::X509Error;
use super::settings::Usages;

/// A certificate that was read; not one that is believed.
pub(super) struct Certificate<'a> {
    /// In the chain, from 0, the leaf.
    position: usize,
    /// The bytes that all of it was read from.
    pub(super) der: &'a [u8],
    pub(super) parsed: X509Certificate<'a>,
    pub(super) key: KeyKind,
    pub(super) validity: Validity,
    is_authority: bool,
    pub(super) path_length: Option<u32>,
    /// Whether it may sign messages and certificates, if it says so.
    key_usage: Option<(bool, bool)>,
    purposes: Option<Vec<Oid<'a>>>,
}

impl<'a> Certificate<'a> {
    /// Reads a chain in which each is followed by its issuer.
    pub(super) fn read_chain(chain: &'a [CertificateDer<'_>]) -> Result<Vec<Self>, X509Error> {
        let mut read: Vec<Self> = Vec::with_capacity(chain.len());
        for (position, der) in chain.iter().enumerate() {
            let certificate = Self::read(position, der)?;
            let follows = read.last().is_none_or(|subject| {
                subject.parsed.issuer().as_raw() == certificate.parsed.subject().as_raw()
            });
            if !follows {
                return Err(X509Error::Order { position });
            }
            read.push(certificate);
        }
        Ok(read)
    }

    pub(super) fn read(position: usize, der: &'a [u8]) -> Result<Self, X509Error> {
        let damaged = |problem: &dyn std::fmt::Display| X509Error::Certificate {
            position,
            problem: problem.to_string(),
        };
        require_der(der).map_err(|error| damaged(&error))?;
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|error| damaged(&error))?;
        if !rest.is_empty() {
            return Err(damaged(&"bytes follow it"));
        }
        let key =
            KeyKind::of_spki(parsed.public_key().raw).map_err(|error| X509Error::Key { position, error })?;
        let find = |oid: &Oid<'_>| parsed.get_extension_unique(oid).map_err(|error| damaged(&error));
        let (is_authority, path_length) = match find(&OID_X509_EXT_BASIC_CONSTRAINTS)? {
            None => (false, None),
            Some(extension) => match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(found) => (found.ca, found.path_len_constraint),
                _ => return Err(damaged(&"its basic constraints do not parse")),
            },
        };
        let key_usage = match find(&OID_X509_EXT_KEY_USAGE)? {
            None => None,
            Some(extension) => match extension.parsed_extension() {
                ParsedExtension::KeyUsage(found) => Some((found.digital_signature(), found.key_cert_sign())),
                _ => return Err(damaged(&"its key usage does not parse")),
            },
        };
        let purposes = match find(&OID_X509_EXT_EXTENDED_KEY_USAGE)? {
            None => None,
            Some(extension) => match Vec::<Oid<'a>>::from_der(extension.value) {
                Ok(([], purposes)) if !purposes.is_empty() => Some(purposes),
                _ => return Err(damaged(&"its extended key usage does not parse")),
            },
        };
        let [not_before, not_after] =
            [parsed.validity().not_before, parsed.validity().not_after].map(|time| time.timestamp());
        let validity = Validity { not_before, not_after };
        Ok(Self { position, der, key, validity, is_authority, path_length, key_usage, purposes, parsed })
    }

    /// The path checks most of this again; here it costs no signature, and says why.
    pub(super) fn require_leaf(&self, usages: &Usages, now: SystemTime) -> Result<(), X509Error> {
        if self.is_authority || self.key_usage.is_some_and(|(_, signs_certificates)| signs_certificates) {
            return Err(X509Error::LeafIsAuthority);
        }
        if self.key_usage.is_some_and(|(signs, _)| !signs) {
            return Err(X509Error::Usage("the leaf's key usage lacks digitalSignature"));
        }
        if !usages.suit_leaf(self.purposes.as_deref()) {
            return Err(X509Error::Usage("the leaf has none of the extended key usages in `eku`"));
        }
        match self.validity.at(now) {
            Standing::NotYet => Err(X509Error::NotYetValid),
            Standing::Over => Err(X509Error::Expired),
            Standing::Valid => Ok(()),
        }
    }

    /// rustls-webpki does not look at the key usage.
    pub(super) fn require_issuer(&self) -> Result<(), X509Error> {
        let wrong = |problem: &str| {
            Err(X509Error::Certificate { position: self.position, problem: problem.to_owned() })
        };
        if !self.is_authority {
            return wrong("it is above the leaf and no authority");
        }
        if self.key_usage.is_some_and(|(_, signs_certificates)| !signs_certificates) {
            return wrong("its key usage lacks keyCertSign");
        }
        Ok(())
    }
}

/// From when to when, seconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity {
    not_before: i64,
    not_after: i64,
}

impl Validity {
    pub(super) fn at(self, now: SystemTime) -> Standing {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        if now < self.not_before {
            Standing::NotYet
        } else if now > self.not_after {
            Standing::Over
        } else {
            Standing::Valid
        }
    }
}

/// Where a time lies in a certificate's validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    NotYet,
    Valid,
    Over,
}
