//! From a believed leaf to selectors. A value that cannot be one is a refusal, not a shorter value: what an operator
//! compares with must be what the CA wrote.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde_json::json;
use signet_proto::spiffe::sha256;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
use x509_parser::x509::AttributeTypeAndValue;

use super::certificate::Certificate;
use super::error::X509Error;
use super::settings::Fact;
use crate::attest::proven::{ProofUse, Proven};
use crate::hex;
use crate::registry::Selector;
use crate::visible::is_hidden;

const MAX_SELECTORS: usize = 64;
const MAX_VALUE_BYTES: usize = 256;
/// RFC 5280 section 4.1.2.2.
const MAX_SERIAL_BYTES: usize = 20;

/// What the leaf proves.
pub(super) fn proven(
    attestor: &str,
    leaf: &Certificate<'_>,
    wanted: &BTreeSet<Fact>,
    root_sha256: &[u8; 32],
) -> Result<Proven, X509Error> {
    let certificate = &leaf.parsed;
    let fingerprint = hex::encode(&sha256(leaf.der));
    let serial = serial(certificate.raw_serial())?;
    let mut facts = Facts { attestor, wanted, selectors: BTreeSet::new() };
    facts.add_attributes(Fact::SubjectCn, certificate.subject().iter_common_name())?;
    facts.add_attributes(Fact::SubjectO, certificate.subject().iter_organization())?;
    facts.add_attributes(Fact::SubjectOu, certificate.subject().iter_organizational_unit())?;
    facts.add_attributes(Fact::IssuerCn, certificate.issuer().iter_common_name())?;
    facts.add_alternative_names(leaf)?;
    facts.add(Fact::Serial, &serial)?;
    facts.add(Fact::Fingerprint, &fingerprint)?;
    facts.add(Fact::Spki, &hex::encode(&sha256(certificate.public_key().raw)))?;
    let evidence = json!({
        "certificate": fingerprint,
        "serial": serial,
        "not_after": certificate.validity().not_after.timestamp(),
        "root": hex::encode(root_sha256),
    });
    let not_after = certificate.validity().not_after.timestamp();
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or_default());
    let proof = ProofUse { sha256: sha256(certificate.public_key().raw), ends };
    let selectors = facts.selectors;
    Ok(Proven { attestor: attestor.to_owned(), selectors, evidence, proof, one_key: false })
}

struct Facts<'a> {
    attestor: &'a str,
    wanted: &'a BTreeSet<Fact>,
    selectors: BTreeSet<Selector>,
}

impl Facts<'_> {
    fn add(&mut self, fact: Fact, value: &str) -> Result<(), X509Error> {
        if !self.wanted.contains(&fact) {
            return Ok(());
        }
        let wrong = |problem| X509Error::Name { fact, problem };
        if value.is_empty() {
            return Err(wrong("it is empty"));
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(wrong("it has more than 256 bytes"));
        }
        if value.chars().any(is_hidden) {
            return Err(wrong("it has a character that is not seen"));
        }
        if self.selectors.len() >= MAX_SELECTORS {
            return Err(wrong("there are more than 64 names"));
        }
        let selector = format!("{}:{fact}:{value}", self.attestor);
        self.selectors.insert(selector.parse().map_err(|_| wrong("it is not printable"))?);
        Ok(())
    }

    fn add_attributes<'c>(
        &mut self,
        fact: Fact,
        attributes: impl Iterator<Item = &'c AttributeTypeAndValue<'c>>,
    ) -> Result<(), X509Error> {
        if !self.wanted.contains(&fact) {
            return Ok(());
        }
        for attribute in attributes {
            let problem = "it is no UTF8String, PrintableString or IA5String";
            let value = attribute.as_str().map_err(|_| X509Error::Name { fact, problem })?;
            self.add(fact, value)?;
        }
        Ok(())
    }

    fn add_alternative_names(&mut self, leaf: &Certificate<'_>) -> Result<(), X509Error> {
        if ![Fact::SanDns, Fact::SanUri, Fact::SanEmail].iter().any(|fact| self.wanted.contains(fact)) {
            return Ok(());
        }
        let unreadable = |problem| X509Error::Name { fact: Fact::SanDns, problem };
        let extension = leaf
            .parsed
            .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
            .map_err(|_| unreadable("there are several lists of alternative names"))?;
        let Some(extension) = extension else { return Ok(()) };
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return Err(unreadable("the alternative names do not parse"));
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => self.add_ascii(Fact::SanDns, &name.to_ascii_lowercase())?,
                GeneralName::URI(uri) => self.add_ascii(Fact::SanUri, uri)?,
                GeneralName::RFC822Name(address) => self.add_ascii(Fact::SanEmail, address)?,
                GeneralName::Invalid(..) => return Err(unreadable("an alternative name is invalid")),
                _ => {}
            }
        }
        Ok(())
    }

    /// IA5String is ASCII.
    fn add_ascii(&mut self, fact: Fact, value: &str) -> Result<(), X509Error> {
        if self.wanted.contains(&fact) && !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(X509Error::Name { fact, problem: "it has other characters than printable ASCII" });
        }
        self.add(fact, value)
    }
}

fn serial(raw: &[u8]) -> Result<String, X509Error> {
    let wrong = |problem| X509Error::Name { fact: Fact::Serial, problem };
    if raw.len() > MAX_SERIAL_BYTES + 1 {
        return Err(wrong("it has more than 20 bytes"));
    }
    match raw {
        [] | [0] => Err(wrong("it is zero")),
        [0x80..=0xff, ..] => Err(wrong("it is negative")),
        [0, rest @ ..] => Ok(hex::encode(rest)),
        serial => Ok(hex::encode(serial)),
    }
}
