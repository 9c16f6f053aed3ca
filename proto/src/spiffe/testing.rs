//! Certificates for the tests of this room, made byte by byte, so that every rule can be broken alone.
//! Signatures are not checked in this room; these have none to speak of.

use super::der::tag;

pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub(super) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(super) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
pub(super) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
pub(super) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 14];

pub(super) const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
pub(super) const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
pub(super) const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];
pub(super) const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 37, 0];

pub(super) const DIGITAL_SIGNATURE: &[u8] = &[0x03, 0x02, 0x07, 0x80];
pub(super) const KEY_CERT_SIGN: &[u8] = &[0x03, 0x02, 0x02, 0x04];

/// The parts of a certificate, as DER unless said otherwise.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) version: Option<u8>,
    /// The integer's bytes.
    pub(super) serial: Vec<u8>,
    pub(super) algorithm: Vec<u8>,
    pub(super) outer_algorithm: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) validity: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) spki: Vec<u8>,
    pub(super) unique_identifiers: Vec<u8>,
    /// Identifier, critical, value.
    pub(super) extensions: Vec<(Vec<u8>, bool, Vec<u8>)>,
    /// Whatever follows the last field of the signed part.
    pub(super) signed_tail: Vec<u8>,
}

impl Parts {
    pub(super) fn leaf(id: &str) -> Self {
        Self::new(vec![
            (KEY_USAGE.to_vec(), true, DIGITAL_SIGNATURE.to_vec()),
            (EXTENDED_KEY_USAGE.to_vec(), false, purposes(&[SERVER_AUTH, CLIENT_AUTH])),
            (BASIC_CONSTRAINTS.to_vec(), true, sequence(&[])),
            (SUBJECT_ALT_NAME.to_vec(), false, names(&[uri(id)])),
            (SUBJECT_KEY_IDENTIFIER.to_vec(), false, tlv(tag::OCTET_STRING, &[7; 20])),
        ])
    }

    pub(super) fn authority(id: &str) -> Self {
        Self::new(vec![
            (KEY_USAGE.to_vec(), true, KEY_CERT_SIGN.to_vec()),
            (BASIC_CONSTRAINTS.to_vec(), true, sequence(&[&tlv(tag::BOOLEAN, &[0xff])])),
            (SUBJECT_ALT_NAME.to_vec(), false, names(&[uri(id)])),
        ])
    }

    fn new(extensions: Vec<(Vec<u8>, bool, Vec<u8>)>) -> Self {
        let ecdsa_sha256 = sequence(&[&tlv(tag::OID, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02])]);
        Self {
            version: Some(2),
            serial: vec![0x12, 0x34],
            algorithm: ecdsa_sha256.clone(),
            outer_algorithm: ecdsa_sha256,
            issuer: name(&[(COMMON_NAME, "issuer")]),
            validity: validity("260101000000Z", "270101000000Z"),
            subject: name(&[(COMMON_NAME, "subject")]),
            spki: p256_key(1),
            unique_identifiers: Vec::new(),
            extensions,
            signed_tail: Vec::new(),
        }
    }

    pub(super) fn with(mut self, oid: &[u8], critical: bool, value: Vec<u8>) -> Self {
        self = self.without(oid);
        self.extensions.push((oid.to_vec(), critical, value));
        self
    }

    pub(super) fn without(mut self, oid: &[u8]) -> Self {
        self.extensions.retain(|(found, _, _)| found != oid);
        self
    }

    pub(super) fn der(&self) -> Vec<u8> {
        let version = self.version.map(|number| tlv(tag::VERSION, &tlv(tag::INTEGER, &[number])));
        let extensions: Vec<Vec<u8>> = self
            .extensions
            .iter()
            .map(|(oid, critical, value)| {
                let critical = if *critical { tlv(tag::BOOLEAN, &[0xff]) } else { Vec::new() };
                sequence(&[&tlv(tag::OID, oid), &critical, &tlv(tag::OCTET_STRING, value)])
            })
            .collect();
        let extensions = if extensions.is_empty() {
            Vec::new()
        } else {
            tlv(tag::EXTENSIONS, &tlv(tag::SEQUENCE, &extensions.concat()))
        };
        let signed = sequence(&[
            &version.unwrap_or_default(),
            &tlv(tag::INTEGER, &self.serial),
            &self.algorithm,
            &self.issuer,
            &self.validity,
            &self.subject,
            &self.spki,
            &self.unique_identifiers,
            &extensions,
            &self.signed_tail,
        ]);
        sequence(&[&signed, &self.outer_algorithm, &tlv(tag::BIT_STRING, &[0, 0x30, 0x00])])
    }
}

pub(super) fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    match value.len() {
        length @ 0..=0x7f => bytes.push(length as u8),
        length @ 0x80..=0xff => bytes.extend([0x81, length as u8]),
        length @ 0x100..=0xffff => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
        length => bytes.extend([0x83, (length >> 16) as u8, (length >> 8) as u8, length as u8]),
    }
    bytes.extend_from_slice(value);
    bytes
}

pub(super) fn sequence(members: &[&[u8]]) -> Vec<u8> {
    tlv(tag::SEQUENCE, &members.concat())
}

pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    tlv(tag::INTEGER, bytes)
}

pub(super) const COMMON_NAME: u8 = 3;
pub(super) const SERIAL_NUMBER: u8 = 5;

/// Attributes of `id-at`, one in each relative name.
pub(super) fn name(attributes: &[(u8, &str)]) -> Vec<u8> {
    let attributes = attributes.iter().map(|&(kind, text)| {
        let attribute = sequence(&[&tlv(tag::OID, &[0x55, 0x04, kind]), &tlv(0x0c, text.as_bytes())]);
        tlv(tag::SET, &attribute)
    });
    tlv(tag::SEQUENCE, &attributes.collect::<Vec<_>>().concat())
}

/// Two UTCTimes.
pub(super) fn validity(not_before: &str, not_after: &str) -> Vec<u8> {
    sequence(&[&tlv(tag::UTC_TIME, not_before.as_bytes()), &tlv(tag::UTC_TIME, not_after.as_bytes())])
}

pub(super) fn uri(text: &str) -> Vec<u8> {
    tlv(0x86, text.as_bytes())
}

pub(super) fn dns(text: &str) -> Vec<u8> {
    tlv(0x82, text.as_bytes())
}

pub(super) fn names(names: &[Vec<u8>]) -> Vec<u8> {
    tlv(tag::SEQUENCE, &names.concat())
}

pub(super) fn purposes(purposes: &[&[u8]]) -> Vec<u8> {
    let purposes: Vec<Vec<u8>> = purposes.iter().map(|oid| tlv(tag::OID, oid)).collect();
    tlv(tag::SEQUENCE, &purposes.concat())
}

/// Not a point on the curve, which is for the signature check to find.
pub(super) fn p256_key(fill: u8) -> Vec<u8> {
    let mut point = vec![0, 4];
    point.resize(66, fill);
    let algorithm = sequence(&[
        &tlv(tag::OID, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]),
        &tlv(tag::OID, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
    ]);
    sequence(&[&algorithm, &tlv(tag::BIT_STRING, &point)])
}
