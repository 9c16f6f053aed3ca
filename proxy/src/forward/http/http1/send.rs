//! One request of HTTP/1, sent until the head of its answer is there: see [`super::super::send`] for what is sent again.
//! It is kept as it was written, body included, as far as that is little: whatever was read of it goes out again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::clock::{Clock, Rest};
use super::flow::{Broken, Transfer};
use super::head::{self, Told};
use super::lines::Line;
use super::wire::Wire;
use crate::balance::Turn;
use crate::connections::Carried;
use crate::forward::http::failure::{BodyError, Failure};
use crate::forward::http::route::{Route, Trip};
use crate::forward::http::send::{Again, Reaching, is_failure, is_retried, pause, within};
use crate::forward::http::{Http, Pool};
use crate::forward::opaque::Idle;
use crate::forward::upstream::Upstream;

/// How long a client that waits to be asked for its body is kept waiting: some servers never ask (RFC 9110 s10.1.1).
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Interim responses to one request.
const MOST_INTERIM: u32 = 100;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The connection of the called side's upstream.
pub(super) type LineTo<R> = Line<<<R as Route>::Upstream as Upstream>::Io>;
type PoolTo<R> = Pool<<R as Route>::Upstream>;

/// A request that is being sent.
pub(super) struct Sending<'a> {
    pub(super) transfer: Transfer<'a>,
    pub(super) method: Method,
    /// Whether it may be sent twice.
    pub(super) repeatable: bool,
    /// Until then the client is not asked for its body.
    pub(super) held: Option<Instant>,
    /// How long nothing may move.
    pub(super) idle: Idle,
    /// It cannot be sent any further; the answer may be there all the same.
    pub(super) unsendable: bool,
    pub(super) sent: bool,
    /// How many responses came before the one that counts.
    pub(super) interim: u32,
}

/// Whether a client waits to be asked for its body, and until when.
pub(super) fn asked_until(expects: bool) -> Option<Instant> {
    expects.then(|| Instant::now() + LONGEST_WAIT)
}

/// A request that was answered.
pub(super) struct Answered<R: Route> {
    pub(super) told: Told,
    pub(super) line: LineTo<R>,
    pub(super) pool: Arc<PoolTo<R>>,
    pub(super) turn: Option<Turn>,
    pub(super) carried: Option<Carried>,
}

/// How one try ended.
enum Tried {
    Answered(Told),
    /// Why.
    Broken(String),
    Slow,
    Body(BodyError),
}

impl<R: Route> Http<R> {
    /// Sends a request until it is answered.
    pub(super) async fn send_http1<S>(
        &self,
        trip: &mut R::Trip,
        sending: &mut Sending<'_>,
        caller: &mut Wire<S>,
        clock: &mut Clock,
    ) -> Result<Answered<R>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut tries, mut broken) = (0, false);
        loop {
            let reached = Box::pin(self.line(trip, tries > 0, broken));
            let (pool, mut turn, mut line, used_before) = reached.await?;
            tries += 1;
            let carried = line.carries();
            let quiet = trip.timeouts().first_byte.unwrap_or(sending.idle.open).min(sending.idle.open);
            let mut rest = Rest::new(quiet, clock);
            let tried = poll_fn(|cx| sending.poll_answer(cx, caller, &mut line, clock, &mut rest)).await;
            let (again, failure) = match tried {
                Tried::Answered(told) => {
                    let status = told.response.status();
                    if let Some(turn) = &mut turn {
                        if is_failure(status) { turn.failed() } else { turn.answered() }
                    }
                    if !is_retried(trip.retries(), &told.response, false)
                        || !self.repeats(trip, Again::Status, tries, sending)
                    {
                        return Ok(Answered { told, line, pool, turn, carried });
                    }
                    sending.again();
                    pause(tries).await;
                    continue;
                }
                Tried::Body(error) => return Err(Failure::Body(error)),
                Tried::Broken(why) => {
                    let again = match sending.transfer.out.has_begun() {
                        false => Again::Unsent,
                        true if used_before => Again::Stale,
                        true => Again::Reset,
                    };
                    (again, Failure::Broken(why))
                }
                Tried::Slow => (Again::Timeout, Failure::Slow(quiet)),
            };
            if let Some(turn) = &mut turn {
                turn.failed();
            }
            if !self.repeats(trip, again, tries, sending) {
                return Err(failure);
            }
            sending.again();
            if again == Again::Timeout {
                pause(tries).await;
            }
            broken = true;
        }
    }

    /// Whether it is sent once more.
    fn repeats(&self, trip: &R::Trip, again: Again, tries: u32, sending: &Sending<'_>) -> bool {
        // What was not written at all is there, whatever it is.
        let there = sending.transfer.out.is_kept() || again == Again::Unsent;
        there
            && (sending.repeatable || again == Again::Unsent)
            && again.is_allowed(trip, &sending.method, tries)
    }

    /// A connection to the next endpoint that can be connected; `again` if the request was sent before, and `broken` if
    /// what else rests may be as stale as what just broke.
    async fn line(
        &self,
        trip: &mut R::Trip,
        again: bool,
        broken: bool,
    ) -> Result<(Arc<PoolTo<R>>, Option<Turn>, LineTo<R>, bool), Failure> {
        let mut reaching = Reaching::new();
        loop {
            let mut stop = reaching.next(trip, again)?;
            if !broken && let Some(line) = stop.pool.lines.take() {
                if let Some(turn) = &mut stop.turn {
                    turn.connected();
                }
                return Ok((stop.pool, stop.turn, line, true));
            }
            reaching.connects();
            match within(trip.timeouts().connect, stop.pool.line()).await {
                Ok(line) => {
                    if let Some(turn) = &mut stop.turn {
                        turn.connected();
                    }
                    return Ok((stop.pool, stop.turn, line, false));
                }
                Err(error) => reaching.failed(trip, stop.turn, error)?,
            }
        }
    }
}

