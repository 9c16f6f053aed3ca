//! Revocation lists of other authorities (RFC 5280 section 5), read strictly.
//!
//! Two readers see the bytes, as with certificates: that of [`super::der`] checks that they are DER with exactly the
//! fields of a list and gives what `webpki` does not keep; `webpki` gives the entries. A list that exists is complete:
//! it covers all that its issuer certified, for every reason. Deltas, shards and lists for other issuers are refused, as
//! taking one for complete would let in whoever another one names.

mod error;
mod files;
mod signer;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::time::SystemTime;

use webpki::{BorrowedCertRevocationList, RevocationReason};
use x509_parser::prelude::{ASN1Time, FromDer, X509Name};

pub use self::error::CrlError;
pub use self::files::revocation_lists;
pub use self::signer::{ListSigner, SignatureParts, authority_key};
use super::certificate::{check_extension_list, is_empty_name, is_time, system_time};
use super::der::{DerError, Element, Reader, check_well_formed, tag, unsigned};
use super::svid::sha256;

/// Largest list that is looked at, in bytes of DER: as much as a length of three bytes can say.
pub const MAX_CRL_BYTES: usize = 16 * 1024 * 1024 - 1;
/// Most entries of one list.
pub const MAX_CRL_ENTRIES: usize = 500_000;
/// Serial and list numbers have at most so many bytes (RFC 5280 sections 4.1.2.2 and 5.2.3).
const NUMBER_BYTES: usize = 20;
/// Of a name, in a message.
const LONGEST_NAME: usize = 200;

/// The value bytes of `id-ce` identifiers are these two and one more.
const ID_CE: [u8; 2] = [0x55, 0x1d];
const CRL_NUMBER: u8 = 20;
const DELTA_CRL_INDICATOR: u8 = 27;
const ISSUING_DISTRIBUTION_POINT: u8 = 28;
const AUTHORITY_KEY_IDENTIFIER: u8 = 35;

/// A number of at most 20 bytes, big-endian, filled up with zeros in front: one form for each value.
type Number = [u8; NUMBER_BYTES];

/// A complete list. Who signed it is not known yet.
#[derive(Clone, PartialEq, Eq)]
pub struct RevocationList {
    issuer: String,
    issuer_sha256: [u8; 32],
    authority_key: Option<Vec<u8>>,
    number: Number,
    this_update: SystemTime,
    next_update: SystemTime,
    serials: HashSet<Number>,
    signature: SignatureParts,
    sha256: [u8; 32],
}

impl RevocationList {
    /// Reads one list.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn read(der: &[u8]) -> Result<Self, CrlError> {
        let fields = Fields::read(der)?;
        let extensions = Extensions::read(fields.extensions)?;
        let [this_update, next_update] = [fields.this_update, fields.next_update].map(time);
        let (this_update, next_update) = (this_update?, next_update?);
        if next_update < this_update {
            return Err(CrlError::Times);
        }
        Ok(Self {
            issuer: printable(fields.issuer),
            issuer_sha256: sha256(fields.issuer),
            authority_key: extensions.authority_key.map(<[u8]>::to_vec),
            number: extensions.number,
            this_update,
            next_update,
            serials: serials(der)?,
            signature: SignatureParts {
                message: fields.signed.to_vec(),
                algorithm: fields.algorithm.to_vec(),
                signature: fields.signature.to_vec(),
            },
            sha256: sha256(der),
        })
    }

    /// The issuer's name, for people; nothing in it breaks a log line.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// SHA-256 of the issuer's name, DER.
    #[must_use]
    pub fn issuer_sha256(&self) -> [u8; 32] {
        self.issuer_sha256
    }

    /// The key that it says it is signed with, if it does.
    #[must_use]
    pub fn authority_key(&self) -> Option<&[u8]> {
        self.authority_key.as_deref()
    }

    /// Whether it is older than the other one, by their numbers.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        self.number < other.number
    }

    /// Whether it has the same number as the other one.
    #[must_use]
    pub fn has_number_of(&self, other: &Self) -> bool {
        self.number == other.number
    }

    /// Its number, in hex.
    #[must_use]
    pub fn number(&self) -> String {
        let digits: String = self.number.iter().map(|byte| format!("{byte:02x}")).collect();
        match digits.trim_start_matches('0') {
            "" => "0".into(),
            digits => digits.into(),
        }
    }

    /// When it was made.
    #[must_use]
    pub fn this_update(&self) -> SystemTime {
        self.this_update
    }

    /// When there is another one, at the latest.
    #[must_use]
    pub fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// Whether its issuer revoked the certificate with this serial (big-endian, without leading zero).
    #[must_use]
    pub fn names(&self, serial: &[u8]) -> bool {
        !self.serials.is_empty() && padded(serial).is_some_and(|serial| self.serials.contains(&serial))
    }

    /// How many certificates it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }

    /// What was signed, and how.
    #[must_use]
    pub fn signature(&self) -> &SignatureParts {
        &self.signature
    }

    /// SHA-256 of all of it.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

