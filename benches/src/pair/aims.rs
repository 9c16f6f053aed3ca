//! What Signet has to be, as ratios to others in the same run.

use serde::Serialize;

use super::loads::{BYTES_EACH, CPU_S_PER_GB, CPU_US, Load, MEMORY, P50};
use super::peers::Peer;
use super::report::Report;

/// One aim.
struct Aim {
    what: &'static str,
    /// Of Signet.
    load: Load,
    figure: &'static str,
    factor: f64,
    /// Of the others, which may be another load.
    reference: Load,
    /// The best of these.
    others: &'static [Peer],
    /// What is left when the figure without a proxy is taken off.
    added: bool,
}

/// How an aim was met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Outcome {
    pub(super) what: &'static str,
    pub(super) load: &'static str,
    pub(super) figure: &'static str,
    pub(super) signet: f64,
    /// The best of the others that the aim names, and who that is.
    pub(super) reference: f64,
    pub(super) of: &'static str,
    pub(super) ratio: f64,
    pub(super) aim: f64,
    pub(super) met: bool,
}

const L7: &[Peer] = &[Peer::Envoy, Peer::Haproxy, Peer::Nginx];

const AIMS: &[Aim] = &[
    aim("HTTP/1.1 request", Load::Http1, CPU_US, 0.80, L7),
    Aim {
        reference: Load::Http1,
        ..aim("opaque keep-alive request", Load::Opaque, CPU_US, 0.55, &[Peer::Haproxy])
    },
    aim("gRPC call", Load::Grpc, CPU_US, 0.50, &[Peer::Envoy]),
    aim("new connection", Load::Connect, CPU_US, 0.16, &[Peer::Envoy]),
    aim("new connection, cold", Load::ConnectCold, CPU_US, 0.65, &[Peer::Envoy]),
    aim("bulk, to the app", Load::BulkToApp, CPU_S_PER_GB, 0.65, &[Peer::Envoy]),
    aim("bulk, from the app", Load::BulkFromApp, CPU_S_PER_GB, 0.65, &[Peer::Envoy]),
    aim("idle connection", Load::IdleMany, BYTES_EACH, 0.20, &[Peer::Envoy]),
    aim("pair at rest", Load::Rest, MEMORY, 0.75, &[Peer::Nginx]),
    Aim { added: true, ..aim("p50 added at 1,000 requests/s", Load::Latency, P50, 0.60, &[Peer::Nginx]) },
];

const fn aim(
    what: &'static str,
    load: Load,
    figure: &'static str,
    factor: f64,
    others: &'static [Peer],
) -> Aim {
    Aim { what, load, figure, factor, reference: load, others, added: false }
}

/// Those whose figures are in `report`.
pub(super) fn outcomes(report: &Report) -> Vec<Outcome> {
    AIMS.iter().filter_map(|aim| aim.outcome(report)).collect()
}

impl Aim {
    fn outcome(&self, report: &Report) -> Option<Outcome> {
        let of = |load: Load, peer: Peer| -> Option<f64> {
            let figure = report.median(load, peer, self.figure)?;
            let without = if self.added { report.median(load, Peer::None, self.figure)? } else { 0.0 };
            Some(figure - without)
        };
        let signet = of(self.load, Peer::Signet)?;
        // All of them have to be there: the best of those that happened to run is no aim.
        let others: Option<Vec<(Peer, f64)>> =
            self.others.iter().map(|&peer| Some((peer, of(self.reference, peer)?))).collect();
        let (peer, reference) = others?.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        let ratio = signet / reference;
        Some(Outcome {
            what: self.what,
            load: self.load.name(),
            figure: self.figure,
            signet,
            reference,
            of: peer.name(),
            ratio,
            aim: self.factor,
            met: reference > 0.0 && ratio <= self.factor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::loads::Sample;
    use super::*;

    fn report(figures: &[(Load, Peer, &'static str, f64)]) -> Report {
        let mut report = Report::empty();
        for (load, peer, figure, value) in figures {
            report.add(*load, *peer, Ok(Sample::from([(*figure, *value)])));
        }
        report
    }

    #[test]
    fn aim_is_a_ratio_to_the_best_of_those_it_names() {
        let mut figures = vec![
            (Load::Http1, Peer::Signet, CPU_US, 36.0),
            (Load::Http1, Peer::Envoy, CPU_US, 108.0),
            (Load::Http1, Peer::Haproxy, CPU_US, 50.0),
            (Load::Http1, Peer::Stunnel, CPU_US, 1.0),
        ];
        assert_eq!(outcomes(&report(&figures)), [], "nginx is not there");
        figures.push((Load::Http1, Peer::Nginx, CPU_US, 45.0));
        let [outcome] = &outcomes(&report(&figures))[..] else { panic!("one aim") };
        assert_eq!((outcome.of, outcome.met), ("nginx", true));
        assert!((outcome.ratio - 0.8).abs() < 1e-9);
    }

    #[test]
    fn what_is_there_without_a_proxy_is_not_added_by_one() {
        let figures = [
            (Load::Latency, Peer::None, P50, 200.0),
            (Load::Latency, Peer::Signet, P50, 650.0),
            (Load::Latency, Peer::Nginx, P50, 900.0),
        ];
        let [outcome] = &outcomes(&report(&figures))[..] else { panic!("one aim") };
        assert!((outcome.ratio - 450.0 / 700.0).abs() < 1e-9);
        assert!(!outcome.met);
        assert_eq!(outcomes(&report(&figures[1..])), []);
    }
}
