//! A strict reader of DER (X.690): one encoding for each value, and nothing left over.
//!
//! The general X.509 parser is lenient where it does not matter to most: it skips what follows the
//! last known field of a sequence, and takes constructed strings. Here it matters, because bytes that
//! one reader skips another may act on. So every certificate is walked with this reader first, and the
//! extensions that decide what an SVID means are read with it alone.

use rustls_pki_types::CertificateDer;

/// Tags, as the one byte they are in DER.
pub(super) mod tag {
    pub(in super::super) const BOOLEAN: u8 = 0x01;
    pub(in super::super) const INTEGER: u8 = 0x02;
    pub(in super::super) const BIT_STRING: u8 = 0x03;
    pub(in super::super) const OCTET_STRING: u8 = 0x04;
    pub(in super::super) const NULL: u8 = 0x05;
    pub(in super::super) const OID: u8 = 0x06;
    pub(in super::super) const UTC_TIME: u8 = 0x17;
    pub(in super::super) const GENERALIZED_TIME: u8 = 0x18;
    pub(in super::super) const SEQUENCE: u8 = 0x30;
    pub(in super::super) const SET: u8 = 0x31;
    /// `[0]` EXPLICIT, the version of a certificate.
    pub(in super::super) const VERSION: u8 = 0xa0;
    /// `[1]` and `[2]` IMPLICIT, the unique identifiers of issuer and subject.
    pub(in super::super) const UNIQUE_IDENTIFIERS: [u8; 2] = [0x81, 0x82];
    /// `[3]` EXPLICIT, the extensions of a certificate.
    pub(in super::super) const EXTENSIONS: u8 = 0xa3;
}

/// No field of a certificate nests deeper (a name constraint on a directory name has 9 levels).
const MAX_DEPTH: u8 = 16;

/// What is wrong with the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DerError(pub(super) &'static str);

/// Whether `bytes` are one element in DER, to the bottom of every constructed value: there is then no other way to
/// write what they say, and nothing that a lenient reader skips.
///
/// # Errors
/// What is wrong with them.
pub fn require_der(bytes: &[u8]) -> Result<(), DerError> {
    check_well_formed(bytes)
}

/// Certificates one after the other, as the Workload API sends chains and bundles. What each of them is, is not looked at.
///
/// # Errors
/// When the bytes are no row of whole elements.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, DerError> {
    let mut reader = Reader::new(bytes);
    let mut found = Vec::new();
    while !reader.is_empty() {
        found.push(CertificateDer::from(reader.expect(tag::SEQUENCE)?.raw.to_vec()));
    }
    Ok(found)
}

/// One tag, length and value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) value: &'a [u8],
    /// Tag and length too.
    pub(super) raw: &'a [u8],
}

/// What is left to read of a row of elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The value of the one element that `bytes` consists of.
    pub(super) fn sole(bytes: &'a [u8], tag: u8) -> Result<&'a [u8], DerError> {
        let mut reader = Self::new(bytes);
        let element = reader.expect(tag)?;
        reader.finish()?;
        Ok(element.value)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn next(&mut self) -> Result<Element<'a>, DerError> {
        let bytes = self.rest;
        let (&tag, after_tag) = bytes.split_first().ok_or(DerError("a field is missing"))?;
        if tag & 0x1f == 0x1f {
            return Err(DerError("a tag number above 30"));
        }
        let (&first, after_first) = after_tag.split_first().ok_or(DerError("a length is missing"))?;
        let (length, content) = match first {
            0..=0x7f => (usize::from(first), after_first),
            0x80 => return Err(DerError("an indefinite length")),
            // Certificates are far below 2^24 bytes.
            0x81..=0x83 => {
                let (digits, content) = after_first
                    .split_at_checked(usize::from(first & 0x7f))
                    .ok_or(DerError("a length is cut off"))?;
                let length = digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit));
                if length < 0x80 || digits.first() == Some(&0) {
                    return Err(DerError("a length that is not in its shortest form"));
                }
                (length, content)
            }
            _ => return Err(DerError("a length beyond any certificate")),
        };
        let (value, rest) = content.split_at_checked(length).ok_or(DerError("a field is cut off"))?;
        self.rest = rest;
        let raw = bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
        Ok(Element { tag, value, raw })
    }

    pub(super) fn expect(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        let element = self.next()?;
        if element.tag == tag { Ok(element) } else { Err(DerError("a field of another type than expected")) }
    }

    /// The next element if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerError> {
        if self.rest.first() == Some(&tag) { self.expect(tag).map(Some) } else { Ok(None) }
    }

    pub(super) fn finish(self) -> Result<(), DerError> {
        if self.is_empty() { Ok(()) } else { Err(DerError("bytes after the last field")) }
    }
}

/// Walks `bytes`, which hold one element, to the bottom of every constructed value.
pub(super) fn check_well_formed(bytes: &[u8]) -> Result<(), DerError> {
    let mut reader = Reader::new(bytes);
    check_element(reader.next()?, MAX_DEPTH)?;
    reader.finish()
}

fn check_element(element: Element<'_>, depth: u8) -> Result<(), DerError> {
    let value = element.value;
    match element.tag {
        tag::SEQUENCE | tag::SET => check_members(value, depth),
        0x20..=0x3f | 0x10 | 0x11 => Err(DerError("a constructed form that DER does not have")),
        tag::BOOLEAN => boolean(value).map(drop),
        tag::INTEGER => check_integer(value),
        tag::BIT_STRING => bits(value).map(drop),
        tag::NULL if !value.is_empty() => Err(DerError("a null that is not empty")),
        tag::OID => check_oid(value),
        // Context-specific and constructed: explicit tags and implicit sequences alike hold elements.
        tag if tag & 0x20 != 0 => check_members(value, depth),
        _ => Ok(()),
    }
}

