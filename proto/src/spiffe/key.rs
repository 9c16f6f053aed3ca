//! Which public keys a certificate of the mesh may hold.
//!
//! EC P-256 and P-384, Ed25519, and RSA of 2048 to 4096 bits. The upper bound is not about strength:
//! a verifier pays for the size of a key that a stranger chose.

use super::der::{Reader, bits, check_well_formed, tag, unsigned};

/// The value bytes of the object identifiers in a SubjectPublicKeyInfo.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
const ODD_EXPONENT: &str = "an RSA exponent other than an odd number from 65537 to 2^32";

/// A public key of an accepted kind, taken apart as RFC 7518 names its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PublicKey<'a> {
    Ec { curve: &'static str, x: &'a [u8], y: &'a [u8] },
    Ed25519 { x: &'a [u8] },
    Rsa { modulus: &'a [u8], exponent: &'a [u8] },
}

/// The kinds of public keys that are accepted, here and from those who prove that they hold one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA of 2048 to 4096 bits.
    Rsa,
}

impl KeyKind {
    /// The kind of a SubjectPublicKeyInfo in DER: decided by its form alone, at no cost that a stranger could choose.
    ///
    /// # Errors
    /// Why the key is not accepted.
    pub fn of_spki(spki: &[u8]) -> Result<Self, KeyError> {
        match PublicKey::read(spki)? {
            PublicKey::Ec { curve: "P-256", .. } => Ok(Self::P256),
            PublicKey::Ec { .. } => Ok(Self::P384),
            PublicKey::Ed25519 { .. } => Ok(Self::Ed25519),
            PublicKey::Rsa { .. } => Ok(Self::Rsa),
        }
    }
}

/// Why a public key is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(&'static str);

impl KeyError {
    pub(super) fn what(self) -> &'static str {
        self.0
    }
}

impl<'a> PublicKey<'a> {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7, RFC 5480, RFC 8410, RFC 3279).
    pub(super) fn read(spki: &'a [u8]) -> Result<Self, KeyError> {
        let malformed = |_| KeyError("a public key that cannot be read");
        let mut fields = Reader::new(Reader::sole(spki, tag::SEQUENCE).map_err(malformed)?);
        let algorithm = fields.expect(tag::SEQUENCE).map_err(malformed)?;
        let key = fields.expect(tag::BIT_STRING).map_err(malformed)?;
        fields.finish().map_err(malformed)?;
        let (0, key) = bits(key.value).map_err(malformed)? else {
            return Err(KeyError("a public key that is not whole bytes"));
        };

        let mut algorithm = Reader::new(algorithm.value);
        let name = algorithm.expect(tag::OID).map_err(malformed)?.value;
        let parameters = if algorithm.is_empty() { None } else { Some(algorithm.next().map_err(malformed)?) };
        algorithm.finish().map_err(malformed)?;

        match (name, parameters.map(|p| (p.tag, p.value))) {
            (EC_PUBLIC_KEY, Some((tag::OID, P256))) => point("P-256", 32, key),
            (EC_PUBLIC_KEY, Some((tag::OID, P384))) => point("P-384", 48, key),
            (EC_PUBLIC_KEY, _) => Err(KeyError("an elliptic curve other than P-256 and P-384")),
            (ED25519, None) if key.len() == 32 => Ok(Self::Ed25519 { x: key }),
            (ED25519, _) => Err(KeyError("an Ed25519 key that is not 32 bytes without parameters")),
            (RSA_ENCRYPTION, Some((tag::NULL, []))) => rsa(key),
            (RSA_ENCRYPTION, _) => Err(KeyError("an RSA key without the NULL parameters")),
            _ => Err(KeyError("an algorithm other than ECDSA, Ed25519 and RSA")),
        }
    }
}

/// An uncompressed point (SEC 1 section 2.3.3); whether it is on the curve is for the signature check.
fn point<'a>(curve: &'static str, size: usize, key: &'a [u8]) -> Result<PublicKey<'a>, KeyError> {
    match key.split_first() {
        Some((0x04, coordinates)) if coordinates.len() == 2 * size => {
            let (x, y) = coordinates.split_at(size);
            Ok(PublicKey::Ec { curve, x, y })
        }
        _ => Err(KeyError("an elliptic-curve key that is not an uncompressed point of its curve")),
    }
}

