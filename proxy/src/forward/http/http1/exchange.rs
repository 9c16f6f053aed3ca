//! One request of HTTP/1: decide -> forward -> answer, both bodies at once where they come so.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::body::Coding;
use super::clock::{Clock, Rest};
use super::flow::{Broken, Transfer};
use super::head::{self, Asked, Length, Told};
use super::send::{Answered, LineTo, Sending, asked_until};
use super::wire::{Out, Wire};
use crate::admission::Permit;
use crate::balance::Turn;
use crate::connections::{Carried, Registration};
use crate::forward::Duplex;
use crate::forward::http::decide::{Admitted, Refused};
use crate::forward::http::failure::{BodyError, Failure};
use crate::forward::http::respond::{self, Form};
use crate::forward::http::route::{Route, Trip};
use crate::forward::http::tracked::Flow;
use crate::forward::http::{Http, framing, headers};
use crate::forward::opaque::Idle;
use crate::telemetry::{AccessRecord, CloseReason, Direction, Meters, traces};

/// What is still taken of a request that was answered already, and for how long.
pub(super) const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// What becomes of the caller's connection.
pub(super) enum After<R: Route> {
    Keeps,
    Closes,
    /// It ends in the middle of a message.
    Breaks(CloseReason, Option<String>),
    /// It speaks another protocol from now on.
    Changes(Box<Changed<R>>),
}

/// A connection that changes its protocol. It stays one connection: it holds the request's right and the peer's, and
/// ends with either.
pub(super) struct Changed<R: Route> {
    pub(super) line: LineTo<R>,
    pub(super) record: AccessRecord,
    pub(super) registration: Arc<Registration>,
    pub(super) idle: Idle,
    pub(super) _held: (Option<Turn>, Option<Permit>, Option<Carried>),
}

/// What is known of the caller while its request is answered.
struct Client {
    form: Form,
    version: Version,
    /// Whether it gets a body.
    head: bool,
    /// Whether it may send another request.
    keeps: bool,
}

