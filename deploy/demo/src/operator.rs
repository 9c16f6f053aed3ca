//! The operator: runs `signet` as a person would, and reads its answers.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use crate::process::is_of_signet;

/// No command of the demo needs this long.
const DEADLINE: Duration = Duration::from_secs(15);

/// `signet`, pointed at one control service.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    program: PathBuf,
    control: String,
}

/// What one run of `signet` gave.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit status; absent when a signal ended it.
    pub(crate) status: Option<i32>,
    /// Standard output, without the last line break.
    pub(crate) out: String,
    /// Standard error, without the last line break.
    pub(crate) error: String,
}

/// One row of `signet identities --output json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Identity {
    /// The SPIFFE ID.
    pub(crate) spiffe_id: String,
    /// 32 hex digits: which proxy holds it.
    pub(crate) instance: String,
    /// Hex: which certificate it holds now.
    pub(crate) serial: String,
    /// When that certificate ends.
    pub(crate) expires_at: Timestamp,
}

/// What `signet ca rotate-intermediate` reports with `--output json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RotatedIntermediate {
    /// What signed until now.
    pub(crate) previous: Authority,
    /// What signs from now on.
    pub(crate) current: Authority,
}

/// A signing certificate.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Authority {
    /// Its name; the last word is what the audit trail calls it.
    pub(crate) subject: String,
}

/// One row of `signet audit list --output json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    /// What was done.
    action: String,
    /// To whom.
    pub(crate) subject: String,
    /// Depends on the action.
    detail: serde_json::Value,
}

impl Event {
    /// Whether it is the issuance of a certificate that `authority` signed.
    pub(crate) fn issued_by(&self, authority: &Authority) -> bool {
        let signer = self.detail.get("authority").and_then(serde_json::Value::as_str);
        self.action.starts_with("svid.") && signer.is_some() && signer == authority.subject.rsplit(' ').next()
    }
}

/// What `signet policy apply` and `signet revoke` report with `--output json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Change {
    /// When control committed it.
    pub(crate) committed_at: Timestamp,
    /// The proxies it concerns.
    pub(crate) proxies: Vec<AppliedBy>,
}

/// One proxy's acknowledgement.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AppliedBy {
    /// Whose proxy.
    pub(crate) spiffe_id: String,
    /// Whether it has the change in force.
    pub(crate) applied: bool,
    /// From the commit until its acknowledgement arrived.
    pub(crate) after_ms: Option<f64>,
    /// Connections it closed because of the change.
    pub(crate) closed_connections: u64,
}

impl Change {
    /// When the last of the proxies had it in force; none if one had not.
    pub(crate) fn reported(&self) -> Option<Duration> {
        let mut after = self.proxies.iter().map(|proxy| proxy.after_ms.filter(|_| proxy.applied));
        let slowest = after.try_fold(0.0_f64, |most, after| Some(most.max(after?)))?;
        (!self.proxies.is_empty()).then(|| Duration::from_secs_f64(slowest / 1000.0))
    }

    /// How many connections the proxies closed because of it.
    pub(crate) fn closed(&self) -> u64 {
        self.proxies.iter().map(|proxy| proxy.closed_connections).sum()
    }
}

impl Operator {
    /// Talks to the control service that listens on `socket`.
    pub(crate) fn new(program: &Path, socket: &Path) -> Self {
        Self { program: program.to_owned(), control: format!("unix:{}", socket.display()) }
    }

    /// What `--control` takes to reach the same control service.
    pub(crate) fn control(&self) -> &str {
        &self.control
    }

    /// Runs `signet` with `arguments`; whatever it says is an answer.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let asked = || format!("signet {}", arguments.join(" "));
        let mut command = Command::new(&self.program);
        for (variable, _) in std::env::vars_os().filter(|(name, _)| is_of_signet(name)) {
            command.env_remove(variable);
        }
        let run = command
            .args(arguments)
            .env("SIGNET_CONTROL", &self.control)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, run)
            .await
            .with_context(|| format!("`{}` did not end within {DEADLINE:?}", asked()))?
            .with_context(|| format!("cannot run `{}`", asked()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Ok(Output { status: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) })
    }

    /// Runs `signet` with `arguments`, which has to succeed; gives what it printed.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        if output.status != Some(0) {
            bail!("`signet {}` failed ({:?}): {}", arguments.join(" "), output.status, output.error);
        }
        Ok(output.out)
    }

    /// The same, read from its JSON form.
    pub(crate) async fn ask_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let json = self.ask(&[arguments, &["--output", "json"]].concat()).await?;
        serde_json::from_str(&json)
            .with_context(|| format!("`signet {}` printed {json}", arguments.join(" ")))
    }

    /// The newest `limit` events of the audit trail.
    pub(crate) async fn audit(&self, limit: u32) -> Result<Vec<Event>> {
        self.ask_json(&["audit", "list", "--limit", &limit.to_string()]).await
    }

    /// The identities in use, one per instance.
    pub(crate) async fn identities(&self) -> Result<Vec<Identity>> {
        self.ask_json(&["identities"]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(applied: bool, after_ms: Option<f64>) -> AppliedBy {
        AppliedBy { spiffe_id: "spiffe://demo.mesh/a".to_owned(), applied, after_ms, closed_connections: 2 }
    }

    fn change(proxies: Vec<AppliedBy>) -> Change {
        Change { committed_at: Timestamp::UNIX_EPOCH, proxies }
    }

    #[test]
    fn a_change_is_in_force_when_the_slowest_proxy_has_it() {
        let change = change(vec![proxy(true, Some(2.0)), proxy(true, Some(5.0))]);
        assert_eq!(change.reported(), Some(Duration::from_millis(5)));
        assert_eq!(change.closed(), 4);
    }

    #[test]
    fn an_event_names_the_authority_that_signed() {
        let event: Event = serde_json::from_str(
            r#"{"action": "svid.renewed", "subject": "spiffe://demo.mesh/a", "detail": {"authority": "d2ed"}}"#,
        )
        .unwrap();
        assert!(event.issued_by(&Authority { subject: "Signet Intermediate d2ed".to_owned() }));
        assert!(!event.issued_by(&Authority { subject: "Signet Intermediate 3742".to_owned() }));
    }

    #[test]
    fn a_change_that_one_proxy_has_not_acknowledged_is_not_in_force() {
        assert_eq!(change(vec![proxy(true, Some(2.0)), proxy(false, None)]).reported(), None);
        assert_eq!(change(vec![]).reported(), None);
    }
}
