//! A report, read. Whoever sends one is attested, but may be anybody's by now: everything has a bound, and a report of
//! which a part is wrong is refused whole.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use signet_proto::spiffe::SpiffeId;
use signet_proto::v1;

use super::edge::{Cause, Increment, Link, Refused, Spoken};
use super::outsider::{Outsider, Way};
use crate::time;

const MOST_EDGES: usize = 256;
const MOST_CERTIFICATES: usize = 256;
const MOST_CAUSES: usize = 8;
/// Names of documents and rules are of 63 bytes, reasons are words.
const LONGEST_WORD: usize = 63;
/// X.509 has serials of at most 20 bytes.
const LONGEST_SERIAL: usize = 20;
/// More than any count of one report can be.
const LARGEST: u64 = 1 << 50;
/// What was seen before is told as seen then: a proxy may have been cut off, but not for ever.
const OLDEST: Duration = Duration::from_secs(30 * 86_400);

/// What revocation and inventory know a certificate by: SHA-256 of the issuer's name, and the serial.
pub type CertificateName = ([u8; 32], Vec<u8>);

/// What one proxy saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sightings {
    /// Its process.
    pub run: [u8; 16],
    /// Counts its reports.
    pub number: u64,
    /// What happened at its edges.
    pub increments: Vec<Increment>,
    /// Addresses without identity at the other end.
    pub outsiders: Vec<Outsider>,
    /// Certificates in use, and when last.
    pub certificates: Vec<(CertificateName, SystemTime)>,
    /// Connections and edges that could not be counted.
    pub overflow: u64,
}

/// What is wrong with a report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SightingsError {
    field: &'static str,
    message: String,
}

fn wrong(field: &'static str, message: impl Display) -> SightingsError {
    SightingsError { field, message: message.to_string() }
}

impl Sightings {
    /// The report of a proxy of the identity `reporter`, which arrived at `arrived`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(
        report: v1::ReportSightingsRequest,
        reporter: &SpiffeId,
        arrived: SystemTime,
    ) -> Result<Self, SightingsError> {
        let v1::ReportSightingsRequest {
            run,
            number,
            callers,
            callees,
            certificates,
            overflow,
            plaintext,
            passed_through,
        } = report;
        let ends = callers.len() + callees.len() + plaintext.len() + passed_through.len();
        if ends > MOST_EDGES || certificates.len() > MOST_CERTIFICATES {
            let most = format!("expected at most {MOST_EDGES} peers and {MOST_CERTIFICATES} certificates");
            return Err(wrong("callers, callees, certificates", most));
        }
        if number == 0 || i64::try_from(number).is_err() {
            return Err(wrong("number", "expected one from 1 on"));
        }
        let clock = Clock { arrived };
        let callers = callers.into_iter().map(|caller| clock.caller(caller, reporter));
        let callees = callees.into_iter().map(|callee| clock.callee(callee, reporter));
        let mut increments = callers.chain(callees).collect::<Result<Vec<_>, _>>()?;
        let plaintext = plaintext.iter().map(|seen| clock.outsider(seen, Way::Plaintext, reporter));
        let passed = passed_through.iter().map(|seen| clock.outsider(seen, Way::Passthrough, reporter));
        let outsiders = plaintext.chain(passed).collect::<Result<_, _>>()?;
        let read = increments.len();
        increments.retain(|increment| increment.link.fits());
        let overflow = count("overflow", overflow)? + (read - increments.len()) as u64;
        Ok(Self {
            run: run.try_into().map_err(|_| wrong("run", "expected 16 bytes"))?,
            number,
            increments,
            outsiders,
            certificates: certificates
                .into_iter()
                .map(|seen| clock.certificate(seen))
                .collect::<Result<_, _>>()?,
            overflow,
        })
    }
}

/// Proxies' clocks may be wrong: nothing was seen in the future, or long ago.
struct Clock {
    arrived: SystemTime,
}

impl Clock {
    fn caller(&self, caller: v1::Caller, reporter: &SpiffeId) -> Result<Increment, SightingsError> {
        let (peer, port) = end("callers", &caller.peer, caller.port)?;
        if caller.denials.len() > MOST_CAUSES {
            return Err(wrong("denials", format!("expected at most {MOST_CAUSES}")));
        }
        let denials = caller.denials.into_iter().map(|denial| {
            let v1::Denial { policy, rule, reason, count, last_at } = denial;
            self.cause(Refused::Denied, [policy, rule, reason], count, last_at.as_ref())
        });
        let (first_at, last_at) = (self.time(caller.first_at.as_ref()), self.time(caller.last_at.as_ref()));
        Ok(Increment {
            link: Link { destination: reporter.clone(), source: peer, port },
            protocol: Spoken::from_number(caller.protocol),
            first_at: first_at.min(last_at),
            last_at,
            connections: count("connections", caller.connections)?,
            requests: count("requests", caller.requests)?,
            bytes_in: count("bytes_in", caller.bytes_in)?,
            bytes_out: count("bytes_out", caller.bytes_out)?,
            causes: denials.collect::<Result<_, _>>()?,
        })
    }