impl<R: Route> Http<R> {
    /// One request, from its head to the end of its answer; `last` if there is to be no other after it.
    pub(super) async fn exchange_http1<S>(
        &self,
        asked: Asked,
        caller: &mut Wire<S>,
        clock: &mut Clock,
        last: bool,
    ) -> After<R>
    where
        S: Duplex + Send + 'static,
    {
        let Asked { mut request, body, keep } = asked;
        let (mut record, form) = self.begun(&mut request);
        let (version, head) = (request.version(), *request.method() == Method::HEAD);
        let mut client = Client { form, version, head, keeps: keep && !last && !self.only_one };
        let expects = framing::expects_continue(request.headers()) && version == Version::HTTP_11;
        let meters = record.meters();
        let Admitted { registration, permit, upgrade } = match self.decided(&mut request, &mut record).await {
            Ok(admitted) => admitted,
            Err(refused) => {
                let mut rest = self.sending(&request, body, expects, &meters);
                let Refused { status, why, after, doubtful } = refused;
                // What follows a doubtful one is no more to be trusted than itself.
                client.keeps &= !doubtful;
                let id = record.request_id().unwrap_or_default();
                let answer = respond::answer(client.form, status, &why, id, after);
                return self.says(answer, client, caller, clock, &mut rest, record).await;
            }
        };
        let mut sending = self.sending(&request, body, expects, &meters);
        let mut trip = match self.set_out(request.headers_mut(), &mut record).await {
            Ok(trip) => trip,
            Err(failure) => {
                // Nobody waits for its end any more.
                drop((registration, permit));
                return self.fails(failure, client, caller, clock, &mut sending, record).await;
            }
        };
        let open = trip.timeouts().idle.unwrap_or(self.shared.idle.open);
        sending.idle = Idle { open, ..self.shared.idle }.at_most(Some(open));
        head::write_request(&request, body, &mut sending.transfer.out.bytes);
        head::end_fields(request.headers_mut());
        let began = record.traced_now();
        let mut lost = pin!(registration.closing());
        let answered = {
            let sent = self.send_http1(&mut trip, &mut sending, caller, clock);
            let mut sent = pin!(traces::within(record.scope(), sent));
            poll_fn(|cx| match lost.as_mut().poll(cx) {
                Poll::Ready(()) => {
                    let reason = registration.close_reason().unwrap_or(CloseReason::Error);
                    Poll::Ready(Err(Failure::Cut(reason)))
                }
                Poll::Pending => sent.as_mut().poll(cx),
            })
            .await
        };
        record.step("forward", began, answered.is_err().then_some("no answer"));
        let Answered { told, mut line, pool, turn, carried } = match answered {
            Ok(answered) => answered,
            Err(failure) => {
                drop((registration, permit));
                return self.fails(failure, client, caller, clock, &mut sending, record).await;
            }
        };
        let Told { mut response, body, keep } = told;
        let status = response.status();
        record.answered(status.as_u16());
        sending.transfer.out.keeps_no_more();
        headers::end_hop(response.headers_mut(), self.version);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            if !upgrade || !sending.was_sent() {
                drop((registration, permit, line, turn, carried));
                return self.fails(Failure::Unasked, client, caller, clock, &mut sending, record).await;
            }
            let mut out = Out::new(false);
            head::write_status(client.version, status, &mut out.bytes);
            head::write_fields(response.headers(), &mut out.bytes);
            out.bytes.extend_from_slice(b"\r\n");
            let until = Instant::now() + LINGER;
            let said = poll_fn(|cx| {
                if lost.as_mut().poll(cx).is_ready() {
                    let reason = registration.close_reason().unwrap_or(CloseReason::Error);
                    return Poll::Ready(Err((reason, BodyError::Cut(reason).to_string())));
                }
                let late = line.poll_lost(cx) || clock.has_come(cx, Some(until));
                let sent = match caller.poll_interim(cx) {
                    Poll::Ready(Ok(())) => out.poll_send(cx, &mut caller.io),
                    unsaid => unsaid,
                };
                match sent {
                    Poll::Ready(Err(error)) => Poll::Ready(Err((self.caller_reset(), error.to_string()))),
                    Poll::Pending if late => Poll::Ready(Err((CloseReason::Error, "too late".to_owned()))),
                    said => said.map_err(|_| (CloseReason::Error, String::new())),
                }
            });
            if let Err((reason, why)) = said.await {
                record.ended(reason, Some(why.clone()));
                return After::Breaks(reason, Some(why));
            }
            let held = (turn, permit, carried);
            return After::Changes(Box::new(Changed {
                line,
                record,
                registration,
                idle: sending.idle,
                _held: held,
            }));
        }

