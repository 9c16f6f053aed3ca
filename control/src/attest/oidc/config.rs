//! The settings of one JWT attestor: `[attestors.NAME]` with `kind = "jwt"`. Read whole and checked whole; what
//! cannot be right, or would let strangers in, does not start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use signet_proto::jose::Algorithm;

use super::profile::{ClaimPath, Profile};
use crate::config::TableError;
use crate::duration::Span;
use crate::fetch::Url;

/// Azure's tokens for managed identities are good for a day and five minutes; nobody's are longer for good reason.
const DEFAULT_MAX_LIFETIME: Duration = Duration::from_secs(25 * 3600);
const MAX_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
const MAX_LEEWAY: Duration = Duration::from_secs(300);
const MAX_LISTED: usize = 32;
const MAX_TEXT: usize = 512;

/// Issuers that vouch for whoever has an account there, with any audience.
const OPEN_TO_ALL: [&str; 3] =
    ["https://token.actions.githubusercontent.com", "https://gitlab.com", "https://accounts.google.com"];

/// Validated settings of a JWT attestor.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtConfig {
    /// Whose tokens, and so which claims become selectors.
    pub profile: Profile,
    /// What `iss` has to be, exactly.
    pub issuer: String,
    /// What `aud` has to have one of.
    pub audience: Vec<String>,
    /// Where the keys are.
    pub keys: KeyOrigin,
    /// Claims that become selectors besides the profile's, by KEY.
    pub claims: Vec<(String, ClaimPath)>,
    /// Claims that have to have a value.
    pub require: Vec<(ClaimPath, String)>,
    /// The only authorities that are believed when keys are fetched; else the system's.
    pub ca_file: Option<PathBuf>,
    /// A token that is sent when keys are fetched, read anew each time.
    pub bearer_file: Option<PathBuf>,
    /// Addresses that keys are fetched from although they are not global.
    pub allow_addresses: Vec<IpNet>,
    /// Signatures that are taken.
    pub algorithms: Vec<Algorithm>,
    /// Longest time from `iat` to `exp`.
    pub max_lifetime: Duration,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// Whether one token may come with several keys.
    pub reuse: Reuse,
}

/// Whether one token may come with several keys while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// With any: a proxy that starts anew makes another key, and its token is still the same.
    Allow,
    /// With the key that it was used with first.
    SameKey,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOrigin {
    /// OpenID Connect Discovery: a document below the issuer that names the key set.
    Discovery(Url),
    /// A key set.
    Jwks(Url),
    /// A key set on this machine.
    File(PathBuf),
}

/// The table as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Table {
    #[serde(default)]
    profile: Profile,
    issuer: String,
    audience: Vec<String>,
    jwks_url: Option<String>,
    jwks_file: Option<PathBuf>,
    #[serde(default)]
    claims: BTreeMap<String, String>,
    #[serde(default)]
    require: BTreeMap<String, String>,
    ca_file: Option<PathBuf>,
    bearer_file: Option<PathBuf>,
    #[serde(default)]
    allow_addresses: Vec<String>,
    algorithms: Option<Vec<String>>,
    max_lifetime: Option<Span>,
    leeway: Option<Span>,
    reuse: Option<Reuse>,
}

impl JwtConfig {
    /// Reads a table from which `kind` was taken.
    ///
    /// # Errors
    /// The first mistake, with its key.
    pub fn read(table: toml::Table) -> Result<Self, TableError> {
        let table: Table = TableError::deserialize(table)?;
        let allow_addresses = table.allow_addresses()?;
        let config = Self {
            keys: table.keys(&allow_addresses)?,
            claims: table.claims()?,
            require: table.require()?,
            algorithms: table.algorithms()?,
            max_lifetime: bounded(
                "max-lifetime",
                table.max_lifetime,
                DEFAULT_MAX_LIFETIME,
                60,
                MAX_LIFETIME,
            )?,
            leeway: bounded("leeway", table.leeway, DEFAULT_LEEWAY, 0, MAX_LEEWAY)?,
            reuse: table.reuse.unwrap_or_else(|| table.profile.usual_reuse()),
            profile: table.profile,
            issuer: text("issuer", table.issuer)?,
            audience: table.audience,
            ca_file: table.ca_file,
            bearer_file: table.bearer_file,
            allow_addresses,
        };
        if config.audience.is_empty() || config.audience.len() > MAX_LISTED {
            let expected = "1 to 32 names, such as [\"signet\"], that only tokens for this mesh carry";
            return Err(TableError::expected("audience", expected, &config.audience.len()));
        }
        for audience in &config.audience {
            text("audience", audience.clone())?;
        }
        Ok(config)
    }
}

impl Table {
    fn allow_addresses(&self) -> Result<Vec<IpNet>, TableError> {
        let network = |text: &String| {
            text.parse::<IpNet>().map_err(|_| {
                TableError::expected(
                    "allow-addresses",
                    "networks such as \"10.0.0.0/8\" or \"::1/128\"",
                    text,
                )
            })
        };
        self.allow_addresses.iter().map(network).collect()
    }

