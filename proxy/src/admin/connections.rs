//! `/connections`: what is open now, filtered and sorted, and closing one of them.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use signet_proto::policy::Pattern;
use signet_proto::spiffe::SpiffeId;
use std::sync::atomic::Ordering;

use super::identity::moment;
use super::{Admin, Ask, Refused, Reply};
use crate::config::Timeout;
use crate::connections::Linked;
use crate::telemetry::observers::{Live, Shown};
use crate::telemetry::{CloseReason, Direction};

const LIMIT: usize = 100;
/// Before the number of a connection to a peer: those of the app are counted on their own.
const PEERS: char = 'p';
const FILTERS: &str = "`direction`, `protocol`, `source`, `destination`, `port`, `remote`, `verdict`, `policy`, `rule`, \
                       `older-than`, `sort` or `limit`";

/// Which connections are wanted, and in what order.
struct Wanted {
    direction: Option<String>,
    protocol: Option<String>,
    source: Option<Pattern>,
    destination: Option<Pattern>,
    port: Option<u16>,
    remote: Option<String>,
    verdict: Option<String>,
    policy: Option<String>,
    rule: Option<String>,
    older_than: Option<Duration>,
    sort: Sort,
    limit: usize,
}

/// What comes first.
#[derive(Debug, Clone, Copy)]
enum Sort {
    Oldest,
    Newest,
    Bytes,
    Requests,
}

impl std::str::FromStr for Sort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "age" | "oldest" => Ok(Self::Oldest),
            "newest" => Ok(Self::Newest),
            "bytes" => Ok(Self::Bytes),
            "requests" => Ok(Self::Requests),
            _ => Err("expected age, newest, bytes or requests"),
        }
    }
}

pub(super) fn show(admin: &Admin, mut ask: Ask) -> Result<Reply, Refused> {
    let wanted = Wanted::of(&mut ask)?;
    let all = admin.shared.observers.open();
    let mut rows: Vec<Row> = all.iter().map(Row::of).filter(|row| wanted.wants(row)).collect();
    let matching = rows.len();
    match wanted.sort {
        Sort::Oldest => {}
        Sort::Newest => rows.reverse(),
        Sort::Bytes => rows.sort_by_key(|row| std::cmp::Reverse(row.bytes_in + row.bytes_out)),
        Sort::Requests => rows.sort_by_key(|row| std::cmp::Reverse(row.requests)),
    }
    rows.truncate(wanted.limit);
    let pooled = admin.shared.connections.links();
    let to_peers: Vec<Value> = pooled
        .iter()
        .filter(|linked| wanted.wants_link(linked))
        .take(wanted.limit)
        .map(|linked| link_json(linked, admin))
        .collect();
    Reply::json(&json!({
        "open": all.len(),
        "matching": matching,
        "connections": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "open_to_peers": pooled.len(),
        "to_peers": to_peers,
    }))
}

pub(super) fn close(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    let id = ask.id.as_deref().unwrap_or_default();
    let gone = || {
        Refused::new(StatusCode::NOT_FOUND, format!("no open connection {id}: GET /connections lists them"))
    };
    let digits = id.strip_prefix(PEERS);
    let number: u64 = digits
        .unwrap_or(id)
        .parse()
        .map_err(|_| Refused::bad(format!("expected a connection's id, found `{id}`")))?;
    if digits.is_some() {
        if !admin.shared.connections.close_link(number, CloseReason::ClosedByOperator) {
            return Err(gone());
        }
        tracing::info!(connection = id, "closed by an operator");
    } else if admin.shared.observers.one(number).ok_or_else(gone)?.close() {
        tracing::info!(connection = number, "closed by an operator");
    }
    Reply::json(&json!({ "closing": if digits.is_some() { json!(id) } else { json!(number) } }))
}

/// A connection at one moment.
struct Row {
    live: Arc<Live>,
    shown: Shown,
    age: Duration,
    bytes_in: u64,
    bytes_out: u64,
    requests: u64,
    in_flight: u64,
}

impl Row {
    fn of(live: &Arc<Live>) -> Self {
        let shown = live.shown();
        let to_app = live.meters.to_app.load(Ordering::Relaxed);
        let to_peer = live.meters.to_peer.load(Ordering::Relaxed);
        let (bytes_in, bytes_out) = match shown.facts.direction {
            Direction::Inbound => (to_app, to_peer),
            Direction::Outbound => (to_peer, to_app),
        };
        let (requests, in_flight) = live.requests();
        Self { live: Arc::clone(live), shown, age: live.age(), bytes_in, bytes_out, requests, in_flight }
    }

