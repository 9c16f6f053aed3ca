//! The decision: pure, the same in control and in every proxy.
//!
//! The path that allows allocates nothing but the two `Arc` clones of the names in the verdict.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::compile::{CompiledDocument, CompiledRule, PolicySet};
use super::document::{Direction, Effect, Grpc, Http, Mode};
use super::path::is_ambiguous;
use crate::spiffe::SpiffeId;

#[cfg(test)]
mod tests;

/// One question: may `source` do this to `destination`, now?
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Which side decides.
    pub direction: Direction,
    /// Who asks, as its SVID says; none when it has not proven any identity.
    pub source: Option<&'a SpiffeId>,
    /// Whom it wants to reach.
    pub destination: &'a SpiffeId,
    /// The app's port, that is the one the destination's proxy forwards to, if it is known.
    pub port: Option<u16>,
    /// The caller's address as the deciding proxy sees it, if it has one.
    pub address: Option<IpAddr>,
    /// What is known of the protocol.
    pub layer: Layer<'a>,
    /// The time of the question.
    pub now: SystemTime,
}

/// What is known of the protocol when the question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer<'a> {
    /// Nothing yet, right after the handshake: is there anything it may do? Rules with `http` or `grpc` allow, as
    /// they may come to match, and do not deny.
    Connection,
    /// Bytes that are not HTTP: rules with `http` or `grpc` do not allow, and do deny.
    Opaque,
    /// One HTTP request.
    Http(HttpRequest<'a>),
}

/// An HTTP request, as it is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    /// As on the wire; methods are case-sensitive.
    pub method: &'a str,
    /// Without query; normalized where rules look at it ([`PolicySet::path`]).
    pub path: &'a str,
    /// `Host`, or `:authority`.
    pub host: Option<&'a str>,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// None when they are not known any more.
    pub headers: Option<&'a HeaderMap>,
}

impl<'a> Request<'a> {
    /// Whose documents decide.
    pub(super) fn whom(&self) -> Option<&'a SpiffeId> {
        match self.direction {
            Direction::Inbound => Some(self.destination),
            Direction::Egress => self.source,
        }
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> Option<&'a SpiffeId> {
        match self.direction {
            Direction::Inbound => self.source,
            Direction::Egress => Some(self.destination),
        }
    }
}

impl<'a> HttpRequest<'a> {
    /// A request of which everything is known.
    #[must_use]
    pub fn new(method: &'a str, path: &'a str, host: Option<&'a str>, headers: &'a HeaderMap) -> Self {
        Self { method, path, host, grpc: is_grpc(method, headers), headers: Some(headers) }
    }
}