    fn callee(&self, callee: v1::Callee, reporter: &SpiffeId) -> Result<Increment, SightingsError> {
        let (peer, port) = end("callees", &callee.peer, callee.port)?;
        if callee.failures.is_empty() || callee.failures.len() > MOST_CAUSES {
            return Err(wrong("failures", format!("expected 1 to {MOST_CAUSES}")));
        }
        let failures = callee.failures.into_iter().map(|failure| {
            let words = [String::new(), String::new(), failure.reason];
            self.cause(Refused::Unreached, words, failure.count, failure.last_at.as_ref())
        });
        let causes = failures.collect::<Result<Vec<_>, _>>()?;
        let last_at = causes.iter().map(|cause| time::from_millis(cause.last_at_ms)).max();
        let last_at = last_at.unwrap_or(self.arrived);
        Ok(Increment {
            link: Link { destination: peer, source: reporter.clone(), port },
            protocol: None,
            first_at: self.time(callee.first_at.as_ref()).min(last_at),
            last_at,
            connections: 0,
            requests: 0,
            bytes_in: 0,
            bytes_out: 0,
            causes,
        })
    }

    fn outsider(
        &self,
        seen: &v1::Outsider,
        way: Way,
        reporter: &SpiffeId,
    ) -> Result<Outsider, SightingsError> {
        const FIELD: &str = "plaintext, passed_through";
        let address: IpAddr = seen.address.parse().map_err(|_| wrong(FIELD, "expected an IP address"))?;
        let port = u16::try_from(seen.port).map_err(|_| wrong(FIELD, "expected a port of at most 65535"))?;
        let last_at = self.time(seen.last_at.as_ref());
        Ok(Outsider {
            workload: reporter.clone(),
            way,
            address,
            port,
            protocol: Spoken::from_number(seen.protocol),
            first_at: self.time(seen.first_at.as_ref()).min(last_at),
            last_at,
            connections: count("connections", seen.connections)?,
            requests: count("requests", seen.requests)?,
            bytes_in: count("bytes_in", seen.bytes_in)?,
            bytes_out: count("bytes_out", seen.bytes_out)?,
            denied: count("denied", seen.denied)?,
        })
    }

    fn cause(
        &self,
        refused: Refused,
        [policy, rule, reason]: [String; 3],
        times: u64,
        last_at: Option<&Timestamp>,
    ) -> Result<Cause, SightingsError> {
        let fits = |text: &String| {
            text.len() <= LONGEST_WORD && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
        };
        if reason.is_empty() || ![&policy, &rule, &reason].into_iter().all(fits) {
            return Err(wrong(
                "denials, failures",
                "expected names and reasons of at most 63 plain characters",
            ));
        }
        let count = count("count", times)?;
        Ok(Cause { refused, policy, rule, reason, count, last_at_ms: time::to_millis(self.time(last_at)) })
    }

    fn certificate(
        &self,
        seen: v1::SeenCertificate,
    ) -> Result<(CertificateName, SystemTime), SightingsError> {
        let v1::SeenCertificate { issuer_sha256, serial, last_at } = seen;
        let issuer = issuer_sha256.try_into().map_err(|_| wrong("issuer_sha256", "expected 32 bytes"))?;
        if serial.is_empty() || serial.len() > LONGEST_SERIAL {
            return Err(wrong("serial", format!("expected 1 to {LONGEST_SERIAL} bytes")));
        }
        Ok(((issuer, serial), self.time(last_at.as_ref())))
    }

    fn time(&self, at: Option<&Timestamp>) -> SystemTime {
        let oldest = self.arrived.checked_sub(OLDEST).unwrap_or(SystemTime::UNIX_EPOCH);
        at.map_or(self.arrived, |at| time::from_proto(Some(at))).clamp(oldest, self.arrived)
    }
}

fn end(field: &'static str, peer: &str, port: u32) -> Result<(SpiffeId, u16), SightingsError> {
    let peer = peer.parse().map_err(|error| wrong(field, error))?;
    let port = u16::try_from(port).map_err(|_| wrong(field, "expected a port of at most 65535"))?;
    Ok((peer, port))
}

