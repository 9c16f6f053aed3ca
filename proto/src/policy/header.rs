//! Conditions on HTTP headers, and which headers the rules of a policy look at.
//!
//! There is no negative condition: what a header must not be, an app decides. A condition is on one header as it
//! is forwarded, so those that end at a proxy or that it writes itself cannot be asked for. CGI-like apps do not
//! tell `_` from `-` in names: a second field that looks alike is doubt, which `allow` reads as no match and
//! `deny` as one. So are several fields of one name, of which an app may take any.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde::ser::{Serialize, Serializer};

use crate::document::{ParseError, Place};

/// Most values in one condition.
const MAX_VALUES: usize = 64;
/// Longest value, in bytes.
const LONGEST_VALUE: usize = 1024;

/// What end at each proxy (RFC 9110 s7.6.1), or frame the message.
const ENDS_HERE: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a proxy says of the caller.
const OURS: [&str; 3] = ["x-forwarded-client-cert", "client-cert", "client-cert-chain"];

/// One header, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Which.
    pub name: HeaderName,
    /// What of it.
    pub test: HeaderTest,
}

/// What a header must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    /// There.
    Present,
    /// One of these.
    Exact(Vec<String>),
    /// Beginning with one of these.
    Prefix(Vec<String>),
}

/// Reads one condition.
pub(super) fn read(place: &Place<'_>) -> Result<HeaderCondition, ParseError> {
    const WHAT: &str = "a header: `name`, and one of `exact`, `prefix`, `present`";
    let fields = place.fields(WHAT, &["name", "exact", "prefix", "present"])?;
    let name = name(&fields.required("name")?)?;
    let exact = fields.list("exact", "a list of values", MAX_VALUES, value)?;
    let prefix = fields.list("prefix", "a list of beginnings of values", MAX_VALUES, value)?;
    let present = fields.optional("present").map(|place| present(&place)).transpose()?;
    let test = match (exact, prefix, present) {
        (Some(values), None, None) => HeaderTest::Exact(values),
        (None, Some(values), None) => HeaderTest::Prefix(values),
        (None, None, Some(())) => HeaderTest::Present,
        (None, None, None) => return Err(place.fail("expected `exact`, `prefix` or `present`, found none")),
        _ => return Err(place.fail("expected one of `exact`, `prefix`, `present`, found several")),
    };
    Ok(HeaderCondition { name, test })
}

fn name(place: &Place<'_>) -> Result<HeaderName, ParseError> {
    const EXPECTED: &str = "the name of a header such as `x-tenant`";
    let text = place.text(EXPECTED)?;
    let Ok(name) = HeaderName::try_from(text) else { return Err(place.expected(EXPECTED)) };
    let refuse = |why: &str| Err(place.fail(format!("expected {EXPECTED}, found `{name}`: {why}")));
    if name == http::header::HOST {
        return refuse("use `hosts`");
    }
    if OURS.iter().any(|ours| alike(ours, name.as_str())) {
        return refuse("the proxy writes it, from the identity that it verified: use `from`");
    }
    if ENDS_HERE.contains(&name.as_str()) {
        return refuse("it ends at each proxy and is not forwarded");
    }
    Ok(name)
}

/// What can be in a field and survives a proxy: visible ASCII, with single spaces or tabs within.
fn value(place: &Place<'_>) -> Result<String, ParseError> {
    const EXPECTED: &str =
        "the value of a header: visible ASCII, at most 1024 characters, no space around it";
    let text = place.text(EXPECTED)?;
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if text.is_empty() || text.len() > LONGEST_VALUE || !text.bytes().all(visible) || text.trim() != text {
        return Err(place.expected(EXPECTED));
    }
    Ok(text.to_owned())
}

fn present(place: &Place<'_>) -> Result<(), ParseError> {
    match place.boolean() {
        Some(true) => Ok(()),
        Some(false) => Err(place.expected("`true`, as no rule asks that a header is absent")),
        None => Err(place.expected("`true`")),
    }
}

impl HeaderCondition {
    /// Whether an allow rule with this may let pass; headers that are not known are no match.
    pub(super) fn allows(&self, headers: Option<&HeaderMap>) -> bool {
        let Some(headers) = headers else { return false };
        let misleading =
            headers.keys().any(|name| *name != self.name && alike(name.as_str(), self.name.as_str()));
        if misleading {
            return false;
        }
        let mut values = headers.get_all(&self.name).iter();
        let (first, second) = (values.next(), values.next());
        match (&self.test, first, second) {
            (HeaderTest::Present, first, _) => first.is_some(),
            (HeaderTest::Exact(wanted), Some(value), None) => {
                wanted.iter().any(|wanted| wanted.as_bytes() == value.as_bytes())
            }
            (HeaderTest::Prefix(wanted), Some(value), None) => {
                wanted.iter().any(|wanted| value.as_bytes().starts_with(wanted.as_bytes()))
            }
            (_, None, _) | (_, Some(_), Some(_)) => false,
        }
    }

