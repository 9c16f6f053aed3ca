//! A caller that asks the same question all the time and remembers since when the answer is what it is.
//! It is how the latency of a policy change is seen from outside.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::Method;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::http::{Answer, Client};

/// Between two questions: the resolution of what it measures.
const PACE: Duration = Duration::from_millis(1);

/// What the answer is now, and since when.
#[derive(Clone, Debug)]
struct Seen {
    status: u16,
    body: String,
    since: Timestamp,
}

/// Asks until it is dropped.
pub(crate) struct Probe {
    seen: watch::Receiver<Option<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Probe {
    /// Starts asking for `path` at `address`.
    pub(crate) fn start(address: SocketAddr, path: &'static str) -> Self {
        let (tell, seen) = watch::channel(None);
        Self { seen, task: tokio::spawn(ask(address, path, tell)) }
    }

    /// Waits until the answers have `status`; gives the first such answer and when it came.
    pub(crate) async fn await_status(
        &mut self,
        status: u16,
        within: Duration,
    ) -> Result<(Answer, Timestamp)> {
        let wanted = self.seen.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.status == status));
        let seen = tokio::time::timeout(within, wanted).await;
        let seen =
            seen.with_context(|| format!("no answer with status {status} within {within:?}"))??.clone();
        let seen = seen.context("no answer at all")?;
        Ok((Answer { status: seen.status, body: seen.body }, seen.since))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// No answer counts as status 0.
async fn ask(address: SocketAddr, path: &'static str, tell: watch::Sender<Option<Seen>>) {
    let mut client = Client::new(address);
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let (status, body) = match client.send(Method::GET, path, &[]).await {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (0, format!("{error:#}")),
        };
        let since = Timestamp::now();
        tell.send_if_modified(|seen| {
            let changed = seen.as_ref().is_none_or(|seen| seen.status != status);
            if changed {
                *seen = Some(Seen { status, body, since });
            }
            changed
        });
    }
}
