//! A decision in a sentence: the document and the rule that decided, or the nearest miss and what it
//! missed.
//!
//! The verdict is [`PolicySet::decide`]'s own and the misses are found with the same tests, so that an
//! explanation cannot disagree with what happens.

use std::fmt;
use std::time::SystemTime;

use super::compile::{CompiledDocument, CompiledRule, Identities, PolicySet};
use super::decide::{Condition, Layer, Reason, Request, Verdict};
use super::document::{Effect, Http, Mode};
use super::path::is_ambiguous;
use super::tree::Excerpt;
use crate::spiffe::SpiffeId;

/// A verdict and its reason in words; displays as one sentence, or a few.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What was decided.
    pub verdict: Verdict,
    sentence: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl PolicySet {
    /// Decides, and says why.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let verdict = self.decide(request);
        let mut sentence = self.sentence(&verdict, request);
        for audited in &verdict.audited {
            sentence.push_str(&format!(
                " Rule `{}` of policy `{}` is in audit mode and would {} it.",
                audited.rule, audited.policy, audited.effect
            ));
        }
        Explanation { verdict, sentence }
    }

    fn sentence(&self, verdict: &Verdict, request: &Request<'_>) -> String {
        let destination = request.destination;
        let Some(source) = request.source else {
            return format!(
                "Denied: the peer presented no identity; {destination} is reached with one only."
            );
        };
        let what = Asked { source, request };
        let rule = verdict.rule.as_deref().unwrap_or_default();
        let policy = verdict.policy.as_deref().unwrap_or_default();
        match verdict.reason {
            Reason::Allowed => format!("Allowed: rule `{rule}` of policy `{policy}` lets {what}."),
            Reason::DeniedByRule => {
                let doubt = self.doubt(verdict, request);
                format!("Denied: rule `{rule}` of policy `{policy}` does not let {what}{doubt}.")
            }
            Reason::ExpiredRule => {
                let until = self.rule(verdict, request).and_then(|rule| rule.until).map(Moment);
                let until = until.map(|moment| format!(" at {moment}")).unwrap_or_default();
                format!("Denied: rule `{rule}` of policy `{policy}` let {what}, but it ended{until}.")
            }
            Reason::NoPolicy => format!(
                "Denied: no policy document has the target {destination} or a subtree around it, so nobody may reach it."
            ),
            Reason::PolicyUnreadable => {
                let why = self.unreadable().unwrap_or("the reason is not known");
                format!("Denied: the policy could not be read: {}.", Excerpt(why))
            }
            Reason::NoRule => match self.nearest(source, request) {
                Some(miss) => format!("Denied: no rule lets {what}; {miss}."),
                None => format!("Denied: no rule lets {what}; policy `{policy}` has no rule that could."),
            },
            Reason::NoIdentity => "Denied: the peer presented no identity.".to_owned(),
        }
    }

    fn rule<'s>(&'s self, verdict: &Verdict, request: &Request<'_>) -> Option<&'s CompiledRule> {
        let (policy, rule) = (verdict.policy.as_deref()?, verdict.rule.as_deref()?);
        let mut documents = self.targeting(request.destination).filter(|document| *document.name == *policy);
        documents.next()?.rules.iter().find(|found| *found.name == *rule)
    }

    /// Why a deny rule matched what it does not name.
    fn doubt(&self, verdict: &Verdict, request: &Request<'_>) -> &'static str {
        let http = self.rule(verdict, request).and_then(|rule| rule.http.as_ref());
        match (http, request.layer) {
            (Some(_), Layer::Opaque) => {
                ": it has HTTP conditions, and bytes that are not HTTP may be anything"
            }
            (Some(Http { paths: Some(_), .. }), Layer::Http { path, .. }) if is_ambiguous(path) => {
                ": it has paths, and an app may read this path as another one"
            }
            _ => "",
        }
    }

    /// The allow rule that misses least; among equals, one that knows the caller, then the first.
    fn nearest<'s>(&'s self, source: &SpiffeId, request: &'s Request<'s>) -> Option<Miss<'s>> {
        let rules = self.targeting(request.destination).flat_map(|document| {
            let deciding = |rule: &&CompiledRule| rule.effect == Effect::Allow && rule.mode == Mode::Enforce;
            document.rules.iter().filter(deciding).map(move |rule| (document, rule))
        });
        let misses = rules.map(|(document, rule)| {
            let missed = Condition::ALL.map(|condition| !rule.meets(condition, source, request));
            Miss { document, rule, missed, request }
        });
        misses.min_by_key(|miss| (miss.count(), miss.misses(Condition::Source)))
    }
}

