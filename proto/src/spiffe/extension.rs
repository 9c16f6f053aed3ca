//! The extensions that decide what an SVID means, read strictly (RFC 5280 section 4.2.1).
//!
//! A certificate with the same extension twice, or with a critical one that nobody here acts on, is
//! refused; other extensions are allowed and ignored.

use x509_parser::extensions::X509Extension;

use super::der::{DerError, Reader, bits, boolean, check_well_formed, tag, unsigned};
use super::svid::SvidError;

/// No honest certificate comes near; finding duplicates is quadratic.
const MAX_EXTENSIONS: usize = 32;

/// The value bytes of `id-ce` identifiers are these two and one more.
const ID_CE: [u8; 2] = [0x55, 0x1d];
const SUBJECT_KEY_IDENTIFIER: u8 = 14;
const KEY_USAGE: u8 = 15;
const SUBJECT_ALT_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const NAME_CONSTRAINTS: u8 = 30;
const EXTENDED_KEY_USAGE: u8 = 37;

const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// What the extensions of one certificate say.
#[derive(Debug, Default)]
pub(super) struct Extensions<'a> {
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) subject_alt_name: Option<SubjectAltName<'a>>,
    pub(super) has_name_constraints: bool,
    /// What lists say by which key they are signed. Nothing is decided by it alone.
    pub(super) subject_key_identifier: Option<&'a [u8]>,
}

#[derive(Debug)]
pub(super) struct KeyUsage {
    pub(super) critical: bool,
    pub(super) digital_signature: bool,
    pub(super) key_cert_sign: bool,
    pub(super) crl_sign: bool,
}

#[derive(Debug)]
pub(super) struct ExtendedKeyUsage {
    pub(super) server_auth: bool,
    pub(super) client_auth: bool,
}

#[derive(Debug)]
pub(super) struct BasicConstraints {
    pub(super) critical: bool,
    pub(super) authority: bool,
    pub(super) path_length: Option<u8>,
}

/// Only URI names matter; each is kept as its bytes, well formed or not, so that a malformed one still
/// counts.
#[derive(Debug)]
pub(super) struct SubjectAltName<'a> {
    pub(super) critical: bool,
    pub(super) uris: Vec<&'a [u8]>,
}

