//! The decision: pure, the same in control and in every proxy.
//!
//! The path that allows allocates nothing but the two `Arc` clones of the names in the verdict.

use std::sync::Arc;
use std::time::SystemTime;

use super::compile::{CompiledDocument, CompiledRule, PolicySet};
use super::document::{Effect, Http, Mode};
use super::path::is_ambiguous;
use crate::spiffe::SpiffeId;

#[cfg(test)]
mod tests;

/// One question: may `source` do this to `destination`, now?
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks, as its SVID says; none when it has not proven any identity.
    pub source: Option<&'a SpiffeId>,
    /// Whom it wants to reach.
    pub destination: &'a SpiffeId,
    /// The app's port, that is the one the proxy forwards to.
    pub port: u16,
    /// What is known of the protocol.
    pub layer: Layer<'a>,
    /// The time of the question.
    pub now: SystemTime,
}

/// What is known of the protocol when the question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer<'a> {
    /// Nothing yet, right after the handshake: is there anything it may do? Rules with `http` allow, as
    /// they may come to match, and do not deny.
    Connection,
    /// Bytes that are not HTTP: rules with `http` do not allow, and do deny.
    Opaque,
    /// One HTTP request.
    Http {
        /// As on the wire; methods are case-sensitive.
        method: &'a str,
        /// As it is forwarded, without query.
        path: &'a str,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub allowed: bool,
    /// The document that decided; with `no_rule`, the first that protects the destination.
    pub policy: Option<Arc<str>>,
    /// The rule that decided, or, with `expired_rule`, that would have.
    pub rule: Option<Arc<str>>,
    /// Why.
    pub reason: Reason,
    /// The rules in audit mode that matched; they did not change the answer.
    pub audited: Vec<Audited>,
}

/// A rule in audit mode that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// The document.
    pub policy: Arc<str>,
    /// The rule.
    pub rule: Arc<str>,
    /// What it would have done.
    pub effect: Effect,
}

/// Why a verdict is what it is: a closed set, for metrics and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// An allow rule matched, and no deny rule.
    Allowed,
    /// The peer has no identity.
    NoIdentity,
    /// No document protects the destination, so nobody may reach it.
    NoPolicy,
    /// Documents protect the destination; no allow rule matched.
    NoRule,
    /// A deny rule matched.
    DeniedByRule,
    /// The only allow rules that would have matched are past their `until`.
    ExpiredRule,
    /// The policy could not be read.
    PolicyUnreadable,
    /// The caller has no identity, the port takes plaintext, and no deny rule matched.
    Plaintext,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Allowed,
        Self::NoIdentity,
        Self::NoPolicy,
        Self::NoRule,
        Self::DeniedByRule,
        Self::ExpiredRule,
        Self::PolicyUnreadable,
        Self::Plaintext,
    ];

    /// The name in metrics, logs and responses; stable.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::NoIdentity => "no_identity",
            Self::NoPolicy => "no_policy",
            Self::NoRule => "no_rule",
            Self::DeniedByRule => "denied_by_rule",
            Self::ExpiredRule => "expired_rule",
            Self::PolicyUnreadable => "policy_unreadable",
            Self::Plaintext => "plaintext",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl PolicySet {
    /// Decides: a deny rule that matches wins, then any allow rule that matches, else deny.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Verdict {
        let Some(source) = request.source else { return Verdict::denied(Reason::NoIdentity) };
        if self.unreadable().is_some() {
            return Verdict::denied(Reason::PolicyUnreadable);
        }
        let (mut protects, mut allows, mut denies, mut expired) = (None, None, None, None);
        let mut audited = Vec::new();
        for document in self.targeting(request.destination) {
            protects.get_or_insert(document);
            for rule in &document.rules {
                let found = match (rule.first_miss(source, request), rule.mode, rule.effect) {
                    (None, Mode::Audit, effect) => {
                        let (policy, rule) = (Arc::clone(&document.name), Arc::clone(&rule.name));
                        audited.push(Audited { policy, rule, effect });
                        continue;
                    }
                    (None, Mode::Enforce, Effect::Allow) => &mut allows,
                    (None, Mode::Enforce, Effect::Deny) => &mut denies,
                    (Some(Condition::Until), Mode::Enforce, Effect::Allow) => &mut expired,
                    (Some(_), _, _) => continue,
                };
                found.get_or_insert((document, rule));
            }
        }
        let mut verdict = match (denies, allows, expired, protects) {
            (Some(found), _, _, _) => Verdict::by_rule(Reason::DeniedByRule, found),
            (None, Some(found), _, _) => Verdict::by_rule(Reason::Allowed, found),
            (None, None, Some(found), _) => Verdict::by_rule(Reason::ExpiredRule, found),
            (None, None, None, Some(document)) => {
                Verdict { policy: Some(Arc::clone(&document.name)), ..Verdict::denied(Reason::NoRule) }
            }
            (None, None, None, None) => Verdict::denied(Reason::NoPolicy),
        };
        verdict.audited = audited;
        verdict
    }
}

