//! Durable SVIDs a second: first ones (`Attest`, as strangers with a ticket) and further ones (`Renew`, over mutual
//! TLS). Requests are made before the clock starts, answers are checked after it stopped: what is measured is
//! control, as far as one machine for both allows.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use rustls::ClientConfig;
use signet_proto::handshake::{ALPN_H2, client_config, pinned_client_config};
use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::{
    AttestRequest, AttestResponse, IssuedSvid, JoinTokenProof, RenewRequest, attest_request,
};
use signet_proxy::control::control_id;
use tokio::task::JoinSet;

use super::members::{Candidate, Member, Request, Roll, checked, on_every_core, pinned_trust, requests};
use super::observe::{Moment, Span};
use super::postgres::Postgres;
use super::progress::Progress;
use super::report::Report;
use super::{Plan, StoreKind};
use crate::control::Control;
use crate::control::connection::{Connection, origin, source_address};
use crate::numbers::percentile;

/// What control lets a stranger ask at a time, and less than it lets one live.
const CALLS_OF_STRANGERS: usize = 4;
const LIFE_OF_STRANGERS: Duration = Duration::from_secs(20);

/// An answer, whose it is, and how long it took.
struct Answer<T> {
    number: usize,
    message: T,
    took: Duration,
}

/// What is still to be asked.
type Queue<T> = Arc<Mutex<VecDeque<(usize, T)>>>;

/// Everybody joins.
pub(super) async fn attest(
    plan: &Plan,
    candidates: Vec<Candidate>,
    control: &Control,
    postgres: Option<&Postgres>,
    progress: &Progress,
    report: &mut Report,
) -> Result<Roll> {
    let ticket = candidates.first().context("nobody to attest")?.ticket.clone();
    let domain = ticket.trust_domain.clone();
    let tls = pinned_client_config(ticket.pins(), control_id(&domain)?, &[ALPN_H2])?;
    let queue: Queue<AttestRequest> =
        Arc::new(Mutex::new(candidates.iter().map(attest_request).enumerate().collect()));
    let step = progress.step("attesting", candidates.len());
    let before = Moment::now(control, postgres).await?;
    let mut lanes = JoinSet::new();
    for lane in 0..plan.in_flight.div_ceil(CALLS_OF_STRANGERS) {
        lanes.spawn(stranger(lane, Arc::clone(&queue), control.grpc, Arc::clone(&tls)));
    }
    let mut answers = Vec::with_capacity(candidates.len());
    while let Some(lane) = lanes.join_next().await {
        answers.extend(lane??);
        step.at(answers.len());
    }
    let span = before.until(&Moment::now(control, postgres).await?);
    drop(step);
    ensure!(answers.len() == candidates.len(), "{} of {} joined", answers.len(), candidates.len());
    answers.sort_by_key(|answer| answer.number);
    add("attest", &answers, &span, None, report);

    let bundles = &answers.first().context("no answer")?.message.bundles;
    let trust = pinned_trust(&ticket, bundles)?;
    let _step = progress.step("checking SVIDs", answers.len());
    let pairs: Vec<_> = candidates.iter().zip(&answers).collect();
    let svids = on_every_core(&pairs, |(candidate, answer)| {
        checked(answer.message.svid.as_ref(), &candidate.key, &candidate.id, &trust)
    })?;
    let members = svids.into_iter().enumerate().map(|(number, svid)| Member::new(number, svid)).collect();
    Ok(Roll { members, trust, domain })
}

/// Some members renew, again and again.
pub(super) async fn renew(
    plan: &Plan,
    roll: &Roll,
    control: &Control,
    postgres: Option<&Postgres>,
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let renewers: Vec<&Member> = roll.members.iter().take(plan.connections).collect();
    let step = progress.step("making keys", plan.svids);
    let who = |number: usize| renewers.get(number % renewers.len()).map(|member| member.svid.id().clone());
    let ids: Vec<_> = (0..plan.svids).map(who).collect();
    let requests = requests(&ids)?;
    drop(step);

    let mut lanes = Vec::with_capacity(renewers.len());
    for (lane, member) in renewers.iter().enumerate() {
        let tls = client_config(
            Some(&member.svid),
            Arc::clone(&roll.trust),
            control_id(&roll.domain)?,
            &[ALPN_H2],
        )?;
        let connection = Connection::tls(member.source, control.grpc, &tls).await?;
        let own = requests.iter().enumerate().skip(lane).step_by(renewers.len());
        let queue: VecDeque<_> = own.map(|(number, request)| (number, renew_request(request))).collect();
        lanes.push((connection, Arc::new(Mutex::new(queue))));
    }
    let step = progress.step("renewing", plan.svids);
    let calls = plan.in_flight.div_ceil(lanes.len());
    let before = Moment::now(control, postgres).await?;
    let mut running = JoinSet::new();
    for (connection, queue) in lanes {
        running.spawn(async move {
            let callers = (0..calls).map(|_| renewer(connection.clone(), Arc::clone(&queue)));
            anyhow::Ok(try_join_all(callers).await?.into_iter().flatten().collect::<Vec<_>>())
        });
    }
    let mut answers: Vec<Answer<Option<IssuedSvid>>> = Vec::with_capacity(plan.svids);
    while let Some(lane) = running.join_next().await {
        answers.extend(lane??);
        step.at(answers.len());
    }
    let span = before.until(&Moment::now(control, postgres).await?);
    drop(step);
    ensure!(answers.len() == plan.svids, "{} of {} renewed", answers.len(), plan.svids);
    let aim = if plan.store == StoreKind::Sqlite { 3000.0 } else { 1500.0 };
    add("renew", &answers, &span, Some(aim), report);

    let _step = progress.step("checking SVIDs", answers.len());
    let mut serials = on_every_core(&answers, |answer| {
        let (request, id) =
            requests.get(answer.number).zip(ids.get(answer.number)).context("whose answer?")?;
        let id = id.as_ref().context("whose answer?")?;
        let svid = checked(answer.message.as_ref(), &request.key, id, &roll.trust)?;
        Ok(svid.profile().serial.clone())
    })?;
    serials.sort_unstable();
    serials.dedup();
    ensure!(serials.len() == plan.svids, "{} different serials in {} SVIDs", serials.len(), plan.svids);
    Ok(())
}

