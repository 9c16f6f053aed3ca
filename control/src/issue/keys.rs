//! Which kinds of keys are certified: what operators allow, and what each kind is in a signing request.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm,
};
use signet_proto::spiffe::KeyKind;

/// Kinds in order of preference, with their names.
const KINDS: [(KeyKind, &str); 4] =
    [(KeyKind::P256, "p256"), (KeyKind::P384, "p384"), (KeyKind::Ed25519, "ed25519"), (KeyKind::Rsa, "rsa")];

/// One kind of key, as settings name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyAlgorithm(pub KeyKind);

/// The kinds of keys that get an SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAlgorithms(Vec<KeyKind>);

/// Not the name of a kind of key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected p256, p384, ed25519 or rsa; found `{0}`")]
pub struct UnknownAlgorithm(String);

impl KeyAlgorithms {
    /// Just these; none if there are none.
    #[must_use]
    pub fn new(allowed: &[KeyAlgorithm]) -> Option<Self> {
        let allowed: Vec<KeyKind> = allowed.iter().map(|algorithm| algorithm.0).collect();
        (!allowed.is_empty()).then_some(Self(allowed))
    }

    /// Just this one.
    pub(super) fn of(kind: KeyKind) -> Self {
        Self(vec![kind])
    }

    pub(super) fn allow(&self, kind: KeyKind) -> bool {
        self.0.contains(&kind)
    }
}

/// ECDSA and Ed25519: small and fast to verify. RSA, of 2048 to 4096 bits, is for those who ask for it.
impl Default for KeyAlgorithms {
    fn default() -> Self {
        Self(vec![KeyKind::P256, KeyKind::P384, KeyKind::Ed25519])
    }
}

impl fmt::Display for KeyAlgorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = KINDS.iter().filter(|(kind, _)| self.allow(*kind)).map(|(_, name)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(", "))
    }
}

impl FromStr for KeyAlgorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        let found = KINDS.iter().find(|(_, name)| *name == text);
        found.map(|(kind, _)| Self(*kind)).ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}

impl<'de> serde::Deserialize<'de> for KeyAlgorithm {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What goes with a kind of key: one signature algorithm, in its one encoding.
pub(super) struct Scheme {
    /// AlgorithmIdentifier of the signature in DER (RFC 5758 3.2, RFC 8410 3, RFC 4055 5).
    pub(super) signature: &'static [u8],
    pub(super) verification: &'static dyn VerificationAlgorithm,
    pub(super) certified: &'static SignatureAlgorithm,
}

const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ED25519_ID: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
const RSA_SHA256: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00];

impl Scheme {
    pub(super) fn of(kind: KeyKind) -> Self {
        match kind {
            KeyKind::P256 => Self {
                signature: ECDSA_SHA256,
                verification: &ECDSA_P256_SHA256_ASN1,
                certified: &PKCS_ECDSA_P256_SHA256,
            },
            KeyKind::P384 => Self {
                signature: ECDSA_SHA384,
                verification: &ECDSA_P384_SHA384_ASN1,
                certified: &PKCS_ECDSA_P384_SHA384,
            },
            KeyKind::Ed25519 => {
                Self { signature: ED25519_ID, verification: &ED25519, certified: &PKCS_ED25519 }
            }
            KeyKind::Rsa => Self {
                signature: RSA_SHA256,
                verification: &RSA_PKCS1_2048_8192_SHA256,
                certified: &PKCS_RSA_SHA256,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kinds_are_read_and_told() {
        let all: Vec<KeyAlgorithm> =
            ["rsa", "ed25519", "p384", "p256"].map(|name| name.parse().unwrap()).to_vec();
        assert_eq!(KeyAlgorithms::new(&all).unwrap().to_string(), "p256, p384, ed25519, rsa");
        assert_eq!(KeyAlgorithms::default().to_string(), "p256, p384, ed25519");
        assert_eq!(KeyAlgorithms::new(&[]), None);
        assert!("P256".parse::<KeyAlgorithm>().unwrap_err().to_string().contains("`P256`"));
    }
}
