//! Challenges that nobody has to remember: what they are good for is in their authentication code.
//!
//! ```text
//!   nonce (32) ‖ end, seconds since the epoch (8, big-endian) ‖ HMAC-SHA256 (32) over
//!     "signet x509 challenge v1" 00 ‖ length (2) and name of the attestor ‖ SHA-256 of the CSR ‖ nonce ‖ end
//! ```

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;

use super::error::X509Error;

const LIFE: Duration = Duration::from_secs(60);
const NONCE: usize = 32;
const SIGNED: usize = NONCE + size_of::<u64>();
const LENGTH: usize = SIGNED + 32;
const CONTEXT: &[u8] = b"signet x509 challenge v1\0";

/// Makes and checks the challenges of one attestor.
pub(super) struct Challenges {
    attestor: String,
    key: hmac::Key,
}

impl Challenges {
    pub(super) fn new(attestor: &str, key: &[u8; 32]) -> Self {
        Self { attestor: attestor.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    pub(super) fn make(&self, csr_sha256: &[u8; 32], now: SystemTime) -> Result<Vec<u8>, X509Error> {
        let mut challenge = vec![0; NONCE];
        aws_lc_rs::rand::fill(&mut challenge).map_err(|_| X509Error::NoRandomness)?;
        challenge.extend(seconds(now + LIFE).to_be_bytes());
        let code = hmac::sign(&self.key, &self.covered(csr_sha256, &challenge));
        challenge.extend_from_slice(code.as_ref());
        Ok(challenge)
    }

    pub(super) fn check(
        &self,
        challenge: &[u8],
        csr_sha256: &[u8; 32],
        now: SystemTime,
    ) -> Result<(), X509Error> {
        if challenge.len() != LENGTH {
            return Err(X509Error::Challenge);
        }
        let (signed, code) = challenge.split_at_checked(SIGNED).ok_or(X509Error::Challenge)?;
        // In constant time.
        hmac::verify(&self.key, &self.covered(csr_sha256, signed), code).map_err(|_| X509Error::Challenge)?;
        let end = signed.last_chunk().map(|end| u64::from_be_bytes(*end)).ok_or(X509Error::Challenge)?;
        let now = seconds(now);
        // Further ahead than any was made: the clock that made it, or ours, has jumped.
        if now >= end || end - now > 2 * LIFE.as_secs() {
            return Err(X509Error::ChallengeExpired);
        }
        Ok(())
    }

    fn covered(&self, csr_sha256: &[u8; 32], signed: &[u8]) -> Vec<u8> {
        let length = u16::try_from(self.attestor.len()).unwrap_or(u16::MAX).to_be_bytes();
        [CONTEXT, &length, self.attestor.as_bytes(), csr_sha256, signed].concat()
    }
}

impl std::fmt::Debug for Challenges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenges").field("attestor", &self.attestor).finish_non_exhaustive()
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [5; 32];
    const CSR: [u8; 32] = [6; 32];

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn made() -> (Challenges, Vec<u8>) {
        let challenges = Challenges::new("devices", &KEY);
        let challenge = challenges.make(&CSR, at(1000)).unwrap();
        (challenges, challenge)
    }

    #[test]
    fn every_replica_with_the_key_believes_it_for_a_minute() {
        let (_, challenge) = made();
        let another = Challenges::new("devices", &KEY);
        assert_eq!(challenge.len(), LENGTH);
        assert!(challenge.len() <= signet_proto::possession::MAX_CHALLENGE_BYTES);
        for (seconds, good) in [(1000, true), (1059, true), (1060, false), (9999, false), (900, false)] {
            assert_eq!(another.check(&challenge, &CSR, at(seconds)).is_ok(), good, "{seconds}");
        }
    }

    #[test]
    fn no_two_are_the_same() {
        let (challenges, challenge) = made();
        assert_ne!(challenge, challenges.make(&CSR, at(1000)).unwrap());
    }

    #[test]
    fn it_is_good_for_one_attestor_one_request_and_one_key() {
        let (challenges, challenge) = made();
        assert!(challenges.check(&challenge, &[7; 32], at(1000)).is_err());
        assert!(Challenges::new("device", &KEY).check(&challenge, &CSR, at(1000)).is_err());
        assert!(Challenges::new("devices", &[4; 32]).check(&challenge, &CSR, at(1000)).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_refused() {
        let (challenges, challenge) = made();
        for index in 0..challenge.len() {
            for bit in 0..8 {
                let mut changed = challenge.clone();
                changed[index] ^= 1 << bit;
                assert!(challenges.check(&changed, &CSR, at(1000)).is_err(), "byte {index} bit {bit}");
            }
            assert!(challenges.check(&challenge[..index], &CSR, at(1000)).is_err(), "{index} bytes");
        }
        assert!(challenges.check(&[&challenge[..], &[0]].concat(), &CSR, at(1000)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_pass(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(made().0.check(&bytes, &CSR, at(1000)).is_err());
        }
    }
}
