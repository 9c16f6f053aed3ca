//! A peer proxy's connection that carries one opaque stream after the other (`signet/1`). Each stream is a
//! connection of its own: decided afresh, in the live table, with its own line in the log.

use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use signet_proto::handshake::RevokedBecause;
use signet_proto::tunnel::{Preamble, Refusal as Answer, RefuseCode, ResetCode};
use tokio::time::Instant;

use super::{Arrival, Refusal, error};
use crate::capture::Socket;
use crate::config;
use crate::connections::{Content, Registration};
use crate::forward::Prefixed;
use crate::forward::http::cut;
use crate::forward::tunnel::{Asked, Tunneled};
use crate::telemetry::{AccessRecord, CloseReason};
use crate::tls::TlsStream;

/// How long a connection may wait for its next stream. Longer than the other end keeps it, so that the other
/// end is the one that closes.
const IDLE: Duration = Duration::from_secs(90);
/// For its first stream, and after one was refused.
const IDLE_UNTRIED: Duration = Duration::from_secs(5);
/// Refused streams in a row after which the peer has to come again.
const MOST_REFUSED: u32 = 3;

/// Boxed: it is handed on several times for each stream.
pub(super) type Carrier = Box<Tunneled<TlsStream<Prefixed<Socket>>>>;

/// Serves streams until the peer has no more. `record` becomes that of the first one.
pub(super) async fn serve(
    arrival: &Arrival,
    mut carrier: Carrier,
    record: &mut AccessRecord,
) -> Result<(), Refusal> {
    let mut is_first = true;
    let (mut idle, mut refused) = (IDLE_UNTRIED, 0);
    let until = arrival.shared.end_of_one();
    let mut kept = None;
    loop {
        if until.is_some_and(|until| until <= Instant::now()) {
            Box::pin(carrier.leave()).await;
            return Ok(());
        }
        // It has one place for as long as it lasts, whether it waits or carries: no change falls in between.
        let registration = match kept.take() {
            Some(registration) => registration,
            None => {
                let registration = arrival.register();
                if let Some(reason) = arrival.distrusted(&registration) {
                    return Err((reason, None));
                }
                registration
            }
        };
        // Who was let in while we leave gets the stream that it came for.
        let retired = if is_first { &arrival.shared.drain } else { &arrival.shared.leaving };
        let asked = tokio::select! {
            biased;
            reason = cut(Some(&registration)) => return Err((reason, None)),
            () = retired.cancelled() => {
                Box::pin(carrier.leave()).await;
                return Ok(());
            }
            asked = tokio::time::timeout(idle, carrier.asked()) => asked,
        };
        let asked = match asked {
            Ok(Ok(Some(asked))) => asked,
            Ok(Ok(None)) => return Ok(()),
            Err(_) => {
                Box::pin(carrier.leave()).await;
                return Ok(());
            }
            Ok(Err(broken)) => {
                Box::pin(carrier.reset(ResetCode::Protocol)).await;
                return Err((CloseReason::PeerReset, Some(broken.to_string())));
            }
        };
        let mut own = None;
        let record = if std::mem::replace(&mut is_first, false) {
            &mut *record
        } else {
            let another = AccessRecord::connection(&arrival.shared.observers, record.facts.clone());
            &mut **own.insert(Box::new(another))
        };
        let (ended, next) = one(arrival, registration, carrier, asked, record).await;
        let carried = ended.is_ok();
        if let Err((reason, detail)) = ended {
            record.ended(reason, detail);
        }
        record.finish();
        (idle, refused) = match carried {
            true => (IDLE, 0),
            false => (IDLE_UNTRIED, refused + 1),
        };
        match next {
            Some((next, registration)) if refused < MOST_REFUSED => (carrier, kept) = (next, registration),
            Some((mut last, _)) => {
                Box::pin(last.leave()).await;
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

/// One stream; the connection is given back if it may carry another, with its place if it has kept it. What is short is
/// boxed, so that a stream that lasts has no room for it.
async fn one(
    arrival: &Arrival,
    registration: Registration,
    mut carrier: Carrier,
    asked: Asked,
    record: &mut AccessRecord,
) -> (Result<(), Refusal>, Option<(Carrier, Option<Registration>)>) {
    record.closes_with(&registration);
    if let Asked::Stream(preamble) = &asked {
        record.begin_span(preamble.trace.map(Into::into), "");
    }
    if let Err((answer, refusal)) = admit(arrival, &registration, asked, record) {
        // Nothing is carried any more: the refusal takes the time it takes outside the table.
        drop(registration);
        let refused = Box::pin(carrier.refuse(&answer)).await.is_ok();
        let again = refused
            && carrier.is_between_streams()
            && !matches!(refusal.0, CloseReason::Revoked(_) | CloseReason::TrustRemoved);
        return (Err(refusal), again.then_some((carrier, None)));
    }
    let mut caller = Prefixed::new(carrier);
    if let Err(broken) = Box::pin(take(arrival, &mut caller)).await {
        Box::pin(caller.into_inner().reset(ResetCode::Protocol)).await;
        return (Err((CloseReason::PeerReset, Some(broken.to_string()))), None);
    }
    let mut caller = Some(caller);
    let ended = arrival.carry(&registration, &mut caller, None, None, record).await;
    let Some(mut carrier) = caller.map(Prefixed::into_inner) else { return (ended, None) };
    match &ended {
        Ok(()) if carrier.is_between_streams() => {
            registration.carries(Content::Connection);
            (ended, Some((carrier, Some(registration))))
        }
        Ok(()) => (ended, None),
        Err((reason, _)) => {
            Box::pin(carrier.reset(reset_code(*reason))).await;
            (ended, None)
        }
    }
}

/// Takes the stream. Whose app has spoken already is not in a hurry to hear of it.
async fn take(arrival: &Arrival, caller: &mut Prefixed<Carrier>) -> io::Result<()> {
    if arrival.inbound.protocol != config::Protocol::Tcp {
        return caller.get_mut().accept().await;
    }
    match caller.read_ahead().now_or_never() {
        Some(Ok(1..)) => caller.get_mut().accept_soon(),
        Some(Err(broken)) => Err(broken),
        Some(Ok(0)) | None => caller.get_mut().accept().await,
    }
}

/// Whether the stream may be: the port is our app's, and policy allows it as far as its content is known.
fn admit(
    arrival: &Arrival,
    registration: &Registration,
    asked: Asked,
    record: &mut AccessRecord,
) -> Result<(), (Answer, Refusal)> {
    let refuse = |code, text: &str| (Answer::new(code, text), error(text));
    let Preamble { destination_port, .. } = match asked {
        Asked::Stream(preamble) => *preamble,
        Asked::Unsupported(field) => {
            let text = format!("preamble field {field:#04x} is not known here");
            return Err(refuse(RefuseCode::Unsupported, &text));
        }
    };
    let served = arrival.app.address.port();
    if destination_port.get() != served {
        let text = format!("port {destination_port} is not served here, {served} is");
        return Err(refuse(RefuseCode::NotServed, &text));
    }
    // signet/1, section 7: an ended certificate opens nothing new.
    if registration.peer_not_after().is_none_or(|not_after| not_after <= signet_proto::clock::now()) {
        let text = "the SVID of this connection has ended: connect again with a new one";
        return Err((
            Answer::new(RefuseCode::Denied, text),
            (CloseReason::Revoked(RevokedBecause::Lapsed), Some(text.into())),
        ));
    }
    // Afresh, whatever was decided of the stream before it.
    registration.carries(match arrival.inbound.protocol {
        config::Protocol::Tcp => Content::Opaque,
        config::Protocol::Http | config::Protocol::Detect => Content::Connection,
    });
    arrival.authorize(registration, record).map_err(|refusal| {
        let why = refusal.1.as_deref().unwrap_or(refusal.0.as_str());
        (Answer::new(RefuseCode::Denied, why), refusal)
    })
}

fn reset_code(reason: CloseReason) -> ResetCode {
    match reason {
        CloseReason::AppReset | CloseReason::PeerReset => ResetCode::App,
        CloseReason::Idle => ResetCode::Idle,
        CloseReason::Drained => ResetCode::Draining,
        CloseReason::Error => ResetCode::Internal,
        _ => ResetCode::Withdrawn,
    }
}