        let mut out = Out::new(false);
        // A client that was not asked for its body keeps it.
        let mut gone = None;
        let mut left = if sending.held.is_some() { 0 } else { LINGER_BYTES };
        sending.unsendable |= left == 0;
        client.keeps &= !self.is_last() && (!sending.unsendable || sending.transfer.was_read());
        let coding = client.write_head(&mut response, body, &mut out.bytes);
        head::end_fields(response.headers_mut());
        let is_open_ended = coding == Coding::Plain && !matches!(body, Length::Exactly(_));
        let flow = Flow::of_responses(self.facts.direction);
        let mut answer = Transfer::new(body, coding, out, flow, [&self.meters, &meters]);
        let mut line = Some(line);
        let mut rest = Rest::new(sending.idle.open, clock);
        let ended = poll_fn(|cx| {
            if lost.as_mut().poll(cx).is_ready() {
                let reason = registration.close_reason().unwrap_or(CloseReason::Error);
                return Poll::Ready(Err((reason, BodyError::Cut(reason).to_string())));
            }
            if line.as_mut().is_some_and(|line| line.poll_lost(cx)) {
                return Poll::Ready(Err((self.called_reset(), "the called side lost its right".to_owned())));
            }
            if let Some(line) = line.as_mut().filter(|_| !sending.was_sent())
                && let Err(why) = sending.poll_request(cx, caller, line)
            {
                return Poll::Ready(Err((self.caller_reset(), why.to_string())));
            }
            let unsaid = caller.poll_interim(cx).is_pending();
            if let Some(called) = line.as_mut().filter(|_| !unsaid && !answer.was_read()) {
                match answer.poll_read(cx, &mut called.wire, caller) {
                    Poll::Ready(Err(Broken::Reading(why))) => {
                        return Poll::Ready(Err((
                            CloseReason::Error,
                            format!("the called side broke off: {why}"),
                        )));
                    }
                    Poll::Ready(Err(Broken::Writing(why))) => {
                        return Poll::Ready(Err((self.caller_reset(), why.to_string())));
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            if answer.was_read() && !unsaid {
                // Before its reader gets the last bytes.
                if sending.was_sent()
                    && let Some(line) = line.take().filter(|_| keep)
                {
                    pool.lines.put(line);
                }
                match answer.poll_send(cx, caller) {
                    Poll::Ready(Ok(())) if sending.was_sent() => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(())) if sending.unsendable => {
                        // A client that is still sending gets to read its answer: to close with its bytes unread would
                        // be a reset.
                        let until = *gone.get_or_insert_with(|| Instant::now() + LINGER);
                        let dropped = sending.transfer.poll_drop(cx, caller, &mut left);
                        if dropped.is_ready() || clock.has_come(cx, Some(until)) {
                            return Poll::Ready(Ok(()));
                        }
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(_)) => {
                        return Poll::Ready(Err((self.caller_reset(), "the caller went away".to_owned())));
                    }
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            } else if sending.unsendable
                && left > 0
                && sending.transfer.poll_drop(cx, caller, &mut left).is_ready()
            {
                left = 0;
            }
            rest.moved(answer.has_moved() | sending.transfer.has_moved());
            if sending.transfer.was_read()
                && caller.input().is_empty()
                && !caller.has_ended()
                && let Poll::Ready(Err(why)) = caller.poll_more(cx)
            {
                return Poll::Ready(Err((self.caller_reset(), why.to_string())));
            }
            if caller.has_ended() {
                rest.at_most(sending.idle.half_closed);
            }
            match rest.is_over(clock, cx) {
                true => Poll::Ready(Err((CloseReason::Idle, BodyError::Still(rest.allowed()).to_string()))),
                false => Poll::Pending,
            }
        })
        .await;
        drop((turn, permit, carried));
        match ended {
            Ok(()) if client.keeps && sending.transfer.was_read() => After::Keeps,
            Ok(()) => After::Closes,
            Err((reason, why)) => {
                if is_open_ended {
                    caller.io.get_ref().break_off();
                }
                record.ended(reason, Some(why.clone()));
                After::Breaks(reason, Some(why))
            }
        }
    }

    /// Whether there is to be no other request on this connection.
    fn is_last(&self) -> bool {
        let old = self.until.is_some_and(|until| until <= Instant::now());
        old || self.shared.leaving.is_cancelled() || self.shared.drain.is_cancelled()
    }

    /// The request as it will be sent, with all of its body to come.
    fn sending<'a>(
        &'a self,
        request: &Request<()>,
        body: Length,
        expects: bool,
        meters: &'a Meters,
    ) -> Sending<'a> {
        let bodiless = body == Length::Exactly(0);
        // Requests of an app may be sent again by the proxy at the other end, too: here those that are safe.
        let outbound = self.facts.direction == Direction::Outbound;
        let repeatable = outbound || (bodiless && request.method().is_idempotent());
        let coding = if body == Length::Chunked { Coding::Chunked } else { Coding::Plain };
        let flow = Flow::of_requests(self.facts.direction);
        Sending {
            transfer: Transfer::new(body, coding, Out::new(repeatable), flow, [&self.meters, meters]),
            method: request.method().clone(),
            repeatable,
            held: asked_until(expects && !bodiless),
            idle: self.shared.idle,
            unsendable: false,
            sent: false,
            interim: 0,
        }
    }