fn rsa(key: &[u8]) -> Result<PublicKey<'_>, KeyError> {
    let malformed = |_| KeyError("an RSA key that cannot be read");
    check_well_formed(key).map_err(malformed)?;
    let mut fields = Reader::new(Reader::sole(key, tag::SEQUENCE).map_err(malformed)?);
    let modulus = unsigned(fields.expect(tag::INTEGER).map_err(malformed)?.value).map_err(malformed)?;
    let exponent = unsigned(fields.expect(tag::INTEGER).map_err(malformed)?.value).map_err(malformed)?;
    fields.finish().map_err(malformed)?;

    let leading_zeros = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !RSA_BITS.contains(&(modulus.len() * 8 - leading_zeros)) {
        return Err(KeyError("an RSA key outside 2048 to 4096 bits"));
    }
    if exponent.len() > 4 {
        return Err(KeyError(ODD_EXPONENT));
    }
    let number = exponent.iter().fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte));
    if number < 65537 || number % 2 == 0 {
        return Err(KeyError(ODD_EXPONENT));
    }
    Ok(PublicKey::Rsa { modulus, exponent })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{integer, sequence, tlv};
    use super::*;
    use rcgen::PublicKeyData;

    fn spki(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
        let mut value = vec![0];
        value.extend_from_slice(key);
        sequence(&[&sequence(algorithm), &tlv(tag::BIT_STRING, &value)])
    }

    fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let key = sequence(&[&integer(modulus), &integer(exponent)]);
        spki(&[&tlv(tag::OID, RSA_ENCRYPTION), &tlv(tag::NULL, &[])], &key)
    }

    #[test]
    fn the_kinds_of_keys_that_the_mesh_makes_are_accepted() {
        for (algorithm, kind) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::P256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::P384),
            (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(KeyKind::of_spki(&key.subject_public_key_info()), Ok(kind));
        }
    }

    #[test]
    fn rsa_is_accepted_from_2048_to_4096_bits_only() {
        for (bits, accepted) in [
            (1024, false),
            (2040, false),
            (2048, true),
            (3072, true),
            (4096, true),
            (4104, false),
            (16384, false),
        ] {
            let mut modulus = vec![0xff; bits / 8];
            modulus.insert(0, 0);
            assert_eq!(PublicKey::read(&rsa_key(&modulus, &[1, 0, 1])).is_ok(), accepted, "{bits}");
        }
        let mut short = vec![0x7f];
        short.resize(256, 0xff);
        assert!(PublicKey::read(&rsa_key(&short, &[1, 0, 1])).is_err(), "2047 bits");
    }

    #[test]
    fn weak_or_costly_rsa_exponents_are_refused() {
        let mut modulus = vec![0xff; 256];
        modulus.insert(0, 0);
        for exponent in [&[1][..], &[3], &[1, 0, 0], &[1, 0, 2], &[1, 0, 0, 0, 1]] {
            assert_eq!(
                PublicKey::read(&rsa_key(&modulus, exponent)),
                Err(KeyError(ODD_EXPONENT)),
                "{exponent:?}"
            );
        }
    }

    #[test]
    fn other_curves_forms_and_algorithms_are_refused() {
        let p521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
        let dsa: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01];
        let ec = tlv(tag::OID, EC_PUBLIC_KEY);
        let mut uncompressed = vec![4];
        uncompressed.resize(65, 1);
        let mut compressed = vec![2];
        compressed.resize(33, 1);
        assert!(PublicKey::read(&spki(&[&ec, &tlv(tag::OID, P256)], &uncompressed)).is_ok());
        for wrong in [
            spki(&[&ec, &tlv(tag::OID, P256)], &compressed),
            spki(&[&ec, &tlv(tag::OID, P384)], &uncompressed),
            spki(&[&ec, &tlv(tag::OID, p521)], &uncompressed),
            spki(&[&ec], &uncompressed),
            spki(&[&ec, &tlv(tag::OID, P256), &tlv(tag::NULL, &[])], &uncompressed),
            spki(&[&tlv(tag::OID, ED25519)], &[1; 31]),
            spki(&[&tlv(tag::OID, ED25519), &tlv(tag::NULL, &[])], &[1; 32]),
            spki(&[&tlv(tag::OID, dsa)], &[1; 32]),
            spki(&[&tlv(tag::OID, RSA_ENCRYPTION)], &[0x30, 0x00]),
            Vec::new(),
        ] {
            assert!(PublicKey::read(&wrong).is_err(), "{wrong:02x?}");
        }
    }
}
