//! The trace that a stream belongs to: the `traceparent` of W3C Trace Context, section 3.2.

use std::fmt;
use std::str::FromStr;

/// Length of the text: `00-<32 hex>-<16 hex>-<2 hex>`.
pub(super) const TRACE_PARENT_BYTES: usize = 55;

/// A well-formed `traceparent`: lower-case hexadecimal only, so it is safe in a header or a log line.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent([u8; TRACE_PARENT_BYTES]);

/// Why a text is no `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceParentError {
    /// Not `2-32-16-2` lower-case hexadecimal digits.
    #[error("traceparent: expected 2, 32, 16 and 2 lower-case hexadecimal digits with `-` between them")]
    Shape,
    /// Version `ff`, which the standard forbids.
    #[error("traceparent: version ff is not allowed")]
    Version,
    /// A trace or parent id that is all zeros, which means none.
    #[error("traceparent: an id of zeros names nothing")]
    Zero,
}

impl TraceParent {
    /// The text, as in an HTTP header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl TryFrom<&[u8]> for TraceParent {
    type Error = TraceParentError;

    fn try_from(text: &[u8]) -> Result<Self, TraceParentError> {
        let bytes: [u8; TRACE_PARENT_BYTES] = text.try_into().map_err(|_| TraceParentError::Shape)?;
        let mut fields = text.split(|&byte| byte == b'-');
        let mut field = |length: usize| {
            fields
                .next()
                .filter(|digits| digits.len() == length)
                .filter(|digits| digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
                .ok_or(TraceParentError::Shape)
        };
        let (version, trace, parent, _flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        if version == b"ff" {
            return Err(TraceParentError::Version);
        }
        if [trace, parent].iter().any(|id| id.iter().all(|&digit| digit == b'0')) {
            return Err(TraceParentError::Zero);
        }
        Ok(Self(bytes))
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        text.as_bytes().try_into()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_standards_example_reads_back() {
        let trace: TraceParent = GOOD.parse().unwrap();
        assert_eq!((trace.as_str(), trace.to_string().as_str()), (GOOD, GOOD));
        // A later version of 55 bytes has the same fields first.
        assert!(GOOD.replacen("00", "cc", 1).parse::<TraceParent>().is_ok());
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, error) in [
            (String::new(), TraceParentError::Shape),
            (GOOD[..54].to_owned(), TraceParentError::Shape),
            (format!("{GOOD}0"), TraceParentError::Shape),
            (GOOD.to_uppercase(), TraceParentError::Shape),
            (GOOD.replace('-', "0"), TraceParentError::Shape),
            (GOOD.replacen("4b", "-b", 1), TraceParentError::Shape),
            (GOOD.replacen("4b", "\r\n", 1), TraceParentError::Shape),
            (GOOD.replacen("-4b", "4-b", 1), TraceParentError::Shape),
            (GOOD.replacen("00", "ff", 1), TraceParentError::Version),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), TraceParentError::Zero),
            (format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", "0".repeat(16)), TraceParentError::Zero),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(error), "{text}");
        }
    }
}
