//! ECDSA as tokens speak it, and as certificates hold it: fixed width against DER (RFC 3279 2.2.3).

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, EcdsaVerificationAlgorithm, UnparsedPublicKey,
};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm};

use crate::ca::KeyCurve;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
/// Of a point that is not compressed.
const UNCOMPRESSED: u8 = 0x04;

impl KeyCurve {
    /// Its name for tokens: CKA_EC_PARAMS, DER.
    pub(in crate::ca) fn parameters(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        }
    }

    /// With which it signs certificates.
    pub(in crate::ca) fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
            Self::P384 => &PKCS_ECDSA_P384_SHA384,
        }
    }

    /// What is signed of a message.
    pub(in crate::ca) fn digest(self, message: &[u8]) -> Digest {
        match self {
            Self::P256 => digest::digest(&digest::SHA256, message),
            Self::P384 => digest::digest(&digest::SHA384, message),
        }
    }

    fn verification(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1,
            Self::P384 => &ECDSA_P384_SHA384_ASN1,
        }
    }

    /// Of a number.
    fn width(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    /// Whether this signature (DER) is this key's.
    pub(in crate::ca) fn verifies(self, point: &[u8], message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.verification(), point).verify(message, signature).is_ok()
    }

    /// A signature in DER; `None` for anything that is none of this curve.
    pub(in crate::ca) fn to_der(self, raw: &[u8]) -> Option<Vec<u8>> {
        let (r, s) = raw.split_at_checked(self.width()).filter(|(_, s)| s.len() == self.width())?;
        let body = [integer(r), integer(s)].concat();
        // At most 104 bytes: the short form of a length.
        let length = u8::try_from(body.len()).ok().filter(|length| *length < 0x80)?;
        Some([&[SEQUENCE, length], body.as_slice()].concat())
    }

    /// A public point out of CKA_EC_POINT: an OCTET STRING, or, of tokens that take it less exactly, the point alone.
    pub(in crate::ca) fn point(self, attribute: &[u8]) -> Option<Vec<u8>> {
        let length = 2 * self.width() + 1;
        let bare = match attribute {
            [OCTET_STRING, told, rest @ ..] if usize::from(*told) == rest.len() => rest,
            bare => bare,
        };
        (bare.len() == length && bare.first() == Some(&UNCOMPRESSED)).then(|| bare.to_vec())
    }
}

/// Positive, with as few bytes as it takes.
fn integer(number: &[u8]) -> Vec<u8> {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len().saturating_sub(1));
    let digits = number.get(first..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    let length = u8::try_from(sign.len() + digits.len()).unwrap_or_default();
    [&[INTEGER, length], sign, digits].concat()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    };

    use super::*;

    #[test]
    fn signature_of_a_token_verifies_as_der() {
        let random = SystemRandom::new();
        for (curve, signing) in [
            (KeyCurve::P256, &ECDSA_P256_SHA256_FIXED_SIGNING),
            (KeyCurve::P384, &ECDSA_P384_SHA384_FIXED_SIGNING),
        ] {
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
            let key = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref()).unwrap();
            let point = key.public_key().as_ref();
            // Numbers with and without a leading zero or sign.
            for message in 0..100_u8 {
                let raw = key.sign(&random, &[message]).unwrap();
                let der = curve.to_der(raw.as_ref()).unwrap();
                assert!(curve.verifies(point, &[message], &der));
                assert!(!curve.verifies(point, &[message, 0], &der));
                assert_eq!(curve.to_der(&raw.as_ref()[1..]), None);
            }
            let wrapped = [&[OCTET_STRING, u8::try_from(point.len()).unwrap()], point].concat();
            assert_eq!(curve.point(&wrapped).as_deref(), Some(point));
            assert_eq!(curve.point(point).as_deref(), Some(point));
            assert_eq!(curve.point(&point[1..]), None);
        }
        assert_eq!(integer(&[0, 0]), [INTEGER, 1, 0]);
        assert_eq!(integer(&[0, 0x80]), [INTEGER, 2, 0, 0x80]);
    }
}
