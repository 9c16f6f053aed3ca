//! Reading what load generators say, and printing what was measured.

use std::time::Duration;

use crate::client::Finished;

/// Prints a measured figure; seen with `--nocapture`, and kept by the test harness on failure.
pub fn measured(what: &str, value: impl std::fmt::Display) {
    println!("measured: {what}: {value}");
}

/// Percentiles of a set of durations, as milliseconds for people.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn percentiles(mut durations: Vec<Duration>) -> String {
    durations.sort_unstable();
    let at = |percent: usize| durations[(durations.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms (n={})", at(50), at(99), at(100), durations.len())
}

/// Requests that `wrk` completed.
///
/// # Panics
/// When it failed, when one request failed (a socket error, or a status other than 2xx and 3xx), or when
/// there was none at all.
#[must_use]
pub fn wrk_without_failures(finished: Finished) -> u64 {
    let finished = finished.succeeded();
    let text = &finished.stdout;
    assert!(!text.contains("Socket errors"), "wrk saw socket errors:\n{text}");
    assert!(!text.contains("Non-2xx"), "wrk saw failures:\n{text}");
    let requests = number_before(text, " requests in ");
    assert!(requests > 0, "wrk measured nothing:\n{text}");
    requests
}

/// Requests that `hey` completed, all of them with status 200.
///
/// # Panics
/// When there was an error, another status, or no request at all.
#[must_use]
pub fn hey_without_failures(finished: Finished) -> u64 {
    let finished = finished.succeeded();
    let text = &finished.stdout;
    assert!(!text.contains("Error distribution"), "hey saw errors:\n{text}");
    let statuses: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with('[')).collect();
    assert!(matches!(statuses.as_slice(), [only] if only.starts_with("[200]")), "hey saw failures:\n{text}");
    let requests = number_before(text, " responses");
    assert!(requests > 0, "hey measured nothing:\n{text}");
    requests
}

/// Transactions that `pgbench` completed.
///
/// # Panics
/// When it failed, when a client was aborted, when one transaction failed, or when there was none.
#[must_use]
pub fn pgbench_without_failures(finished: Finished) -> u64 {
    let finished = finished.succeeded();
    let all = finished.all();
    assert!(all.contains("number of failed transactions: 0 (0.000%)"), "pgbench saw failures:\n{all}");
    assert!(!all.contains("aborted"), "pgbench lost a client:\n{all}");
    let transactions = number_after(&all, "number of transactions actually processed: ");
    assert!(transactions > 0, "pgbench measured nothing:\n{all}");
    transactions
}

fn number_before(text: &str, marker: &str) -> u64 {
    let Some(end) = text.find(marker) else { return 0 };
    text[..end]
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

fn number_after(text: &str, marker: &str) -> u64 {
    let Some((_, rest)) = text.split_once(marker) else { return 0 };
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_beside_their_markers() {
        assert_eq!(number_before("  123456 requests in 3.00s, 1MB read", " requests in "), 123_456);
        assert_eq!(number_before("  [200]\t42 responses", " responses"), 42);
        assert_eq!(number_after("number of transactions actually processed: 71/71", "processed: "), 71);
        assert_eq!(number_after("nothing", "processed: "), 0);
    }

    #[test]
    fn percentiles_are_taken_from_the_sorted_durations() {
        let text = percentiles((1..=101).rev().map(Duration::from_millis).collect());
        assert_eq!(text, "p50 51.0 ms, p99 100.0 ms, max 101.0 ms (n=101)");
    }
}
