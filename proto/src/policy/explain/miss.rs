//! The allow rule that comes nearest to letting something pass, and all that it wants besides.

use std::fmt;

use super::super::compile::{CompiledDocument, CompiledRule, Identities, PolicySet};
use super::super::decide::{Condition, HttpRequest, Layer, Request, grpc_call};
use super::super::document::{Direction, Effect, Grpc, Http, Mode};
use super::super::header::{HeaderCondition, HeaderTest};
use super::super::path::is_ambiguous;
use super::Moment;
use crate::document::Excerpt;
use crate::spiffe::SpiffeId;

/// The allow rule that misses least; among equals, one that knows the peer, then the first.
pub(super) fn nearest<'s>(set: &'s PolicySet, request: &'s Request<'s>) -> Option<Miss<'s>> {
    let (whom, peer) = (request.whom()?, request.peer()?);
    let rules = set.about(request.direction, whom).flat_map(|document| {
        let deciding = |rule: &&CompiledRule| rule.effect == Effect::Allow && rule.mode == Mode::Enforce;
        document.rules.iter().filter(deciding).map(move |rule| (document, rule))
    });
    let misses = rules.map(|(document, rule)| {
        let missed = Condition::ALL.map(|condition| !rule.meets(condition, peer, request));
        Miss { document, rule, missed, request }
    });
    misses.min_by_key(|miss| (miss.count(), miss.misses(Condition::Peer)))
}

/// An allow rule that did not match.
pub(super) struct Miss<'a> {
    document: &'a CompiledDocument,
    rule: &'a CompiledRule,
    /// In the order of [`Condition::ALL`].
    missed: [bool; Condition::ALL.len()],
    request: &'a Request<'a>,
}

impl Miss<'_> {
    /// The document of the rule.
    pub(super) fn document(&self) -> &str {
        &self.document.name
    }

    fn count(&self) -> usize {
        self.missed.iter().filter(|&&missed| missed).count()
    }

    fn misses(&self, condition: Condition) -> bool {
        Condition::ALL.iter().zip(self.missed).any(|(&one, missed)| one == condition && missed)
    }

    fn wants(&self, condition: Condition) -> Vec<String> {
        let (rule, request) = (self.rule, self.request);
        match condition {
            Condition::Peer => {
                let who = match request.direction {
                    Direction::Inbound => "caller",
                    Direction::Egress => "destination",
                };
                rule.peers.iter().map(|peers| format!("the {who} {peers}")).collect()
            }
            Condition::Port => {
                let ports = Choice::of(rule.ports.iter().flatten());
                vec![match request.port {
                    Some(port) => format!("port {ports}, not {port}"),
                    None => format!("port {ports}, not one that is not known"),
                }]
            }
            Condition::Address => {
                let networks = Choice::of(rule.cidrs.iter().flatten());
                vec![match request.address {
                    Some(address) => format!("an address in {networks}, not {}", address.to_canonical()),
                    None => format!("an address in {networks}, not one that is not known"),
                }]
            }
            Condition::Http => match (&rule.http, request.layer) {
                (Some(http), Layer::Http(asked)) => http.misses(&asked),
                _ => vec!["HTTP, not other bytes".to_owned()],
            },
            Condition::Grpc => match (&rule.grpc, request.layer) {
                (Some(grpc), Layer::Http(asked)) => grpc.misses(&asked),
                _ => vec!["gRPC, not other bytes".to_owned()],
            },
            Condition::Until => {
                rule.until.iter().map(|until| format!("a time before {}", Moment(*until))).collect()
            }
        }
    }
}

impl Http {
    fn misses(&self, asked: &HttpRequest<'_>) -> Vec<String> {
        let mut wants = Vec::new();
        if !self.has_method(asked.method) {
            let methods = Choice::of(self.methods.iter().flatten());
            wants.push(format!("method {methods}, not {}", Excerpt(asked.method)));
        }
        if self.paths.is_some() && is_ambiguous(asked.path) {
            wants.push(format!("a path that every app reads alike, not \"{}\"", Excerpt(asked.path)));
        } else if !self.allows_path(asked.path) {
            let paths = Choice::of(self.paths.iter().flatten());
            wants.push(format!("path {paths}, not \"{}\"", Excerpt(asked.path)));
        }
        if !self.allows_host(asked.host) {
            let hosts = Choice::of(self.hosts.iter().flatten());
            wants.push(match asked.host {
                Some(host) => format!("host {hosts}, not \"{}\"", Excerpt(host)),
                None => format!("host {hosts}, not none"),
            });
        }
        let headers = self.headers.iter().flatten().filter(|header| !header.allows(asked.headers));
        wants.extend(headers.map(ToString::to_string));
        wants
    }
}

impl Grpc {
    fn misses(&self, asked: &HttpRequest<'_>) -> Vec<String> {
        if !asked.grpc {
            return vec!["gRPC, not other HTTP".to_owned()];
        }
        let Some((service, method)) = grpc_call(asked.path).filter(|_| !is_ambiguous(asked.path)) else {
            return vec![format!("a gRPC call of the form /SERVICE/METHOD, not \"{}\"", Excerpt(asked.path))];
        };
        let mut wants = Vec::new();
        if !self.has_service(service) {
            let services = Choice::of(self.services.iter().flatten());
            wants.push(format!("gRPC service {services}, not {}", Excerpt(service)));
        }
        if !self.has_method(method) {
            let methods = Choice::of(self.methods.iter().flatten());
            wants.push(format!("gRPC method {methods}, not {}", Excerpt(method)));
        }
        wants
    }
}

impl fmt::Display for Miss<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the nearest, rule `{}` of policy `{}`, wants ", self.rule.name, self.document.name)?;
        let missed = Condition::ALL.into_iter().filter(|&condition| self.misses(condition));
        let wants: Vec<String> = missed.flat_map(|condition| self.wants(condition)).collect();
        f.write_str(&wants.join(", and "))
    }
}

impl fmt::Display for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subtrees = self.subtrees.iter().map(|prefix| format!("{prefix}*"));
        Choice::of(self.exact.iter().map(SpiffeId::to_string).chain(subtrees)).fmt(f)
    }
}

/// What is wanted; not what was found, as headers carry secrets.
impl fmt::Display for HeaderCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted =
            |values: &[String]| Choice::of(values.iter().map(|value| format!("\"{}\"", Excerpt(value))));
        match &self.test {
            HeaderTest::Present => write!(f, "the header {}", self.name),
            HeaderTest::Exact(values) => write!(f, "one header {} that is {}", self.name, quoted(values)),
            HeaderTest::Prefix(values) => {
                write!(f, "one header {} that begins with {}", self.name, quoted(values))
            }
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