impl Verdict {
    pub(super) fn denied(reason: Reason) -> Self {
        Self { allowed: false, policy: None, rule: None, reason, audited: Vec::new() }
    }

    pub(super) fn by_rule(reason: Reason, (document, rule): (&CompiledDocument, &CompiledRule)) -> Self {
        Self {
            allowed: reason == Reason::Allowed,
            policy: Some(Arc::clone(&document.name)),
            rule: Some(Arc::clone(&rule.name)),
            reason,
            audited: Vec::new(),
        }
    }
}

/// What a rule can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Port,
    Http,
    Source,
    Until,
}

impl Condition {
    /// The cheapest first. `Until` is last, so that it is the first miss of a rule only if it is the
    /// only one.
    pub(super) const ALL: [Self; 4] = [Self::Port, Self::Http, Self::Source, Self::Until];
}

impl CompiledRule {
    /// None when the rule matches.
    pub(super) fn first_miss(&self, source: &SpiffeId, request: &Request<'_>) -> Option<Condition> {
        Condition::ALL.into_iter().find(|&condition| !self.meets(condition, source, request))
    }

    pub(super) fn meets(&self, condition: Condition, source: &SpiffeId, request: &Request<'_>) -> bool {
        match condition {
            Condition::Port => self.ports.as_ref().is_none_or(|ports| ports.contains(&request.port)),
            Condition::Http => self.http.as_ref().is_none_or(|http| match self.effect {
                Effect::Allow => http.allows(request.layer),
                Effect::Deny => http.denies(request.layer),
            }),
            Condition::Source => self.from.as_ref().is_none_or(|from| from.contain(source)),
            Condition::Until => self.until.is_none_or(|until| request.now < until),
        }
    }
}

impl Http {
    fn allows(&self, layer: Layer<'_>) -> bool {
        match layer {
            Layer::Connection => true,
            Layer::Opaque => false,
            Layer::Http { method, path } => {
                self.has_method(method)
                    && self.paths.as_ref().is_none_or(|paths| {
                        paths.iter().any(|pattern| pattern.allows(path)) && !is_ambiguous(path)
                    })
            }
        }
    }

    fn denies(&self, layer: Layer<'_>) -> bool {
        match layer {
            Layer::Connection => false,
            Layer::Opaque => true,
            // Some servers do not tell `delete` from `DELETE`: in doubt the method is the denied one.
            Layer::Http { method, path } => {
                self.methods
                    .as_ref()
                    .is_none_or(|methods| methods.iter().any(|known| known.eq_ignore_ascii_case(method)))
                    && self.paths.as_ref().is_none_or(|paths| {
                        is_ambiguous(path) || paths.iter().any(|pattern| pattern.denies(path))
                    })
            }
        }
    }

    pub(super) fn has_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|known| known == method))
    }
}