impl<'a> Extensions<'a> {
    pub(super) fn read(list: &[X509Extension<'a>]) -> Result<Self, SvidError> {
        if list.len() > MAX_EXTENSIONS {
            return Err(SvidError::TooManyExtensions { count: list.len() });
        }
        let mut extensions = Self::default();
        for (position, extension) in list.iter().enumerate() {
            if list.iter().take(position).any(|earlier| earlier.oid == extension.oid) {
                return Err(SvidError::DuplicateExtension { oid: extension.oid.to_string() });
            }
            extensions.take(extension)?;
        }
        Ok(extensions)
    }

    fn take(&mut self, extension: &X509Extension<'a>) -> Result<(), SvidError> {
        let malformed = |name| move |DerError(problem)| SvidError::Extension { name, problem };
        let (critical, value) = (extension.critical, extension.value);
        match extension.oid.as_bytes().strip_prefix(&ID_CE) {
            Some(&[KEY_USAGE]) => {
                self.key_usage = Some(key_usage(critical, value).map_err(malformed("keyUsage"))?);
            }
            Some(&[SUBJECT_ALT_NAME]) => {
                let names = subject_alt_name(critical, value).map_err(malformed("subjectAltName"))?;
                self.subject_alt_name = Some(names);
            }
            Some(&[BASIC_CONSTRAINTS]) => {
                let constraints =
                    basic_constraints(critical, value).map_err(malformed("basicConstraints"))?;
                self.basic_constraints = Some(constraints);
            }
            Some(&[EXTENDED_KEY_USAGE]) => {
                self.extended_key_usage = Some(extended_key_usage(value).map_err(malformed("extKeyUsage"))?);
            }
            // Path validation acts on them, and refuses any constraint on URIs.
            Some(&[NAME_CONSTRAINTS]) => {
                check_well_formed(value).map_err(malformed("nameConstraints"))?;
                self.has_name_constraints = true;
            }
            Some(&[SUBJECT_KEY_IDENTIFIER]) if !critical => {
                self.subject_key_identifier = Reader::sole(value, tag::OCTET_STRING).ok();
            }
            _ if critical => {
                return Err(SvidError::UnknownCriticalExtension { oid: extension.oid.to_string() });
            }
            _ => {}
        }
        Ok(())
    }
}

/// RFC 5280 section 4.2.1.3. Bit 0 is the highest of the first byte; DER drops zero bits at the end.
fn key_usage(critical: bool, value: &[u8]) -> Result<KeyUsage, DerError> {
    let (unused, bytes) = bits(Reader::sole(value, tag::BIT_STRING)?)?;
    let lowest_used = bytes.last().is_some_and(|last| last >> unused & 1 == 1);
    if !lowest_used {
        return Err(DerError("no bit is set, or zero bits follow the last one that is"));
    }
    if bytes.len() > 2 || (bytes.len() == 2 && unused != 7) {
        return Err(DerError("more than the nine bits that are defined"));
    }
    let bit = |number: u8| bytes.first().is_some_and(|first| first >> (7 - number) & 1 == 1);
    Ok(KeyUsage { critical, digital_signature: bit(0), key_cert_sign: bit(5), crl_sign: bit(6) })
}

/// RFC 5280 section 4.2.1.12.
fn extended_key_usage(value: &[u8]) -> Result<ExtendedKeyUsage, DerError> {
    check_well_formed(value)?;
    let mut purposes = Reader::new(Reader::sole(value, tag::SEQUENCE)?);
    if purposes.is_empty() {
        return Err(DerError("no purpose is listed"));
    }
    let mut usage = ExtendedKeyUsage { server_auth: false, client_auth: false };
    while !purposes.is_empty() {
        match purposes.expect(tag::OID)?.value {
            SERVER_AUTH => usage.server_auth = true,
            CLIENT_AUTH => usage.client_auth = true,
            // anyExtendedKeyUsage too: X509-SVID section 4.4 wants the two by name.
            _ => {}
        }
    }
    Ok(usage)
}

/// RFC 5280 section 4.2.1.9.
fn basic_constraints(critical: bool, value: &[u8]) -> Result<BasicConstraints, DerError> {
    let mut fields = Reader::new(Reader::sole(value, tag::SEQUENCE)?);
    let authority = match fields.optional(tag::BOOLEAN)? {
        None => false,
        Some(flag) if boolean(flag.value)? => true,
        Some(_) => return Err(DerError("a cA of FALSE is written out, which is the default")),
    };
    let path_length = match fields.optional(tag::INTEGER)? {
        None => None,
        Some(_) if !authority => return Err(DerError("a path length without cA")),
        Some(number) => match unsigned(number.value)? {
            [] => Some(0),
            [length] => Some(*length),
            _ => return Err(DerError("a path length above 255")),
        },
    };
    fields.finish()?;
    Ok(BasicConstraints { critical, authority, path_length })
}

/// RFC 5280 section 4.2.1.6. Names are context-specific tags 0 to 8.
fn subject_alt_name(critical: bool, value: &[u8]) -> Result<SubjectAltName<'_>, DerError> {
    const EMAIL: u8 = 0x81;
    const DNS: u8 = 0x82;
    const URI: u8 = 0x86;
    const URI_CONSTRUCTED: u8 = 0xa6;

