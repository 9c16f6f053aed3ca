//! Documents for a proxy that reads an older schema.
//!
//! A reader refuses what it does not know, and what it cannot read denies everything. So an older proxy is sent
//! what it can read, in the way that opens nothing: an allow rule that asks for something it does not know is left
//! out; a deny rule asks for less, and so stops more; a rule in audit mode decides nothing and is left out. An
//! egress document says nothing to who knows none.

use super::document::{Direction, Document, Effect, Grpc, Http, Mode, Rule};
use super::path::PathPattern;

/// What a reader of documents knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Schema {
    /// `target`, `from`, `ports`, `http` with `methods` and `paths`.
    First,
    /// Also `source`, `to`, `cidrs`, `hosts`, `headers`, `grpc`.
    Second,
}

/// A document for an older reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Narrowed {
    /// It reads all of it.
    Same,
    /// It reads this instead.
    Changed(Document),
    /// It would read nothing of it: an egress document, which it cannot enforce.
    Nothing,
}

impl Schema {
    /// The newest, which this program reads.
    pub const NEWEST: Self = Self::Second;

    /// As a proxy says it when it asks for its documents; one that says nothing is of the time before.
    #[must_use]
    pub fn of_number(number: u32) -> Self {
        match number {
            0 | 1 => Self::First,
            _ => Self::Second,
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::First => 1,
            Self::Second => 2,
        }
    }
}

impl Document {
    /// The document as readers of `schema` get it.
    #[must_use]
    pub fn narrowed(&self, schema: Schema) -> Narrowed {
        if schema == Schema::Second {
            return Narrowed::Same;
        }
        if self.direction == Direction::Egress {
            return Narrowed::Nothing;
        }
        if self.rules.iter().all(Rule::is_of_first_schema) {
            return Narrowed::Same;
        }
        let rules = self.rules.iter().filter_map(Rule::in_first_schema).collect();
        Narrowed::Changed(Self { rules, ..self.clone() })
    }
}

impl Rule {
    fn is_of_first_schema(&self) -> bool {
        let http = |http: &Http| http.hosts.is_none() && http.headers.is_none();
        self.cidrs.is_none() && self.grpc.is_none() && self.http.as_ref().is_none_or(http)
    }

    fn in_first_schema(&self) -> Option<Self> {
        if self.is_of_first_schema() {
            return Some(self.clone());
        }
        if self.effect == Effect::Allow || self.mode == Mode::Audit {
            return None;
        }
        let Http { methods, paths, .. } = self.http.clone().unwrap_or_default();
        let paths = paths.or_else(|| self.grpc.as_ref().and_then(paths_of));
        // What a deny rule loses must not make it stop connections of which no request is known yet.
        let asks_http = self.http.is_some() || self.grpc.is_some();
        let any = || "/*".parse().ok().map(|every| vec![every]);
        let http = asks_http.then(|| {
            let paths = if methods.is_none() { paths.or_else(any) } else { paths };
            Http { methods, paths, ..Http::default() }
        });
        Some(Self { http, cidrs: None, grpc: None, ..self.clone() })
    }
}

/// All paths of its services.
fn paths_of(grpc: &Grpc) -> Option<Vec<PathPattern>> {
    grpc.services.as_ref()?.iter().map(|service| format!("/{service}/*").parse().ok()).collect()
}

#[cfg(test)]
mod tests;
