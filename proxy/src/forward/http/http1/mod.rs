//! HTTP/1: one task has the caller's connection and the called one while they have to do with each other, and reads from
//! one what it writes to the other.
//!
//! `serve` owns the caller's connection, `exchange` is the story of one request, `send` sends it until it is answered,
//! `lines` keeps connections to the called side; `wire` is a connection, `head` and `body` are what is read on it, `flow`
//! what goes from one to the other.

mod body;
mod clock;
mod exchange;
mod flow;
mod head;
pub(super) mod lines;
mod read;
mod send;
mod wire;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

pub use self::read::{Requests, requests};

use self::clock::Clock;
use self::exchange::{After, Changed, LINGER};
use self::head::Asked;
use self::wire::{NoHead, Out, Wire};
use super::{Ended, HEAD_DEADLINE, Http, REFUSED_LIFE, Route, cut};
use crate::forward::opaque::{SOON, relay};
use crate::forward::{Duplex, Prefixed, farewell};
use crate::telemetry::{CloseReason, Direction};

/// What comes next on a caller's connection.
#[expect(clippy::large_enum_variant, reason = "taken apart as soon as it is made")]
enum Next {
    Request(Asked),
    /// It has ended, or nothing more is served.
    Nothing,
    /// Nothing came in time.
    Late,
    Wrong(NoHead),
}

impl<R: Route> Http<R> {
    /// Serves the caller of HTTP/1 until it is done, or `closing` or the end of this proxy says so.
    pub(super) async fn serve_http1<S>(&self, caller: Prefixed<S>, closing: impl Future<Output = ()>) -> Ended
    where
        S: Duplex + Send + 'static,
    {
        let mut caller = Wire::new(caller);
        let begun = Instant::now();
        let mut clock = Clock::new(HEAD_DEADLINE);
        let life = self.only_one.then(|| begun + REFUSED_LIFE);
        let mut last = pin!(async {
            tokio::select! {
                biased;
                () = closing => {}
                () = self.shared.drain.cancelled() => {}
            }
        });
        let (mut since, mut draining) = (begun, false);
        loop {
            let due = since + HEAD_DEADLINE;
            let due = life.map_or(due, |life| life.min(due));
            let mut resting = false;
            let next = poll_fn(|cx| {
                if !draining {
                    draining = last.as_mut().poll(cx).is_ready();
                }
                if let Poll::Ready(read) = caller.poll_head(cx, head::request) {
                    return Poll::Ready(match read {
                        Ok(Some(asked)) => Next::Request(asked),
                        Ok(None) => Next::Nothing,
                        Err(error) => Next::Wrong(error),
                    });
                }
                // What has begun is still answered.
                if draining && caller.input().is_empty() {
                    return Poll::Ready(Next::Nothing);
                }
                if !resting && clock.has_come(cx, Some(since + SOON)) {
                    resting = true;
                    caller.io.rest();
                }
                if clock.has_come(cx, Some(due)) { Poll::Ready(Next::Late) } else { Poll::Pending }
            });
            let asked = match next.await {
                Next::Request(asked) => asked,
                Next::Nothing => break,
                Next::Late if life.is_some() => break,
                Next::Late => {
                    let _ = Box::pin(farewell(&mut caller.io)).await;
                    return Err((
                        CloseReason::Idle,
                        Some(format!("no request within {} s", HEAD_DEADLINE.as_secs())),
                    ));
                }
                Next::Wrong(error) => return Box::pin(refuse(caller, error)).await,
            };
            match Box::pin(self.exchange_http1(asked, &mut caller, &mut clock, draining)).await {
                After::Keeps => since = Instant::now(),
                After::Closes => break,
                After::Breaks(reason, why) => return Err((reason, why)),
                After::Changes(changed) => return Box::pin(self.relay_changed(caller, changed)).await,
            }
        }
        Box::pin(farewell(&mut caller.io)).await;
        Ok(())
    }

    /// Carries bytes until both sides are done or the right to it is lost.
    async fn relay_changed<S>(&self, caller: Wire<S>, changed: Box<Changed<R>>) -> Ended
    where
        S: Duplex,
    {
        let Changed { line, mut record, registration, idle, _held } = *changed;
        let (called, peer) = line.into_parts();
        let caller = caller.into_inner();
        let carried = async {
            match record.facts.direction {
                Direction::Inbound => relay(called, caller, &self.meters, idle).await,
                Direction::Outbound => relay(caller, called, &self.meters, idle).await,
            }
        };
        let ended = tokio::select! {
            biased;
            reason = cut(Some(&registration)) => Err((reason, None)),
            reason = cut(peer.as_deref()) => Err((reason, None)),
            ended = carried => ended.map_err(Into::into),
        };
        if let Err((reason, detail)) = &ended {
            record.ended(*reason, detail.clone());
        }
        ended
    }
}

/// Answers what is no request, and closes. A caller that leaves inside of one is its own business; what it sent wrong is
/// worth a line.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(mut caller: Wire<S>, error: NoHead) -> Ended {
    let NoHead::Malformed(malformed) = &error else { return Ok(()) };
    if let Some(status) = malformed.status() {
        let mut out = Out::new(false);
        head::write_status(Version::HTTP_11, status, &mut out.bytes);
        out.bytes.extend_from_slice(b"connection: close\r\ncontent-length: 0\r\n\r\n");
        let said = poll_fn(|cx| out.poll_send(cx, &mut caller.io));
        if let Ok(Ok(())) = tokio::time::timeout(LINGER, said).await {
            farewell(&mut caller.io).await;
        }
    }
    Err((CloseReason::Error, Some(format!("HTTP: {error}"))))
}
