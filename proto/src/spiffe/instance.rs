//! One running copy of a workload: what an SVID was issued to, and what can be revoked alone.
//!
//! The instance id is random, not derived from host or address, so that it says nothing and is never
//! reused. It is in the subject of the leaf as attribute `serialNumber` (2.5.4.5).

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::id::ParsedText;

/// 128 random bits; in text 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId([u8; 16]);

impl InstanceId {
    /// A new one, from the operating system's randomness.
    ///
    /// # Errors
    /// When there is no randomness to be had; nothing may be issued then.
    pub fn random() -> Result<Self, InstanceIdError> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| InstanceIdError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From the 16 bytes, as a store keeps them.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Why there is no instance id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceIdError {
    /// Not 32 lower-case hexadecimal digits.
    #[error("expected an instance id of 32 lower-case hexadecimal digits")]
    Format,
    /// The system gave no random bytes.
    #[error("the system has no random bytes to give: check that getrandom(2) is allowed, then try again")]
    NoRandomness,
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, InstanceIdError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(InstanceIdError::Format),
        };
        let digits: &[u8; 32] = text.as_bytes().try_into().map_err(|_| InstanceIdError::Format)?;
        let (pairs, _) = digits.as_chunks::<2>();
        let mut bytes = [0; 16];
        for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(high)? << 4 | digit(low)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ParsedText::new("an instance id of 32 lower-case hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_differ_and_display_back_to_themselves() {
        let (one, other) = (InstanceId::random().unwrap(), InstanceId::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_eq!(InstanceId::from_bytes(*one.as_bytes()), one);
    }

    #[test]
    fn only_32_lower_case_digits_are_an_instance_id() {
        let text = "00ff0123456789abcdef0123456789ab";
        assert_eq!(text.parse::<InstanceId>().unwrap().to_string(), text);
        for wrong in [
            "",
            "00FF0123456789abcdef0123456789ab",
            "00ff0123456789abcdef0123456789a",
            "00ff0123456789abcdef0123456789abc",
            "+0ff0123456789abcdef0123456789ab",
            "00ff0123-4567-89ab-cdef-0123456789ab",
            "é0ff0123456789abcdef0123456789a",
        ] {
            assert_eq!(wrong.parse::<InstanceId>(), Err(InstanceIdError::Format), "{wrong:?}");
        }
    }

    #[test]
    fn serde_uses_the_text() {
        let id: InstanceId = serde_json::from_str("\"00ff0123456789abcdef0123456789ab\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"00ff0123456789abcdef0123456789ab\"");
        assert!(serde_json::from_str::<InstanceId>("12").is_err());
    }
}
