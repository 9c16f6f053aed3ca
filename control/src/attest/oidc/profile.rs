//! From claims to selectors: what each issuer of note says about whom it vouches for, and what an operator adds.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::config::Reuse;
use super::error::JwtError;
use crate::registry::Selector;

/// Most values of one claim that is a list, and most selectors of one token.
const MAX_VALUES: usize = 64;
/// Longest name of or pointer to a claim.
const MAX_PATH_BYTES: usize = 256;

/// Whose tokens they are. The table of KEYs is at the top of [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Anybody's: only what `claims` maps.
    #[default]
    Generic,
    /// Projected service-account tokens.
    Kubernetes,
    /// GitHub Actions.
    GitHub,
    /// GitLab CI.
    GitLab,
    /// Google service accounts and instances.
    Google,
    /// Azure managed identities and applications.
    Azure,
}

/// Where a claim is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimPath {
    /// A claim by its whole name, dots included.
    Name(String),
    /// A JSON pointer (RFC 6901), which begins with `/`.
    Pointer(String),
}

/// Not where a claim could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of a claim, or a JSON pointer such as `/kubernetes.io/namespace`, of 1 to 256 bytes")]
pub struct ClaimPathError;

struct Rule {
    key: &'static str,
    /// The first that is there counts.
    pointers: &'static [&'static str],
    presence: Presence,
}

enum Presence {
    Needed,
    Optional,
    /// Only if this claim is true.
    If(&'static str),
}

const fn needed(key: &'static str, pointers: &'static [&'static str]) -> Rule {
    Rule { key, pointers, presence: Presence::Needed }
}

const fn optional(key: &'static str, pointers: &'static [&'static str]) -> Rule {
    Rule { key, pointers, presence: Presence::Optional }
}

const KUBERNETES: &[Rule] = &[
    needed("namespace", &["/kubernetes.io/namespace"]),
    needed("serviceaccount", &["/kubernetes.io/serviceaccount/name"]),
    needed("serviceaccount_uid", &["/kubernetes.io/serviceaccount/uid"]),
    optional("pod", &["/kubernetes.io/pod/name"]),
    optional("pod_uid", &["/kubernetes.io/pod/uid"]),
    optional("node", &["/kubernetes.io/node/name"]),
    optional("node_uid", &["/kubernetes.io/node/uid"]),
];

const GITHUB: &[Rule] = &[
    needed("repository", &["/repository"]),
    needed("repository_id", &["/repository_id"]),
    needed("repository_owner", &["/repository_owner"]),
    needed("ref", &["/ref"]),
    optional("workflow", &["/workflow"]),
    optional("environment", &["/environment"]),
    optional("job_workflow_ref", &["/job_workflow_ref"]),
    optional("event_name", &["/event_name"]),
    optional("runner_environment", &["/runner_environment"]),
];

const GITLAB: &[Rule] = &[
    needed("project_path", &["/project_path"]),
    needed("namespace_path", &["/namespace_path"]),
    needed("ref", &["/ref"]),
    needed("ref_type", &["/ref_type"]),
    optional("ref_protected", &["/ref_protected"]),
    optional("environment", &["/environment"]),
    optional("pipeline_source", &["/pipeline_source"]),
];

const GOOGLE: &[Rule] = &[
    needed("sub", &["/sub"]),
    Rule { key: "email", pointers: &["/email"], presence: Presence::If("/email_verified") },
    optional("project_id", &["/google/compute_engine/project_id"]),
    optional("project_number", &["/google/compute_engine/project_number"]),
    optional("zone", &["/google/compute_engine/zone"]),
    optional("instance_name", &["/google/compute_engine/instance_name"]),
];

const AZURE: &[Rule] = &[
    needed("tid", &["/tid"]),
    needed("oid", &["/oid"]),
    // Tokens of version 1 say `appid`, those of version 2 `azp`.
    optional("appid", &["/appid", "/azp"]),
    optional("xms_mirid", &["/xms_mirid"]),
];

impl Profile {
    fn rules(self) -> &'static [Rule] {
        match self {
            Self::Generic => &[],
            Self::Kubernetes => KUBERNETES,
            Self::GitHub => GITHUB,
            Self::GitLab => GITLAB,
            Self::Google => GOOGLE,
            Self::Azure => AZURE,
        }
    }

    /// A job asks for a token of its own; other tokens are files that whoever starts there reads.
    pub(super) fn usual_reuse(self) -> Reuse {
        match self {
            Self::GitHub | Self::GitLab => Reuse::SameKey,
            Self::Generic | Self::Kubernetes | Self::Google | Self::Azure => Reuse::Allow,
        }
    }

    /// Whether it has a KEY of its own by this name.
    pub(super) fn has_key(self, key: &str) -> bool {
        self.rules().iter().any(|rule| rule.key == key)
    }
}

impl ClaimPath {
    pub(super) fn parse(text: &str) -> Result<Self, ClaimPathError> {
        if text.is_empty() || text.len() > MAX_PATH_BYTES || text.contains(char::is_control) {
            return Err(ClaimPathError);
        }
        if !text.starts_with('/') {
            return Ok(Self::Name(text.to_owned()));
        }
        let escaped = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        if escaped { Ok(Self::Pointer(text.to_owned())) } else { Err(ClaimPathError) }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Name(text) | Self::Pointer(text) => text,
        }
    }

    /// What is there; nothing, null and an empty text are all nothing.
    pub(super) fn find<'v>(&self, claims: &'v Value) -> Option<&'v Value> {
        present(match self {
            Self::Name(name) => claims.get(name),
            Self::Pointer(pointer) => claims.pointer(pointer),
        })
    }
}

