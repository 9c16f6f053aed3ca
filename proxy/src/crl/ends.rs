//! Lists end. That is said while there is time to get the next one, and again when new peers are refused for it; what is
//! open stays open, as it was let in by a list that was good.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::handshake::{ExpiredLists, KnownList, ListState, Lists};
use tokio_util::sync::CancellationToken;

use crate::mesh::Mesh;
use crate::telemetry::metrics;

/// How often is looked, so that a jump of the clock is noticed, and what a peer showed of who signs lists.
const LOOK: Duration = Duration::from_secs(5);

/// What is worth saying of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Notice {
    /// Less than a quarter of its period is left.
    EndsSoon,
    /// It is past its nextUpdate.
    Ended,
    /// Who it names as its signer is not.
    Unusable,
}

/// Says of each list, once, that it ends soon, has ended, or turned out to be unusable, and counts them, until `stop`.
pub async fn tell_ends(mesh: Arc<Mesh>, stop: CancellationToken) {
    let mut generations = mesh.generations();
    let mut told = HashSet::new();
    loop {
        let (lists, now) = (mesh.lists(), signet_proto::clock::now());
        count(&lists, now);
        let notices: HashSet<_> = lists
            .all()
            .filter_map(|list| notice(list, now).map(|notice| (list.content().sha256(), notice)))
            .collect();
        for list in lists.all() {
            if let Some(notice) = notice(list, now)
                && !told.contains(&(list.content().sha256(), notice))
            {
                say(list, notice, &lists, now);
            }
        }
        told = notices;
        tokio::select! {
            () = stop.cancelled() => return,
            changed = generations.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The same for `/readyz`: a line for each list of which there is something to say.
#[must_use]
pub fn told(lists: &Lists, now: SystemTime) -> Vec<String> {
    let line = |list: &Arc<KnownList>| {
        let what = match notice(list, now)? {
            Notice::EndsSoon => "ends soon".to_owned(),
            Notice::Ended => format!("is past its nextUpdate: {}", consequence(lists)),
            Notice::Unusable => {
                "is not signed by its issuer, or its issuer may not sign lists: its new peers are refused"
                    .into()
            }
        };
        let content = list.content();
        Some(format!("revocation list {} of `{}` {what}", content.number(), content.issuer()))
    };
    lists.all().filter_map(line).collect()
}

fn notice(list: &KnownList, now: SystemTime) -> Option<Notice> {
    let content = list.content();
    let (begin, end) = (content.this_update(), content.next_update());
    let period = end.duration_since(begin).unwrap_or_default();
    if list.state() == ListState::Unusable {
        return Some(Notice::Unusable);
    }
    match end.duration_since(now) {
        Err(_) => Some(Notice::Ended),
        Ok(left) => (left < period / 4).then_some(Notice::EndsSoon),
    }
}

fn consequence(lists: &Lists) -> &'static str {
    match lists.expired() {
        ExpiredLists::Refuse => "new peers of this issuer are refused, what is open stays",
        ExpiredLists::Use => "it is used all the same, as `crl-expired` says",
    }
}

fn say(list: &KnownList, notice: Notice, lists: &Lists, now: SystemTime) {
    let content = list.content();
    let (issuer, number) = (content.issuer(), content.number());
    match notice {
        Notice::EndsSoon => {
            let left = content.next_update().duration_since(now).unwrap_or_default();
            tracing::warn!(issuer, number, ?left, "a revocation list ends soon: get the next one");
        }
        Notice::Ended => {
            let consequence = consequence(lists);
            tracing::error!(issuer, number, consequence, "a revocation list is past its nextUpdate");
        }
        Notice::Unusable => {
            tracing::error!(
                issuer,
                number,
                "a revocation list is not signed by its issuer, or its issuer may not sign lists: its new peers are refused"
            );
        }
    }
}

fn count(lists: &Lists, now: SystemTime) {
    let count = |wanted: &str| lists.all().filter(|list| state(list, now) == wanted).count();
    let states = ["used", "waiting", "unusable", "expired"].map(|state| (state, count(state)));
    let entries = lists.all().map(|list| list.content().len()).sum();
    metrics::crls(&states, entries, lists.all().map(|list| list.content().next_update()).min());
}

fn state(list: &KnownList, now: SystemTime) -> &'static str {
    match list.state() {
        ListState::Unusable => "unusable",
        _ if list.content().next_update() < now => "expired",
        ListState::Used => "used",
        ListState::Waiting => "waiting",
    }
}
