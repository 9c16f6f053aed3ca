//! One scrape of control's `/metrics`, as far as the measures need it, and the bare HTTP it takes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(10);

/// The text of one scrape.
#[derive(Debug)]
pub(crate) struct Scrape(String);

impl Scrape {
    pub(crate) async fn of(http: SocketAddr) -> Result<Self> {
        let (status, body) = get(http, "/metrics").await?;
        ensure!(status == 200, "/metrics answered {status}");
        Ok(Self(body))
    }

    /// The sum of all samples of `name`, whatever their labels.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let samples = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        samples.sum()
    }
}

/// `GET path`: status and body.
pub(crate) async fn get(http: SocketAddr, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(http).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: control\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer =
        timeout(DEADLINE, exchange).await.with_context(|| format!("no answer from {http}{path}"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_are_summed() {
        let scrape = Scrape("# TYPE a counter\na 1\na{x=\"y z\"} 2.5\na_sum 9\n".into());
        assert!((scrape.sum("a") - 3.5).abs() < f64::EPSILON);
        assert!(scrape.sum("b").abs() < f64::EPSILON);
    }
}
