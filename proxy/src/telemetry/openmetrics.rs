//! The metrics as OpenMetrics, for scrapers that ask for it: as it is the form that knows exemplars, an example of
//! each range of the latency histogram tells its trace. The library renders Prometheus' own form only, which is
//! turned into the other one here.

use std::fmt::Write;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::Direction;

/// The family that has exemplars.
const FAMILY: &str = "signet_request_duration_seconds_bucket";
/// More ranges than there are.
const MOST_RANGES: usize = 32;

/// The newest traced request of each range, by direction.
#[derive(Debug, Default)]
pub struct Exemplars {
    inbound: Mutex<Vec<Exemplar>>,
    outbound: Mutex<Vec<Exemplar>>,
}

/// One traced request.
#[derive(Debug, Clone, Copy)]
struct Exemplar {
    /// The upper bound of its range.
    bound: f64,
    trace: u128,
    seconds: f64,
    at: SystemTime,
}

impl Exemplars {
    /// With nothing in it.
    #[must_use]
    pub const fn new() -> Self {
        Self { inbound: Mutex::new(Vec::new()), outbound: Mutex::new(Vec::new()) }
    }

    /// Remembers a request that took that long, of the range that ends at the first of `bounds` above.
    pub(super) fn keep(&self, direction: Direction, bounds: &[f64], seconds: f64, trace: u128) {
        let bound = bounds.iter().copied().find(|bound| seconds <= *bound).unwrap_or(f64::INFINITY);
        let newest = Exemplar { bound, trace, seconds, at: signet_proto::clock::now() };
        let mut kept = self.of(direction).lock();
        if let Some(older) = kept.iter_mut().find(|kept| kept.bound.total_cmp(&bound).is_eq()) {
            *older = newest;
        } else if kept.len() < MOST_RANGES {
            kept.push(newest);
        }
    }

    fn of(&self, direction: Direction) -> &Mutex<Vec<Exemplar>> {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// What follows a line of the histogram.
    fn after(&self, line: &str) -> Option<String> {
        let labels = line.strip_prefix(FAMILY)?;
        let direction = match labels {
            labels if labels.contains("direction=\"inbound\"") => Direction::Inbound,
            _ => Direction::Outbound,
        };
        let (_, bound) = labels.split_once("le=\"")?;
        let bound: f64 = bound.split_once('"')?.0.parse().ok()?;
        let kept = self.of(direction).lock();
        let Exemplar { trace, seconds, at, .. } =
            kept.iter().find(|kept| kept.bound.total_cmp(&bound).is_eq())?;
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Some(format!(" # {{trace_id=\"{trace:032x}\"}} {seconds} {at:.3}"))
    }
}

/// Whether a scraper's `Accept` prefers OpenMetrics, or at least takes it.
#[must_use]
pub fn is_wanted(accept: &str) -> bool {
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next() == Some("application/openmetrics-text");
        named && !parts.any(|parameter| parameter.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0)))
    })
}

/// The form that this is in.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `text`, in Prometheus' form, as OpenMetrics with exemplars: a counter is called without its `_total` where it is
/// described, nothing is empty, and the end is marked.
#[must_use]
pub fn from_prometheus(text: &str, exemplars: &Exemplars) -> String {
    let mut open = String::with_capacity(text.len() + 4096);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let described = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        match described.and_then(|rest| rest.split_once(' ')) {
            Some((name, rest)) => {
                let (keyword, _) = line.split_at("# HELP ".len());
                let _ = writeln!(open, "{keyword}{} {rest}", name.strip_suffix("_total").unwrap_or(name));
            }
            None => {
                let _ = writeln!(open, "{line}{}", exemplars.after(line).unwrap_or_default());
            }
        }
    }
    open.push_str("# EOF\n");
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_tell_their_newest_trace_and_only_they() {
        let exemplars = Exemplars::new();
        let bounds = [0.005, 0.01];
        exemplars.keep(Direction::Inbound, &bounds, 0.001, 1);
        exemplars.keep(Direction::Inbound, &bounds, 0.002, 0xabc);
        exemplars.keep(Direction::Outbound, &bounds, 3.0, 7);
        let text = "# HELP signet_denied_total Denied\n# TYPE signet_denied_total counter\nsignet_denied_total{} 1\n\n\
                    # TYPE signet_request_duration_seconds histogram\n\
                    signet_request_duration_seconds_bucket{direction=\"inbound\",le=\"0.005\"} 2\n\
                    signet_request_duration_seconds_bucket{direction=\"inbound\",le=\"0.01\"} 2\n\
                    signet_request_duration_seconds_bucket{direction=\"outbound\",le=\"+Inf\"} 1\n\
                    signet_request_duration_seconds_sum{direction=\"inbound\"} 0.003\n";
        let open = from_prometheus(text, &exemplars);
        let lines: Vec<_> = open.lines().collect();
        assert_eq!(
            lines[..3],
            ["# HELP signet_denied Denied", "# TYPE signet_denied counter", "signet_denied_total{} 1"]
        );
        assert!(
            lines[4].contains("} 2 # {trace_id=\"00000000000000000000000000000abc\"} 0.002 "),
            "{}",
            lines[4]
        );
        assert!(lines[5].ends_with("} 2"), "{}", lines[5]);
        assert!(lines[6].contains(" 1 # {trace_id=\"00000000000000000000000000000007\"} 3 "), "{}", lines[6]);
        assert!(lines[7].ends_with(" 0.003") && open.ends_with("\n# EOF\n"));
    }

    #[test]
    fn only_who_asks_gets_it() {
        assert!(is_wanted("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4"));
        for other in ["", "*/*", "text/plain", "application/openmetrics-text;q=0"] {
            assert!(!is_wanted(other), "{other}");
        }
    }
}
