//! Templates: one entry for a whole cluster. `spiffe://prod.example/ns/{namespace}/sa/{serviceaccount}`
//! stands for one workload for each pair of values that its attestor proves.
//!
//! A variable is a whole segment, and a value fills exactly that segment or the expansion is refused: no
//! value can add a segment, leave one out, or step up. So one template gives different identities for
//! different values, and never one that is control's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use signet_proto::policy::Subtree;
use signet_proto::spiffe::{MAX_ID_BYTES, SpiffeId, SpiffeIdError, TrustDomain};

use super::is_reserved;
use super::selector::{Selector, is_key};

/// A SPIFFE ID with variables for whole segments; one at least.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Template {
    text: String,
    trust_domain: TrustDomain,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Literal(String),
    Variable(String),
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A brace that does not enclose a whole segment.
    #[error("a variable is a whole segment, as in `/ns/{{namespace}}`, found `{0}`")]
    PartOfSegment(String),
    /// The variable's name has another form.
    #[error(
        "a variable is named like a selector's key: lower-case letters, digits, `_`, `.`, `-`; found `{0}`"
    )]
    Variable(String),
    /// A variable stands twice.
    #[error("the variable `{0}` stands there twice, expected once")]
    Twice(String),
    /// No variable in it.
    #[error("it has no variable: expected a segment such as `{{namespace}}`")]
    NoVariable,
    /// What is not a variable is not part of a SPIFFE ID.
    #[error(transparent)]
    Id(#[from] SpiffeIdError),
    /// It could only give names that are control's own.
    #[error("names below `/signet` are control's own")]
    Reserved,
}

/// Why a proof gives no identity through a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// The proof says nothing about a variable.
    #[error("the proof has no value for `{0}`")]
    Missing(String),
    /// The proof has several values for a variable.
    #[error("the proof has several values for `{0}`, expected one")]
    Several(String),
    /// Facts of several attestors: a proof is of one.
    #[error("the facts are of several attestors, expected those of one")]
    Attestors,
    /// A value is not a path segment.
    #[error("the value {value:?} of `{variable}` cannot be a segment of a SPIFFE ID: {error}")]
    Segment {
        /// Which variable.
        variable: String,
        /// What was proven.
        value: String,
        /// What is wrong with it.
        error: SpiffeIdError,
    },
    /// A value is not a label of a DNS name.
    #[error("the value {value:?} of `{variable}` cannot be a label of a DNS name")]
    Label {
        /// Which variable.
        variable: String,
        /// What was proven.
        value: String,
    },
    /// A DNS name as a whole is none.
    #[error("`{0}` is not a DNS name")]
    Dns(String),
    /// The identity as a whole is too long.
    #[error(transparent)]
    Id(SpiffeIdError),
    /// The identity would be control's own.
    #[error("`{0}` is reserved: names below `/signet` are control's own")]
    Reserved(SpiffeId),
}

/// What a proof says about the variables of a template: one value for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(BTreeMap<String, String>);

impl Values {
    /// The value of a variable.
    #[must_use]
    pub fn of(&self, variable: &str) -> Option<&str> {
        self.0.get(variable).map(String::as_str)
    }
}

impl Template {
    /// The text it was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain of all its identities.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The names of its variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// The values that the facts of one proof give to the variables.
    ///
    /// # Errors
    /// When a variable has none, or more than one.
    pub fn values(&self, proven: &BTreeSet<Selector>) -> Result<Values, ExpandError> {
        // The set is sorted by attestor.
        if proven.first().map(Selector::attestor) != proven.last().map(Selector::attestor) {
            return Err(ExpandError::Attestors);
        }
        let value = |variable: &str| {
            let mut found = proven
                .iter()
                .filter_map(Selector::key_value)
                .filter_map(|(key, value)| (key == variable).then_some(value));
            match (found.next(), found.next()) {
                (Some(value), None) => Ok((variable.to_owned(), value.to_owned())),
                (None, _) => Err(ExpandError::Missing(variable.to_owned())),
                (Some(_), Some(_)) => Err(ExpandError::Several(variable.to_owned())),
            }
        };
        self.variables().map(value).collect::<Result<_, _>>().map(Values)
    }

    /// The identity that the facts of one proof give.
    ///
    /// # Errors
    /// When they give none.
    pub fn expand(&self, proven: &BTreeSet<Selector>) -> Result<SpiffeId, ExpandError> {
        self.fill(&self.values(proven)?)
    }

    /// The identity with these values.
    ///
    /// # Errors
    /// When a value is missing or does not fill its segment, or the identity is control's own or too long.
    pub fn fill(&self, values: &Values) -> Result<SpiffeId, ExpandError> {
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            match segment {
                Segment::Literal(text) => path.push_str(text),
                Segment::Variable(name) => {
                    let value = values.of(name).ok_or_else(|| ExpandError::Missing(name.clone()))?;
                    is_segment(value).map_err(|error| ExpandError::Segment {
                        variable: name.clone(),
                        value: value.to_owned(),
                        error,
                    })?;
                    path.push_str(value);
                }
            }
        }
        let id = SpiffeId::new(&self.trust_domain, &path).map_err(ExpandError::Id)?;
        if is_reserved(&id) {
            return Err(ExpandError::Reserved(id));
        }
        Ok(id)
    }
}

