//! A `traceparent` (W3C Trace Context, section 3.2) in its parts.

use std::fmt;
use std::str::FromStr;

use signet_proto::tunnel::{TraceParent, TraceParentError};

/// Which trace, which span of it, and whether it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: u128,
    /// The span that is the parent of what comes next.
    pub span: u64,
    /// Whether it is recorded.
    pub sampled: bool,
}

impl Context {
    /// A new span of the same trace.
    pub(super) fn below(parent: &Self) -> Option<Self> {
        Some(Self { span: u64::from_be_bytes(random()?).max(1), ..*parent })
    }

    /// A new trace, recorded in that ratio. The decision follows from the id alone.
    pub(super) fn root(ratio: f64) -> Option<Self> {
        let trace = u128::from_be_bytes(random()?).max(1);
        // 53 bits of the random part fit an f64 exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits")]
        let drawn = (trace & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64;
        Some(Self { trace, span: u64::from_be_bytes(random()?).max(1), sampled: drawn < ratio })
    }

    /// As tunnels carry it.
    #[must_use]
    pub fn traceparent(&self) -> Option<TraceParent> {
        self.to_string().parse().ok()
    }
}

fn random<const BYTES: usize>() -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

impl From<TraceParent> for Context {
    fn from(text: TraceParent) -> Self {
        // Hexadecimal by construction: 2-32-16-2 digits.
        let mut fields = text.as_str().split('-').skip(1);
        let mut field = || fields.next().unwrap_or_default();
        let (trace, span, flags) = (field(), field(), field());
        Self {
            trace: u128::from_str_radix(trace, 16).unwrap_or_default(),
            span: u64::from_str_radix(span, 16).unwrap_or_default(),
            sampled: u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1),
        }
    }
}

impl FromStr for Context {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, TraceParentError> {
        // Later versions may add fields behind (section 3.2.4).
        let known = match text.get(..56) {
            Some(longer) if longer.ends_with('-') && !text.starts_with("00-") => {
                text.get(..55).unwrap_or(text)
            }
            _ => text,
        };
        known.parse::<TraceParent>().map(Into::into)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_and_parts_are_the_same(trace in 1..u128::MAX, span in 1..u64::MAX, sampled: bool) {
            let context = Context { trace, span, sampled };
            prop_assert_eq!(context.to_string().parse(), Ok(context));
            prop_assert_eq!(context.traceparent().map(Context::from), Some(context));
        }
    }

    #[test]
    fn later_versions_are_read_and_damage_is_not() {
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        assert!(
            format!("01-{ids}-01-what-comes-next").parse::<Context>().is_ok_and(|context| context.sampled)
        );
        for damaged in
            [format!("00-{ids}-01-more"), format!("ff-{ids}-01"), format!("00-{ids}-1"), String::new()]
        {
            assert!(damaged.parse::<Context>().is_err(), "{damaged}");
        }
    }

    #[test]
    fn ratio_is_kept() {
        let sampled = (0..10_000).filter(|_| Context::root(0.25).is_some_and(|root| root.sampled)).count();
        assert!((2200..2800).contains(&sampled), "{sampled}");
    }
}
