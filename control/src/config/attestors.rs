//! The `[attestors.NAME]` tables of the settings file. `kind` says what a table is for; each kind reads its own
//! keys, in its own room.
//!
//! A table is read twice: TOML is parsed with the rest of the file, and its keys when the kind is known. So a
//! mistake is a [`TableError`] with the keys that lead to it, and the file finds the line.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use crate::attest::oidc::JwtConfig;
use crate::attest::x509::X509Settings;

/// Most attestors.
const MAX_ATTESTORS: usize = 32;

/// A way of proving who asks, beside join tokens, by its kind.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum AttestorConfig {
    /// A JSON Web Token of an issuer that the operator trusts.
    Jwt(Box<JwtConfig>),
    /// The key of a certificate of another CA.
    X509(X509Settings),
}

const KINDS: &str = "\"jwt\" or \"x509\"";

/// What is wrong in a table, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", path.join("."))]
pub struct TableError {
    /// The keys that lead to it, from the outermost.
    pub path: Vec<String>,
    /// What was expected and what was found.
    pub message: String,
}

impl TableError {
    pub(crate) fn expected(key: &str, expected: impl Display, found: &dyn Display) -> Self {
        Self { path: vec![key.to_owned()], message: format!("expected {expected}, found `{found}`") }
    }

    /// The same, seen from the table around.
    pub(crate) fn below(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }

    /// A table as a type of the kind's.
    pub(crate) fn deserialize<T: DeserializeOwned>(table: toml::Table) -> Result<T, Self> {
        serde_path_to_error::deserialize(table).map_err(|error| Self {
            path: error
                .path()
                .iter()
                .filter_map(|segment| match segment {
                    Segment::Map { key } => Some(key.clone()),
                    _ => None,
                })
                .collect(),
            message: error.inner().message().trim().replace('\n', " "),
        })
    }
}

/// Every attestor by its name.
pub(super) fn read(tables: toml::Table) -> Result<BTreeMap<String, AttestorConfig>, TableError> {
    if tables.len() > MAX_ATTESTORS {
        let found = tables.len();
        return Err(TableError { path: Vec::new(), message: format!("expected at most 32, found {found}") });
    }
    let entry = |(name, table): (String, toml::Value)| {
        let config = attestor(&name, table).map_err(|error| error.below(&name))?;
        Ok((name, config))
    };
    tables.into_iter().map(entry).collect()
}

fn attestor(name: &str, table: toml::Value) -> Result<AttestorConfig, TableError> {
    let this = |message: &str| TableError { path: Vec::new(), message: message.to_owned() };
    let named = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !named || !(1..=63).contains(&name.len()) {
        return Err(this("expected a name of 1 to 63 of a-z, 0-9 and `-`: selectors begin with it"));
    }
    let toml::Value::Table(mut table) = table else {
        return Err(this("expected a table"));
    };
    match table.remove("kind") {
        Some(toml::Value::String(kind)) if kind == "jwt" => {
            JwtConfig::read(table).map(|config| AttestorConfig::Jwt(Box::new(config)))
        }
        Some(toml::Value::String(kind)) if kind == "x509" => {
            TableError::deserialize(table).map(AttestorConfig::X509)
        }
        Some(kind) => Err(TableError::expected("kind", KINDS, &kind.as_str().unwrap_or("no text"))),
        None => Err(this(&format!("expected `kind`, one of {KINDS}"))),
    }
}