    fn verdict(&self) -> &'static str {
        match &self.shown.verdict {
            Some(verdict) if verdict.allowed => "allow",
            Some(_) => "deny",
            None => "none",
        }
    }

    fn json(&self) -> Value {
        let Shown { facts, protocol, verdict, generation } = &self.shown;
        json!({
            "id": self.live.id,
            "direction": facts.direction.as_str(),
            "protocol": protocol.as_str(),
            "source": facts.source.as_ref().map(SpiffeId::as_str),
            "destination": facts.destination.as_ref().map(SpiffeId::as_str),
            "remote": facts.remote.to_string(),
            "requested": facts.requested,
            "port": facts.port,
            "opened_at": moment(self.live.opened_at),
            "age_seconds": self.age.as_secs_f64(),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "requests": self.requests,
            "requests_in_flight": self.in_flight,
            "verdict": self.verdict(),
            "policy": verdict.as_ref().and_then(|verdict| verdict.policy.as_deref()),
            "rule": verdict.as_ref().and_then(|verdict| verdict.rule.as_deref()),
            "reason": verdict.as_ref().map(|verdict| verdict.reason.as_str()),
            "generation": generation,
            "closing": self.live.is_closing(),
        })
    }
}

/// A connection to a peer, which calls share.
fn link_json(linked: &Linked, admin: &Admin) -> Value {
    let Linked { id, link, peer, port, closing } = linked;
    let (calls, under_way) = link.calls();
    let state = match (*closing, link.is_idle()) {
        (true, _) => "closing",
        (false, true) => "idle",
        (false, false) => "in use",
    };
    json!({
        "id": format!("{PEERS}{id}"),
        "source": admin.shared.mesh.current().map(|snapshot| snapshot.svid.id().to_string()),
        "destination": peer.as_ref().map(SpiffeId::as_str),
        "address": link.address.to_string(),
        "port": port,
        "alpn": link.alpn.as_deref(),
        "opened_at": moment(link.made_at),
        "age_seconds": link.age().as_secs_f64(),
        "bytes_in": link.volume.received.load(Ordering::Relaxed),
        "bytes_out": link.volume.sent.load(Ordering::Relaxed),
        "calls": calls,
        "calls_in_flight": under_way,
        "state": state,
    })
}

impl Wanted {
    /// What says something of it counts; who asks for what is said of the app's connections alone, wants those.
    fn wants_link(&self, linked: &Linked) -> bool {
        let Linked { link, peer, port, .. } = linked;
        let of_the_app = [&self.protocol, &self.verdict, &self.policy, &self.rule];
        of_the_app.iter().all(|wanted| wanted.is_none())
            && self.source.is_none()
            && self.direction.as_deref().is_none_or(|direction| direction == Direction::Outbound.as_str())
            && self
                .destination
                .as_ref()
                .is_none_or(|wanted| peer.as_ref().is_some_and(|peer| wanted.matches(peer)))
            && self.port.is_none_or(|wanted| Some(wanted) == *port)
            && self.remote.as_deref().is_none_or(|remote| link.address.to_string().starts_with(remote))
            && self.older_than.is_none_or(|age| link.age() >= age)
    }

    fn of(ask: &mut Ask) -> Result<Self, Refused> {
        let older_than: Option<Timeout> = ask.take("older-than")?;
        let wanted = Self {
            direction: ask.take("direction")?,
            protocol: ask.take("protocol")?,
            source: ask.take("source")?,
            destination: ask.take("destination")?,
            port: ask.take("port")?,
            remote: ask.take("remote")?,
            verdict: ask.take("verdict")?,
            policy: ask.take("policy")?,
            rule: ask.take("rule")?,
            older_than: older_than.map(|Timeout(age)| age),
            sort: ask.take("sort")?.unwrap_or(Sort::Oldest),
            limit: ask.take("limit")?.unwrap_or(LIMIT),
        };
        ask.nothing_else(FILTERS)?;
        Ok(wanted)
    }

    fn wants(&self, row: &Row) -> bool {
        let Shown { facts, protocol, verdict, .. } = &row.shown;
        let names = |wanted: &Option<Pattern>, id: Option<&SpiffeId>| {
            wanted.as_ref().is_none_or(|wanted| id.is_some_and(|id| wanted.matches(id)))
        };
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        is(&self.direction, Some(facts.direction.as_str()))
            && is(&self.protocol, Some(protocol.as_str()))
            && names(&self.source, facts.source.as_ref())
            && names(&self.destination, facts.destination.as_ref())
            && self.port.is_none_or(|port| port == facts.port)
            && self.remote.as_deref().is_none_or(|remote| facts.remote.to_string().starts_with(remote))
            && is(&self.verdict, Some(row.verdict()))
            && is(&self.policy, verdict.as_ref().and_then(|verdict| verdict.policy.as_deref()))
            && is(&self.rule, verdict.as_ref().and_then(|verdict| verdict.rule.as_deref()))
            && self.older_than.is_none_or(|age| row.age >= age)
    }
}