    check_well_formed(value)?;
    let mut names = Reader::new(Reader::sole(value, tag::SEQUENCE)?);
    if names.is_empty() {
        return Err(DerError("no name is listed"));
    }
    let mut uris = Vec::new();
    while !names.is_empty() {
        let name = names.next()?;
        match name.tag {
            URI | URI_CONSTRUCTED => uris.push(name.value),
            EMAIL | DNS if !name.value.iter().all(u8::is_ascii_graphic) => {
                return Err(DerError("an e-mail or DNS name with a space, control or non-ASCII character"));
            }
            EMAIL | DNS | 0x87 | 0x88 | 0xa0 | 0xa3 | 0xa4 | 0xa5 => {}
            _ => return Err(DerError("a kind of name that does not exist")),
        }
    }
    Ok(SubjectAltName { critical, uris })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn key_usage_bits_are_counted_from_the_top() {
        let leaf = key_usage(true, &[0x03, 0x02, 0x07, 0x80]).unwrap();
        assert!(leaf.digital_signature && !leaf.key_cert_sign && !leaf.crl_sign);
        let signer = key_usage(true, &[0x03, 0x02, 0x01, 0x06]).unwrap();
        assert!(!signer.digital_signature && signer.key_cert_sign && signer.crl_sign);
        let decipher_only = key_usage(true, &[0x03, 0x03, 0x07, 0x80, 0x80]).unwrap();
        assert!(decipher_only.digital_signature);
        for wrong in [
            &[0x03, 0x01, 0x00][..],
            &[0x03, 0x02, 0x00, 0x80],
            &[0x03, 0x02, 0x06, 0x80],
            &[0x03, 0x03, 0x00, 0x80, 0x00],
            &[0x03, 0x03, 0x06, 0x80, 0x40],
            &[0x03, 0x04, 0x07, 0x80, 0x80, 0x80],
            &[0x03, 0x02, 0x07, 0x80, 0x00],
            &[0x04, 0x02, 0x07, 0x80],
        ] {
            assert!(key_usage(true, wrong).is_err(), "{wrong:02x?}");
        }
    }

    #[test]
    fn basic_constraints_are_read_in_der_only() {
        assert!(!basic_constraints(true, &[0x30, 0x00]).unwrap().authority);
        let signer = basic_constraints(true, &[0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00]).unwrap();
        assert!(signer.authority);
        assert_eq!(signer.path_length, Some(0));
        for wrong in [
            &[0x30, 0x03, 0x01, 0x01, 0x00][..],
            &[0x30, 0x03, 0x01, 0x01, 0x01],
            &[0x30, 0x03, 0x02, 0x01, 0x00],
            &[0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0xff],
            &[0x30, 0x07, 0x01, 0x01, 0xff, 0x02, 0x02, 0x01, 0x00],
            &[0x30, 0x09, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00, 0x02, 0x01, 0x00],
            &[0x30, 0x00, 0x00],
            &[],
        ] {
            assert!(basic_constraints(true, wrong).is_err(), "{wrong:02x?}");
        }
    }

    #[test]
    fn uri_names_count_whatever_their_form() {
        let names =
            subject_alt_name(false, &[0x30, 0x08, 0x86, 0x01, b'a', 0xa6, 0x00, 0x82, 0x01, b'd']).unwrap();
        assert_eq!(names.uris, [&b"a"[..], b""]);
        for wrong in [
            &[0x30, 0x00][..],
            &[0x30, 0x03, 0x82, 0x01, 0x00],
            &[0x30, 0x03, 0x81, 0x01, 0x0d],
            &[0x30, 0x03, 0x89, 0x01, b'a'],
            &[0x30, 0x03, 0x0c, 0x01, b'a'],
            &[0x30, 0x03, 0x86, 0x01, b'a', 0x00],
        ] {
            assert!(subject_alt_name(false, wrong).is_err(), "{wrong:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = key_usage(true, &bytes).is_ok();
            let _ = extended_key_usage(&bytes).is_ok();
            let _ = basic_constraints(true, &bytes).is_ok();
            let _ = subject_alt_name(true, &bytes).is_ok();
        }
    }
}
