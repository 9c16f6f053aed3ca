//! Patterns over HTTP paths, and the paths that two readers may read differently.
//!
//! A proxy compares the path as it forwards it, in its normal form ([`super::normal`]). What the normal form
//! cannot settle, as an app may decode `%2F` or cut at `;` and then serve something else than policy saw, is
//! *ambiguous*: no allow rule with paths matches it, every deny rule with paths does.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// Longest path pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1024;

/// `/charge` for one path, `/charge/*` for all below it in whole segments, `/*` for every path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern {
    /// Ends in a slash when everything below is meant.
    text: Box<str>,
    below: bool,
}

impl PathPattern {
    /// Whether an allow rule with this pattern may let `path` pass: compared as is.
    pub(super) fn allows(&self, path: &str) -> bool {
        if self.below {
            let rest = path.strip_prefix(&*self.text);
            // `/charge/` may be served as `/charge`; `/*` means them all.
            rest.is_some_and(|rest| !rest.is_empty() || &*self.text == "/")
        } else {
            path == &*self.text
        }
    }

    /// Whether a deny rule with this pattern must stop `path`: compared with escapes decoded and one
    /// slash at the end dropped, as an app may do it.
    pub(super) fn denies(&self, path: &str) -> bool {
        let mut decoded = Decoded(path.as_bytes());
        if !self.text.bytes().all(|expected| decoded.next() == Some(expected)) {
            return false;
        }
        self.below || matches!(decoded.0, b"" | b"/")
    }
}

/// Whether an app may read `path`, from which the query was cut, as another path than its bytes say.
pub(super) fn is_ambiguous(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\\;?#".contains(&byte);
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            if !plain(byte) {
                return true;
            }
            continue;
        }
        let Some((decoded, after)) = decode_pair(after) else { return true };
        rest = after;
        // Escapes of letters, digits, `-._~` have no reason but to hide; an escaped slash, backslash or
        // semicolon may separate; an escape that decodes to another escape may be decoded twice.
        let hides = decoded.is_ascii_alphanumeric() || b"-._~/\\;".contains(&decoded);
        let again =
            decoded == b'%' && rest.iter().take(2).filter(|digit| digit.is_ascii_hexdigit()).count() == 2;
        if hides || again || decoded.is_ascii_control() {
            return true;
        }
    }
    let Some(segments) = path.strip_prefix('/') else { return true };
    segments.contains("//") || path.starts_with("//") || segments.split('/').any(|s| matches!(s, "." | ".."))
}

/// The bytes of a path with its escapes decoded.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&byte, after) = self.0.split_first()?;
        let (byte, rest) = match byte {
            b'%' => decode_pair(after).unwrap_or((byte, after)),
            _ => (byte, after),
        };
        self.0 = rest;
        Some(byte)
    }
}

pub(super) fn decode_pair(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match bytes {
        &[high, low, ref rest @ ..] => Some((digit(high)? << 4 | digit(low)?, rest)),
        _ => None,
    }
}

