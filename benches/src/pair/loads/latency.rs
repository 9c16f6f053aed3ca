//! 1,000 requests a second, whatever becomes of the ones before: each is timed from when it should have been sent, so
//! that what is late makes those behind it late, too.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::oneshot;

use super::super::bed::{Bed, Environment, Wish};
use super::super::check::Speaks;
use super::super::peers::{Carries, Peer};
use super::super::service::{BODY, HTTP_PATH, pattern};
use super::{Count, P50, P99, P999, Sample};
use crate::numbers::percentile;

const RATE_WANTED: u32 = 1_000;
/// Each on a thread of its own: a timer of tokio's is too coarse.
const CONNECTIONS: u32 = 8;
const DEADLINE: Duration = Duration::from_secs(5);
/// How late the last answer may be: later, and the rate was another one.
const LATENESS: Duration = Duration::from_millis(200);

pub(super) async fn measure(peer: Peer, environment: &Environment) -> Result<Sample> {
    let wish = Wish { routes: &[(Carries::Http1, Speaks::Http)], connections: 1024, resume: true };
    let mut bed = Bed::make(environment, peer, &wish).await?;
    let entrance = bed.entrance()?;
    at_that_rate(entrance, environment.effort.warm_up).await?;
    let count = Count::begin(&bed)?;
    let begun = Instant::now();
    let mut took = at_that_rate(entrance, environment.effort.steady).await?;
    let mut sample = count.end(&bed, took.len() as f64)?;
    let late = begun.elapsed().saturating_sub(environment.effort.steady);
    ensure!(late < LATENESS, "{late:?} behind {RATE_WANTED} requests a second at the end");
    for (name, share) in [(P50, 0.5), (P99, 0.99), (P999, 0.999)] {
        sample.insert(name, percentile(&mut took, share));
    }
    bed.check().await?;
    Ok(sample)
}

/// How long each request took, in microseconds.
async fn at_that_rate(entrance: SocketAddr, time: Duration) -> Result<Vec<f64>> {
    let each = Duration::from_secs(1) * CONNECTIONS / RATE_WANTED;
    let begin = Instant::now() + Duration::from_millis(20);
    let mut callers = Vec::new();
    for number in 0..CONNECTIONS {
        let (tell, told) = oneshot::channel();
        let mut caller = Caller::connect(entrance)?;
        let first = begin + Duration::from_secs(1) * number / RATE_WANTED;
        std::thread::spawn(move || tell.send(caller.call(first, each, begin + time)));
        callers.push(told);
    }
    let mut all = Vec::new();
    for caller in callers {
        all.extend(caller.await.context("a caller is gone")??);
    }
    Ok(all)
}

struct Caller {
    stream: TcpStream,
    request: Vec<u8>,
    body: Vec<u8>,
    buffer: Vec<u8>,
}

impl Caller {
    fn connect(entrance: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&entrance, DEADLINE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let request = format!("GET {HTTP_PATH} HTTP/1.1\r\nhost: {entrance}\r\n\r\n").into_bytes();
        Ok(Self { stream, request, body: pattern(BODY), buffer: vec![0; 16 * 1024] })
    }

    fn call(&mut self, first: Instant, each: Duration, end: Instant) -> Result<Vec<f64>> {
        let (mut due, mut took) = (first, Vec::new());
        while due < end {
            pause_until(due);
            self.exchange()?;
            took.push(due.elapsed().as_secs_f64() * 1e6);
            due += each;
        }
        Ok(took)
    }

    fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.request)?;
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).context("an answer without end")?;
            let count = self.stream.read(room)?;
            ensure!(count > 0, "the connection ended before its time");
            filled += count;
            let answer = self.buffer.get(..filled).unwrap_or_default();
            if let Some(body) = whole(answer)? {
                ensure!(body == self.body, "{} bytes of body are not what the app sends", body.len());
                return Ok(());
            }
        }
    }
}

/// The body of an answer that has come as a whole.
fn whole(answer: &[u8]) -> Result<Option<&[u8]>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(answer)? else { return Ok(None) };
    ensure!(head.code == Some(200), "status {:?}", head.code);
    let body = answer.get(length..).unwrap_or_default();
    let lengths = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let wanted: usize = std::str::from_utf8(lengths.context("no content-length")?.value)?.parse()?;
    ensure!(body.len() <= wanted, "more than the answer");
    Ok((body.len() == wanted).then_some(body))
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, and finer than tokio's timer")]
fn pause_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::super::super::service;
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn requests_are_sent_at_the_rate_and_timed_from_when_they_were_due() {
        let apps = service::start().await.unwrap();
        let took = at_that_rate(apps.http, Duration::from_millis(200)).await.unwrap();
        assert_eq!(took.len(), 200);
        assert!(took.iter().all(|micros| *micros > 0.0));
        // What should have been sent a second ago is late by a second, however quick the answer is.
        let mut caller = Caller::connect(apps.http).unwrap();
        let second = Duration::from_secs(1);
        let begin = Instant::now();
        let first = begin.checked_sub(second).unwrap();
        let took = caller.call(first, Duration::from_millis(100), begin).unwrap();
        assert_eq!(took.len(), 10);
        assert!(took.first().unwrap() > &1e6, "{took:?}");
    }

    #[test]
    fn answers_are_whole_or_refused() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(whole(&head[..20]).unwrap(), None);
        assert_eq!(whole(&[head, &b"ab"[..]].concat()).unwrap(), None);
        assert_eq!(whole(&[head, &b"abc"[..]].concat()).unwrap(), Some(&b"abc"[..]));
        assert!(whole(&[head, &b"abcd"[..]].concat()).is_err());
        assert!(whole(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(whole(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
