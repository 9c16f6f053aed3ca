//! What policy says of a caller without TLS, where the mesh takes plaintext: nobody can be allowed by name who has
//! none, so everything is let through that no rule denies, and the verdict says that it was.
//!
//! A rule that names callers never matches one without identity, whether it allows or denies; one that denies by
//! anything else does. What cannot be read denies.

use std::sync::Arc;

use super::compile::{CompiledRule, PolicySet};
use super::decide::{Audited, Reason, Request, Verdict};
use super::document::{Direction, Effect, Mode};

impl PolicySet {
    /// Decides on a caller without identity at a port that takes plaintext. Whether it does is asked before.
    #[must_use]
    pub fn decide_plaintext(&self, request: &Request<'_>) -> Verdict {
        if self.unreadable().is_some() {
            return Verdict::denied(Reason::PolicyUnreadable);
        }
        let (mut denies, mut audited) = (None, Vec::new());
        for document in self.about(Direction::Inbound, request.destination) {
            for rule in document.rules.iter().filter(|rule| rule.denies_anybody(request)) {
                match rule.mode {
                    Mode::Enforce => {
                        denies.get_or_insert((document, rule));
                    }
                    Mode::Audit => audited.push(Audited {
                        policy: Arc::clone(&document.name),
                        rule: Arc::clone(&rule.name),
                        effect: rule.effect,
                    }),
                }
            }
        }
        let verdict = match denies {
            Some(found) => Verdict::by_rule(Reason::DeniedByRule, found),
            None => Verdict { allowed: true, ..Verdict::denied(Reason::Plaintext) },
        };
        Verdict { audited, ..verdict }
    }
}

impl PolicySet {
    /// The same in a sentence.
    #[must_use]
    pub fn explain_plaintext(&self, request: &Request<'_>) -> String {
        let verdict = self.decide_plaintext(request);
        let port = request.port.map_or_else(|| "that is not known".to_owned(), |port| port.to_string());
        match (verdict.reason, verdict.policy, verdict.rule) {
            (Reason::DeniedByRule, Some(policy), Some(rule)) => {
                format!("Denied: rule `{rule}` of policy `{policy}` denies plaintext callers of port {port}.")
            }
            (Reason::Plaintext, ..) => {
                format!("Allowed: port {port} takes plaintext, and no rule denies callers without identity.")
            }
            _ => "Denied: the policy cannot be read.".to_owned(),
        }
    }
}

impl CompiledRule {
    fn denies_anybody(&self, request: &Request<'_>) -> bool {
        self.effect == Effect::Deny
            && self.peers.is_none()
            && self.first_miss(request.destination, request).is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::decide::{HttpRequest, Layer};
    use super::super::testing::{at, documents, id, policy};
    use super::*;
    use crate::spiffe::SpiffeId;

    const RULES: &str = "{kind: Policy, name: p, target: spiffe://td/a, rules: [\
        {name: someone, allow: {from: [spiffe://td/b]}}, \
        {name: not-batch, deny: {from: [\"spiffe://td/*\"]}}, \
        {name: no-debug, deny: {ports: [9000]}}, \
        {name: no-delete, deny: {ports: [80], http: {methods: [DELETE]}}}, \
        {name: for-now, deny: {ports: [81]}, until: '1970-01-01T00:00:10Z'}, \
        {name: watched, deny: {ports: [82]}, mode: audit}]}";

    #[test]
    fn rules_that_name_callers_match_nobody_without_a_name_and_others_deny() {
        let (set, destination) = (policy(RULES), id("spiffe://td/a"));
        let ask = |port, layer, now| {
            let request = ask_of(&destination, port, layer, now);
            let verdict = set.decide_plaintext(&request);
            assert_eq!(set.decide(&request).reason, Reason::NoIdentity, "strict lets nobody in");
            (verdict.allowed, verdict.reason, verdict.rule.as_deref().unwrap_or_default().to_owned())
        };
        let open = (true, Reason::Plaintext, String::new());
        let denied = |rule: &str| (false, Reason::DeniedByRule, rule.to_owned());
        let http =
            |method| Layer::Http(HttpRequest { method, path: "/", host: None, grpc: false, headers: None });
        let (get, delete) = (http("GET"), http("DELETE"));
        assert_eq!(ask(80, Layer::Connection, 0), open);
        assert_eq!(ask(80, get, 0), open);
        assert_eq!(ask(80, delete, 0), denied("no-delete"));
        assert_eq!(ask(80, Layer::Opaque, 0), denied("no-delete"), "what it is cannot be told");
        assert_eq!(ask(9000, Layer::Connection, 0), denied("no-debug"));
        assert_eq!(ask(81, Layer::Opaque, 9), denied("for-now"));
        assert_eq!(ask(81, Layer::Opaque, 10), open);
        assert_eq!(ask(82, Layer::Opaque, 0), open);
        let request = ask_of(&destination, 82, Layer::Opaque, 0);
        assert_eq!(&*set.decide_plaintext(&request).audited[0].rule, "watched");
        let denied = Request { port: Some(9000), ..request };
        assert_eq!(
            set.explain_plaintext(&denied),
            "Denied: rule `no-debug` of policy `p` denies plaintext callers of port 9000."
        );
        let unreadable = PolicySet::deny_all("it".into()).decide_plaintext(&request);
        assert_eq!((unreadable.allowed, unreadable.reason), (false, Reason::PolicyUnreadable));
        assert!(PolicySet::empty().decide_plaintext(&request).allowed);
    }

    fn ask_of<'a>(destination: &'a SpiffeId, port: u16, layer: Layer<'a>, now: u64) -> Request<'a> {
        let (direction, port) = (Direction::Inbound, Some(port));
        Request { direction, source: None, destination, port, address: None, layer, now: at(now) }
    }

    proptest! {
        #[test]
        fn taking_an_allow_away_changes_nothing_and_taking_a_deny_away_never_denies(
            documents in documents(), port in 1..5_u16, skipped in any::<prop::sample::Index>(),
        ) {
            let destination = id("spiffe://td/a");
            let request = ask_of(&destination, port, Layer::Opaque, 0);
            let Ok(all) = PolicySet::compile(documents.clone()) else { return Ok(()) };
            let allows = |effect| {
                let mut fewer = documents.clone();
                for document in &mut fewer {
                    document.rules.retain(|rule| rule.effect != effect);
                }
                PolicySet::compile(fewer).unwrap().decide_plaintext(&request).allowed
            };
            let allowed = all.decide_plaintext(&request).allowed;
            prop_assert_eq!(allows(Effect::Allow), allowed);
            prop_assert!(allows(Effect::Deny));
            if !documents.is_empty() {
                let mut fewer = documents.clone();
                fewer.remove(skipped.index(documents.len()));
                let fewer = PolicySet::compile(fewer).unwrap().decide_plaintext(&request);
                prop_assert!(fewer.allowed || !allowed);
            }
        }
    }
}
