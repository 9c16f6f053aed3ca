//! Reads Prometheus text, as far as the checks need it.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::http;

/// One scrape.
#[derive(Debug, Default)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Scrapes `/metrics` of `address`.
    pub(crate) async fn scrape(address: SocketAddr) -> Result<Self> {
        let answer = http::Client::new(address).get("/metrics").await?;
        ensure!(answer.status == 200, "{address}/metrics answered {}", answer.status);
        Ok(Self(answer.body))
    }

    /// The sum of every series of `name` that has all of `labels`.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.lines(name, labels).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The same for a counter, which is a whole number.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counters count up from 0"
        )]
        let count = self.sum(name, labels).round() as u64;
        count
    }

    /// The lines of every series of `name` that has all of `labels`.
    pub(crate) fn lines<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter(move |line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|(label, value)| has_label(line, label, value))
        })
    }
}

fn has_label(line: &str, label: &str, value: &str) -> bool {
    let wanted = format!("{label}=\"{value}\"");
    line.match_indices(&wanted)
        .any(|(at, _)| line.get(..at).is_some_and(|before| before.ends_with(['{', ','])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let metrics = Metrics(
            "# TYPE signet_denied_total counter\n\
             signet_denied_total{direction=\"inbound\",reason=\"no_rule\"} 2\n\
             signet_denied_total{reason=\"no_rule\",direction=\"outbound\"} 1\n\
             signet_denied_total{direction=\"inbound\",reason=\"no_policy\"} 5\n\
             signet_denied_total_other 100\n\
             signet_control_connected 1\n"
                .to_owned(),
        );
        assert!((metrics.sum("signet_denied_total", &[]) - 8.0).abs() < f64::EPSILON);
        assert!((metrics.sum("signet_denied_total", &[("reason", "no_rule")]) - 3.0).abs() < f64::EPSILON);
        assert!((metrics.sum("signet_denied_total", &[("son", "no_rule")])).abs() < f64::EPSILON);
        assert!((metrics.sum("signet_control_connected", &[]) - 1.0).abs() < f64::EPSILON);
    }
}
