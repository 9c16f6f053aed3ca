//! Scraping `/metrics` and reading the Prometheus text format.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::place::Place;

/// The samples of one scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Scrapes `http://address/metrics` from `place`.
///
/// # Panics
/// When it does not answer 200, or a line is not in the format.
pub async fn scrape(place: Place<'_>, address: SocketAddr) -> Metrics {
    let reply = place.get(address, "/metrics").await.expect("/metrics answers");
    assert_eq!(reply.status, 200, "/metrics: {}", reply.body);
    Metrics::parse(&reply.body)
}

impl Metrics {
    fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|line| parse_sample(line).unwrap_or_else(|| panic!("not a sample: {line}")))
            .collect();
        Self { samples }
    }

    /// The sum of the samples of `name` that have all of `labels`; 0 when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name, labels).map(|sample| sample.value).sum()
    }

    /// As [`Metrics::sum`], for counters.
    #[must_use]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters are whole and positive"
        )]
        let count = self.sum(name, labels).round() as u64;
        count
    }

    /// Whether there is a sample of that name at all.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.of(name, &[]).next().is_some()
    }

    /// The different values of `label` among the samples of `name`.
    #[must_use]
    pub fn values(&self, name: &str, label: &str) -> Vec<String> {
        let mut values: Vec<String> =
            self.of(name, &[]).filter_map(|sample| sample.labels.get(label).cloned()).collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    fn of<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        })
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote with its escapes undone, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_label() {
        let metrics = Metrics::parse(
            "# HELP a what\n# TYPE a counter\na{x=\"1\",y=\"q\\\"}, z\"} 2\na{x=\"2\"} 3\n\nb 1.5 1700000000\n",
        );
        assert_eq!(metrics.count("a", &[]), 5);
        assert_eq!(metrics.count("a", &[("x", "1"), ("y", "q\"}, z")]), 2);
        assert_eq!(metrics.count("a", &[("x", "3")]), 0);
        assert!((metrics.sum("b", &[]) - 1.5).abs() < f64::EPSILON);
        assert_eq!(metrics.values("a", "x"), ["1", "2"]);
        assert!(!metrics.has("c"));
    }
}
