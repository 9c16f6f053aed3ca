//! Counts as people say them.

/// `1 proxy`, `2 proxies`.
#[must_use]
pub fn many(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("{count} {one}") } else { format!("{count} {more}") }
}