/// An allow rule that did not match.
struct Miss<'a> {
    document: &'a CompiledDocument,
    rule: &'a CompiledRule,
    /// In the order of [`Condition::ALL`].
    missed: [bool; 4],
    request: &'a Request<'a>,
}

impl Miss<'_> {
    fn count(&self) -> usize {
        self.missed.iter().filter(|&&missed| missed).count()
    }

    fn misses(&self, condition: Condition) -> bool {
        Condition::ALL.iter().zip(self.missed).any(|(&one, missed)| one == condition && missed)
    }

    fn wants(&self, condition: Condition) -> String {
        let rule = self.rule;
        match condition {
            Condition::Source => match &rule.from {
                Some(from) => format!("the caller {from}"),
                None => String::new(),
            },
            Condition::Port => {
                let ports = rule.ports.iter().flatten();
                format!("port {}, not {}", Choice::of(ports), self.request.port)
            }
            Condition::Http => self.wants_http(),
            Condition::Until => match rule.until {
                Some(until) => format!("a time before {}", Moment(until)),
                None => String::new(),
            },
        }
    }

    fn wants_http(&self) -> String {
        let Some(http) = &self.rule.http else { return String::new() };
        let Layer::Http { method, path } = self.request.layer else {
            return "HTTP, not other bytes".to_owned();
        };
        if !http.has_method(method) {
            return format!("method {}, not {}", Choice::of(http.methods.iter().flatten()), Excerpt(method));
        }
        if is_ambiguous(path) {
            return format!("a path that every app reads alike, not \"{}\"", Excerpt(path));
        }
        format!("path {}, not \"{}\"", Choice::of(http.paths.iter().flatten()), Excerpt(path))
    }
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the nearest, rule `{}` of policy `{}`, wants ", self.rule.name, self.document.name)?;
        let missed = Condition::ALL.into_iter().filter(|&condition| self.misses(condition));
        for (position, condition) in missed.enumerate() {
            let separator = if position == 0 { "" } else { ", and " };
            write!(f, "{separator}{}", self.wants(condition))?;
        }
        Ok(())
    }
}

impl fmt::Display for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subtrees = self.subtrees.iter().map(|prefix| format!("{prefix}*"));
        Choice::of(self.exact.iter().map(SpiffeId::to_string).chain(subtrees)).fmt(f)
    }
}

/// What was asked, as in "lets A reach B on port 80 with GET \"/\"".
struct Asked<'a> {
    source: &'a SpiffeId,
    request: &'a Request<'a>,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { destination, port, layer, .. } = self.request;
        write!(f, "{} reach {destination} on port {port}", self.source)?;
        match layer {
            Layer::Connection => Ok(()),
            Layer::Opaque => f.write_str(" with bytes that are not HTTP"),
            Layer::Http { method, path } => write!(f, " with {} \"{}\"", Excerpt(method), Excerpt(path)),
        }
    }
}

/// The first few of a list, as in "a, b or 7 more".
struct Choice {
    shown: Vec<String>,
    more: usize,
}

impl Choice {
    const SHOWN: usize = 4;

    fn of(items: impl Iterator<Item: fmt::Display>) -> Self {
        let mut choice = Self { shown: Vec::new(), more: 0 };
        for item in items {
            if choice.shown.len() < Self::SHOWN {
                choice.shown.push(item.to_string());
            } else {
                choice.more += 1;
            }
        }
        choice
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((last, others)) = self.shown.split_last() else { return Ok(()) };
        if self.more > 0 {
            return write!(f, "{} or {} more", self.shown.join(", "), self.more);
        }
        if others.is_empty() { f.write_str(last) } else { write!(f, "{} or {last}", others.join(", ")) }
    }
}

/// RFC 3339.
struct Moment(SystemTime);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::try_from(self.0) {
            Ok(timestamp) => timestamp.fmt(f),
            Err(_) => f.write_str("a time that has no date"),
        }
    }
}
