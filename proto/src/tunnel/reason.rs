//! Why a stream was refused, or given up: a code for programs and, with a refusal, a text for people.

use std::fmt;

use super::MAX_REASON_BYTES;

/// Why the acceptor did not take a stream. No byte of it reached an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefuseCode {
    /// Policy does not let this identity do this.
    Denied,
    /// No app is served at this port.
    NotServed,
    /// The app does not take connections.
    Unreachable,
    /// The app took too long to take the connection.
    Timeout,
    /// A limit of the acceptor is reached.
    Overloaded,
    /// The acceptor is going away.
    Draining,
    /// The preamble has a field that the acceptor does not know and may not pass over.
    Unsupported,
    /// The acceptor cannot, for a reason of its own.
    Internal,
    /// A code of a later revision.
    Other(u8),
}

impl RefuseCode {
    /// The stable name in metrics and logs: a closed set, whatever a peer sends.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NotServed => "not_served",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
            Self::Other(_) => "other",
        }
    }

    /// Whether another endpoint of the same identity may well take the stream. The others would answer the
    /// same, as policy and configuration are the identity's and not the endpoint's.
    #[must_use]
    pub const fn is_of_this_endpoint(self) -> bool {
        matches!(self, Self::Unreachable | Self::Timeout | Self::Overloaded | Self::Draining | Self::Internal)
    }
}

impl From<u8> for RefuseCode {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::Denied,
            2 => Self::NotServed,
            3 => Self::Unreachable,
            4 => Self::Timeout,
            5 => Self::Overloaded,
            6 => Self::Draining,
            7 => Self::Unsupported,
            8 => Self::Internal,
            other => Self::Other(other),
        }
    }
}

impl From<RefuseCode> for u8 {
    fn from(code: RefuseCode) -> Self {
        match code {
            RefuseCode::Denied => 1,
            RefuseCode::NotServed => 2,
            RefuseCode::Unreachable => 3,
            RefuseCode::Timeout => 4,
            RefuseCode::Overloaded => 5,
            RefuseCode::Draining => 6,
            RefuseCode::Unsupported => 7,
            RefuseCode::Internal => 8,
            RefuseCode::Other(other) => other,
        }
    }
}

/// Why one end gave up a stream, and the connection with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResetCode {
    /// The connection of the app broke: pass it on as a reset.
    App,
    /// Nothing moved for too long.
    Idle,
    /// The stream's right ended: policy, revocation, expiry or trust.
    Withdrawn,
    /// The sender is going away and has waited long enough.
    Draining,
    /// The receiver of this code broke the protocol.
    Protocol,
    /// The sender cannot go on, for a reason of its own.
    Internal,
    /// A code of a later revision.
    Other(u8),
}

impl ResetCode {
    /// The stable name in metrics and logs: a closed set, whatever a peer sends.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Idle => "idle",
            Self::Withdrawn => "withdrawn",
            Self::Draining => "draining",
            Self::Protocol => "protocol",
            Self::Internal => "internal",
            Self::Other(_) => "other",
        }
    }
}

impl From<u8> for ResetCode {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::App,
            2 => Self::Idle,
            3 => Self::Withdrawn,
            4 => Self::Draining,
            5 => Self::Protocol,
            6 => Self::Internal,
            other => Self::Other(other),
        }
    }
}

impl From<ResetCode> for u8 {
    fn from(code: ResetCode) -> Self {
        match code {
            ResetCode::App => 1,
            ResetCode::Idle => 2,
            ResetCode::Withdrawn => 3,
            ResetCode::Draining => 4,
            ResetCode::Protocol => 5,
            ResetCode::Internal => 6,
            ResetCode::Other(other) => other,
        }
    }
}

/// A refusal: one that exists has a text within its bound and without control characters, so it is safe in
/// a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    code: RefuseCode,
    reason: Box<str>,
}

/// A REFUSE that cannot be read. Whoever sent it does not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalError {
    /// No code.
    #[error("refusal without code: expected one byte, then the reason")]
    Empty,
    /// The text is longer than it may be.
    #[error("reason of {0} bytes: expected at most {MAX_REASON_BYTES}")]
    Length(usize),
    /// The text is not UTF-8.
    #[error("reason is not UTF-8")]
    NotUtf8,
    /// The text has a control character.
    #[error("reason has a control character: expected a single line of text")]
    Control,
}

