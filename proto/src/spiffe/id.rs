//! SPIFFE IDs and trust domains (SPIFFE-ID standard, section 2).
//!
//! Exactly one text form is accepted for each identity: lower-case scheme and trust domain, no
//! percent-encoding, no empty or dot segments. So two identities are equal when their bytes are, and
//! an identity needs no escaping in a header, a log line, a label or a file name segment.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

/// Longest SPIFFE ID, in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name, in bytes (SPIFFE-ID section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// The name of a trust domain, such as `prod.example`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The bare name, without scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself: no path.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId::of(format!("{SCHEME}{}", self.0), self.clone())
    }
}

/// A SPIFFE ID: `spiffe://<trust domain>` and a path that is empty or starts with `/`. Cheap to clone and to keep: one
/// pointer.
#[derive(Clone)]
pub struct SpiffeId(Arc<Parts>);

struct Parts {
    text: Box<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Both are well-formed, and `text` begins with the trust domain.
    fn of(text: impl Into<Box<str>>, trust_domain: TrustDomain) -> Self {
        Self(Arc::new(Parts { text: text.into(), trust_domain }))
    }

    /// The identity with `path` in `trust_domain`.
    ///
    /// # Errors
    /// When `path` is neither empty nor made of one or more well-formed segments, each preceded by `/`.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        check_path(path)?;
        let text = format!("{SCHEME}{trust_domain}{path}");
        check_length(&text)?;
        Ok(Self::of(text, trust_domain.clone()))
    }

    /// The whole identity, such as `spiffe://prod.example/payments`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The trust domain that vouches for it.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The path: empty for the trust domain itself, otherwise `/segment` once or more.
    #[must_use]
    pub fn path(&self) -> &str {
        self.as_str().get(SCHEME.len() + self.trust_domain().0.len()..).unwrap_or_default()
    }

    /// Whether it names a workload, not the trust domain itself (X509-SVID section 3.1).
    #[must_use]
    pub fn is_workload(&self) -> bool {
        !self.path().is_empty()
    }
}

/// Why a text is not a SPIFFE ID or not a trust domain: one variant for each broken rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// Longer than [`MAX_ID_BYTES`].
    #[error("the SPIFFE ID has {length} bytes, expected at most {MAX_ID_BYTES}")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// Does not start with `spiffe://` in lower case.
    #[error("expected a SPIFFE ID that starts with `{SCHEME}`, in lower case")]
    Scheme,
    /// Nothing between `spiffe://` and the path.
    #[error("the trust domain is empty, expected a name such as `prod.example`")]
    EmptyTrustDomain,
    /// Longer than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("the trust domain has {length} bytes, expected at most {MAX_TRUST_DOMAIN_BYTES}")]
    TrustDomainTooLong {
        /// Bytes found.
        length: usize,
    },
    /// A character outside `[a-z0-9._-]` in the trust domain.
    #[error(
        "the trust domain contains {found:?}, expected only lower-case letters, digits, `.`, `-` and `_`"
    )]
    TrustDomainCharacter {
        /// The first such character.
        found: char,
    },
    /// An `@`: SPIFFE IDs have no user information.
    #[error("a SPIFFE ID has no user information: remove what precedes `@`, and the `@`")]
    UserInformation,
    /// A `:` after the trust domain: SPIFFE IDs have no port.
    #[error("a SPIFFE ID has no port: remove `:` and what follows it")]
    Port,
    /// A `?`.
    #[error("a SPIFFE ID has no query: remove `?` and what follows it")]
    Query,
    /// A `#`.
    #[error("a SPIFFE ID has no fragment: remove `#` and what follows it")]
    Fragment,
    /// A `%`.
    #[error("a SPIFFE ID has no percent-encoding: use only letters, digits, `.`, `-` and `_`")]
    PercentEncoding,
    /// A path given on its own that does not start with `/`.
    #[error("a path starts with `/`, or is empty for the trust domain itself")]
    RelativePath,
    /// `/` at the end.
    #[error("the path ends with `/`: remove it")]
    TrailingSlash,
    /// `//`.
    #[error("the path has an empty segment (`//`), expected one `/` between segments")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("the path has a `.` or `..` segment, expected names")]
    DotSegment,
    /// A character outside `[a-zA-Z0-9._-]` in a path segment.
    #[error("the path contains {found:?}, expected only letters, digits, `.`, `-` and `_` between slashes")]
    PathCharacter {
        /// The first such character.
        found: char,
    },
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.is_empty() {
            return Err(SpiffeIdError::EmptyTrustDomain);
        }
        if text.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TrustDomainTooLong { length: text.len() });
        }
        match text.chars().find(|&c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            None => Ok(Self(text.into())),
            Some('@') => Err(SpiffeIdError::UserInformation),
            // `user:secret@host` has a colon too, and the user information is the larger mistake.
            Some(':') if text.contains('@') => Err(SpiffeIdError::UserInformation),
            Some(':') => Err(SpiffeIdError::Port),
            Some('?') => Err(SpiffeIdError::Query),
            Some('#') => Err(SpiffeIdError::Fragment),
            Some('%') => Err(SpiffeIdError::PercentEncoding),
            Some(found) => Err(SpiffeIdError::TrustDomainCharacter { found }),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        check_length(text)?;
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = trust_domain.parse()?;
        check_path(path)?;
        Ok(Self::of(text, trust_domain))
    }
}