/// All that the claims prove, by the profile's rules and then the operator's.
pub(super) fn selectors(
    attestor: &str,
    profile: Profile,
    added: &[(String, ClaimPath)],
    claims: &Value,
) -> Result<BTreeSet<Selector>, JwtError> {
    let mut proven = Proof { attestor, selectors: BTreeSet::new() };
    proven.add(attestor, attestor)?;
    for rule in profile.rules() {
        let found =
            rule.pointers.iter().find_map(|pointer| Some((*pointer, present(claims.pointer(pointer))?)));
        match (found, &rule.presence) {
            (None, Presence::Needed) => return Err(JwtError::ClaimMissing(rule.key.to_owned())),
            (None, _) => {}
            (Some(_), Presence::If(other)) if !is_true(claims.pointer(other)) => {}
            (Some((pointer, value)), _) => proven.add_value(rule.key, pointer, value)?,
        }
    }
    for (key, path) in added {
        match path.find(claims) {
            None => {}
            Some(Value::Array(values)) if values.len() <= MAX_VALUES => {
                for value in values {
                    proven.add_value(key, path.as_str(), value)?;
                }
            }
            Some(value) => proven.add_value(key, path.as_str(), value)?,
        }
    }
    Ok(proven.selectors)
}

struct Proof<'a> {
    attestor: &'a str,
    selectors: BTreeSet<Selector>,
}

impl Proof<'_> {
    fn add_value(&mut self, key: &str, claim: &str, value: &Value) -> Result<(), JwtError> {
        let value = scalar(value).ok_or_else(|| JwtError::ClaimUnusable(claim.to_owned()))?;
        self.add(&format!("{}:{key}:{value}", self.attestor), claim)
    }

    fn add(&mut self, text: &str, claim: &str) -> Result<(), JwtError> {
        let unusable = || JwtError::ClaimUnusable(claim.to_owned());
        self.selectors.insert(text.parse().map_err(|_| unusable())?);
        if self.selectors.len() > MAX_VALUES { Err(unusable()) } else { Ok(()) }
    }
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !value.is_null() && value.as_str() != Some(""))
}

/// Issuers differ in whether this is a boolean.
fn is_true(value: Option<&Value>) -> bool {
    value.is_some_and(|value| *value == true || *value == "true")
}

/// The one text of a claim: strings as they are, booleans and whole numbers as JSON writes them.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests;