    /// Whether a deny rule with this must stop: headers that are not known may be anything, of several fields any
    /// may count, and any item of a list, in whatever case.
    pub(super) fn denies(&self, headers: Option<&HeaderMap>) -> bool {
        let Some(headers) = headers else { return true };
        let mut alike = headers.iter().filter(|(name, _)| alike(name.as_str(), self.name.as_str()));
        match &self.test {
            HeaderTest::Present => alike.next().is_some(),
            HeaderTest::Exact(wanted) => alike.any(|(_, value)| {
                wanted
                    .iter()
                    .any(|wanted| items(value).any(|item| item.eq_ignore_ascii_case(wanted.as_bytes())))
            }),
            HeaderTest::Prefix(wanted) => alike.any(|(_, value)| {
                wanted.iter().any(|wanted| {
                    items(value).any(|item| {
                        item.get(..wanted.len())
                            .is_some_and(|begin| begin.eq_ignore_ascii_case(wanted.as_bytes()))
                    })
                })
            }),
        }
    }
}

/// The value, and each item of it if it is a list.
fn items(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let whole = value.as_bytes();
    std::iter::once(whole).chain(whole.split(|byte| *byte == b',').map(<[u8]>::trim_ascii))
}

/// Whether a CGI-like app takes these names for one.
fn alike(one: &str, other: &str) -> bool {
    let hyphen = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(hyphen).eq(other.bytes().map(hyphen))
}

/// The names of the headers that some rule looks at.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted(Arc<BTreeSet<Box<str>>>);

impl Wanted {
    pub(super) fn of<'a>(conditions: impl Iterator<Item = &'a HeaderCondition>) -> Self {
        Self(Arc::new(conditions.map(|condition| condition.name.as_str().into()).collect()))
    }

    fn has(&self, name: &HeaderName) -> bool {
        self.0.iter().any(|wanted| alike(wanted, name.as_str()))
    }
}

/// The headers of a request that rules looked at when it came: all that later decisions about it can go by.
#[derive(Debug, Clone, Default)]
pub struct KeptHeaders {
    headers: HeaderMap,
    wanted: Wanted,
}

impl KeptHeaders {
    pub(super) fn new(headers: &HeaderMap, wanted: &Wanted) -> Self {
        let kept = match wanted.0.is_empty() {
            true => HeaderMap::new(),
            false => headers
                .iter()
                .filter(|(name, _)| wanted.has(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        };
        Self { headers: kept, wanted: wanted.clone() }
    }

    /// The headers, if all that `wanted` names were looked at.
    pub(super) fn known(&self, wanted: &Wanted) -> Option<&HeaderMap> {
        let all = Arc::ptr_eq(&self.wanted.0, &wanted.0) || wanted.0.is_subset(&self.wanted.0);
        all.then_some(&self.headers)
    }
}

impl Serialize for HeaderCondition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Text<'a> {
            name: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            exact: Option<&'a [String]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            prefix: Option<&'a [String]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            present: Option<bool>,
        }
        let name = self.name.as_str();
        let (exact, prefix, present) = match &self.test {
            HeaderTest::Exact(values) => (Some(values.as_slice()), None, None),
            HeaderTest::Prefix(values) => (None, Some(values.as_slice()), None),
            HeaderTest::Present => (None, None, Some(true)),
        };
        Text { name, exact, prefix, present }.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn tenant(test: HeaderTest) -> HeaderCondition {
        HeaderCondition { name: HeaderName::from_static("x-tenant"), test }
    }

    #[test]
    fn allow_takes_one_field_as_it_is_and_deny_takes_doubt() {
        let exact = tenant(HeaderTest::Exact(vec!["blue".into()]));
        let prefix = tenant(HeaderTest::Prefix(vec!["bl".into()]));
        let present = tenant(HeaderTest::Present);
        for (fields, allowed, denied) in [
            (&[("x-tenant", "blue")][..], [true, true, true], [true, true, true]),
            (&[("x-tenant", "black")], [false, true, true], [false, true, true]),
            (&[("x-tenant", "Blue")], [false, false, true], [true, true, true]),
            (&[("x-tenant", "red, blue")], [false, false, true], [true, true, true]),
            (&[("x-tenant", "red"), ("x-tenant", "blue")], [false, false, true], [true, true, true]),
            (&[("x-tenant", "blue"), ("x_tenant", "red")], [false; 3], [true, true, true]),
            (&[("x_tenant", "blue")], [false; 3], [true, true, true]),
            (&[("x-tenants", "blue")], [false; 3], [false; 3]),
            (&[], [false; 3], [false; 3]),
        ] {
            let headers = map(fields);
            let tests = [&exact, &prefix, &present];
            assert_eq!(tests.map(|test| test.allows(Some(&headers))), allowed, "{fields:?}");
            assert_eq!(tests.map(|test| test.denies(Some(&headers))), denied, "{fields:?}");
        }
        assert!(!present.allows(None) && present.denies(None), "what is not known is doubt");
    }

    #[test]
    fn only_what_some_rule_looks_at_is_kept_and_nothing_else_is_claimed_to_be_known() {
        let wanted = |names: &[&'static str]| {
            let conditions: Vec<_> = names
                .iter()
                .map(|name| HeaderCondition {
                    name: HeaderName::from_static(name),
                    test: HeaderTest::Present,
                })
                .collect();
            Wanted::of(conditions.iter())
        };
        let headers = map(&[("x-tenant", "blue"), ("x_tenant", "red"), ("accept", "*/*")]);
        let kept = KeptHeaders::new(&headers, &wanted(&["x-tenant", "x-env"]));
        assert_eq!(
            kept.known(&wanted(&["x-tenant"])),
            Some(&map(&[("x-tenant", "blue"), ("x_tenant", "red")]))
        );
        assert_eq!(kept.known(&wanted(&["accept"])), None);
        assert!(kept.known(&wanted(&[])).is_some());
    }
}
