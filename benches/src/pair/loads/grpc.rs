//! gRPC calls over HTTP/2, by h2load.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::Speaks;
use super::super::peers::{Carries, Peer};
use super::super::service::{GRPC_METHOD, GRPC_SERVICE, MESSAGE, framed, pattern};
use super::super::tool;
use super::{Count, Sample};

const CONNECTIONS: &str = "8";
/// Calls at once on each.
const STREAMS: &str = "8";
/// To find out how fast it is.
const TRIAL: u64 = 2_000;

/// What h2load says at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    succeeded: u64,
    good_statuses: u64,
    not_succeeded: u64,
    data: u64,
}

pub(super) async fn measure(peer: Peer, environment: &Environment) -> Result<Sample> {
    let wish = Wish { routes: &[(Carries::Http2, Speaks::Grpc)], connections: 1024, resume: true };
    let mut bed = Bed::make(environment, peer, &wish).await?;
    let entrance = bed.entrance()?;
    let message = tempfile::NamedTempFile::new()?;
    std::fs::write(message.path(), framed(&pattern(MESSAGE)))?;
    let message = message.path().to_str().context("a path")?;
    h2load(entrance, message, TRIAL, Duration::ZERO).await?;
    let begun = Instant::now();
    h2load(entrance, message, TRIAL, Duration::ZERO).await?;
    let each = begun.elapsed().as_secs_f64() / TRIAL as f64;
    let calls = ((environment.effort.duration.as_secs_f64() / each) as u64).max(TRIAL);
    let count = Count::begin(&bed)?;
    let said = h2load(entrance, message, calls, environment.effort.duration * 2).await?;
    let sample = count.end(&bed, said.succeeded as f64)?;
    bed.check().await?;
    Ok(sample)
}

async fn h2load(entrance: SocketAddr, message: &str, calls: u64, takes: Duration) -> Result<Said> {
    let url = format!("http://{entrance}/{GRPC_SERVICE}/{GRPC_METHOD}");
    let number = calls.to_string();
    let arguments = [
        "-t",
        "1",
        "-c",
        CONNECTIONS,
        "-m",
        STREAMS,
        "-n",
        &number,
        "-d",
        message,
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        &url,
    ];
    let said = Said::parse(&tool::run("h2load", &arguments, takes).await?)?;
    said.holds(calls)?;
    Ok(said)
}

impl Said {
    fn parse(text: &str) -> Result<Self> {
        let numbers = |label: &str| -> Result<Vec<(u64, String)>> {
            let line = text.lines().find_map(|line| line.strip_prefix(label));
            let line = line.with_context(|| format!("no {label:?} in what h2load said"))?;
            let part = |part: &str| -> Option<(u64, String)> {
                let (number, name) = part.trim().split_once(' ')?;
                Some((number.parse().ok()?, name.to_owned()))
            };
            Ok(line.split(',').filter_map(part).collect())
        };
        let of = |all: &[(u64, String)], name: &str| -> Result<u64> {
            let found = all.iter().find(|(_, of)| of == name).map(|(number, _)| *number);
            found.with_context(|| format!("no number of {name}"))
        };
        let (requests, statuses) = (numbers("requests:")?, numbers("status codes:")?);
        let not_succeeded = of(&requests, "failed")? + of(&requests, "errored")? + of(&requests, "timeout")?;
        // As in `4.15MB (4354000) total, 12.51KB (12810) headers (space savings 92.10%), 2.54MB (2660000) data`.
        let traffic = text.lines().find_map(|line| line.strip_prefix("traffic:"));
        let data =
            traffic.and_then(|line| line.trim().strip_suffix(") data")?.rsplit_once('(')?.1.parse().ok());
        Ok(Self {
            succeeded: of(&requests, "succeeded")?,
            good_statuses: of(&statuses, "2xx")?,
            not_succeeded,
            data: data.context("no bytes of data in what h2load said")?,
        })
    }

    /// Every call was answered with a whole message; an error of gRPC comes without.
    fn holds(&self, calls: u64) -> Result<()> {
        ensure!(
            self.succeeded == calls && self.good_statuses == calls && self.not_succeeded == 0,
            "of {calls} calls {} succeeded, {} with a good status, {} failed",
            self.succeeded,
            self.good_statuses,
            self.not_succeeded
        );
        let expected = calls * framed(&[0; MESSAGE]).len() as u64;
        ensure!(self.data == expected, "{} bytes of messages came, {expected} should have", self.data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "finished in 104.31ms, 19174.11 req/s, 3.70MB/s
requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 395.43KB (404918) total, 32.35KB (33126) headers (space savings 85.28%), 259.77KB (266000) data
                     min         max         mean         sd        +/- sd
";

    #[test]
    fn good_end_is_read() {
        let said = Said::parse(GOOD).unwrap();
        assert_eq!(
            said,
            Said {
                succeeded: 2000,
                good_statuses: 2000,
                not_succeeded: 0,
                data: 2000 * (MESSAGE as u64 + 5)
            }
        );
        said.holds(2000).unwrap();
    }

    #[test]
    fn what_went_wrong_is_seen() {
        let good = Said::parse(GOOD).unwrap();
        let failed = GOOD.replace("2000 succeeded, 0 failed", "1999 succeeded, 1 failed");
        assert!(Said::parse(&failed).unwrap().holds(2000).is_err());
        let refused = GOOD.replace("2000 2xx, 0 3xx, 0 4xx", "1000 2xx, 0 3xx, 1000 4xx");
        assert!(Said::parse(&refused).unwrap().holds(2000).is_err());
        assert!(Said { data: good.data - 133, ..good }.holds(2000).is_err(), "a call without a message");
        assert!(good.holds(2001).is_err());
        assert!(Said::parse("nothing").is_err());
    }
}