    /// Tells the client why there is no answer of the called side.
    async fn fails<S>(
        &self,
        failure: Failure,
        mut client: Client,
        caller: &mut Wire<S>,
        clock: &mut Clock,
        sending: &mut Sending<'_>,
        mut record: AccessRecord,
    ) -> After<R>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (status, reason, text) = self.told(&failure);
        if let Failure::Body(_) = failure {
            // Its sender has had its time, and what follows on this connection is not to be trusted.
            sending.unsendable = true;
            client.keeps = false;
        }
        let answer =
            respond::answer(client.form, status, &text, record.request_id().unwrap_or_default(), None);
        record.ended(reason, Some(text));
        self.says(answer, client, caller, clock, sending, record).await
    }

    /// Gives an answer of our own. A client that is still sending may finish, within bounds: cut off in the middle, it
    /// would not read the answer. One that waits to be asked for its body is not asked.
    async fn says<S>(
        &self,
        answer: Response<String>,
        mut client: Client,
        caller: &mut Wire<S>,
        clock: &mut Clock,
        sending: &mut Sending<'_>,
        mut record: AccessRecord,
    ) -> After<R>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut answer, text) = {
            let (parts, text) = answer.into_parts();
            (Response::from_parts(parts, ()), text)
        };
        record.answered(answer.status().as_u16());
        let mut left = if sending.held.is_some() || sending.unsendable { 0 } else { LINGER_BYTES };
        client.keeps &= !self.is_last() && (left > 0 || sending.transfer.was_read());
        answer.headers_mut().insert(CONTENT_LENGTH, text.len().into());
        let mut out = Out::new(false);
        client.write_head(&mut answer, Length::Exactly(text.len() as u64), &mut out.bytes);
        if !client.head {
            out.bytes.extend_from_slice(text.as_bytes());
            Flow::of_responses(self.facts.direction)
                .of(&record.meters())
                .fetch_add(text.len() as u64, Ordering::Relaxed);
        }
        let until = Instant::now() + LINGER;
        let heard = poll_fn(|cx| {
            let said = match caller.poll_interim(cx) {
                Poll::Ready(Ok(())) => out.poll_send(cx, &mut caller.io),
                other => other,
            };
            if matches!(said, Poll::Ready(Err(_))) {
                return Poll::Ready(false);
            }
            let dropped = sending.transfer.poll_drop(cx, caller, &mut left);
            let late = clock.has_come(cx, Some(until));
            match (said.is_ready(), dropped.is_ready()) {
                (true, true) => Poll::Ready(true),
                _ if late => Poll::Ready(said.is_ready()),
                _ => Poll::Pending,
            }
        })
        .await;
        if heard && client.keeps && sending.transfer.was_read() { After::Keeps } else { After::Closes }
    }
}

impl Client {
    /// Writes the head of an answer, and says how its body goes after it. The connection stays if the end of the body can
    /// be told.
    fn write_head(&mut self, answer: &mut Response<()>, body: Length, out: &mut Vec<u8>) -> Coding {
        let (status, old) = (answer.status(), self.version == Version::HTTP_10);
        let headers = answer.headers_mut();
        headers.remove(TRANSFER_ENCODING);
        if status == StatusCode::NO_CONTENT {
            headers.remove(CONTENT_LENGTH);
        }
        let coding = match body {
            Length::Exactly(_) => Coding::Plain,
            Length::Chunked | Length::ToEnd if old => {
                self.keeps = false;
                Coding::Plain
            }
            Length::Chunked | Length::ToEnd => Coding::Chunked,
        };
        head::write_status(self.version, status, out);
        head::write_fields(headers, out);
        if coding == Coding::Chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        match (self.keeps, old) {
            (false, _) => out.extend_from_slice(b"connection: close\r\n"),
            (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
            (true, false) => {}
        }
        out.extend_from_slice(b"\r\n");
        coding
    }
}
