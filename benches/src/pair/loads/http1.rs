//! HTTP/1.1 on connections that stay, by wrk: through pairs that read it, and through pairs that take it for bytes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::{Speaks, served};
use super::super::peers::{Carries, Peer};
use super::super::service::{BODY, HTTP_PATH};
use super::super::tool;
use super::{Count, Sample};

const CONNECTIONS: usize = 32;
const PAUSE: Duration = Duration::from_millis(100);
const SETTLING: usize = 50;

/// What the pair takes it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum As {
    Http,
    Bytes,
}

/// What wrk says at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Said {
    requests: u64,
    bytes: f64,
    bad_statuses: u64,
    broken: u64,
}

pub(super) async fn measure(peer: Peer, environment: &Environment, taken: As) -> Result<Sample> {
    let carries = if taken == As::Http { Carries::Http1 } else { Carries::Tcp };
    let wish = Wish { routes: &[(carries, Speaks::Http)], connections: 1024, resume: true };
    let mut bed = Bed::make(environment, peer, &wish).await?;
    let (entrance, app) = (bed.entrance()?, bed.apps.addresses.http);
    wrk(entrance, environment.effort.warm_up).await?;
    let before = settled(app).await?;
    let count = Count::begin(&bed)?;
    let said = wrk(entrance, environment.effort.duration).await?;
    let sample = count.end(&bed, said.requests as f64)?;
    let served = settled(app).await? - before;
    said.holds(served)?;
    bed.check().await?;
    Ok(sample)
}

/// How many requests the app has answered, as soon as nothing is on its way any more.
async fn settled(app: SocketAddr) -> Result<u64> {
    let mut before = served(app).await?;
    for _ in 0..SETTLING {
        tokio::time::sleep(PAUSE).await;
        match served(app).await? {
            now if now == before => return Ok(now),
            now => before = now,
        }
    }
    bail!("the app goes on to answer, though nobody asks any more")
}

async fn wrk(entrance: SocketAddr, time: Duration) -> Result<Said> {
    // Whole seconds are all it knows.
    let time = Duration::from_secs(time.as_secs_f64().ceil() as u64);
    let url = format!("http://{entrance}{HTTP_PATH}");
    let (connections, seconds) = (CONNECTIONS.to_string(), format!("{}s", time.as_secs()));
    let arguments = ["-t", "1", "-c", &connections, "-d", &seconds, &url];
    Said::parse(&tool::run("wrk", &arguments, time).await?)
}

impl Said {
    fn parse(text: &str) -> Result<Self> {
        let line =
            text.lines().find(|line| line.contains(" requests in ")).context("no count of requests")?;
        let mut words = line.split_whitespace();
        let requests = words.next().and_then(|word| word.parse().ok()).context("no number of requests")?;
        let bytes = words.nth(3).and_then(bytes).with_context(|| format!("no bytes in {line:?}"))?;
        let after = |label: &str| {
            let rest = text.lines().find_map(|line| line.trim().strip_prefix(label));
            rest.map_or("", str::trim).to_owned()
        };
        let bad_statuses = match after("Non-2xx or 3xx responses:").as_str() {
            "" => 0,
            number => number.parse().context("not a number of answers")?,
        };
        let broken = after("Socket errors:");
        let broken =
            broken.split(|letter: char| !letter.is_ascii_digit()).filter(|number| !number.is_empty());
        let broken = broken.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(Self { requests, bytes, bad_statuses, broken })
    }

    /// Whether all went well, by what the app has counted, too. It has answered what wrk did not wait for, as well.
    fn holds(&self, served: u64) -> Result<()> {
        ensure!(self.requests > 0, "no request was answered");
        ensure!(self.bad_statuses == 0, "{} answers with a bad status", self.bad_statuses);
        ensure!(self.broken == 0, "{} socket errors", self.broken);
        // It is rounded to three digits.
        let least = self.requests as f64 * BODY as f64 * 0.99;
        ensure!(self.bytes > least, "{} answers in {} bytes: some are short", self.requests, self.bytes);
        let most = self.requests + CONNECTIONS as u64;
        ensure!(
            (self.requests..=most).contains(&served),
            "wrk was answered {} times, the app answered {served} times",
            self.requests
        );
        Ok(())
    }
}

/// As wrk writes them: in powers of 1,024.
fn bytes(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "B" => 0,
        "KB" => 1,
        "MB" => 2,
        "GB" => 3,
        "TB" => 4,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * 1024_f64.powi(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Running 5s test @ http://127.0.0.1:18000/bytes/1k
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.23ms  210.00us  12.01ms   91.22%
    Req/Sec    25.30k     1.20k   27.00k    78.00%
  126123 requests in 5.00s, 137.01MB read
Requests/sec:  25221.22
Transfer/sec:     27.40MB
";

    #[test]
    fn good_end_is_read() {
        let said = Said::parse(GOOD).unwrap();
        assert_eq!((said.requests, said.bad_statuses, said.broken), (126_123, 0, 0));
        assert!((said.bytes - 137.01 * 1024.0 * 1024.0).abs() < 1.0);
        said.holds(126_123).unwrap();
        said.holds(126_150).unwrap();
    }

    #[test]
    fn what_went_wrong_is_seen() {
        let bad = GOOD.replace(
            "Requests/sec",
            "  Socket errors: connect 0, read 7, write 0, timeout 1\n  Non-2xx or 3xx responses: 12\nRequests/sec",
        );
        let said = Said::parse(&bad).unwrap();
        assert_eq!((said.bad_statuses, said.broken), (12, 8));
        assert!(said.holds(126_123).is_err());
        let good = Said::parse(GOOD).unwrap();
        for wrong in [
            Said { broken: 1, ..good },
            Said { bad_statuses: 1, ..good },
            Said { bytes: 126_123.0 * 1000.0, ..good },
            Said { requests: 0, ..good },
        ] {
            assert!(wrong.holds(126_123).is_err(), "{wrong:?}");
        }
        assert!(good.holds(126_122).is_err(), "answers from elsewhere");
        assert!(good.holds(127_000).is_err(), "answers that got lost");
        assert!(Said::parse("unable to connect").is_err());
    }
}
