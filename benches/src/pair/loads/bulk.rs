//! As many bytes as one connection carries, by iperf3; what they are is checked beside it, by 16 MiB there and back.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::Speaks;
use super::super::peers::{Carries, Peer};
use super::super::tool;
use super::{CPU_S_PER_GB, CPU_US, Count, Sample};

const GIGA: f64 = 1e9;
/// What the buffers of six sockets may hold at the end.
const IN_SOCKETS: f64 = 64e6;
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
    let received = received(&tool::run("iperf3", &arguments, time).await?, time)?;
    let mut sample = count.end(&bed, received / GIGA)?;
    if let Some(micros) = sample.remove(CPU_US) {
        sample.insert(CPU_S_PER_GB, micros / 1e6);
    }
    bed.check().await?;
    Ok(sample)
}

/// The bytes that came, if that is about what was sent: what is on its way at the end may be left out.
fn received(said: &str, time: Duration) -> Result<f64> {
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
    let on_its_way = IN_SOCKETS.max(sent * 0.01);
    ensure!(
        received <= sent * 1.001 && received >= sent - on_its_way,
        "{received} bytes were received and {sent} sent"
    );
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
        assert!((received(&said(1.0e9, 0.99e9, 1.0), second).unwrap() - 0.99e9).abs() < 1.0);
        for wrong in [said(1e9, 0.9e9, 1.0), said(1e9, 2e9, 1.0), said(0.0, 0.0, 1.0), said(1e9, 1e9, 0.5)] {
            assert!(received(&wrong, second).is_err(), "{wrong}");
        }
        let refused = r#"{ "end": {}, "error": "unable to connect" }"#;
        assert_eq!(received(refused, second).unwrap_err().to_string(), "iperf3: unable to connect");
    }
}
