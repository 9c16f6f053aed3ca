//! The DNS names that a workload's SVIDs may carry, for clients that check names instead of identities.
//!
//! Host names only (RFC 1123 section 2.1, RFC 1034 section 3.5), in lower case, without wildcard; a label
//! may be a `{variable}` of the workload's template.

use std::fmt;
use std::str::FromStr;

use super::selector::is_key;
use super::template::{ExpandError, Values};

const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// A host name, or one with variables for whole labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName {
    labels: Vec<Label>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Label {
    Literal(String),
    Variable(String),
}

/// Why a text is not a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsNameError {
    /// A `*`.
    #[error("wildcards are not certified: name each host")]
    Wildcard,
    /// A label has another form.
    #[error(
        "a label has 1 to {MAX_LABEL_BYTES} lower-case letters, digits and `-`, not at its ends, \
         or is a `{{variable}}`; found {0:?}"
    )]
    Label(String),
    /// Too long.
    #[error("a name has at most {MAX_NAME_BYTES} characters")]
    TooLong,
    /// The last label is a number, as in an IP address.
    #[error("the last label is a number: an address is no name")]
    Number,
}

impl DnsName {
    /// The names of its variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().filter_map(|label| match label {
            Label::Variable(name) => Some(name.as_str()),
            Label::Literal(_) => None,
        })
    }

    /// Whether some host name is one that both can be.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let fits = |(one, other): (&Label, &Label)| match (one, other) {
            (Label::Literal(one), Label::Literal(other)) => one == other,
            _ => true,
        };
        self.labels.len() == other.labels.len() && self.labels.iter().zip(&other.labels).all(fits)
    }

    /// The host name with these values.
    ///
    /// # Errors
    /// When a value is missing, or is no label.
    pub fn fill(&self, values: &Values) -> Result<String, ExpandError> {
        let label = |label: &Label| match label {
            Label::Literal(text) => Ok(text.clone()),
            Label::Variable(name) => {
                let value = values.of(name).ok_or_else(|| ExpandError::Missing(name.clone()))?;
                if !is_label(value) {
                    return Err(ExpandError::Label { variable: name.clone(), value: value.to_owned() });
                }
                Ok(value.to_owned())
            }
        };
        let name = self.labels.iter().map(label).collect::<Result<Vec<_>, _>>()?.join(".");
        // As a whole it may be too long, or look like an address.
        if name.parse::<Self>().is_err() {
            return Err(ExpandError::Dns(name));
        }
        Ok(name)
    }
}

fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=MAX_LABEL_BYTES).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        if text.len() > MAX_NAME_BYTES {
            return Err(DnsNameError::TooLong);
        }
        if text.contains('*') {
            return Err(DnsNameError::Wildcard);
        }
        let mut labels = Vec::new();
        // The name of a variable may have dots.
        let mut rest = Some(text);
        while let Some(text) = rest {
            let variable = text.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (label, after) = match variable {
                Some((name, after)) if is_key(name) && (after.is_empty() || after.starts_with('.')) => {
                    (Label::Variable(name.to_owned()), after.strip_prefix('.'))
                }
                _ => {
                    let (label, after) =
                        text.split_once('.').map_or((text, None), |(label, after)| (label, Some(after)));
                    if !is_label(label) {
                        return Err(DnsNameError::Label(label.to_owned()));
                    }
                    (Label::Literal(label.to_owned()), after)
                }
            };
            labels.push(label);
            rest = after;
        }
        match labels.last() {
            Some(Label::Literal(last)) if last.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(DnsNameError::Number)
            }
            _ => Ok(Self { labels }),
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, label) in self.labels.iter().enumerate() {
            if position > 0 {
                f.write_str(".")?;
            }
            match label {
                Label::Literal(text) => f.write_str(text)?,
                Label::Variable(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::selector::Selector;
    use super::super::template::Template;
    use super::*;

    fn values(namespace: &str, account: &str) -> Values {
        let template: Template = "spiffe://td/{namespace}/{k8s.account}".parse().unwrap();
        let proven: BTreeSet<Selector> = [("namespace", namespace), ("k8s.account", account)]
            .map(|(key, value)| Selector::new("prod", key, value).unwrap())
            .into();
        template.values(&proven).unwrap()
    }

    #[test]
    fn labels_are_filled_whole() {
        let name: DnsName = "{k8s.account}.{namespace}.svc.cluster.local".parse().unwrap();
        assert_eq!(name.fill(&values("shop", "payments")).unwrap(), "payments.shop.svc.cluster.local");
        assert_eq!(name.variables().collect::<Vec<_>>(), ["k8s.account", "namespace"]);
        for value in ["a.b", "", "-a", "a-", "A", "a_b", "*", "é", &"a".repeat(64)] {
            let Ok(_) = Selector::new("prod", "k", value) else { continue };
            let refused = name.fill(&values("shop", value));
            assert!(matches!(refused, Err(ExpandError::Label { .. })), "{value}: {refused:?}");
        }
        let address: DnsName = "10.0.0.{namespace}".parse().unwrap();
        assert_eq!(address.fill(&values("1", "a")), Err(ExpandError::Dns("10.0.0.1".into())));
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        use DnsNameError as E;
        for (text, error) in [
            ("*.shop.example", E::Wildcard),
            ("", E::Label(String::new())),
            ("a.", E::Label(String::new())),
            ("a..b", E::Label(String::new())),
            ("Shop.example", E::Label("Shop".into())),
            ("a_b.example", E::Label("a_b".into())),
            ("-a.example", E::Label("-a".into())),
            ("x{a}.example", E::Label("x{a}".into())),
            ("{a}x.example", E::Label("{a}x".into())),
            ("{a.example", E::Label("{a".into())),
            ("10.0.0.1", E::Number),
            (&"a.".repeat(127), E::TooLong),
        ] {
            assert_eq!(text.parse::<DnsName>(), Err(error), "{text}");
        }
        for text in ["payments", "1.example", "xn--bcher-kva.example", "a.b1-c.d"] {
            assert!(text.parse::<DnsName>().is_ok(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_parsed_name_displays_back_to_itself(text in "[ab.{}1-]{0,9}") {
            if let Ok(name) = text.parse::<DnsName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn names_overlap_where_both_can_be_one(
            texts in prop::collection::vec("([ab]|\\{namespace\\}|\\{k8s\\.account\\}){1}(\\.([ab]|\\{namespace\\})){0,2}", 2),
            filled in ("[ab]", "[ab]", "[ab]", "[ab]"),
        ) {
            let names: Vec<DnsName> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let overlaps = names[0].overlaps(&names[1]);
            prop_assert_eq!(overlaps, names[1].overlaps(&names[0]));
            let (one, other) = (values(&filled.0, &filled.1), values(&filled.2, &filled.3));
            if names[0].fill(&one).unwrap() == names[1].fill(&other).unwrap() {
                prop_assert!(overlaps);
            }
        }

        #[test]
        fn what_is_filled_in_stays_one_label(value in "[a-c.-]{1,4}|\\PC{1,5}") {
            prop_assume!(Selector::new("prod", "k", &value).is_ok());
            let name: DnsName = "{namespace}.example".parse().unwrap();
            if let Ok(filled) = name.fill(&values(&value, "x")) {
                prop_assert_eq!(filled.split('.').count(), 2);
            }
        }
    }
}