impl Template {
    /// The narrowest subtree that all its identities are in: below the segments before the first variable.
    #[must_use]
    pub fn subtree(&self) -> Subtree {
        let before = self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(text) => Some(text),
            Segment::Variable(_) => None,
        });
        let path: String = before.map(|text| format!("/{text}")).collect();
        // What is shorter than the whole is as well-formed; if it were not, wider would be the safe side.
        let root = SpiffeId::new(&self.trust_domain, &path);
        Subtree::below(root.unwrap_or_else(|_| self.trust_domain.id()))
    }

    /// The values that give `id`; `None`: no values do.
    #[must_use]
    pub fn values_of(&self, id: &SpiffeId) -> Option<Values> {
        if *id.trust_domain() != self.trust_domain {
            return None;
        }
        let mut values = BTreeMap::new();
        let mut found = id.path().split('/').skip(1);
        for segment in &self.segments {
            match (segment, found.next()?) {
                (Segment::Literal(text), found) if text == found => {}
                (Segment::Literal(_), _) => return None,
                (Segment::Variable(name), value) => {
                    values.insert(name.clone(), value.to_owned());
                }
            }
        }
        found.next().is_none().then_some(Values(values))
    }
}

/// Whether a text is one segment of a path: what is allowed in a path, and no slash.
fn is_segment(text: &str) -> Result<(), SpiffeIdError> {
    if text.contains('/') {
        return Err(SpiffeIdError::PathCharacter { found: '/' });
    }
    format!("spiffe://d/{text}/s").parse::<SpiffeId>().map(drop)
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong { length: text.len() }.into());
        }
        let after_scheme = text.strip_prefix("spiffe://").ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = after_scheme.split_once('/').unwrap_or((after_scheme, ""));
        let trust_domain: TrustDomain = trust_domain.parse()?;
        let segments: Vec<Segment> = path.split('/').map(segment).collect::<Result<_, _>>()?;
        let mut seen = BTreeSet::new();
        for segment in &segments {
            match segment {
                Segment::Variable(name) if !seen.insert(name) => {
                    return Err(TemplateError::Twice(name.clone()));
                }
                _ => {}
            }
        }
        if seen.is_empty() {
            return Err(TemplateError::NoVariable);
        }
        if matches!(segments.first(), Some(Segment::Literal(first)) if first == super::RESERVED_SEGMENT) {
            return Err(TemplateError::Reserved);
        }
        // As long as the shortest identity it gives is acceptable, so is the template.
        let shortest: String = segments.iter().map(|segment| format!("/{}", segment.shortest())).collect();
        SpiffeId::new(&trust_domain, &shortest)?;
        Ok(Self { text: text.to_owned(), trust_domain, segments })
    }
}

fn segment(text: &str) -> Result<Segment, TemplateError> {
    let braces = |text: &str| text.contains(['{', '}']);
    match text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(name) if is_key(name) => Ok(Segment::Variable(name.to_owned())),
        Some(name) if !braces(name) => Err(TemplateError::Variable(name.to_owned())),
        _ if braces(text) => Err(TemplateError::PartOfSegment(text.to_owned())),
        _ => Ok(Segment::Literal(text.to_owned())),
    }
}