impl std::fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationList")
            .field("issuer", &self.issuer)
            .field("number", &self.number())
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

/// The fields of CertificateList and TBSCertList (section 5.1).
struct Fields<'a> {
    /// With tag and length.
    signed: &'a [u8],
    /// The value alone, as those that follow.
    algorithm: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    this_update: Element<'a>,
    next_update: Element<'a>,
    extensions: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(der: &'a [u8]) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_BYTES {
            return Err(CrlError::TooLarge { length: der.len() });
        }
        check_well_formed(der)?;
        let mut list = Reader::new(Reader::sole(der, tag::SEQUENCE)?);
        let signed = list.expect(tag::SEQUENCE)?;
        let outer = list.expect(tag::SEQUENCE)?;
        let (0, signature) = super::der::bits(list.expect(tag::BIT_STRING)?.value)? else {
            return Err(DerError("a signature that is not whole bytes").into());
        };
        list.finish()?;

        let mut fields = Reader::new(signed.value);
        match fields.optional(tag::INTEGER)? {
            Some(version) if version.value == [1] => {}
            _ => return Err(CrlError::Version),
        }
        let algorithm = fields.expect(tag::SEQUENCE)?;
        if algorithm.raw != outer.raw {
            return Err(CrlError::SignatureAlgorithm);
        }
        let issuer = fields.expect(tag::SEQUENCE)?.raw;
        if is_empty_name(issuer) {
            return Err(CrlError::Issuer);
        }
        let this_update = fields.next()?;
        let next_update = [tag::UTC_TIME, tag::GENERALIZED_TIME]
            .into_iter()
            .find_map(|tag| fields.optional(tag).transpose());
        let next_update = next_update.ok_or(CrlError::NoNextUpdate)??;
        // webpki reads what is in it.
        fields.optional(tag::SEQUENCE)?;
        // `[0]` EXPLICIT, as the version of a certificate is.
        let extensions = fields.optional(tag::VERSION)?.ok_or(CrlError::NoNumber)?.value;
        fields.finish()?;
        Ok(Self {
            signed: signed.raw,
            algorithm: algorithm.value,
            signature,
            issuer,
            this_update,
            next_update,
            extensions,
        })
    }
}

