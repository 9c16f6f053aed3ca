//! Patterns over the host of a request, compared as RFC 9110 section 4.2.3 and RFC 3986 section 6.2 say: names
//! in whatever case, one dot at the end or none, and a port that is left out is that of the scheme.
//!
//! What is no plain name or address (escapes, empty labels, no host at all) is doubt: servers pick their default
//! site for it. `allow` reads it as no match, `deny` as one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::ser::{Serialize, Serializer};

/// Longest name of a host (RFC 1035 section 2.3.4).
const LONGEST: usize = 253;
/// What a request means that names no port: an app behind a proxy is reached by `http`.
const HTTP: u16 = 80;
/// What its client may have meant.
const HTTPS: u16 = 443;

/// `api.example` for one host, `*.example` for all below it; with `:8080` on that port only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    below: bool,
    /// In lower case, without a dot at the end.
    name: Name,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Text(Box<str>),
    V6(Ipv6Addr),
}

/// The host of a request, read once. Nothing is copied.
struct Asked<'a> {
    name: AskedName<'a>,
    port: Option<u16>,
}

enum AskedName<'a> {
    Text(&'a str),
    V6(Ipv6Addr),
}

impl HostPattern {
    /// Whether an allow rule with this may let a request for `host` pass.
    pub(super) fn allows(&self, host: Option<&str>) -> bool {
        host.and_then(Asked::read).is_some_and(|asked| {
            self.names(&asked) && self.port.is_none_or(|port| port == asked.port.unwrap_or(HTTP))
        })
    }

    /// Whether a deny rule with this must stop it.
    pub(super) fn denies(&self, host: Option<&str>) -> bool {
        let Some(asked) = host.and_then(Asked::read) else { return true };
        let port = |port: u16| asked.port.map_or([HTTP, HTTPS].contains(&port), |asked| asked == port);
        self.names(&asked) && self.port.is_none_or(port)
    }

    fn names(&self, asked: &Asked<'_>) -> bool {
        match (&self.name, &asked.name) {
            (Name::V6(one), AskedName::V6(other)) => one == other,
            (Name::Text(name), AskedName::Text(asked)) if self.below => asked
                .len()
                .checked_sub(name.len() + 1)
                .and_then(|dot| Some((asked.get(..dot)?, asked.get(dot..dot + 1)?, asked.get(dot + 1..)?)))
                .is_some_and(|(below, dot, end)| {
                    !below.is_empty() && dot == "." && end.eq_ignore_ascii_case(name)
                }),
            (Name::Text(name), AskedName::Text(asked)) => asked.eq_ignore_ascii_case(name),
            _ => false,
        }
    }
}

/// Whether a host can be read in one way only.
pub(super) fn is_clear(host: Option<&str>) -> bool {
    host.and_then(Asked::read).is_some()
}

impl<'a> Asked<'a> {
    /// `None`: not beyond doubt.
    fn read(host: &'a str) -> Option<Self> {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
                (AskedName::V6(address.parse().ok()?), port)
            }
            None => {
                let (name, port) = match host.split_once(':') {
                    Some((name, port)) => (name, Some(port)),
                    None => (host, None),
                };
                let name = name.strip_suffix('.').unwrap_or(name);
                if !is_name(name) {
                    return None;
                }
                (AskedName::Text(name), port)
            }
        };
        let port = match port {
            // RFC 3986 section 3.2.3: an empty port is none.
            None | Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
        };
        Some(Self { name, port })
    }
}

/// Labels of letters, digits, `-` and `_`. What looks like a number is an address in its one usual form.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    // `0x7f.1`, `127.1` and `2130706433` are addresses to some resolvers.
    let number = last.starts_with(|c: char| c.is_ascii_digit())
        && (last.bytes().all(|byte| byte.is_ascii_digit())
            || last.get(..2).is_some_and(|x| x.eq_ignore_ascii_case("0x")));
    name.len() <= LONGEST && name.split('.').all(label) && (!number || name.parse::<Ipv4Addr>().is_ok())
}

