//! One certificate, taken apart: what RFC 5280 demands of all of them, whatever their role.
//!
//! Two readers see the bytes: the strict one of [`super::der`] checks that they are DER with exactly
//! the fields of a certificate, then `x509-parser` gives names, times and extensions. Only what both
//! accept gets further.

use std::time::{Duration, SystemTime};

use x509_parser::certificate::{X509Certificate, X509CertificateParser};
use x509_parser::nom::Parser;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;
use x509_parser::x509::X509Version;

use super::der::{DerError, Element, Reader, check_well_formed, tag, unsigned};
use super::extension::Extensions;
use super::instance::InstanceId;
use super::key::PublicKey;
use super::svid::SvidError;

/// Largest certificate that is looked at, in bytes of DER. SVIDs have about 500, roots with RSA-4096
/// about 2,000.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// Longest serial number, in bytes as encoded (RFC 5280 section 4.1.2.2).
const MAX_SERIAL_BYTES: usize = 20;

#[derive(Debug)]
pub(super) struct Certificate<'a> {
    /// Big-endian, without leading zero; never empty.
    pub(super) serial: &'a [u8],
    /// The issuer's name, DER.
    pub(super) issuer: &'a [u8],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// SubjectPublicKeyInfo, DER.
    pub(super) spki: &'a [u8],
    pub(super) key: PublicKey<'a>,
    /// The subject's name, DER.
    pub(super) subject: &'a [u8],
    pub(super) instance: Option<InstanceId>,
    pub(super) extensions: Extensions<'a>,
}

impl<'a> Certificate<'a> {
    pub(super) fn read(der: &'a [u8]) -> Result<Self, SvidError> {
        let fields = Fields::read(der)?;
        check_times(fields.validity)?;
        let parsed = parse(der)?;
        if parsed.version() != X509Version::V3 {
            return Err(SvidError::Version);
        }
        if fields.signature != fields.outer_signature {
            return Err(SvidError::SignatureAlgorithm);
        }
        let serial = serial(fields.serial)?;
        if is_empty_name(fields.issuer) {
            return Err(SvidError::Issuer);
        }
        let [not_before, not_after] = validity(&parsed)?;
        let key = PublicKey::read(fields.spki).map_err(|error| SvidError::Key { found: error.what() })?;
        let extensions = Extensions::read(parsed.extensions())?;
        let instance = instance(&parsed)?;
        Ok(Self {
            serial,
            issuer: fields.issuer,
            not_before,
            not_after,
            spki: fields.spki,
            key,
            subject: fields.subject,
            instance,
            extensions,
        })
    }

    pub(super) fn has_subject(&self) -> bool {
        !is_empty_name(self.subject)
    }
}

/// The fields of Certificate and TBSCertificate (RFC 5280 section 4.1), each with tag and length
/// unless said otherwise.
struct Fields<'a> {
    /// The value alone.
    serial: &'a [u8],
    signature: &'a [u8],
    issuer: &'a [u8],
    /// The value alone.
    validity: &'a [u8],
    subject: &'a [u8],
    spki: &'a [u8],
    outer_signature: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(der: &'a [u8]) -> Result<Self, SvidError> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(SvidError::TooLarge { length: der.len() });
        }
        let mut outer = Reader::new(der);
        let certificate = outer.expect(tag::SEQUENCE).map_err(not_der)?;
        if !outer.is_empty() {
            return Err(SvidError::TrailingBytes);
        }
        check_well_formed(certificate.raw).map_err(not_der)?;
        Self::read_well_formed(certificate).map_err(not_der)?
    }

    fn read_well_formed(certificate: Element<'a>) -> Result<Result<Self, SvidError>, DerError> {
        let mut certificate = Reader::new(certificate.value);
        let mut signed = Reader::new(certificate.expect(tag::SEQUENCE)?.value);
        let outer_signature = certificate.expect(tag::SEQUENCE)?.raw;
        let (unused_bits, _) = super::der::bits(certificate.expect(tag::BIT_STRING)?.value)?;
        if unused_bits != 0 {
            return Err(DerError("a signature that is not whole bytes"));
        }
        certificate.finish()?;

        if signed.optional(tag::VERSION)?.is_none() {
            return Ok(Err(SvidError::Version));
        }
        let serial = signed.expect(tag::INTEGER)?.value;
        let signature = signed.expect(tag::SEQUENCE)?.raw;
        let issuer = signed.expect(tag::SEQUENCE)?.raw;
        let validity = signed.expect(tag::SEQUENCE)?.value;
        let subject = signed.expect(tag::SEQUENCE)?.raw;
        let spki = signed.expect(tag::SEQUENCE)?.raw;
        for unique_identifier in tag::UNIQUE_IDENTIFIERS {
            if signed.optional(unique_identifier)?.is_some() {
                return Ok(Err(SvidError::UniqueIdentifier));
            }
        }
        if let Some(extensions) = signed.optional(tag::EXTENSIONS)? {
            check_extension_list(extensions.value)?;
        }
        signed.finish()?;
        Ok(Ok(Self { serial, signature, issuer, validity, subject, spki, outer_signature }))
    }
}