fn check_members(value: &[u8], depth: u8) -> Result<(), DerError> {
    let depth = depth.checked_sub(1).ok_or(DerError("fields nested too deeply"))?;
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        check_element(reader.next()?, depth)?;
    }
    Ok(())
}

pub(super) fn boolean(value: &[u8]) -> Result<bool, DerError> {
    match value {
        [0x00] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(DerError("a boolean that is neither 00 nor FF")),
    }
}

fn check_integer(value: &[u8]) -> Result<(), DerError> {
    match value {
        [] => Err(DerError("an integer without bytes")),
        [0x00, 0x00..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => {
            Err(DerError("an integer that is not in its shortest form"))
        }
        _ => Ok(()),
    }
}

/// A non-negative integer: its bytes without a leading zero, so none at all for zero.
pub(super) fn unsigned(value: &[u8]) -> Result<&[u8], DerError> {
    check_integer(value)?;
    match value {
        [0x80..=0xff, ..] => Err(DerError("a negative integer")),
        [0x00, rest @ ..] => Ok(rest),
        _ => Ok(value),
    }
}

/// The bytes of a bit string, and how many bits of the last one are not used (0 to 7, all zero).
pub(super) fn bits(value: &[u8]) -> Result<(u8, &[u8]), DerError> {
    let (&unused, bytes) = value.split_first().ok_or(DerError("a bit string without bytes"))?;
    let unused_are_zero = match bytes.last() {
        None => unused == 0,
        Some(last) => unused < 8 && last & !(0xff << unused) == 0,
    };
    if unused_are_zero { Ok((unused, bytes)) } else { Err(DerError("a bit string with wrong unused bits")) }
}

fn check_oid(value: &[u8]) -> Result<(), DerError> {
    let mut starts = true;
    for &byte in value {
        if starts && byte == 0x80 {
            return Err(DerError("an object identifier that is not in its shortest form"));
        }
        starts = byte & 0x80 == 0;
    }
    if value.is_empty() || !starts { Err(DerError("an object identifier that is cut off")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn certificates_are_a_row_of_whole_sequences() {
        let read = |bytes: &[u8]| {
            certificates(bytes).map(|found| found.iter().map(|each| each.len()).collect::<Vec<_>>())
        };
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(read(&[0x30, 0x00, 0x30, 0x03, 0x01, 0x01, 0xff]), Ok(vec![2, 5]));
        for broken in [&[0x30][..], &[0x30, 0x01], &[0x30, 0x00, 0x00], &[0x31, 0x00], &[0x30, 0x00, 0x30]] {
            assert!(read(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn one_encoding_for_each_value() {
        for (bytes, well_formed) in [
            (&[0x30, 0x00][..], true),
            (&[0x30, 0x03, 0x01, 0x01, 0xff], true),
            (&[0x30, 0x03, 0x01, 0x01, 0x01], false),
            (&[0x30, 0x81, 0x03, 0x01, 0x01, 0xff], false),
            (&[0x30, 0x82, 0x00, 0x03, 0x01, 0x01, 0xff], false),
            (&[0x30, 0x80, 0x00, 0x00], false),
            (&[0x30, 0x00, 0x00], false),
            (&[0x30, 0x01], false),
            (&[0x30, 0x84, 0, 0, 0, 0], false),
            (&[0x10, 0x00], false),
            (&[0x24, 0x03, 0x04, 0x01, 0x00], false),
            (&[0x02, 0x00], false),
            (&[0x02, 0x01, 0x00], true),
            (&[0x02, 0x02, 0x00, 0x80], true),
            (&[0x02, 0x02, 0x00, 0x7f], false),
            (&[0x02, 0x02, 0xff, 0x80], false),
            (&[0x03, 0x01, 0x00], true),
            (&[0x03, 0x01, 0x01], false),
            (&[0x03, 0x02, 0x07, 0x80], true),
            (&[0x03, 0x02, 0x07, 0xc0], false),
            (&[0x03, 0x02, 0x08, 0x00], false),
            (&[0x03, 0x00], false),
            (&[0x05, 0x00], true),
            (&[0x05, 0x01, 0x00], false),
            (&[0x06, 0x03, 0x55, 0x1d, 0x0f], true),
            (&[0x06, 0x00], false),
            (&[0x06, 0x02, 0x55, 0x80], false),
            (&[0x06, 0x03, 0x55, 0x80, 0x01], false),
            (&[0x1f, 0x81, 0x00, 0x00], false),
            (&[], false),
        ] {
            assert_eq!(check_well_formed(bytes).is_ok(), well_formed, "{bytes:02x?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bytes = vec![0x30, 0x00];
        for _ in 0..20 {
            let length = u8::try_from(bytes.len()).unwrap();
            bytes.splice(0..0, [0x30, length]);
        }
        assert_eq!(check_well_formed(&bytes), Err(DerError("fields nested too deeply")));
    }

    #[test]
    fn unsigned_integers_drop_their_sign_byte() {
        assert_eq!(unsigned(&[0x00]), Ok(&[][..]));
        assert_eq!(unsigned(&[0x00, 0x80]), Ok(&[0x80][..]));
        assert_eq!(unsigned(&[0x7f]), Ok(&[0x7f][..]));
        assert!(unsigned(&[0x80]).is_err());
        assert!(unsigned(&[]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check_well_formed(&bytes);
            let _ = (boolean(&bytes), unsigned(&bytes), bits(&bytes), check_oid(&bytes));
        }
    }
}