fn check_length(text: &str) -> Result<(), SpiffeIdError> {
    if text.len() > MAX_ID_BYTES {
        return Err(SpiffeIdError::TooLong { length: text.len() });
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(SpiffeIdError::RelativePath)?;
    if path.ends_with('/') && !path.contains("//") {
        return Err(SpiffeIdError::TrailingSlash);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => return Err(SpiffeIdError::EmptySegment),
        "." | ".." => return Err(SpiffeIdError::DotSegment),
        _ => {}
    }
    match segment.chars().find(|&c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')) {
        None => Ok(()),
        Some('%') => Err(SpiffeIdError::PercentEncoding),
        Some('?') => Err(SpiffeIdError::Query),
        Some('#') => Err(SpiffeIdError::Fragment),
        Some(found) => Err(SpiffeIdError::PathCharacter { found }),
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_str() == other.as_str()
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ParsedText::new("the name of a trust domain"))
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_str(ParsedText::new("a SPIFFE ID such as \"spiffe://prod.example/payments\""))
    }
}

/// Reads any of the text types of this crate from a serde string, so that a wrong type or a wrong
/// text both say what was expected.
pub(crate) struct ParsedText<T> {
    expected: &'static str,
    parsed: std::marker::PhantomData<T>,
}

impl<T> ParsedText<T> {
    pub(crate) fn new(expected: &'static str) -> Self {
        Self { expected, parsed: std::marker::PhantomData }
    }
}

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for ParsedText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn well_formed_ids_are_accepted_and_taken_apart() {
        for (text, trust_domain, path) in [
            ("spiffe://prod.example/payments", "prod.example", "/payments"),
            ("spiffe://prod.example", "prod.example", ""),
            ("spiffe://a/b", "a", "/b"),
            ("spiffe://a_b-c.0/A/b.c/_-.9", "a_b-c.0", "/A/b.c/_-.9"),
            ("spiffe://td/...", "td", "/..."),
            ("spiffe://td/.hidden/a..b", "td", "/.hidden/a..b"),
            ("spiffe://10.0.0.1/a", "10.0.0.1", "/a"),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.trust_domain().as_str(), id.path()), (trust_domain, path));
            assert_eq!(id.to_string(), text);
            assert_eq!(id.is_workload(), !path.is_empty());
            assert_eq!(SpiffeId::new(id.trust_domain(), path).unwrap(), id);
        }
    }

    #[test]
    fn each_broken_rule_is_refused_by_name() {
        use SpiffeIdError as E;
        let character = |found| E::TrustDomainCharacter { found };
        let in_path = |found| E::PathCharacter { found };
        for (text, error) in [
            ("", E::Scheme),
            ("prod.example/payments", E::Scheme),
            ("http://td/a", E::Scheme),
            ("SPIFFE://td/a", E::Scheme),
            ("Spiffe://td/a", E::Scheme),
            ("spiffe:/td/a", E::Scheme),
            ("spiffe:td/a", E::Scheme),
            (" spiffe://td/a", E::Scheme),
            ("spiffe://", E::EmptyTrustDomain),
            ("spiffe:///a", E::EmptyTrustDomain),
            ("spiffe://Prod/a", character('P')),
            ("spiffe://tdé/a", character('é')),
            ("spiffe://t d/a", character(' ')),
            ("spiffe://t\0d/a", character('\0')),
            ("spiffe://*/a", character('*')),
            ("spiffe://[::1]/a", character('[')),
            ("spiffe://user@td/a", E::UserInformation),
            ("spiffe://user:secret@td/a", E::UserInformation),
            ("spiffe://td:8443/a", E::Port),
            ("spiffe://td:/a", E::Port),
            ("spiffe://td?x", E::Query),
            ("spiffe://td#x", E::Fragment),
            ("spiffe://t%64/a", E::PercentEncoding),
            ("spiffe://td/", E::TrailingSlash),
            ("spiffe://td/a/", E::TrailingSlash),
            ("spiffe://td//", E::EmptySegment),
            ("spiffe://td//a", E::EmptySegment),
            ("spiffe://td/a//b", E::EmptySegment),
            ("spiffe://td/.", E::DotSegment),
            ("spiffe://td/..", E::DotSegment),
            ("spiffe://td/a/../b", E::DotSegment),
            ("spiffe://td/a?x=1", E::Query),
            ("spiffe://td/a#x", E::Fragment),
            ("spiffe://td/%61", E::PercentEncoding),
            ("spiffe://td/a%2Fb", E::PercentEncoding),
            ("spiffe://td/a b", in_path(' ')),
            ("spiffe://td/a\0", in_path('\0')),
            ("spiffe://td/a\n", in_path('\n')),
            ("spiffe://td/a\r\nX: y", in_path('\r')),
            ("spiffe://td/a,URI=b", in_path(',')),
            ("spiffe://td/a;b", in_path(';')),
            ("spiffe://td/\"a", in_path('"')),
            ("spiffe://td/é", in_path('é')),
            ("spiffe://td/*", in_path('*')),
            ("spiffe://td/a:b", in_path(':')),
            ("spiffe://td/a@b", in_path('@')),
            ("spiffe://td\\a", character('\\')),
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn lengths_are_bounded_at_the_standard_sizes() {
        let longest_domain = "d".repeat(MAX_TRUST_DOMAIN_BYTES);
        assert!(longest_domain.parse::<TrustDomain>().is_ok());
        assert_eq!(
            format!("{longest_domain}d").parse::<TrustDomain>(),
            Err(SpiffeIdError::TrustDomainTooLong { length: 256 })
        );
        let longest = format!("spiffe://td/{}", "p".repeat(MAX_ID_BYTES - 12));
        assert!(longest.parse::<SpiffeId>().is_ok());
        assert_eq!(format!("{longest}p").parse::<SpiffeId>(), Err(SpiffeIdError::TooLong { length: 2049 }));
        let domain: TrustDomain = "td".parse().unwrap();
        assert_eq!(
            SpiffeId::new(&domain, &"/p".repeat(1024)).unwrap_err(),
            SpiffeIdError::TooLong { length: 2059 }
        );
    }

    #[test]
    fn a_path_on_its_own_must_start_with_a_slash() {
        let domain: TrustDomain = "td".parse().unwrap();
        assert_eq!(SpiffeId::new(&domain, "a").unwrap_err(), SpiffeIdError::RelativePath);
        assert_eq!(SpiffeId::new(&domain, "").unwrap(), domain.id());
    }

    #[test]
    fn errors_escape_what_they_quote() {
        let error = "spiffe://td/a\u{1b}[31m".parse::<SpiffeId>().unwrap_err().to_string();
        assert!(error.contains("'\\u{1b}'"), "{error}");
    }

    #[test]
    fn serde_uses_the_text_and_its_rules() {
        let id: SpiffeId = serde_json::from_str("\"spiffe://td/a\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/a\"");
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://td/a/\"").is_err());
        let error = serde_json::from_str::<SpiffeId>("7").unwrap_err().to_string();
        assert!(error.contains("expected a SPIFFE ID"), "{error}");
        assert!(serde_json::from_str::<TrustDomain>("\"TD\"").is_err());
    }

    proptest! {
        #[test]
        fn every_parsed_id_displays_back_to_itself(text in "spiffe://[a-z0-9._-]{1,20}(/[a-zA-Z0-9._-]{1,8}){0,4}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
                let again = SpiffeId::new(id.trust_domain(), id.path()).unwrap();
                prop_assert_eq!(&again, &id);
                prop_assert_eq!(again.trust_domain(), id.trust_domain());
            }
        }

        #[test]
        fn no_text_panics_and_what_parses_is_plain(text in "(spiffe://)?\\PC{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_graphic() && !b"%?#@,;\"\\".contains(&b)));
            }
            let _ = text.parse::<TrustDomain>();
        }
    }
}
