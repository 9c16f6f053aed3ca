//! What is signed to prove that one has the key of a certificate: the same bytes at both ends.
//!
//! ```text
//!   "signet x509 proof of possession v1" 00          no other protocol signs this
//!   length (2 bytes, big-endian) and trust domain    no control of another mesh can pass it on
//!   challenge                                        as control gave it: fresh, for one attestor and signing request
//!   SHA-256 of the signing request (32 bytes)        whoever replays it gets an SVID for the same key again
//! ```

use crate::spiffe::TrustDomain;

const CONTEXT: &[u8] = b"signet x509 proof of possession v1\0";

/// Largest challenge that a joiner signs.
pub const MAX_CHALLENGE_BYTES: usize = 256;

/// The bytes to sign; `csr_sha256` is of the signing request as it is sent.
#[must_use]
pub fn message(domain: &TrustDomain, challenge: &[u8], csr_sha256: &[u8; 32]) -> Vec<u8> {
    let name = domain.as_str().as_bytes();
    // A trust domain has at most 255 bytes.
    let length = u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes();
    [CONTEXT, &length, name, challenge, csr_sha256].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_as_documented() {
        let domain = "td".parse().unwrap();
        let message = message(&domain, b"challenge", &[7; 32]);
        let mut expected = b"signet x509 proof of possession v1\0\0\x02tdchallenge".to_vec();
        expected.extend([7; 32]);
        assert_eq!(message, expected);
    }

    #[test]
    fn every_part_changes_the_message() {
        let [one, other] = ["one.example", "other.example"].map(|name| name.parse().unwrap());
        let first = message(&one, b"a", &[1; 32]);
        assert_ne!(first, message(&other, b"a", &[1; 32]));
        assert_ne!(first, message(&one, b"b", &[1; 32]));
        assert_ne!(first, message(&one, b"a", &[2; 32]));
    }
}