/// Why a text is not a host pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostPatternError {
    /// Any host.
    #[error("for any host, leave out `hosts`")]
    Any,
    /// A `*` that is not the whole first label.
    #[error("`*` may only be the whole first label, as in `*.example`")]
    Wildcard,
    /// A URL.
    #[error("write the host alone, without scheme and path")]
    Url,
    /// No name, no address.
    #[error("a host is a name, an IPv4 address, or an IPv6 address in brackets, and perhaps `:PORT`")]
    Host,
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        use HostPatternError as E;
        if text == "*" {
            return Err(E::Any);
        }
        if text.contains('/') {
            return Err(E::Url);
        }
        let (below, host) = match text.strip_prefix("*.") {
            Some(host) => (true, host),
            None => (false, text),
        };
        if host.contains('*') {
            return Err(E::Wildcard);
        }
        let asked = Asked::read(host).ok_or(E::Host)?;
        if host.ends_with(':') || asked.port == Some(0) {
            return Err(E::Host);
        }
        let name = match asked.name {
            AskedName::Text(name) if below && name.parse::<Ipv4Addr>().is_ok() => return Err(E::Host),
            AskedName::Text(name) => Name::Text(name.to_ascii_lowercase().into()),
            AskedName::V6(_) if below => return Err(E::Host),
            AskedName::V6(address) => Name::V6(address),
        };
        Ok(Self { below, name, port: asked.port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.below { "*." } else { "" })?;
        match &self.name {
            Name::Text(name) => f.write_str(name)?,
            Name::V6(address) => write!(f, "[{address}]")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_compare_as_the_rfcs_say() {
        for (text, host, allows, denies) in [
            ("api.example", "api.example", true, true),
            ("API.Example", "api.EXAMPLE", true, true),
            ("api.example", "api.example.", true, true),
            ("api.example.", "api.example", true, true),
            ("api.example", "api.example:8080", true, true),
            ("api.example", "api.example:", true, true),
            ("api.example", "xapi.example", false, false),
            ("api.example", "api.example.evil", false, false),
            ("api.example:80", "api.example", true, true),
            ("api.example:443", "api.example", false, true),
            ("api.example:8080", "api.example", false, false),
            ("api.example:8080", "api.example:8080", true, true),
            ("*.example", "api.example", true, true),
            ("*.example", "a.b.EXAMPLE.", true, true),
            ("*.example", "example", false, false),
            ("*.example", ".example", false, true),
            ("*.example", "badexample", false, false),
            ("10.0.0.1", "10.0.0.1:80", true, true),
            ("[2001:db8::1]", "[2001:DB8:0::1]:80", true, true),
            ("[2001:db8::1]", "[2001:db8::2]", false, false),
            ("api.example", "", false, true),
            ("api.example", "%61pi.example", false, true),
            ("api.example", "api..example", false, true),
            ("api.example", "user@api.example", false, true),
            ("api.example", "api.example:x", false, true),
            ("api.example", "127.1", false, true),
            ("api.example", "0x7f000001", false, true),
            ("api.example", "[::1", false, true),
            ("api.example", "api.example..", false, true),
        ] {
            assert_eq!(pattern(text).allows(Some(host)), allows, "{text} allows {host}");
            assert_eq!(pattern(text).denies(Some(host)), denies, "{text} denies {host}");
        }
        assert!(!pattern("a").allows(None) && pattern("a").denies(None));
    }

    #[test]
    fn patterns_are_hosts_or_all_below_one() {
        use HostPatternError as E;
        for (text, error) in [
            ("*", E::Any),
            ("", E::Host),
            ("https://a", E::Url),
            ("a/b", E::Url),
            ("a*.b", E::Wildcard),
            ("*.*.b", E::Wildcard),
            ("*.10.0.0.1", E::Host),
            ("*.[::1]", E::Host),
            ("a b", E::Host),
            ("a:", E::Host),
            ("a:0", E::Host),
            ("a:99999", E::Host),
            ("é.example", E::Host),
            ("::1", E::Host),
        ] {
            assert_eq!(text.parse::<HostPattern>(), Err(error), "{text}");
        }
        for (text, shown) in
            [("*.Example.", "*.example"), ("A.b:81", "a.b:81"), ("[2001:DB8:0::1]:81", "[2001:db8::1]:81")]
        {
            assert_eq!(pattern(text).to_string(), shown);
            assert_eq!(pattern(shown), pattern(text));
        }
    }

    proptest! {
        #[test]
        fn deny_stops_at_least_what_allow_lets_pass(
            text in "(\\*\\.)?[ab](\\.[ab]){0,2}(:(80|443|8))?", host in "[abAB.:]{0,7}(:(80|443|8))?\\.?",
        ) {
            let pattern = pattern(&text);
            prop_assert!(!pattern.allows(Some(&host)) || pattern.denies(Some(&host)), "{} {}", text, host);
        }

        #[test]
        fn no_host_panics(host in "\\PC{0,20}", pieces in "[\\[\\]:.%a0-9@*-]{0,16}") {
            for host in [host, pieces] {
                let _ = (pattern("*.a:1").denies(Some(&host)), host.parse::<HostPattern>());
            }
        }
    }
}