/// Exactly an identifier, a criticality that is only written when true, and a value (section 4.1).
pub(super) fn check_extension_list(value: &[u8]) -> Result<(), DerError> {
    let mut extensions = Reader::new(Reader::sole(value, tag::SEQUENCE)?);
    if extensions.is_empty() {
        return Err(DerError("a list of extensions without any"));
    }
    while !extensions.is_empty() {
        let mut fields = Reader::new(extensions.expect(tag::SEQUENCE)?.value);
        fields.expect(tag::OID)?;
        if fields.optional(tag::BOOLEAN)?.is_some_and(|critical| critical.value != [0xff]) {
            return Err(DerError("an extension with `critical` written as FALSE, which is the default"));
        }
        fields.expect(tag::OCTET_STRING)?;
        fields.finish()?;
    }
    Ok(())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    // Extensions are read by `super::extension`, and only those that matter.
    let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
    match parser.parse(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(SvidError::TrailingBytes),
        Err(_) => Err(SvidError::Encoding { problem: "a field that does not follow RFC 5280" }),
    }
}

fn serial(value: &[u8]) -> Result<&[u8], SvidError> {
    if value.len() > MAX_SERIAL_BYTES {
        return Err(SvidError::Serial { found: "more than 20 bytes" });
    }
    match unsigned(value) {
        Ok([]) => Err(SvidError::Serial { found: "zero" }),
        Ok(serial) => Ok(serial),
        Err(_) => Err(SvidError::Serial { found: "a negative number" }),
    }
}

/// A Name is a sequence; the empty one is two bytes.
pub(super) fn is_empty_name(name: &[u8]) -> bool {
    name.len() <= 2
}

/// RFC 5280 section 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050, in UTC, to the second.
fn check_times(value: &[u8]) -> Result<(), SvidError> {
    let mut times = Reader::new(value);
    for _ in 0..2 {
        if !is_time(times.next().map_err(not_der)?) {
            return Err(SvidError::TimeFormat);
        }
    }
    times.finish().map_err(not_der)
}

/// Whether it is a time in the one form that RFC 5280 has for its year.
pub(super) fn is_time(time: Element<'_>) -> bool {
    let Some(digits) = time.value.strip_suffix(b"Z") else { return false };
    let form_of_its_year = match time.tag {
        tag::UTC_TIME => digits.len() == 12,
        tag::GENERALIZED_TIME => digits.len() == 14 && digits >= b"2050".as_slice(),
        _ => false,
    };
    form_of_its_year && digits.iter().all(u8::is_ascii_digit)
}

fn validity(parsed: &X509Certificate<'_>) -> Result<[SystemTime; 2], SvidError> {
    let validity = parsed.validity();
    let times = [validity.not_before, validity.not_after].map(|time| system_time(time.timestamp()));
    match times {
        [Some(not_before), Some(not_after)] if not_before <= not_after => Ok([not_before, not_after]),
        [Some(_), Some(_)] => Err(SvidError::Validity),
        _ => Err(SvidError::TimeFormat),
    }
}

pub(super) fn system_time(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

/// Attribute `serialNumber` of the subject. SVIDs of other issuers have none, or one of their own
/// form; two would leave open which instance a revocation names.
fn instance(parsed: &X509Certificate<'_>) -> Result<Option<InstanceId>, SvidError> {
    let mut attributes = parsed.subject().iter_by_oid(&OID_X509_SERIALNUMBER);
    let first = attributes.next().and_then(|attribute| attribute.as_str().ok()?.parse().ok());
    if attributes.next().is_some() {
        return Err(SvidError::SeveralInstances);
    }
    Ok(first)
}

pub(super) fn not_der(DerError(problem): DerError) -> SvidError {
    SvidError::Encoding { problem }
}