/// Whether a request is a gRPC call: POST, with the one content type that servers require ("gRPC over HTTP/2",
/// Requests). gRPC-Web is not.
#[must_use]
pub fn is_grpc(method: &str, headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(one), None) = (types.next(), types.next()) else { return false };
    let rest = one.as_bytes().strip_prefix(b"application/grpc");
    method == "POST" && rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may.
    pub allowed: bool,
    /// The document that decided; with `no_rule`, the first that is about the destination (egress: the source).
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
    /// No egress document is about the source, so it may call whom it likes.
    Unrestricted,
    /// The peer has no identity.
    NoIdentity,
    /// No document protects the destination, so nobody may reach it.
    NoPolicy,
    /// Documents protect the destination, or restrict the source; no allow rule matched.
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
    pub const ALL: [Self; 9] = [
        Self::Allowed,
        Self::Unrestricted,
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
            Self::Unrestricted => "unrestricted",
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
        let (whom, peer) = match request.direction {
            Direction::Inbound => (request.destination, source),
            Direction::Egress => (source, request.destination),
        };
        let (mut first, mut allows, mut denies, mut expired) = (None, None, None, None);
        let mut audited = Vec::new();
        for document in self.about(request.direction, whom) {
            first.get_or_insert(document);
            for rule in &document.rules {
                let found = match (rule.first_miss(peer, request), rule.mode, rule.effect) {
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
        let mut verdict = match (denies, allows, expired, first) {
            (Some(found), _, _, _) => Verdict::by_rule(Reason::DeniedByRule, found),
            (None, Some(found), _, _) => Verdict::by_rule(Reason::Allowed, found),
            (None, None, Some(found), _) => Verdict::by_rule(Reason::ExpiredRule, found),
            (None, None, None, Some(document)) => {
                Verdict { policy: Some(Arc::clone(&document.name)), ..Verdict::denied(Reason::NoRule) }
            }
            (None, None, None, None) => match request.direction {
                Direction::Inbound => Verdict::denied(Reason::NoPolicy),
                Direction::Egress => Verdict { allowed: true, ..Verdict::denied(Reason::Unrestricted) },
            },
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
    Address,
    Http,
    Grpc,
    Peer,
    Until,
}

impl Condition {
    /// The cheapest first. `Until` is last, so that it is the first miss of a rule only if it is the
    /// only one.
    pub(super) const ALL: [Self; 6] =
        [Self::Port, Self::Address, Self::Http, Self::Grpc, Self::Peer, Self::Until];
}

impl CompiledRule {
    /// None when the rule matches. `peer` is who is at the other end.
    pub(super) fn first_miss(&self, peer: &SpiffeId, request: &Request<'_>) -> Option<Condition> {
        Condition::ALL.into_iter().find(|&condition| !self.meets(condition, peer, request))
    }

    pub(super) fn meets(&self, condition: Condition, peer: &SpiffeId, request: &Request<'_>) -> bool {
        // What is not known may be anything.
        let in_doubt = self.effect == Effect::Deny;
        match condition {
            Condition::Port => self.ports.as_ref().is_none_or(|ports| match request.port {
                Some(port) => ports.contains(&port),
                None => in_doubt,
            }),
            Condition::Address => self.cidrs.as_ref().is_none_or(|cidrs| match request.address {
                Some(address) => {
                    let address = address.to_canonical();
                    cidrs.iter().any(|network| network.contains(&address))
                }
                None => in_doubt,
            }),
            Condition::Http => self.http.as_ref().is_none_or(|http| match request.layer {
                Layer::Connection => !in_doubt,
                Layer::Opaque => in_doubt,
                Layer::Http(asked) if in_doubt => http.denies(&asked),
                Layer::Http(asked) => http.allows(&asked),
            }),
            Condition::Grpc => self.grpc.as_ref().is_none_or(|grpc| match request.layer {
                Layer::Connection => !in_doubt,
                Layer::Opaque => in_doubt,
                Layer::Http(asked) if in_doubt => grpc.denies(&asked),
                Layer::Http(asked) => grpc.allows(&asked),
            }),
            Condition::Peer => self.peers.as_ref().is_none_or(|peers| peers.contain(peer)),
            Condition::Until => self.until.is_none_or(|until| request.now < until),
        }
    }
}

impl Http {
    fn allows(&self, asked: &HttpRequest<'_>) -> bool {
        self.has_method(asked.method)
            && self.allows_path(asked.path)
            && self.allows_host(asked.host)
            && self.headers.iter().flatten().all(|header| header.allows(asked.headers))
    }

    fn denies(&self, asked: &HttpRequest<'_>) -> bool {
        // Some servers do not tell `delete` from `DELETE`: in doubt the method is the denied one.
        let has_method =
            |methods: &Vec<String>| methods.iter().any(|known| known.eq_ignore_ascii_case(asked.method));
        self.methods.as_ref().is_none_or(has_method)
            && self.paths.as_ref().is_none_or(|paths| {
                is_ambiguous(asked.path) || paths.iter().any(|pattern| pattern.denies(asked.path))
            })
            && self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|host| host.denies(asked.host)))
            && self.headers.iter().flatten().all(|header| header.denies(asked.headers))
    }

    pub(super) fn has_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|known| known == method))
    }

    pub(super) fn allows_path(&self, path: &str) -> bool {
        self.paths
            .as_ref()
            .is_none_or(|paths| paths.iter().any(|pattern| pattern.allows(path)) && !is_ambiguous(path))
    }

    pub(super) fn allows_host(&self, host: Option<&str>) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|pattern| pattern.allows(host)))
    }
}

impl Grpc {
    fn allows(&self, asked: &HttpRequest<'_>) -> bool {
        asked.grpc && !is_ambiguous(asked.path) && self.has(asked.path)
    }

    /// Some servers look at the path alone: what is not marked as gRPC may be served as such.
    fn denies(&self, asked: &HttpRequest<'_>) -> bool {
        is_ambiguous(asked.path) || self.has(asked.path.strip_suffix('/').unwrap_or(asked.path))
    }

    fn has(&self, path: &str) -> bool {
        grpc_call(path).is_some_and(|(service, method)| self.has_service(service) && self.has_method(method))
    }

    pub(super) fn has_service(&self, service: &str) -> bool {
        self.services.as_ref().is_none_or(|services| services.iter().any(|known| known == service))
    }

    pub(super) fn has_method(&self, method: &str) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.iter().any(|known| known == method))
    }
}

/// `/package.Service/Method` ("gRPC over HTTP/2", Requests).
pub(super) fn grpc_call(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}