    fn keys(&self, allowed: &[IpNet]) -> Result<KeyOrigin, TableError> {
        let url = |key: &str, text: &str| {
            Url::parse(text, allowed).map_err(|expected| TableError::expected(key, expected, &text))
        };
        match (&self.jwks_url, &self.jwks_file) {
            (Some(_), Some(file)) => {
                Err(TableError::expected("jwks-file", "either `jwks-url` or `jwks-file`", &file.display()))
            }
            (Some(text), None) => url("jwks-url", text).map(KeyOrigin::Jwks),
            (None, Some(file)) => self.nothing_is_fetched().map(|()| KeyOrigin::File(file.clone())),
            (None, None) => {
                url("issuer", &self.issuer)?;
                let base = self.issuer.strip_suffix('/').unwrap_or(&self.issuer);
                let document = url("issuer", &format!("{base}/.well-known/openid-configuration"))?;
                if document.has_query() {
                    let expected = "a URL without query, or `jwks-url` or `jwks-file` beside it";
                    return Err(TableError::expected("issuer", expected, &self.issuer));
                }
                Ok(KeyOrigin::Discovery(document))
            }
        }
    }

    /// A setting that does nothing is one that somebody relies on.
    fn nothing_is_fetched(&self) -> Result<(), TableError> {
        let idle = [
            ("ca-file", self.ca_file.is_some()),
            ("bearer-file", self.bearer_file.is_some()),
            ("allow-addresses", !self.allow_addresses.is_empty()),
        ];
        match idle.iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err(TableError::expected(key, "it only where keys are fetched", &"jwks-file")),
            None => Ok(()),
        }
    }

    fn claims(&self) -> Result<Vec<(String, ClaimPath)>, TableError> {
        if self.claims.len() > MAX_LISTED || (self.claims.is_empty() && self.profile == Profile::Generic) {
            let expected = "1 to 32 entries such as { group = \"group\", team = \"/org/team\" }: \
                            the profile `generic` has no selectors of its own";
            return Err(TableError::expected("claims", expected, &self.claims.len()));
        }
        let entry = |(key, path): (&String, &String)| {
            let named = (1..=63).contains(&key.len())
                && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b));
            if !named || self.profile.has_key(key) {
                let expected =
                    "a KEY of 1 to 63 of a-z, 0-9, `_`, `.` and `-` that is none of the profile's own";
                return Err(TableError::expected("claims", expected, key));
            }
            let path = ClaimPath::parse(path)
                .map_err(|expected| TableError::expected(key, expected, path).below("claims"))?;
            Ok((key.clone(), path))
        };
        self.claims.iter().map(entry).collect()
    }

    fn require(&self) -> Result<Vec<(ClaimPath, String)>, TableError> {
        if self.require.is_empty() && OPEN_TO_ALL.contains(&self.issuer.trim_end_matches('/')) {
            let expected = "which of all accounts at this issuer may ask, such as { repository_owner = \"…\" } \
                            (GitHub), { namespace_path = \"…\" } (GitLab), \
                            { \"/google/compute_engine/project_id\" = \"…\" } (Google)";
            return Err(TableError::expected("require", expected, &"nothing"));
        }
        if self.require.len() > MAX_LISTED {
            return Err(TableError::expected("require", "at most 32 claims", &self.require.len()));
        }
        let entry = |(path, value): (&String, &String)| {
            let parsed = ClaimPath::parse(path)
                .map_err(|expected| TableError::expected(path, expected, path).below("require"))?;
            if value.is_empty() {
                return Err(TableError::expected(path, "a value", &"nothing").below("require"));
            }
            Ok((parsed, value.clone()))
        };
        self.require.iter().map(entry).collect()
    }

    fn algorithms(&self) -> Result<Vec<Algorithm>, TableError> {
        let Some(names) = &self.algorithms else { return Ok(Algorithm::ALL.to_vec()) };
        let wrong = |found: &String| {
            let expected = "some of ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512";
            TableError::expected("algorithms", expected, found)
        };
        if names.is_empty() {
            return Err(wrong(&"nothing".to_owned()));
        }
        names.iter().map(|name| name.parse().map_err(|_| wrong(name))).collect()
    }
}

fn bounded(
    key: &str,
    set: Option<Span>,
    default: Duration,
    least: u64,
    most: Duration,
) -> Result<Duration, TableError> {
    let value = set.map_or(default, |span| span.0);
    let least = Duration::from_secs(least);
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(TableError::expected(key, format!("{} to {}", Span(least), Span(most)), &Span(value)))
}

fn text(key: &str, text: String) -> Result<String, TableError> {
    if text.is_empty()
        || text.len() > MAX_TEXT
        || text.contains(|c: char| c.is_control() || c.is_whitespace())
    {
        let found = text.escape_debug().take(80).collect::<String>();
        return Err(TableError::expected(key, "1 to 512 bytes of text without spaces", &found));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
