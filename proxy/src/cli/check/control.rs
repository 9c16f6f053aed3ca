//! Control: whether each of its addresses answers, proves the root that the ticket pins, and has our time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http::header::DATE;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::fmt::rfc2822;
use rustls::ClientConfig;
use signet_proto::handshake::{ALPN_H2, pinned_client_config};
use tokio::net::TcpStream;

use super::report::{Finding, Report};
use crate::causes::causes;
use crate::control::control_id;
use crate::identity::Joining;
use crate::tls;

const DEADLINE: Duration = Duration::from_secs(5);
/// An SVID is valid from 10 s before it was issued: whose clock is behind by more believes no new one.
const TOLERATED: Duration = Duration::from_secs(5);

/// Looks at each address of control.
pub(super) async fn reach(joining: &Joining, report: &mut Report) {
    let config = control_id(&joining.trust_domain).map_err(|error| error.to_string()).and_then(|id| {
        pinned_client_config(joining.pins.clone(), id, &[ALPN_H2]).map_err(|error| error.to_string())
    });
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let fix = "take a new ticket: `signet token create ID` on control's side";
            return report.add(Finding::problem("control", error, fix));
        }
    };
    let mut time = None;
    for name in &joining.control {
        match answers(name, &config).await {
            Ok((addresses, told)) => {
                time = time.or(told);
                report.add(Finding::ok(
                    "control",
                    format!("{name}: {addresses} answers and proves the pinned root"),
                ));
            }
            Err(finding) => report.add(finding),
        }
    }
    if let Some((theirs, ours)) = time {
        report.add(clock(theirs, ours));
    }
}

/// What control's clock showed, and ours at that moment.
type Times = (SystemTime, SystemTime);

async fn answers(name: &str, config: &Arc<ClientConfig>) -> Result<(SocketAddr, Option<Times>), Finding> {
    let in_time = |what: &str, fix: &str| Finding::problem("control", format!("{name}: {what}"), fix);
    let found = tokio::time::timeout(DEADLINE, tokio::net::lookup_host(name)).await;
    let found: Vec<SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            let fix =
                "correct the name in the ticket (control's `--advertise`), or the resolver of this machine";
            return Err(in_time(&format!("cannot be resolved: {error}"), fix));
        }
        Err(_) => return Err(in_time("no answer from the resolver", "look at the resolver of this machine")),
    };
    let mut failure = in_time("the name has no address", "correct the name in the ticket");
    for address in found {
        let stream = match tokio::time::timeout(DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let fix = "is control running there, and does the network let this machine connect?";
                failure = in_time(&format!("{address}: {error}"), fix);
                continue;
            }
            Err(_) => {
                let fix = "a firewall, or no route: packets get no answer";
                failure = in_time(&format!("{address}: no answer within {} s", DEADLINE.as_secs()), fix);
                continue;
            }
        };
        match tls::connect(stream, config).await {
            Ok((stream, _)) => return Ok((address, time_of(stream).await)),
            Err(error) => {
                let fix = "is it the control that made the ticket? Its root may have been rotated: take a new ticket. \
                           A certificate that is not valid yet, or no more, is a clock that is wrong";
                failure = in_time(&format!("{address}: {}", causes(&error)), fix);
            }
        }
    }
    Err(failure)
}

/// What control says the time is, by the field that every answer has (RFC 9110 s6.6.1).
async fn time_of(stream: tls::TlsStream<TcpStream>) -> Option<Times> {
    let asked = async {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = Request::get("http://control/").body(Empty::<Bytes>::new()).ok()?;
        let response = sender.send_request(request).await.ok()?;
        let date = response.headers().get(DATE)?.to_str().ok()?;
        let theirs = rfc2822::parse(date).ok()?.timestamp();
        Some((SystemTime::from(theirs), signet_proto::clock::now()))
    };
    tokio::time::timeout(DEADLINE, asked).await.ok().flatten()
}

fn clock(theirs: SystemTime, ours: SystemTime) -> Finding {
    // The field has whole seconds.
    let (apart, ahead) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead.saturating_sub(Duration::from_secs(1)), true),
        Err(behind) => (behind.duration(), false),
    };
    if apart <= TOLERATED {
        return Finding::ok("clock", "as control's");
    }
    let says = format!("{} s {} control's", apart.as_secs(), if ahead { "ahead of" } else { "behind" });
    Finding::problem(
        "clock",
        says,
        "have a time service (chrony, systemd-timesyncd) set the clocks of both machines",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::State;

    #[test]
    fn clocks_may_differ_by_a_little() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (seconds, ahead, state) in [
            (0, true, State::Ok),
            (5, true, State::Ok),
            (5, false, State::Ok),
            (60, true, State::Problem),
            (60, false, State::Problem),
        ] {
            let apart = Duration::from_secs(seconds);
            let theirs = if ahead { now - apart } else { now + apart };
            assert_eq!(clock(theirs, now).state, state, "{seconds} {ahead}");
        }
    }
}
