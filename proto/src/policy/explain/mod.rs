//! A decision in a sentence: the document and the rule that decided, or the nearest miss and what it
//! missed.
//!
//! The verdict is [`PolicySet::decide`]'s own and the misses are found with the same tests, so that an
//! explanation cannot disagree with what happens.

mod miss;

use std::fmt;
use std::time::SystemTime;

use self::miss::nearest;
use super::compile::{CompiledRule, PolicySet};
use super::decide::{Layer, Reason, Request, Verdict};
use super::document::Direction;
use super::host;
use super::path::is_ambiguous;
use crate::document::Excerpt;
use crate::spiffe::SpiffeId;

#[cfg(test)]
mod tests;

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
        let (no_rule, about) = match request.direction {
            Direction::Inbound => ("no rule", "protects"),
            Direction::Egress => ("no egress rule", "restricts"),
        };
        match verdict.reason {
            Reason::Allowed => format!("Allowed: rule `{rule}` of policy `{policy}` lets {what}."),
            Reason::Unrestricted => format!(
                "Allowed: no policy document has the source {source} or a subtree around it, so it may call anybody who lets it."
            ),
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
            Reason::NoRule => match nearest(self, request) {
                Some(miss) if miss.document() == policy => {
                    format!("Denied: {no_rule} lets {what}; {miss}.")
                }
                // The verdict names the narrowest document, and logs show that.
                Some(miss) => {
                    format!("Denied: {no_rule} lets {what}; {miss}; policy `{policy}` {about} it too.")
                }
                None => format!("Denied: {no_rule} lets {what}; policy `{policy}` has no rule that could."),
            },
            Reason::NoIdentity => "Denied: the peer presented no identity.".to_owned(),
            Reason::Plaintext => self.explain_plaintext(request),
        }
    }

    fn rule<'s>(&'s self, verdict: &Verdict, request: &Request<'_>) -> Option<&'s CompiledRule> {
        let (policy, rule) = (verdict.policy.as_deref()?, verdict.rule.as_deref()?);
        let whom = request.whom()?;
        let mut documents = self.about(request.direction, whom).filter(|document| *document.name == *policy);
        documents.next()?.rules.iter().find(|found| *found.name == *rule)
    }

    /// Why a deny rule matched what it does not name.
    fn doubt(&self, verdict: &Verdict, request: &Request<'_>) -> &'static str {
        let Some(rule) = self.rule(verdict, request) else { return "" };
        let http = rule.http.as_ref();
        let wants = |part: bool, why| part.then_some(why);
        let doubt = match request.layer {
            Layer::Connection => None,
            Layer::Opaque => wants(
                http.is_some() || rule.grpc.is_some(),
                ": it has HTTP conditions, and bytes that are not HTTP may be anything",
            ),
            Layer::Http(asked) => {
                let paths = http.is_some_and(|http| http.paths.is_some()) || rule.grpc.is_some();
                let path = wants(
                    paths && is_ambiguous(asked.path),
                    ": it has paths, and an app may read this path as another one",
                );
                let host = wants(
                    http.is_some_and(|http| http.hosts.is_some()) && !host::is_clear(asked.host),
                    ": it has hosts, and an app may take this host for another one",
                );
                let headers = wants(
                    http.is_some_and(|http| http.headers.is_some()) && asked.headers.is_none(),
                    ": it has headers, and those of this request were not kept",
                );
                let grpc = wants(
                    rule.grpc.is_some() && !asked.grpc,
                    ": it has gRPC conditions, and an app may take a request with this path for a call",
                );
                path.or(host).or(headers).or(grpc)
            }
        };
        let address = wants(
            rule.cidrs.is_some() && request.address.is_none(),
            ": it has networks, and the address of the caller is not known",
        );
        let port = wants(
            rule.ports.is_some() && request.port.is_none(),
            ": it has ports, and that of the app is not known",
        );
        doubt.or(address).or(port).unwrap_or_default()
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
        write!(f, "{} reach {destination}", self.source)?;
        match port {
            Some(port) => write!(f, " on port {port}")?,
            None => f.write_str(" on a port that is not known")?,
        }
        match layer {
            Layer::Connection => Ok(()),
            Layer::Opaque => f.write_str(" with bytes that are not HTTP"),
            Layer::Http(asked) => write!(f, " with {} \"{}\"", Excerpt(asked.method), Excerpt(asked.path)),
        }
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
