//! How events and checkpoints travel: one line of JSON each, in files, to collectors and to `signet audit`.
//!
//! ```text
//!   {"event":{"sequence":1,"at_ms":1700000000000,"actor":"…","action":"…","subject":"…","detail":"{…}","hash":"…"}}
//!   {"checkpoint":{"format":1,"trust_domain":"…","sequence":1,"hash":"…","revision":1,"at_ms":…,"key":"…",
//!     "signature":"…"}}
//! ```
//!
//! Only lines exactly as they are written here are read: unknown and repeated fields, other spellings of the same
//! value and blanks are refused, so that no two readers can see different things in one line.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::chain::AuditEvent;
use super::checkpoint::{Checkpoint, FORMAT};
use crate::{hex, time};

/// Longer lines are not read.
pub(crate) const MAX_LINE: usize = 16 * 1024 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// An event.
    Event(AuditEvent),
    /// A checkpoint.
    Checkpoint(Checkpoint),
}

/// Why a line is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Too long.
    #[error("longer than {MAX_LINE} bytes")]
    Length,
    /// Not the JSON that is expected.
    #[error("not an event or a checkpoint: {0}")]
    Json(String),
    /// A later version wrote it.
    #[error("checkpoint of format {0}: this version knows only format {FORMAT}")]
    Format(u64),
    /// A value that cannot be.
    #[error("field `{0}` is not what is expected")]
    Field(&'static str),
    /// It says something that could be read, but not as it is written.
    #[error("not written as control writes it: blanks, another order of fields, or another spelling")]
    NotCanonical,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Wire {
    Event(WireEvent),
    Checkpoint(WireCheckpoint),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEvent {
    sequence: u64,
    at_ms: i64,
    actor: String,
    action: String,
    subject: String,
    detail: String,
    hash: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCheckpoint {
    format: u64,
    trust_domain: String,
    sequence: u64,
    hash: String,
    revision: u64,
    at_ms: i64,
    key: String,
    signature: String,
}

impl Line {
    /// Reads one line, without its end.
    ///
    /// # Errors
    /// Why it is not one.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        if text.len() > MAX_LINE {
            return Err(LineError::Length);
        }
        let wire: Wire = serde_json::from_str(text).map_err(|error| LineError::Json(error.to_string()))?;
        let line = match wire {
            Wire::Event(event) => Self::Event(event.parse()?),
            Wire::Checkpoint(checkpoint) => Self::Checkpoint(checkpoint.parse()?),
        };
        if line.to_string() != text {
            return Err(LineError::NotCanonical);
        }
        Ok(line)
    }

    /// The event it is about.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Event(event) => event.sequence,
            Self::Checkpoint(checkpoint) => checkpoint.sequence,
        }
    }
}

impl WireEvent {
    fn parse(self) -> Result<AuditEvent, LineError> {
        Ok(AuditEvent {
            sequence: self.sequence,
            at: time::from_millis(self.at_ms),
            hash: hash(&self.hash)?,
            actor: self.actor,
            action: self.action,
            subject: self.subject,
            detail: self.detail,
        })
    }
}

impl WireCheckpoint {
    fn parse(self) -> Result<Checkpoint, LineError> {
        if self.format != FORMAT {
            return Err(LineError::Format(self.format));
        }
        Ok(Checkpoint {
            trust_domain: self.trust_domain.parse().map_err(|_| LineError::Field("trust_domain"))?,
            sequence: self.sequence,
            hash: hash(&self.hash)?,
            revision: self.revision,
            at: time::from_millis(self.at_ms),
            key: self.key,
            signature: hex::decode(&self.signature).ok_or(LineError::Field("signature"))?,
        })
    }
}

fn hash(text: &str) -> Result<[u8; 32], LineError> {
    hex::decode(text).and_then(|hash| hash.try_into().ok()).ok_or(LineError::Field("hash"))
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = match self {
            Self::Event(event) => Wire::Event(WireEvent {
                sequence: event.sequence,
                at_ms: time::to_millis(event.at),
                actor: event.actor.clone(),
                action: event.action.clone(),
                subject: event.subject.clone(),
                detail: event.detail.clone(),
                hash: hex::encode(&event.hash),
            }),
            Self::Checkpoint(checkpoint) => Wire::Checkpoint(WireCheckpoint {
                format: FORMAT,
                trust_domain: checkpoint.trust_domain.to_string(),
                sequence: checkpoint.sequence,
                hash: hex::encode(&checkpoint.hash),
                revision: checkpoint.revision,
                at_ms: time::to_millis(checkpoint.at),
                key: checkpoint.key.clone(),
                signature: hex::encode(&checkpoint.signature),
            }),
        };
        f.write_str(&serde_json::to_string(&wire).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::testing;

    fn lines() -> Vec<String> {
        let signer = testing::signer();
        let event = testing::chain(1).remove(0);
        let checkpoint = testing::checkpoint(&signer, &event);
        [Line::Event(event), Line::Checkpoint(checkpoint)].iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_come_back() {
        for line in lines() {
            assert_eq!(Line::parse(&line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn unknown_repeated_and_missing_fields_are_refused() {
        for line in lines() {
            let unknown = line.replacen("\"sequence\":1", "\"sequence\":1,\"more\":1", 1);
            let error = Line::parse(&unknown).unwrap_err().to_string();
            assert!(error.contains("unknown field `more`"), "{error}");
            let repeated = line.replacen("\"sequence\":1", "\"sequence\":1,\"sequence\":1", 1);
            let error = Line::parse(&repeated).unwrap_err().to_string();
            assert!(error.contains("duplicate field `sequence`"), "{error}");
            let missing = line.replacen("\"sequence\":1,", "", 1);
            assert!(matches!(Line::parse(&missing), Err(LineError::Json(_))));
            let (kind, _) = line.split_once(':').unwrap();
            let twice = format!("{},{}", line.strip_suffix('}').unwrap(), line.strip_prefix('{').unwrap());
            assert!(matches!(Line::parse(&twice), Err(LineError::Json(_))), "{kind} twice");
        }
    }

    #[test]
    fn other_spellings_of_the_same_are_refused() {
        for line in lines() {
            for other in [
                format!(" {line}"),
                format!("{line}\n"),
                line.replacen(':', ": ", 1),
                line.replacen("\"sequence\"", "\"sequ\\u0065nce\"", 1),
            ] {
                assert!(
                    matches!(Line::parse(&other), Err(LineError::NotCanonical)),
                    "{other}: {:?}",
                    Line::parse(&other)
                );
            }
        }
        let [event, checkpoint] = lines().try_into().unwrap();
        let hash = event.find("\"hash\":\"").unwrap() + 8;
        let upper = format!("{}{}", &event[..hash], event[hash..].to_uppercase());
        assert_ne!(upper, event);
        assert!(Line::parse(&upper).is_err());
        let negative = event.replacen("\"at_ms\":", "\"at_ms\":-", 1);
        assert!(Line::parse(&negative).is_err());
        let later = checkpoint.replacen("\"format\":1", "\"format\":2", 1);
        assert_eq!(Line::parse(&later), Err(LineError::Format(2)));
    }
}
