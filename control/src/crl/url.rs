//! Where others find the lists: certificates name it, so it lasts as long as they do.

use std::fmt;
use std::str::FromStr;

use axum::http::Uri;
use serde::Deserialize;

const LONGEST: usize = 512;

/// The address below which the lists of all authorities are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListsUrl(String);

/// Why it cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a URL without query such as `http://pki.example/crl`, at most {LONGEST} characters")]
pub struct ListsUrlError;

impl ListsUrl {
    /// Where the complete list of an authority is.
    #[must_use]
    pub fn complete(&self, authority: &str) -> String {
        format!("{}/{authority}.crl", self.0)
    }

    /// Where its delta is.
    #[must_use]
    pub fn delta(&self, authority: &str) -> String {
        format!("{}/{authority}-delta.crl", self.0)
    }
}

impl FromStr for ListsUrl {
    type Err = ListsUrlError;

    fn from_str(text: &str) -> Result<Self, ListsUrlError> {
        let uri: Uri = text.parse().map_err(|_| ListsUrlError)?;
        let named = uri.authority().is_some_and(|authority| !authority.host().is_empty());
        let plain = uri.query().is_none() && !text.contains(['#', '@']) && text.is_ascii();
        if !matches!(uri.scheme_str(), Some("http" | "https")) || !named || !plain || text.len() > LONGEST {
            return Err(ListsUrlError);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl TryFrom<String> for ListsUrl {
    type Error = ListsUrlError;

    fn try_from(text: String) -> Result<Self, ListsUrlError> {
        text.parse()
    }
}

impl fmt::Display for ListsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_below_the_url() {
        let url: ListsUrl = "http://pki.example:8080/crl/".parse().unwrap();
        assert_eq!(url.complete("ab"), "http://pki.example:8080/crl/ab.crl");
        assert_eq!(url.delta("ab"), "http://pki.example:8080/crl/ab-delta.crl");
        for wrong in [
            "pki.example/crl",
            "ldap://pki.example",
            "http:///crl",
            "http://a@b/",
            "http://a/?x",
            "http://a/#x",
        ] {
            assert_eq!(wrong.parse::<ListsUrl>(), Err(ListsUrlError), "{wrong}");
        }
    }
}