/// One connection after the other, four calls at a time, until nobody is left to join.
async fn stranger(
    lane: usize,
    queue: Queue<AttestRequest>,
    control: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<Vec<Answer<AttestResponse>>> {
    let mut answers = Vec::new();
    while !queue.lock().is_empty() {
        let connection = Connection::tls(source_address(lane), control, &tls).await?;
        let until = Instant::now() + LIFE_OF_STRANGERS;
        let callers = (0..CALLS_OF_STRANGERS).map(|_| joiner(connection.clone(), Arc::clone(&queue), until));
        answers.extend(try_join_all(callers).await?.into_iter().flatten());
    }
    Ok(answers)
}

async fn joiner(
    connection: Connection,
    queue: Queue<AttestRequest>,
    until: Instant,
) -> Result<Vec<Answer<AttestResponse>>> {
    let mut client = IdentityClient::with_origin(connection, origin());
    let mut answers = Vec::new();
    while Instant::now() < until {
        let Some((number, request)) = queue.lock().pop_front() else { break };
        let started = Instant::now();
        let message = client.attest(request).await?.into_inner();
        answers.push(Answer { number, message, took: started.elapsed() });
    }
    Ok(answers)
}

async fn renewer(
    connection: Connection,
    queue: Queue<RenewRequest>,
) -> Result<Vec<Answer<Option<IssuedSvid>>>> {
    let mut client = IdentityClient::with_origin(connection, origin());
    let mut answers = Vec::new();
    loop {
        let Some((number, request)) = queue.lock().pop_front() else { return Ok(answers) };
        let started = Instant::now();
        let message = client.renew(request).await?.into_inner().svid;
        answers.push(Answer { number, message, took: started.elapsed() });
    }
}

fn attest_request(candidate: &Candidate) -> AttestRequest {
    let secret = candidate.ticket.secret.as_ref().map(|secret| secret.to_vec()).unwrap_or_default();
    AttestRequest {
        proof: Some(attest_request::Proof::JoinToken(JoinTokenProof { secret })),
        csr: candidate.csr.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..AttestRequest::default()
    }
}

fn renew_request(request: &Request) -> RenewRequest {
    let (csr, version) = (request.csr.clone(), env!("CARGO_PKG_VERSION").to_owned());
    RenewRequest { csr, version, ..RenewRequest::default() }
}

fn add<T>(measure: &'static str, answers: &[Answer<T>], span: &Span, aim: Option<f64>, report: &mut Report) {
    let count = answers.len() as f64;
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / count;
    let mut took: Vec<f64> = answers.iter().map(|answer| answer.took.as_secs_f64() * 1e3).collect();
    report.add(measure, "SVIDs a second", count / span.wall.as_secs_f64(), "/s");
    if let Some(aim) = aim {
        report.aim_at_least(aim);
    }
    report.add(measure, "SVIDs, all checked", count, "");
    report.add(measure, "answer, median", percentile(&mut took, 0.5), "ms");
    report.add(measure, "answer, 99 of 100", percentile(&mut took, 0.99), "ms");
    report.add(measure, "control's CPU for one", micros(span.control), "us");
    if !span.store.is_zero() {
        report.add(measure, "PostgreSQL's CPU for one", micros(span.store), "us");
    }
    report.add(measure, "the simulation's CPU for one", micros(span.own), "us");
    let all = span.control + span.own + span.store;
    let share = 100.0 * span.own.as_secs_f64() / all.as_secs_f64();
    report.add(measure, "the simulation's share of all CPU", share, "%");
    report.add(measure, "changes in one commit", span.jobs_per_commit, "");
    report.add(measure, "one commit", span.commit.as_secs_f64() * 1e3, "ms");
}
