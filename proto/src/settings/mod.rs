//! Settings of the whole mesh: `kind: Mesh`, one document for each trust domain.
//!
//! ```text
//!   YAML ──parse_node──▶ Settings ──to_json──▶ the wire ──parse_json──▶ Settings
//!   Settings::accepts_plaintext(workload, port, now)    Settings::unknown_destinations(own)
//! ```
//!
//! Who may call whom is policy; here is what is asked of callers before that, while a mesh is being built: whether a
//! port takes callers without TLS, and what becomes of calls to destinations that nobody knows. Pure: no clock, no
//! I/O.
//!
//! Invariant: a mesh is strict unless a document that can be read says otherwise. What is listed as strict is, whatever
//! else is said of it; an exception that has ended opens nothing.

mod read;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use jiff::Timestamp;
use serde::ser::{Error, Serialize, Serializer};

use crate::document::{Node, ParseError, from_json};
use crate::policy::Pattern;
use crate::spiffe::SpiffeId;

/// The `kind` of the document.
pub const KIND: &str = "Mesh";
/// Most exceptions of each kind in one document.
pub const MAX_EXCEPTIONS: usize = 512;
/// Most ports in one exception.
pub const MAX_PORTS: usize = 64;

/// What holds for the whole mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What holds where no exception is.
    pub mode: Mode,
    /// Workloads and ports that take plaintext, though the mesh is strict.
    pub permissive: Vec<Exception>,
    /// Workloads and ports that take none, though the mesh, or an exception, is permissive.
    pub strict: Vec<Exception>,
    /// What becomes of calls to unknown destinations; `None`: each proxy's own configuration says.
    pub unknown_destinations: Option<UnknownDestinations>,
}

/// Whether workloads take callers without TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// No.
    #[default]
    Strict,
    /// Yes, without an identity: a stage on the way to strict.
    Permissive,
}

/// Some workloads, some of their ports, for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Which workloads.
    pub target: Pattern,
    /// Which ports of the app; all when absent.
    pub ports: Option<Vec<u16>>,
    /// From this moment on it does not hold any more.
    pub until: Option<SystemTime>,
}

/// What becomes of a call to a destination that is no known peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownDestinations {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes in the clear, counted.
    Passthrough,
}

impl Settings {
    /// What holds while the document cannot be read: nothing is open.
    #[must_use]
    pub fn closed() -> Self {
        Self { unknown_destinations: Some(UnknownDestinations::Refuse), ..Self::default() }
    }

    /// Whether `workload` takes plaintext at `port` of its app.
    #[must_use]
    pub fn accepts_plaintext(&self, workload: &SpiffeId, port: u16, now: SystemTime) -> bool {
        let holds = |exceptions: &[Exception]| {
            exceptions.iter().any(|exception| exception.holds(workload, port, now))
        };
        (self.mode == Mode::Permissive || holds(&self.permissive)) && !holds(&self.strict)
    }

    /// What becomes of unknown destinations at a proxy whose configuration says `own`: it may be stricter than the
    /// mesh, and not laxer.
    #[must_use]
    pub fn unknown_destinations(&self, own: Option<UnknownDestinations>) -> UnknownDestinations {
        match (self.unknown_destinations, own) {
            (Some(UnknownDestinations::Refuse), _) | (_, Some(UnknownDestinations::Refuse)) => {
                UnknownDestinations::Refuse
            }
            (Some(said), _) | (None, Some(said)) => said,
            (None, None) => UnknownDestinations::Refuse,
        }
    }

    /// When an exception ends next.
    #[must_use]
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        let ends = self.permissive.iter().chain(&self.strict).filter_map(|exception| exception.until);
        ends.filter(|until| *until > now).min()
    }

    /// The document as JSON, in the same schema as the YAML: what [`parse_json`] reads.
    #[must_use]
    pub fn to_json(&self) -> String {
        // As with policies: no text parses to a time that fails here, and an empty document is refused by every reader.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Exception {
    fn holds(&self, workload: &SpiffeId, port: u16, now: SystemTime) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
            && self.until.is_none_or(|until| now < until)
            && self.target.matches(workload)
    }

    /// The exception as JSON, as it stands in the document.
    #[must_use]
    pub fn to_json(&self) -> String {
        ExceptionText::new(self).ok().and_then(|text| serde_json::to_string(&text).ok()).unwrap_or_default()
    }
}

impl Mode {
    /// `strict` or `permissive`, as in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
        }
    }
}

impl UnknownDestinations {
    /// `refuse` or `passthrough`, as in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Passthrough => "passthrough",
        }
    }
}

/// Reads the document of a stream that may hold other kinds too; `file` is for messages only.
///
/// # Errors
/// The first thing in it that does not belong there.
pub fn parse_node(file: &str, node: &Node) -> Result<Settings, ParseError> {
    read::settings(file, node)
}

/// Reads the JSON that [`Settings::to_json`] writes.
///
/// # Errors
/// The first thing in it that does not belong there.
pub fn parse_json(text: &str) -> Result<Settings, ParseError> {
    const FILE: &str = "json";
    read::settings(FILE, &from_json(FILE, text)?)
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts = |exceptions: &[Exception]| {
            exceptions.iter().map(ExceptionText::new).collect::<Result<Vec<_>, _>>().map_err(S::Error::custom)
        };
        SettingsText {
            kind: KIND,
            mode: self.mode.as_str(),
            permissive: texts(&self.permissive)?,
            strict: texts(&self.strict)?,
            unknown_destinations: self.unknown_destinations.map(UnknownDestinations::as_str),
        }
        .serialize(serializer)
    }
}

#[derive(serde::Serialize)]
struct SettingsText {
    kind: &'static str,
    mode: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    permissive: Vec<ExceptionText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    strict: Vec<ExceptionText>,
    #[serde(rename = "unknownDestinations", skip_serializing_if = "Option::is_none")]
    unknown_destinations: Option<&'static str>,
}

#[derive(serde::Serialize)]
struct ExceptionText {
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

impl ExceptionText {
    fn new(exception: &Exception) -> Result<Self, jiff::Error> {
        Ok(Self {
            target: exception.target.to_string(),
            ports: exception.ports.clone(),
            until: exception.until.map(Timestamp::try_from).transpose()?,
        })
    }
}
