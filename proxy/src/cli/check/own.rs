//! What the proxy has of its own: certificate, policy, the apps behind it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Running;
use super::report::{Finding, Report};
use crate::config::{App, Config};
use crate::crl::{self, CrlFiles};
use crate::identity::files::{self, Files};
use crate::identity::socket::{self, Socket};
use crate::mesh::Mesh;

const APP_DEADLINE: Duration = Duration::from_secs(2);
/// A certificate that ends sooner is worth a look.
const SOON: Duration = Duration::from_secs(300);

/// Reads the files as the proxy would, policy included.
pub(super) async fn files(files: &Files, report: &mut Report) {
    let mesh = Mesh::new(Arc::default());
    if let Err(error) = files::load(files, &mesh).await {
        let fix = "SVID, key and bundle must fit together, and be valid now: have whatever keeps them write them again";
        return report.add(Finding::problem("certificate", error, fix));
    }
    let now = signet_proto::clock::now();
    if let Some((svid, _)) = mesh.credentials() {
        let left = svid.end().duration_since(now).unwrap_or_default();
        report.add(lasting(
            "certificate",
            &format!("{} from files, believed by its bundle", svid.id()),
            left,
        ));
    }
    let Some(policy) = mesh.policy() else { return };
    let documents = policy.documents();
    let ended: Vec<String> = documents
        .iter()
        .flat_map(|document| {
            let rules = document.rules.iter().filter(|rule| rule.until.is_some_and(|until| until <= now));
            rules.map(|rule| format!("{}/{}", document.name, rule.name))
        })
        .collect();
    report.add(policies(documents.len(), None, &ended, files.policy.is_some()));
}

/// Reads revocation lists as the proxy would; who signed them is known once it is known whom it believes.
pub(super) async fn crls(files: &CrlFiles, report: &mut Report) {
    match crl::read(files).await {
        Ok(read) => {
            let now = signet_proto::clock::now();
            let expired = read.lists().filter(|list| list.next_update() < now).count();
            let what =
                format!("{} revocation lists, {expired} of them past their nextUpdate", read.lists().count());
            report.add(match expired {
                0 => Finding::ok("crl-file", what),
                _ => Finding::warning(
                    "crl-file",
                    what,
                    "have the newest lists put there: new peers of those issuers are refused",
                ),
            });
        }
        Err(error) => {
            let fix = "the proxy does not start with it: have its issuer make another one, or name the file that is meant";
            report.add(Finding::problem("crl-file", error, fix));
        }
    }
}

/// Asks the Workload API as the proxy would.
pub(super) async fn socket(socket: &Socket, report: &mut Report) {
    match socket::once(socket).await {
        Ok(svid) => {
            let left = svid.end().duration_since(signet_proto::clock::now()).unwrap_or_default();
            let what = format!("{} from {}, believed by its bundle", svid.id(), socket.path.display());
            report.add(lasting("certificate", &what, left));
        }
        Err(error) => {
            let fix = "is its server up, may this user open the socket, and is the process registered there?";
            report.add(Finding::problem("certificate", error, fix));
        }
    }
}

/// That of the proxy that runs; one from files was looked at already.
pub(super) fn certificate(config: &Config, running: &Running, report: &mut Report) {
    let Some(identity) = &running.identity else {
        if config.source.joining().is_some() {
            report.add(Finding::ok("certificate", "none yet: the proxy gets it from control when it starts"));
        }
        return;
    };
    let text = |key: &str| identity.get(key).and_then(Value::as_str);
    let (Some(id), Some(ends)) = (text("id"), text("not_after")) else {
        let fix = "its log says what it waits for; `/readyz` at `metrics-listen`, too";
        return report.add(Finding::problem("certificate", "the proxy that runs has none", fix));
    };
    let ends: Option<Timestamp> = ends.parse().ok();
    let now = Timestamp::try_from(signet_proto::clock::now()).unwrap_or_default();
    let left = ends.and_then(|ends| Duration::try_from(ends.duration_since(now)).ok()).unwrap_or_default();
    let renewal = text("next_renewal").map(|time| format!(", renewed at {time}")).unwrap_or_default();
    report.add(lasting("certificate", &format!("{id}{renewal}"), left));
}

fn lasting(check: &'static str, what: &str, left: Duration) -> Finding {
    let says = format!("{what}; {} s left", left.as_secs());
    match left {
        Duration::ZERO => {
            let fix =
                "see in the log why it was not renewed; a ticket is good once: join again with a new one";
            Finding::problem(check, format!("{what}; it has ended"), fix)
        }
        left if left < SOON => Finding::warning(check, says, "if it is not a short one, see in the log why"),
        _ => Finding::ok(check, says),
    }
}

/// That of the proxy that runs; one from a file was looked at already.
pub(super) fn policy(config: &Config, running: &Running, report: &mut Report) {
    if config.source.joining().is_none() {
        return;
    }
    let Some(policy) = &running.policy else { return };
    let list = |key: &str| policy.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let ended: Vec<String> = list("expired_rules")
        .iter()
        .map(|rule| {
            format!("{}/{}", rule["policy"].as_str().unwrap_or("?"), rule["rule"].as_str().unwrap_or("?"))
        })
        .collect();
    let unreadable = policy.get("unreadable").and_then(Value::as_str);
    report.add(policies(list("documents").len(), unreadable, &ended, true));
}

fn policies(count: usize, unreadable: Option<&str>, ended: &[String], wanted: bool) -> Finding {
    if let Some(why) = unreadable {
        let fix =
            "is the proxy older than the policy? Upgrade it, or correct the document: everything is denied";
        return Finding::problem("policy", format!("cannot be read: {why}"), fix);
    }
    if count == 0 {
        let fix = match wanted {
            true => "apply one: `signet apply -f policy.yaml`",
            false => "name one with `policy-file`",
        };
        return Finding::warning("policy", "no document: every caller is denied", fix);
    }
    if ended.is_empty() {
        return Finding::ok("policy", format!("{count} documents, all readable"));
    }
    let says = format!("{count} documents; rules that have ended: {}", ended.join(", "));
    Finding::warning("policy", says, "remove them, or give them a later `until`")
}

/// Whether the apps listen.
pub(super) async fn apps(config: &Config, report: &mut Report) {
    for listener in &config.inbound {
        let App::At(app) = listener.forward else { continue };
        let connected = tokio::time::timeout(APP_DEADLINE, TcpStream::connect(app)).await;
        report.add(match connected {
            Ok(Ok(_)) => Finding::ok("app", format!("{app} listens")),
            failed => {
                let why = failed.map_or_else(
                    |_| "no answer".to_owned(),
                    |failed| match failed {
                        Ok(_) => "listens".to_owned(),
                        Err(error) => error.to_string(),
                    },
                );
                let fix = format!("start the app, or correct `inbound` ({} leads there)", listener.listen);
                Finding::problem("app", format!("{app}: {why}"), fix)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::State;

    #[test]
    fn policy_that_lets_nobody_in_is_told() {
        assert_eq!(policies(0, None, &[], true).state, State::Warning);
        assert_eq!(policies(1, Some("line 3"), &[], true).state, State::Problem);
        assert_eq!(policies(2, None, &["a/b".into()], true).state, State::Warning);
        assert_eq!(policies(2, None, &[], true).state, State::Ok);
    }

    #[test]
    fn certificate_is_told_before_it_ends() {
        for (seconds, state) in [(0, State::Problem), (10, State::Warning), (3600, State::Ok)] {
            assert_eq!(lasting("certificate", "it", Duration::from_secs(seconds)).state, state);
        }
    }
}
