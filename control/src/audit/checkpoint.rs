//! A checkpoint: that at some time the chain of events ended in this hash, signed.
//!
//! It covers the whole chain up to its event, because each event's hash covers the one before. What is signed are
//! these parts, each preceded by its length as 8 bytes big-endian; numbers are 8 bytes big-endian:
//!
//! ```text
//!   "signet audit checkpoint v1" | format | trust domain | sequence | hash (32 bytes) | revision
//!     | at, in ms since 1970 | key id (32 hex digits)
//! ```
//!
//! The line of JSON that carries it ([`super::Line`]) is only how it travels.

use std::time::{Duration, SystemTime};

use signet_proto::spiffe::TrustDomain;

use super::chain::AuditEvent;
use super::key::{AuditKey, AuditKeyError, AuditSigner};
use crate::{hex, time};

/// The version of what is signed.
pub const FORMAT: u64 = 1;
const LABEL: &[u8] = b"signet audit checkpoint v1";
/// So many events are reason enough for a checkpoint, however little time passed.
const EVENTS: u64 = 1000;

/// A signed statement about the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Of which mesh.
    pub trust_domain: TrustDomain,
    /// The event it speaks of; all before it are covered.
    pub sequence: u64,
    /// That event's hash.
    pub hash: [u8; 32],
    /// The newest revision at that time.
    pub revision: u64,
    /// When, to the millisecond.
    pub at: SystemTime,
    /// Which key signed: see [`AuditKey::id`].
    pub key: String,
    /// ECDSA P-256 with SHA-256, ASN.1.
    pub signature: Vec<u8>,
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Another key made it.
    #[error("it was signed with another key")]
    OtherKey,
    /// The signature is not over what it says.
    #[error("its signature does not fit what it says")]
    Signature,
    /// The list goes on in another mesh.
    #[error("it is of another trust domain than the one before")]
    OtherDomain,
    /// Sequence or time go back.
    #[error("it does not follow the one before: sequence or time go back")]
    NotMonotonic,
    /// Two statements about one event.
    #[error("there are two different ones for the same event")]
    Contradiction,
}

impl Checkpoint {
    /// Signs that `event` is the newest.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn sign(
        trust_domain: TrustDomain,
        event: &AuditEvent,
        revision: u64,
        at: SystemTime,
        signer: &AuditSigner,
    ) -> Result<Self, AuditKeyError> {
        let mut checkpoint = Self {
            trust_domain,
            sequence: event.sequence,
            hash: event.hash,
            revision,
            at,
            key: signer.public().id(),
            signature: Vec::new(),
        };
        checkpoint.signature = signer.sign(&checkpoint.signed_bytes())?;
        Ok(checkpoint)
    }

    /// What is signed: see the top of this file.
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        let number = u64::to_be_bytes;
        let at = time::to_millis(self.at).to_be_bytes();
        let parts: [&[u8]; 8] = [
            LABEL,
            &number(FORMAT),
            self.trust_domain.as_str().as_bytes(),
            &number(self.sequence),
            &self.hash,
            &number(self.revision),
            &at,
            self.key.as_bytes(),
        ];
        let mut bytes = Vec::with_capacity(256);
        for part in parts {
            bytes.extend_from_slice(&number(part.len() as u64));
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// What it is called where something happens to it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("checkpoint:{}:{}", self.sequence, hex::encode(&self.hash))
    }

    /// Whether `key` signed exactly this.
    ///
    /// # Errors
    /// [`CheckpointError::OtherKey`] or [`CheckpointError::Signature`].
    pub fn verify(&self, key: &AuditKey) -> Result<(), CheckpointError> {
        if self.key != key.id() {
            return Err(CheckpointError::OtherKey);
        }
        if !key.verifies(&self.signed_bytes(), &self.signature) {
            return Err(CheckpointError::Signature);
        }
        Ok(())
    }

    /// Whether it can come after `previous` in a list.
    ///
    /// # Errors
    /// Why not.
    pub fn follows(&self, previous: &Self) -> Result<(), CheckpointError> {
        if self.trust_domain != previous.trust_domain {
            Err(CheckpointError::OtherDomain)
        } else if self.sequence == previous.sequence {
            Err(CheckpointError::Contradiction)
        } else if self.sequence < previous.sequence || self.at < previous.at {
            Err(CheckpointError::NotMonotonic)
        } else {
            Ok(())
        }
    }
}

/// Whether it is time for one: something happened, and `every` has passed or much happened. A clock that went
/// back has passed, too.
pub(super) fn is_due(previous: Option<&Checkpoint>, newest: u64, now: SystemTime, every: Duration) -> bool {
    let Some(previous) = previous else { return newest > 0 };
    let events = newest.saturating_sub(previous.sequence);
    events >= EVENTS || events > 0 && now.duration_since(previous.at).map_or(true, |since| since >= every)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing;

    #[test]
    fn signed_bytes_are_those_that_are_documented() {
        let signer = testing::signer();
        let mut checkpoint = testing::checkpoint(&signer, &testing::chain(1)[0]);
        checkpoint.hash = [0xab; 32];
        checkpoint.revision = 7;
        checkpoint.at = time::from_millis(1_700_000_000_123);
        checkpoint.key = "k".into();
        let expected = [
            "000000000000001a",
            &hex::encode(b"signet audit checkpoint v1"),
            "00000000000000080000000000000001",
            "000000000000000a",
            &hex::encode(b"mesh.local"),
            "00000000000000080000000000000001",
            "0000000000000020",
            &"ab".repeat(32),
            "00000000000000080000000000000007",
            "00000000000000080000018bcfe5687b",
            "00000000000000016b",
        ]
        .concat();
        assert_eq!(hex::encode(&checkpoint.signed_bytes()), expected);
    }

    #[test]
    fn every_field_is_signed() {
        let signer = testing::signer();
        let good = testing::checkpoint(&signer, &testing::chain(1)[0]);
        good.verify(signer.public()).unwrap();
        for change in [
            (|checkpoint: &mut Checkpoint| checkpoint.trust_domain = "other".parse().unwrap())
                as fn(&mut Checkpoint),
            |checkpoint| checkpoint.sequence += 1,
            |checkpoint| checkpoint.hash[31] ^= 1,
            |checkpoint| checkpoint.revision += 1,
            |checkpoint| checkpoint.at += Duration::from_millis(1),
            |checkpoint| checkpoint.key.push('0'),
            |checkpoint| checkpoint.signature[9] ^= 1,
            |checkpoint| checkpoint.signature.push(0),
        ] {
            let mut changed = good.clone();
            change(&mut changed);
            assert!(changed.verify(signer.public()).is_err(), "{changed:?}");
        }
        assert_eq!(good.verify(testing::signer().public()), Err(CheckpointError::OtherKey));
    }

    #[test]
    fn due_after_a_while_or_after_much_but_never_for_nothing() {
        let signer = testing::signer();
        let previous = testing::checkpoint(&signer, &testing::chain(1)[0]);
        let minute = Duration::from_secs(60);
        let due = |newest, after| is_due(Some(&previous), newest, previous.at + after, minute);
        assert!(!due(1, 10 * minute), "nothing happened");
        assert!(!due(2, minute / 2));
        assert!(due(2, minute));
        assert!(due(1001, Duration::ZERO));
        assert!(!due(1000, Duration::ZERO));
        assert!(is_due(Some(&previous), 2, previous.at - minute, minute), "the clock went back");
        assert!(is_due(None, 1, previous.at, minute) && !is_due(None, 0, previous.at, minute));
    }
}
