//! As many bytes as one connection carries, by iperf3; what they are is checked beside it, by 16 MiB there and back.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::Speaks;
use super::super::peers::{Carries, Peer};
use super::super::tool;
use super::{CPU_S_PER_GB, CPU_US, Count, Sample};

const GIGA: f64 = 1e9;
/// From iperf3 to a proxy, between the two, and to iperf3.
const CONNECTIONS: f64 = 3.0;
/// What proxies may hold themselves.
const IN_PROXIES: f64 = 16e6;
/// What is looked at, byte by byte, before and after.
const CHECKED: usize = 16 * 1024 * 1024;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToApp,
    FromApp,
}

pub(super) async fn measure(peer: Peer, environment: &Environment, way: Way) -> Result<Sample> {
    let routes = [(Carries::Tcp, Speaks::Iperf), (Carries::Tcp, Speaks::Echo(CHECKED))];
    let mut bed =
        Bed::make(environment, peer, &Wish { routes: &routes, connections: 1024, resume: true }).await?;
    let entrance = bed.entrance()?;
    let time = environment.effort.duration;
    let (host, port, seconds) =
        (entrance.ip().to_string(), entrance.port().to_string(), time.as_secs().to_string());
    let mut arguments = vec!["--client", &host, "--port", &port, "--time", &seconds, "--json"];
    if way == Way::FromApp {
        arguments.push("--reverse");
    }
    let count = Count::begin(&bed)?;
    let said = tool::run("iperf3", &arguments, time).await?;
    let received = received(&said, time, on_its_way(way)?)?;
    let mut sample = count.end(&bed, received / GIGA)?;
    if let Some(micros) = sample.remove(CPU_US) {
        sample.insert(CPU_S_PER_GB, micros / 1e6);
    }
    bed.check().await?;
    Ok(sample)
}

/// How many bytes may have been sent that are not counted as received when the time is over, if that is bounded: the
/// server sends until it hears of the end, which is a matter of when it runs, and the client no longer counts then.
fn on_its_way(way: Way) -> Result<Option<f64>> {
    match way {
        Way::ToApp => {
            Ok(Some(CONNECTIONS * (most_buffered("tcp_wmem")? + most_buffered("tcp_rmem")?) + IN_PROXIES))
        }
        Way::FromApp => Ok(None),
    }
}

/// Bytes of one direction of a socket, as tcp(7) says: least, default, most.
fn most_buffered(name: &str) -> Result<f64> {
    let path = format!("/proc/sys/net/ipv4/{name}");
    let said = fs::read_to_string(&path).with_context(|| path.clone())?;
    let most = said.split_whitespace().nth(2).and_then(|most| most.parse().ok());
    most.with_context(|| format!("{path} is not three numbers: {said}"))
}

/// The bytes that came, if they were sent, and all that were sent but for those on their way.
fn received(said: &str, time: Duration, on_its_way: Option<f64>) -> Result<f64> {
    let said: Value = serde_json::from_str(said).context("iperf3 says no JSON")?;
    if let Some(error) = said.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let number = |pointer: &str| {
        said.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} from iperf3"))
    };
    let (sent, received) = (number("/end/sum_sent/bytes")?, number("/end/sum_received/bytes")?);
    let seconds = number("/end/sum_received/seconds")?;
    ensure!(received > 0.0 && seconds >= time.as_secs_f64() * 0.9, "{received} bytes in {seconds} s");
    let least = on_its_way.map_or(0.0, |bytes| sent - bytes.max(sent * 0.01));
    ensure!(received <= sent * 1.001 && received >= least, "{received} bytes were received and {sent} sent");
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sent: f64, received: f64, seconds: f64) -> String {
        serde_json::json!({ "end": {
            "sum_sent": { "bytes": sent, "seconds": seconds },
            "sum_received": { "bytes": received, "seconds": seconds },
        } })
        .to_string()
    }

    #[test]
    fn bytes_that_came_count_if_they_were_sent() {
        let second = Duration::from_secs(1);
        let bounded = Some(64e6);
        assert!((received(&said(1.0e9, 0.99e9, 1.0), second, bounded).unwrap() - 0.99e9).abs() < 1.0);
        for wrong in [said(1e9, 0.9e9, 1.0), said(1e9, 2e9, 1.0), said(0.0, 0.0, 1.0), said(1e9, 1e9, 0.5)] {
            assert!(received(&wrong, second, bounded).is_err(), "{wrong}");
        }
        assert!((received(&said(1e9, 0.9e9, 1.0), second, None).unwrap() - 0.9e9).abs() < 1.0);
        for wrong in [said(1e9, 2e9, 1.0), said(1e9, 0.0, 1.0), said(1e9, 1e9, 0.5)] {
            assert!(received(&wrong, second, None).is_err(), "{wrong}");
        }
        assert!(most_buffered("tcp_rmem").unwrap() >= 4096.0);
        let refused = r#"{ "end": {}, "error": "unable to connect" }"#;
        assert_eq!(received(refused, second, bounded).unwrap_err().to_string(), "iperf3: unable to connect");
    }
}
