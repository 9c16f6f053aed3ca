//! The policy document: what people write, what git keeps, and, as JSON, what travels to the proxies.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Error, Serialize, Serializer};

use super::path::PathPattern;
use super::pattern::Pattern;
use super::read;
use crate::document::Node;

/// The `kind` of a policy document.
pub const KIND: &str = "Policy";
/// Longest name of a document or rule, in bytes.
pub const MAX_NAME_BYTES: usize = 63;
/// Most rules in one document.
pub const MAX_RULES: usize = 256;
/// Most identities in one `from`.
pub const MAX_PATTERNS: usize = 1024;
/// Most ports in one rule.
pub const MAX_PORTS: usize = 64;
/// Most HTTP methods in one rule.
pub const MAX_METHODS: usize = 32;
/// Most HTTP paths in one rule.
pub const MAX_PATHS: usize = 256;

/// Who may reach one workload, or all workloads of a subtree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Unique in the mesh: lower-case letters, digits and `-`, at most [`MAX_NAME_BYTES`].
    pub name: String,
    /// Whom it protects.
    pub target: Pattern,
    /// In the order written; the order does not matter to the decision.
    pub rules: Vec<Rule>,
}

/// One allow or deny. Every condition that is present must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique in its document; the same form as the document's.
    pub name: String,
    /// What happens when it matches.
    pub effect: Effect,
    /// The caller is one of these; any identity when absent.
    pub from: Option<Vec<Pattern>>,
    /// The app's port is one of these; any when absent.
    pub ports: Option<Vec<u16>>,
    /// The request is HTTP and like this; any protocol when absent.
    pub http: Option<Http>,
    /// From this moment on the rule does not match any more.
    pub until: Option<SystemTime>,
    /// Whether the rule decides, or is only recorded.
    pub mode: Mode,
}

/// What a rule does when it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Let it pass, unless a deny rule matches too.
    Allow,
    /// Stop it.
    Deny,
}

/// Whether a rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The rule decides.
    #[default]
    Enforce,
    /// That the rule matched is recorded; the outcome is as if it were not there.
    Audit,
}

/// Conditions on an HTTP request; at least one of them is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The method is one of these, compared exactly; any when absent.
    pub methods: Option<Vec<String>>,
    /// The path is like one of these; any when absent.
    pub paths: Option<Vec<PathPattern>>,
}

impl Document {
    /// The document as JSON, in the same schema as the YAML: what [`super::parse_json`] reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Only a time before year -9999 fails, and no text parses to one; an empty document is refused
        // by every reader, so a mistake in a program takes rights away and gives none.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Rule {
    /// The rule as JSON, in the schema of the document; for people, as no reader takes a rule alone.
    #[must_use]
    pub fn to_json(&self) -> String {
        RuleText::new(self).ok().and_then(|text| serde_json::to_string(&text).ok()).unwrap_or_default()
    }
}

impl Effect {
    /// `allow` or `deny`, as in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Mode {
    /// `enforce` or `audit`, as in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rules =
            self.rules.iter().map(RuleText::new).collect::<Result<_, _>>().map_err(S::Error::custom)?;
        DocumentText { kind: KIND, name: &self.name, target: &self.target, rules }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Document {
    /// With the rules of the policy language: unknown fields refused, lists not empty, names unique.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        read::document("", &node).map_err(|error| de::Error::custom(error.without_place()))
    }
}

#[derive(serde::Serialize)]
struct DocumentText<'a> {
    kind: &'static str,
    name: &'a str,
    target: &'a Pattern,
    rules: Vec<RuleText<'a>>,
}

#[derive(serde::Serialize)]
struct RuleText<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow: Option<Conditions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deny: Option<Conditions<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
}

#[derive(serde::Serialize)]
struct Conditions<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a [Pattern]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<&'a [u16]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpText<'a>>,
}

#[derive(serde::Serialize)]
struct HttpText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<&'a [PathPattern]>,
}

impl<'a> RuleText<'a> {
    fn new(rule: &'a Rule) -> Result<Self, jiff::Error> {
        let conditions = Conditions {
            from: rule.from.as_deref(),
            ports: rule.ports.as_deref(),
            http: rule
                .http
                .as_ref()
                .map(|http| HttpText { methods: http.methods.as_deref(), paths: http.paths.as_deref() }),
        };
        let (allow, deny) = match rule.effect {
            Effect::Allow => (Some(conditions), None),
            Effect::Deny => (None, Some(conditions)),
        };
        let until = rule.until.map(Timestamp::try_from).transpose()?;
        let mode = (rule.mode == Mode::Audit).then(|| rule.mode.as_str());
        Ok(Self { name: &rule.name, allow, deny, until, mode })
    }
}