fn count(field: &'static str, count: u64) -> Result<u64, SightingsError> {
    if count <= LARGEST { Ok(count) } else { Err(wrong(field, format!("expected at most {LARGEST}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        format!("spiffe://td/{name}").parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        time::from_millis(1_800_000_000_000) + Duration::from_secs(seconds)
    }

    fn report() -> v1::ReportSightingsRequest {
        v1::ReportSightingsRequest {
            run: vec![1; 16],
            number: 1,
            callers: vec![v1::Caller {
                peer: id("web").to_string(),
                port: 80,
                protocol: v1::Protocol::Http2.into(),
                first_at: Some(time::to_proto(at(0))),
                last_at: Some(time::to_proto(at(9))),
                connections: 1,
                requests: 2,
                bytes_in: 3,
                bytes_out: 4,
                denials: vec![v1::Denial {
                    policy: "orders".into(),
                    rule: "no-batch".into(),
                    reason: "denied_by_rule".into(),
                    count: 5,
                    last_at: Some(time::to_proto(at(8))),
                }],
            }],
            callees: vec![v1::Callee {
                peer: id("db").to_string(),
                port: 0,
                first_at: None,
                failures: vec![v1::Failure { reason: "connect".into(), count: 6, last_at: None }],
            }],
            certificates: vec![v1::SeenCertificate {
                issuer_sha256: vec![2; 32],
                serial: vec![3; 16],
                last_at: Some(time::to_proto(at(7))),
            }],
            overflow: 1,
            plaintext: vec![v1::Outsider {
                address: "10.0.0.9".into(),
                port: 80,
                protocol: v1::Protocol::Http1.into(),
                first_at: Some(time::to_proto(at(1))),
                last_at: Some(time::to_proto(at(2))),
                connections: 7,
                ..v1::Outsider::default()
            }],
            passed_through: vec![v1::Outsider {
                address: "::1".into(),
                port: 443,
                ..v1::Outsider::default()
            }],
        }
    }

    #[test]
    fn whoever_reports_is_one_end_of_all_that_it_reports() {
        let read = Sightings::parse(report(), &id("orders"), at(10)).unwrap();
        let links: Vec<_> = read.increments.into_iter().map(|increment| increment.link).collect();
        assert_eq!(
            links,
            [
                Link { destination: id("orders"), source: id("web"), port: 80 },
                Link { destination: id("db"), source: id("orders"), port: 0 },
            ]
        );
        assert_eq!(read.certificates, [(([2; 32], vec![3; 16]), at(7))]);
        let seen: Vec<_> = read
            .outsiders
            .iter()
            .map(|seen| (seen.workload.clone(), seen.way, seen.address.to_string(), seen.port, seen.last_at))
            .collect();
        assert_eq!(
            seen,
            [
                (id("orders"), Way::Plaintext, "10.0.0.9".into(), 80, at(2)),
                (id("orders"), Way::Passthrough, "::1".into(), 443, at(10)),
            ]
        );
    }

    #[test]
    fn nothing_was_seen_in_the_future_or_long_ago() {
        let mut odd = report();
        odd.callers[0].first_at = Some(time::to_proto(at(99)));
        odd.callers[0].last_at = Some(time::to_proto(at(99)));
        odd.certificates[0].last_at = Some(time::to_proto(SystemTime::UNIX_EPOCH));
        let read = Sightings::parse(odd, &id("orders"), at(10)).unwrap();
        assert_eq!((read.increments[0].first_at, read.increments[0].last_at), (at(10), at(10)));
        assert_eq!(read.certificates[0].1, at(10) - OLDEST);
    }

    #[test]
    fn report_that_is_wrong_somewhere_is_refused_whole() {
        type Mutation = fn(&mut v1::ReportSightingsRequest);
        let mutations: [Mutation; 22] = [
            |report| report.plaintext[0].address = "web.example".into(),
            |report| report.plaintext[0].port = 65_536,
            |report| report.passed_through[0].denied = u64::MAX,
            |report| report.plaintext = vec![report.plaintext[0].clone(); MOST_EDGES],
            |report| report.run = vec![1; 15],
            |report| report.number = 0,
            |report| report.number = u64::MAX,
            |report| report.callers = vec![report.callers[0].clone(); MOST_EDGES],
            |report| report.certificates = vec![report.certificates[0].clone(); MOST_CERTIFICATES + 1],
            |report| report.callers[0].peer = "web".into(),
            |report| report.callers[0].peer = format!("spiffe://td/{}", "a".repeat(2048)),
            |report| report.callers[0].port = 65_536,
            |report| report.callers[0].bytes_in = LARGEST + 1,
            |report| report.callers[0].denials = vec![report.callers[0].denials[0].clone(); 9],
            |report| report.callers[0].denials[0].policy = "a".repeat(64),
            |report| report.callers[0].denials[0].rule = "\u{1b}[2J".into(),
            |report| report.callers[0].denials[0].reason = String::new(),
            |report| report.callees[0].failures.clear(),
            |report| report.callees[0].failures[0].count = u64::MAX,
            |report| report.callees[0].failures[0].reason = "no endpoint".into(),
            |report| report.certificates[0].serial = vec![1; 21],
            |report| report.certificates[0].issuer_sha256 = vec![1; 31],
        ];
        Sightings::parse(report(), &id("orders"), at(10)).unwrap();
        for (number, mutation) in mutations.into_iter().enumerate() {
            let mut odd = report();
            mutation(&mut odd);
            assert!(Sightings::parse(odd, &id("orders"), at(10)).is_err(), "mutation {number}");
        }
    }
}