/// Why a text is not a path pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathPatternError {
    /// Does not start with `/`.
    #[error("a path starts with `/`")]
    Relative,
    /// A `*` that is not the whole last segment.
    #[error("`*` may only be the whole last segment, as in `/charge/*`")]
    Wildcard,
    /// A path that no rule could decide about.
    #[error(
        "write the path decoded and without `%`, `//`, dot segments, `\\`, `;`, `?`, `#`, spaces and non-ASCII characters"
    )]
    Ambiguous,
    /// Too long.
    #[error("the path has more than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PathPatternError::TooLong);
        }
        if !text.starts_with('/') {
            return Err(PathPatternError::Relative);
        }
        let (path, below) = match text.strip_suffix('*') {
            Some(path) if path.ends_with('/') => (path, true),
            _ => (text, false),
        };
        if path.contains('*') {
            return Err(PathPatternError::Wildcard);
        }
        if path.contains('%') || is_ambiguous(path) {
            return Err(PathPatternError::Ambiguous);
        }
        Ok(Self { text: path.into(), below })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.below { "*" } else { "" })
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(crate::spiffe::ParsedText::new("a path such as \"/charge\" or \"/charge/*\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn allow_compares_whole_segments_as_they_are() {
        for (text, path, matches) in [
            ("/charge/*", "/charge/x", true),
            ("/charge/*", "/charge/x/y", true),
            ("/charge/*", "/charge", false),
            ("/charge/*", "/charge/", false),
            ("/charge/*", "/chargex", false),
            ("/charge", "/charge", true),
            ("/charge", "/charge/", false),
            ("/charge/", "/charge/", true),
            ("/charge", "/Charge", false),
            ("/a:b", "/a%3Ab", false),
            ("/*", "/", true),
            ("/*", "/anything/at/all", true),
            ("/", "/", true),
            ("/", "/a", false),
        ] {
            assert_eq!(pattern(text).allows(path), matches, "{text} {path}");
        }
    }

    #[test]
    fn deny_matches_what_an_app_may_take_for_the_same() {
        for (text, path, matches) in [
            ("/admin", "/admin", true),
            ("/admin", "/admin/", true),
            ("/admin", "/admin/x", false),
            ("/admin", "/administrator", false),
            ("/admin/*", "/admin/", true),
            ("/admin/*", "/admin/x", true),
            ("/admin/*", "/admin", false),
            ("/a:b", "/a%3Ab", true),
            ("/a:b", "/a%3ab/", true),
            ("/a:b/*", "/a%3Ab/c%20d", true),
            ("/*", "/", true),
        ] {
            assert_eq!(pattern(text).denies(path), matches, "{text} {path}");
        }
    }

    #[test]
    fn paths_that_an_app_may_read_differently_are_ambiguous() {
        for path in [
            "",
            "*",
            "a",
            "example.com:443",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/../b",
            "/a/.",
            "/a/./b",
            "/a%2fb",
            "/a%2Fb",
            "/%2e%2e/b",
            "/a%2Eb",
            "/a%00",
            "/a%5cb",
            "/a\\b",
            "/a;b",
            "/a%3bb",
            "/a;/../b",
            "/%61dmin",
            "/a%7Eb",
            "/a%252fb",
            "/a%2541",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%+1",
            "/a b",
            "/a\0",
            "/a\n",
            "/a\u{7f}",
            "/é",
            "/a?b",
            "/a#b",
            "/a%0d%0a",
        ] {
            assert!(is_ambiguous(path), "{path:?}");
        }
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/...",
            "/.a",
            "/a..",
            "/a%20b",
            "/%C3%A9",
            "/a%40b",
            "/100%25",
            "/a:b@c",
            "/~a/b-c_d",
        ] {
            assert!(!is_ambiguous(path), "{path:?}");
        }
    }

    #[test]
    fn patterns_are_plain_paths() {
        use PathPatternError as E;
        for (text, error) in [
            ("", E::Relative),
            ("a", E::Relative),
            ("*", E::Relative),
            ("/a*", E::Wildcard),
            ("/*/a", E::Wildcard),
            ("/a/**", E::Wildcard),
            ("/a//b", E::Ambiguous),
            ("//*", E::Ambiguous),
            ("/a/../b", E::Ambiguous),
            ("/a%20b", E::Ambiguous),
            ("/a?x=1", E::Ambiguous),
            ("/a;b", E::Ambiguous),
            ("/é", E::Ambiguous),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(error), "{text}");
        }
        assert_eq!(format!("/{}", "a".repeat(1024)).parse::<PathPattern>(), Err(E::TooLong));
    }

    proptest! {
        #[test]
        fn deny_stops_at_least_what_allow_lets_pass(text in "/[ab:]{0,2}(/[ab:]{1,2}){0,2}(/\\*)?", path in "(/|[ab:]|%3A){0,6}") {
            if let Ok(pattern) = text.parse::<PathPattern>() {
                prop_assert_eq!(pattern.to_string(), text);
                prop_assert!(!pattern.allows(&path) || pattern.denies(&path));
            }
        }

        #[test]
        fn no_path_panics(path in "\\PC*", escapes in "/[%0-9a-f./;]{0,12}") {
            for path in [path, escapes] {
                let _ = (is_ambiguous(&path), pattern("/a/*").denies(&path), path.parse::<PathPattern>());
            }
        }
    }
}