impl Refusal {
    /// With any text: control characters become spaces, and what is too long is cut.
    #[must_use]
    pub fn new(code: RefuseCode, reason: &str) -> Self {
        let end = reason.floor_char_boundary(MAX_REASON_BYTES);
        let clean = |character: char| if character.is_control() { ' ' } else { character };
        let reason = reason.get(..end).unwrap_or_default().chars().map(clean).collect::<String>();
        Self { code, reason: reason.into() }
    }

    /// What it means to a program.
    #[must_use]
    pub const fn code(&self) -> RefuseCode {
        self.code
    }

    /// What it says to people, at most [`MAX_REASON_BYTES`] bytes; may be empty.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The payload of REFUSE.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(1 + self.reason.len());
        payload.push(self.code.into());
        payload.extend_from_slice(self.reason.as_bytes());
        payload
    }

    pub(super) fn parse(payload: &[u8]) -> Result<Self, RefusalError> {
        let (&code, reason) = payload.split_first().ok_or(RefusalError::Empty)?;
        if reason.len() > MAX_REASON_BYTES {
            return Err(RefusalError::Length(reason.len()));
        }
        let reason = std::str::from_utf8(reason).map_err(|_| RefusalError::NotUtf8)?;
        if reason.chars().any(char::is_control) {
            return Err(RefusalError::Control);
        }
        Ok(Self { code: code.into(), reason: reason.into() })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            "" => f.write_str(self.code.as_str()),
            reason => write!(f, "{}: {reason}", self.code.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_code_reads_back() {
        for code in 0..=u8::MAX {
            assert_eq!(u8::from(RefuseCode::from(code)), code);
            assert_eq!(u8::from(ResetCode::from(code)), code);
            assert_eq!(RefuseCode::from(code).as_str() == "other", !(1..=8).contains(&code));
            assert_eq!(ResetCode::from(code).as_str() == "other", !(1..=6).contains(&code));
        }
    }

    #[test]
    fn verdicts_are_the_same_at_every_endpoint() {
        for code in [RefuseCode::Denied, RefuseCode::NotServed, RefuseCode::Unsupported] {
            assert!(!code.is_of_this_endpoint());
        }
        assert!(RefuseCode::Draining.is_of_this_endpoint());
        assert!(!RefuseCode::Other(99).is_of_this_endpoint());
    }

    #[test]
    fn refusals_say_code_and_text() {
        let refusal = Refusal::new(RefuseCode::Denied, "no rule allows it");
        assert_eq!(refusal.encode(), b"\x01no rule allows it");
        assert_eq!(refusal.to_string(), "denied: no rule allows it");
        assert_eq!(Refusal::new(RefuseCode::Timeout, "").to_string(), "timeout");
    }

    #[test]
    fn our_own_texts_are_made_to_fit() {
        let refusal = Refusal::new(RefuseCode::Internal, "a\r\nb\u{85}c\0");
        assert_eq!(refusal.reason(), "a  b c ");
        let refusal = Refusal::new(RefuseCode::Internal, &format!("a{}", "é".repeat(200)));
        assert_eq!(refusal.reason().len(), MAX_REASON_BYTES - 1, "cut before the half of a character");
    }

    #[test]
    fn texts_of_a_peer_are_not_repaired() {
        for (payload, error) in [
            (&b""[..], RefusalError::Empty),
            (b"\x01a\nb", RefusalError::Control),
            (b"\x01\x7f", RefusalError::Control),
            ("\x01\u{9b}".as_bytes(), RefusalError::Control),
            (b"\x01\0", RefusalError::Control),
            (b"\x01\xff", RefusalError::NotUtf8),
            (b"\x01\xc3", RefusalError::NotUtf8),
            (&[b'x'; 258], RefusalError::Length(257)),
        ] {
            assert_eq!(Refusal::parse(payload), Err(error));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(code in any::<u8>(), reason in any::<String>()) {
            let refusal = Refusal::new(code.into(), &reason);
            prop_assert!(refusal.reason().len() <= MAX_REASON_BYTES);
            prop_assert_eq!(Refusal::parse(&refusal.encode()), Ok(refusal));
        }
    }
}