impl Sending<'_> {
    /// Sends what there is of the request, and looks for the answer.
    fn poll_answer<S, C>(
        &mut self,
        cx: &mut Context<'_>,
        caller: &mut Wire<S>,
        line: &mut Line<C>,
        clock: &mut Clock,
        rest: &mut Rest,
    ) -> Poll<Tried>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        C: AsyncRead + AsyncWrite + Unpin,
    {
        if line.poll_lost(cx) {
            let reason = line.peer.as_ref().and_then(|peer| peer.close_reason());
            return Poll::Ready(Tried::Broken(reason.map_or("cut", |reason| reason.as_str()).to_owned()));
        }
        if self.held.is_some() && clock.has_come(cx, self.held) {
            self.ask(caller);
        }
        let _ = caller.poll_interim(cx);
        loop {
            if let Err(error) = self.poll_request(cx, caller, line) {
                return Poll::Ready(Tried::Body(error));
            }
            match line.wire.poll_head(cx, |bytes| head::response(bytes, &self.method)) {
                Poll::Ready(Ok(Some(told))) => {
                    let status = told.response.status();
                    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                        return Poll::Ready(Tried::Answered(told));
                    }
                    self.interim += 1;
                    if self.interim > MOST_INTERIM {
                        let why = format!("{MOST_INTERIM} interim responses, and none that is final");
                        return Poll::Ready(Tried::Broken(why));
                    }
                    if status == StatusCode::CONTINUE && self.held.is_some() {
                        self.ask(caller);
                        let _ = caller.poll_interim(cx);
                    }
                }
                Poll::Ready(Ok(None)) => {
                    return Poll::Ready(Tried::Broken("the connection ended".to_owned()));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Tried::Broken(error.to_string())),
                Poll::Pending => break,
            }
        }
        rest.moved(self.transfer.has_moved());
        // An answer may take as long as it may take, but nobody may be there for it any more.
        if self.transfer.was_read()
            && caller.input().is_empty()
            && !caller.has_ended()
            && let Poll::Ready(Err(error)) = caller.poll_more(cx)
        {
            return Poll::Ready(Tried::Body(BodyError::Sender(error.to_string())));
        }
        // Whoever has sent its last may still read, or have gone without a word.
        if caller.has_ended() {
            rest.at_most(self.idle.half_closed);
        }
        if !rest.is_over(clock, cx) {
            if self.transfer.was_read() {
                caller.settle();
            }
            return Poll::Pending;
        }
        let allowed = rest.allowed();
        let waits_for_caller = !self.transfer.was_read() && !self.transfer.stalls() && !self.unsendable;
        let is_late = match caller.has_ended() {
            true => allowed == self.idle.half_closed && allowed < self.idle.open,
            false => waits_for_caller && allowed == self.idle.open,
        };
        Poll::Ready(if is_late { Tried::Body(BodyError::Still(allowed)) } else { Tried::Slow })
    }

    /// From the beginning, on another connection.
    fn again(&mut self) {
        self.transfer.out.again();
        (self.sent, self.unsendable) = (false, false);
    }

    /// Whether all of it was sent.
    pub(super) fn was_sent(&self) -> bool {
        self.sent
    }

    /// Sends what there is.
    pub(super) fn poll_request<S, C>(
        &mut self,
        cx: &mut Context<'_>,
        caller: &mut Wire<S>,
        line: &mut Line<C>,
    ) -> Result<(), BodyError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        C: AsyncRead + AsyncWrite + Unpin,
    {
        if self.unsendable || self.sent {
            return Ok(());
        }
        let head_only = self.held.is_some();
        let read =
            if head_only { Poll::Ready(Ok(())) } else { self.transfer.poll_read(cx, caller, &mut line.wire) };
        let sent = match read {
            Poll::Ready(Ok(())) => self.transfer.poll_send(cx, &mut line.wire),
            other => other,
        };
        match sent {
            Poll::Ready(Err(Broken::Reading(error))) => return Err(BodyError::Sender(error.to_string())),
            // What was said before is still read.
            Poll::Ready(Err(Broken::Writing(_))) => self.unsendable = true,
            Poll::Ready(Ok(())) => self.sent = !head_only,
            Poll::Pending => {}
        }
        Ok(())
    }

    /// The client is asked for its body.
    fn ask<S: AsyncRead + AsyncWrite + Unpin>(&mut self, caller: &mut Wire<S>) {
        self.held = None;
        caller.say_first(CONTINUE);
    }
}