impl Segment {
    fn shortest(&self) -> &str {
        match self {
            Self::Literal(text) => text,
            Self::Variable(_) => "v",
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: &str = "spiffe://prod.example/ns/{namespace}/sa/{serviceaccount}";

    fn template(text: &str) -> Template {
        text.parse().unwrap()
    }

    fn proof(facts: &[(&str, &str)]) -> BTreeSet<Selector> {
        facts.iter().map(|(key, value)| Selector::new("prod", key, value).unwrap()).collect()
    }

    #[test]
    fn a_proof_fills_the_variables() {
        let id = template(CLUSTER)
            .expand(&proof(&[("namespace", "shop"), ("serviceaccount", "payments"), ("pod", "p-1")]))
            .unwrap();
        assert_eq!(id.as_str(), "spiffe://prod.example/ns/shop/sa/payments");
    }

    #[test]
    fn anything_but_whole_named_segments_is_refused() {
        use TemplateError as E;
        for (text, error) in [
            ("spiffe://td/ns", E::NoVariable),
            ("spiffe://td", E::NoVariable),
            ("spiffe://td/ns-{a}", E::PartOfSegment("ns-{a}".into())),
            ("spiffe://td/{a}{b}", E::PartOfSegment("{a}{b}".into())),
            ("spiffe://td/{{a}}", E::PartOfSegment("{{a}}".into())),
            ("spiffe://td/{a", E::PartOfSegment("{a".into())),
            ("spiffe://td/{}", E::Variable(String::new())),
            ("spiffe://td/{A}", E::Variable("A".into())),
            ("spiffe://td/{a b}", E::Variable("a b".into())),
            ("spiffe://td/{a}/x/{a}", E::Twice("a".into())),
            ("spiffe://td/signet/{a}", E::Reserved),
            ("spiffe://{td}/a", E::Id(SpiffeIdError::TrustDomainCharacter { found: '{' })),
            ("spiffe://td/{a}/", E::Id(SpiffeIdError::TrailingSlash)),
            ("spiffe://td//{a}", E::Id(SpiffeIdError::EmptySegment)),
            ("spiffe://td/../{a}", E::Id(SpiffeIdError::DotSegment)),
            ("spiffe://td/a b/{a}", E::Id(SpiffeIdError::PathCharacter { found: ' ' })),
            ("td/{a}", E::Id(SpiffeIdError::Scheme)),
        ] {
            assert_eq!(text.parse::<Template>(), Err(error), "{text}");
        }
    }

    #[test]
    fn values_that_are_no_segment_are_refused() {
        for value in ["a/b", "..", ".", "/", "a b", "%2e", "{b}", "é", "a:b", "a\\b"] {
            let refused = template("spiffe://td/{a}/b").expand(&proof(&[("a", value)]));
            assert!(matches!(refused, Err(ExpandError::Segment { .. })), "{value}: {refused:?}");
        }
    }

    #[test]
    fn a_variable_needs_one_value_of_one_attestor() {
        let cluster = template(CLUSTER);
        let missing = cluster.expand(&proof(&[("namespace", "shop")]));
        assert_eq!(missing, Err(ExpandError::Missing("serviceaccount".into())));
        let several =
            cluster.expand(&proof(&[("namespace", "a"), ("namespace", "b"), ("serviceaccount", "c")]));
        assert_eq!(several, Err(ExpandError::Several("namespace".into())));
        let mut mixed = proof(&[("namespace", "a")]);
        mixed.insert("other:serviceaccount:b".parse().unwrap());
        assert_eq!(cluster.expand(&mixed), Err(ExpandError::Attestors));
    }

    #[test]
    fn no_template_gives_a_name_of_controls_own() {
        let open = template("spiffe://td/{a}/{b}");
        let refused = open.expand(&proof(&[("a", "signet"), ("b", "control")]));
        assert!(matches!(refused, Err(ExpandError::Reserved(_))), "{refused:?}");
        let alone = template("spiffe://td/{a}").expand(&proof(&[("a", "signet")]));
        assert!(matches!(alone, Err(ExpandError::Reserved(_))), "{alone:?}");
        assert!(open.expand(&proof(&[("a", "signets"), ("b", "control")])).is_ok());
    }

    fn hostile() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-c./]{1,4}",
            "\\PC{1,6}",
            Just("..".to_owned()),
            Just("signet".to_owned()),
            "[a-z-]{1,5}"
        ]
        .prop_filter("a value", |value| Selector::new("prod", "k", value).is_ok())
    }

    proptest! {
        #[test]
        fn an_expansion_never_leaves_its_segments(a in hostile(), b in hostile()) {
            let template = template("spiffe://td/ns/{a}/sa/{b}");
            if let Ok(id) = template.expand(&proof(&[("a", &a), ("b", &b)])) {
                let segments: Vec<_> = id.path().split('/').skip(1).collect();
                prop_assert_eq!(segments, ["ns", a.as_str(), "sa", b.as_str()]);
                let values = template.values_of(&id).unwrap();
                prop_assert_eq!((values.of("a"), values.of("b")), (Some(&*a), Some(&*b)));
                prop_assert!(template.subtree().contains(&id));
            }
        }

        #[test]
        fn different_values_never_give_the_same_identity(
            (a, b, c, d) in ("[a-b./]{1,3}", "[a-b./]{1,3}", "[a-b./]{1,3}", "[a-b./]{1,3}"),
        ) {
            let template = template("spiffe://td/{a}/{b}");
            let one = template.expand(&proof(&[("a", &a), ("b", &b)]));
            let other = template.expand(&proof(&[("a", &c), ("b", &d)]));
            if let (Ok(one), Ok(other)) = (one, other) {
                prop_assert_eq!(one == other, (a, b) == (c, d));
            }
        }

        #[test]
        fn no_template_reaches_the_reserved_tree(
            path in "(/(signet|\\{[ab]\\}|x)){1,3}",
            a in hostile(),
            b in hostile(),
        ) {
            if let Ok(template) = format!("spiffe://td{path}").parse::<Template>()
                && let Ok(id) = template.expand(&proof(&[("a", &a), ("b", &b)]))
            {
                prop_assert!(id.path() != "/signet" && !id.path().starts_with("/signet/"), "{}", id);
            }
        }

        #[test]
        fn every_parsed_template_displays_back_to_itself(text in "spiffe://t(/[{}a./]{0,4}){0,3}") {
            if let Ok(template) = text.parse::<Template>() {
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
