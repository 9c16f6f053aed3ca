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
use crate::document::Excerpt;
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
                Some(miss) if *miss.document.name == *policy => {
                    format!("Denied: no rule lets {what}; {miss}.")
                }
                // The verdict names the narrowest document, and logs show that.
                Some(miss) => {
                    format!("Denied: no rule lets {what}; {miss}; policy `{policy}` protects it too.")
                }
                None => format!("Denied: no rule lets {what}; policy `{policy}` has no rule that could."),
            },
            Reason::NoIdentity => "Denied: the peer presented no identity.".to_owned(),
            Reason::Plaintext => self.explain_plaintext(request),
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

#[cfg(test)]
mod tests {
    use super::super::testing::{PAYMENTS, at, documents, id, policy, requests};
    use super::*;
    use proptest::prelude::*;

    const POST: Layer<'_> = Layer::Http { method: "POST", path: "/charge/7" };

    fn explain(
        set: &PolicySet,
        source: Option<&str>,
        port: u16,
        layer: Layer<'_>,
        now: SystemTime,
    ) -> String {
        let (source, destination) = (source.map(id), id("spiffe://prod.example/payments"));
        let request = Request { source: source.as_ref(), destination: &destination, port, layer, now };
        set.explain(&request).to_string()
    }

    #[test]
    fn each_reason_has_its_sentence() {
        let set = policy(PAYMENTS);
        let now = at(1_767_225_600);
        let checkout = Some("spiffe://prod.example/checkout");
        let cases = [
            (
                explain(&set, checkout, 8080, POST, now),
                "Allowed: rule `checkout-charges` of policy `payments` lets spiffe://prod.example/checkout reach \
                 spiffe://prod.example/payments on port 8080 with POST \"/charge/7\".",
            ),
            (
                explain(&set, Some("spiffe://prod.example/batch/a"), 8080, Layer::Connection, now),
                "Denied: rule `no-batch` of policy `payments` does not let spiffe://prod.example/batch/a reach \
                 spiffe://prod.example/payments on port 8080.",
            ),
            (
                explain(&set, None, 8080, Layer::Connection, now),
                "Denied: the peer presented no identity; spiffe://prod.example/payments is reached with one only.",
            ),
            (
                explain(&set, checkout, 8081, POST, now),
                "Denied: no rule lets spiffe://prod.example/checkout reach spiffe://prod.example/payments on port 8081 \
                 with POST \"/charge/7\"; the nearest, rule `checkout-charges` of policy `payments`, wants port 8080, \
                 not 8081.",
            ),
            (
                explain(&set, checkout, 8080, POST, at(1_900_000_000)),
                "Denied: rule `checkout-charges` of policy `payments` let spiffe://prod.example/checkout reach \
                 spiffe://prod.example/payments on port 8080 with POST \"/charge/7\", but it ended at \
                 2027-01-31T00:00:00Z.",
            ),
            (
                explain(&PolicySet::empty(), checkout, 8080, POST, now),
                "Denied: no policy document has the target spiffe://prod.example/payments or a subtree around it, so \
                 nobody may reach it.",
            ),
            (
                explain(&PolicySet::deny_all("p.yaml:1:2: no\nsense".into()), checkout, 8080, POST, now),
                "Denied: the policy could not be read: p.yaml:1:2: no\\nsense.",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn the_nearest_miss_says_everything_it_wants() {
        let set = policy(PAYMENTS);
        let now = at(1_767_225_600);
        let miss = |source, port, layer| {
            let text = explain(&set, Some(source), port, layer, now);
            text.split_once(", wants ").unwrap().1.to_owned()
        };
        let checkout = "spiffe://prod.example/checkout";
        assert_eq!(
            miss("spiffe://prod.example/shop", 8080, POST),
            "the caller spiffe://prod.example/checkout."
        );
        assert_eq!(miss(checkout, 8080, Layer::Opaque), "HTTP, not other bytes.");
        assert_eq!(
            miss(checkout, 8080, Layer::Http { method: "GET", path: "/charge/7" }),
            "method POST, not GET."
        );
        assert_eq!(
            miss(checkout, 8080, Layer::Http { method: "POST", path: "/a" }),
            "path /charge/*, not \"/a\"."
        );
        assert_eq!(
            miss(checkout, 8080, Layer::Http { method: "POST", path: "/charge/a;b" }),
            "a path that every app reads alike, not \"/charge/a;b\"."
        );
        assert_eq!(
            miss("spiffe://prod.example/shop", 80, Layer::Opaque),
            "port 8080, not 80, and HTTP, not other bytes, and the caller spiffe://prod.example/checkout."
        );
    }

    #[test]
    fn the_nearest_rule_is_the_one_that_knows_the_caller() {
        let set = policy(
            "{kind: Policy, name: p, target: spiffe://td/a, rules: [\
             {name: others, allow: {from: [spiffe://td/x], ports: [1]}},\
             {name: mine, allow: {from: [spiffe://td/b], ports: [2, 3, 4, 5, 6, 7]}}]}",
        );
        let (source, destination) = (id("spiffe://td/b"), id("spiffe://td/a"));
        let request = Request {
            source: Some(&source),
            destination: &destination,
            port: 1,
            layer: Layer::Opaque,
            now: at(0),
        };
        let text = set.explain(&request).to_string();
        assert!(
            text.ends_with("rule `mine` of policy `p`, wants port 2, 3, 4, 5 or 2 more, not 1."),
            "{text}"
        );
    }

    #[test]
    fn a_nearest_miss_in_another_document_still_names_the_one_in_the_verdict() {
        let set = policy(
            "{kind: Policy, name: narrow, target: spiffe://td/b/*, rules: []}\n---\n\
             {kind: Policy, name: wide, target: spiffe://td/*, rules: [{name: r, allow: {ports: [1]}}]}",
        );
        let (source, destination) = (id("spiffe://td/a"), id("spiffe://td/b/a"));
        let layer = Layer::Connection;
        let request =
            Request { source: Some(&source), destination: &destination, port: 2, layer, now: at(0) };
        let explanation = set.explain(&request);
        assert_eq!(explanation.verdict.policy.as_deref(), Some("narrow"));
        assert_eq!(
            explanation.to_string(),
            "Denied: no rule lets spiffe://td/a reach spiffe://td/b/a on port 2; the nearest, rule `r` of policy \
             `wide`, wants port 1, not 2; policy `narrow` protects it too."
        );
    }

    #[test]
    fn doubt_and_audit_are_told() {
        let set = policy(
            "{kind: Policy, name: p, target: spiffe://td/a, rules: [{name: all, allow: {}, mode: audit},\
             {name: no-admin, deny: {http: {paths: [/admin]}}}]}",
        );
        let (source, destination) = (id("spiffe://td/b"), id("spiffe://td/a"));
        let explain = |layer| {
            let request =
                Request { source: Some(&source), destination: &destination, port: 1, layer, now: at(0) };
            set.explain(&request).to_string()
        };
        let text = explain(Layer::Opaque);
        assert!(
            text.contains(
                "bytes that are not HTTP may be anything. Rule `all` of policy `p` is in audit mode"
            )
        );
        let text = explain(Layer::Http { method: "GET", path: "/x;\r\n" });
        assert!(
            text.contains("\"/x;\\r\\n\": it has paths, and an app may read this path as another one."),
            "{text}"
        );
        let text = explain(Layer::Http { method: "GET", path: "/x" });
        assert!(text.contains("policy `p` has no rule that could."), "{text}");
    }

    proptest! {
        #[test]
        fn decide_and_explain_agree(documents in documents(), asking in requests()) {
            let set = PolicySet::compile(documents).unwrap();
            let request = asking.request();
            let explanation = set.explain(&request);
            prop_assert_eq!(&explanation.verdict, &set.decide(&request));
            let text = explanation.to_string();
            prop_assert_eq!(text.starts_with("Allowed: "), explanation.verdict.allowed);
            prop_assert!(text.ends_with('.') && !text.contains("wants .") && !text.contains("  "), "{}", text);
            for name in [&explanation.verdict.policy, &explanation.verdict.rule].into_iter().flatten() {
                prop_assert!(text.contains(&format!("`{name}`")), "{}", text);
            }
        }
    }
}