/// What a list says of itself (section 5.2).
struct Extensions<'a> {
    number: Number,
    authority_key: Option<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    fn read(value: &'a [u8]) -> Result<Self, CrlError> {
        check_extension_list(value)?;
        let (mut number, mut authority_key, mut seen) = (None, None, HashSet::new());
        let mut list = Reader::new(Reader::sole(value, tag::SEQUENCE)?);
        while !list.is_empty() {
            let mut fields = Reader::new(list.expect(tag::SEQUENCE)?.value);
            let id = fields.expect(tag::OID)?.value;
            let critical = fields.optional(tag::BOOLEAN)?.is_some();
            let value = fields.expect(tag::OCTET_STRING)?.value;
            if !seen.insert(id) {
                return Err(CrlError::DuplicateExtension { oid: dotted(id) });
            }
            match id.strip_prefix(&ID_CE) {
                Some(&[CRL_NUMBER]) => {
                    let value = unsigned(Reader::sole(value, tag::INTEGER)?)?;
                    number = Some(padded(value).ok_or(CrlError::LongNumber)?);
                }
                Some(&[AUTHORITY_KEY_IDENTIFIER]) => authority_key = key_identifier(value)?,
                Some(&[DELTA_CRL_INDICATOR]) => return Err(CrlError::Delta),
                Some(&[ISSUING_DISTRIBUTION_POINT]) => return Err(CrlError::Partial),
                _ if critical => return Err(CrlError::UnknownCriticalExtension { oid: dotted(id) }),
                _ => {}
            }
        }
        Ok(Self { number: number.ok_or(CrlError::NoNumber)?, authority_key })
    }
}

/// `keyIdentifier [0] IMPLICIT`, the first field of AuthorityKeyIdentifier (section 4.2.1.1).
fn key_identifier(value: &[u8]) -> Result<Option<&[u8]>, CrlError> {
    check_well_formed(value)?;
    let mut fields = Reader::new(Reader::sole(value, tag::SEQUENCE)?);
    Ok(fields.optional(0x80)?.map(|identifier| identifier.value))
}

/// The serials of the entries. One that no certificate has that we would look at is passed over: zero, negative, or too
/// long (section 4.1.2.2).
fn serials(der: &[u8]) -> Result<HashSet<Number>, CrlError> {
    let list = BorrowedCertRevocationList::from_der(der).map_err(CrlError::Content)?;
    let mut serials = HashSet::new();
    for (position, entry) in list.into_iter().enumerate() {
        if position >= MAX_CRL_ENTRIES {
            return Err(CrlError::TooManyEntries);
        }
        let entry = entry.map_err(|error| match error {
            webpki::Error::UnsupportedIndirectCrl => CrlError::Indirect,
            webpki::Error::UnsupportedCriticalExtension => CrlError::UnknownEntryExtension,
            error => CrlError::Content(error),
        })?;
        if entry.reason_code == Some(RevocationReason::RemoveFromCrl) {
            return Err(CrlError::Removal);
        }
        if let Ok(serial) = unsigned(entry.serial_number)
            && !serial.is_empty()
            && let Some(serial) = padded(serial)
        {
            serials.insert(serial);
        }
    }
    serials.shrink_to_fit();
    Ok(serials)
}

fn padded(value: &[u8]) -> Option<Number> {
    let mut number = [0; NUMBER_BYTES];
    let start = NUMBER_BYTES.checked_sub(value.len())?;
    number.get_mut(start..)?.copy_from_slice(value);
    Some(number)
}

fn time(element: Element<'_>) -> Result<SystemTime, CrlError> {
    if !is_time(element) {
        return Err(CrlError::Times);
    }
    match ASN1Time::from_der(element.raw) {
        Ok(([], time)) => system_time(time.timestamp()).ok_or(CrlError::Times),
        _ => Err(CrlError::Times),
    }
}

fn printable(name: &[u8]) -> String {
    let name = match X509Name::from_der(name) {
        Ok((_, name)) => name.to_string(),
        Err(_) => "a name that cannot be shown".into(),
    };
    name.chars().filter(|character| !character.is_control()).take(LONGEST_NAME).collect()
}

fn dotted(id: &[u8]) -> String {
    x509_parser::der_parser::oid::Oid::new(id.into()).to_id_string()
}

#[cfg(test)]
impl RevocationList {
    /// The same, saying that it is signed with the key of another one.
    pub(crate) fn claiming_key_of(self, other: &Self) -> Self {
        Self { authority_key: other.authority_key.clone(), ..self }
    }

    /// The same, saying nothing of who signed it.
    pub(crate) fn claiming_no_key(self) -> Self {
        Self { authority_key: None, ..self }
    }
}
