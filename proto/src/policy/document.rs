//! The policy document: what people write, what git keeps, and, as JSON, what travels to the proxies.

use std::fmt;
use std::time::SystemTime;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Error, Serialize, Serializer};

use super::header::HeaderCondition;
use super::host::HostPattern;
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
/// Most networks in one rule.
pub const MAX_NETWORKS: usize = 256;
/// Most HTTP hosts in one rule.
pub const MAX_HOSTS: usize = 256;
/// Most header conditions in one rule.
pub const MAX_HEADERS: usize = 16;
/// Most gRPC services in one rule, and most methods.
pub const MAX_GRPC_NAMES: usize = 256;

/// Who may reach one workload, or all workloads of a subtree; or whom they may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Unique in the mesh: lower-case letters, digits and `-`, at most [`MAX_NAME_BYTES`].
    pub name: String,
    /// Which side of a connection it decides.
    pub direction: Direction,
    /// Whom it protects (`target`), or restricts (`source`): it is for the proxies of these.
    pub whom: Pattern,
    /// In the order written; the order does not matter to the decision.
    pub rules: Vec<Rule>,
}

/// Which side of a connection is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Whether the destination takes it, decided in front of the destination: documents with `target`.
    Inbound,
    /// Whether the source may make it, decided beside the source: documents with `source`.
    Egress,
}

/// One allow or deny. Every condition that is present must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Unique in its document; the same form as the document's.
    pub name: String,
    /// What happens when it matches.
    pub effect: Effect,
    /// The identity at the other end is one of these (`from`, in egress documents `to`); any when absent.
    pub peers: Option<Vec<Pattern>>,
    /// The app's port is one of these; any when absent.
    pub ports: Option<Vec<u16>>,
    /// The caller's address is in one of these networks; any when absent.
    pub cidrs: Option<Vec<IpNet>>,
    /// The request is HTTP and like this; any protocol when absent.
    pub http: Option<Http>,
    /// The request is a gRPC call of these; any protocol when absent.
    pub grpc: Option<Grpc>,
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// The method is one of these, compared exactly; any when absent.
    pub methods: Option<Vec<String>>,
    /// The path is like one of these; any when absent.
    pub paths: Option<Vec<PathPattern>>,
    /// The host is one of these; any when absent.
    pub hosts: Option<Vec<HostPattern>>,
    /// The headers are like all of these; any when absent.
    pub headers: Option<Vec<HeaderCondition>>,
}

/// Conditions on a gRPC call; at least one of them is present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grpc {
    /// The service, with its package, is one of these; any when absent.
    pub services: Option<Vec<String>>,
    /// The method is one of these; any when absent.
    pub methods: Option<Vec<String>>,
}

impl Http {
    /// Whether there is no condition, which the language does not have.
    pub(super) fn is_empty(&self) -> bool {
        self.methods.is_none() && self.paths.is_none() && self.hosts.is_none() && self.headers.is_none()
    }
}

impl Direction {
    /// The field that says whom the document is about.
    #[must_use]
    pub fn whom_field(self) -> &'static str {
        match self {
            Self::Inbound => "target",
            Self::Egress => "source",
        }
    }

    /// The field of a rule that says who is at the other end.
    #[must_use]
    pub fn peers_field(self) -> &'static str {
        match self {
            Self::Inbound => "from",
            Self::Egress => "to",
        }
    }

    /// `inbound` or `egress`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Egress => "egress",
        }
    }
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
    /// The rule as JSON, in the schema of a document of this direction; for people, as no reader takes a rule
    /// alone.
    #[must_use]
    pub fn to_json(&self, direction: Direction) -> String {
        let text = RuleText::new(self, direction).ok();
        text.and_then(|text| serde_json::to_string(&text).ok()).unwrap_or_default()
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

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rule = |rule| RuleText::new(rule, self.direction);
        let rules = self.rules.iter().map(rule).collect::<Result<_, _>>().map_err(S::Error::custom)?;
        let (target, source) = of_direction(self.direction, &self.whom);
        DocumentText { kind: KIND, name: &self.name, target, source, rules }.serialize(serializer)
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
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a Pattern>,
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
    to: Option<&'a [Pattern]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<&'a [u16]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cidrs: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<GrpcText<'a>>,
}

#[derive(serde::Serialize)]
struct HttpText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<&'a [PathPattern]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<&'a [HostPattern]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<&'a [HeaderCondition]>,
}

#[derive(serde::Serialize)]
struct GrpcText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<&'a [String]>,
}

impl<'a> RuleText<'a> {
    fn new(rule: &'a Rule, direction: Direction) -> Result<Self, jiff::Error> {
        let (from, to) = match &rule.peers {
            Some(peers) => of_direction(direction, peers.as_slice()),
            None => (None, None),
        };
        let conditions = Conditions {
            from,
            to,
            ports: rule.ports.as_deref(),
            cidrs: rule.cidrs.as_ref().map(|cidrs| cidrs.iter().map(ToString::to_string).collect()),
            http: rule.http.as_ref().map(|http| HttpText {
                methods: http.methods.as_deref(),
                paths: http.paths.as_deref(),
                hosts: http.hosts.as_deref(),
                headers: http.headers.as_deref(),
            }),
            grpc: rule.grpc.as_ref().map(|grpc| GrpcText {
                services: grpc.services.as_deref(),
                methods: grpc.methods.as_deref(),
            }),
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

/// The value of the field that inbound documents have, or of the one that egress documents have.
fn of_direction<T>(direction: Direction, value: T) -> (Option<T>, Option<T>) {
    match direction {
        Direction::Inbound => (Some(value), None),
        Direction::Egress => (None, Some(value)),
    }
}
