//! The table `[ca]` of the settings file: the CA above ours.

use super::{ConfigError, Origins, TableError};
use crate::ca::UpstreamConfig;

const UPSTREAM: &str = "upstream";

impl Origins<'_> {
    /// Tables come from the file only.
    pub(super) fn upstream(&self, table: Option<toml::Table>) -> Result<Option<UpstreamConfig>, ConfigError> {
        read(table.unwrap_or_default()).map_err(|error| self.in_table(error.below("ca")))
    }
}

fn read(mut table: toml::Table) -> Result<Option<UpstreamConfig>, TableError> {
    let upstream = match table.remove(UPSTREAM) {
        None => None,
        Some(toml::Value::Table(upstream)) => {
            Some(UpstreamConfig::read(upstream).map_err(|error| error.below(UPSTREAM))?)
        }
        Some(other) => {
            return Err(TableError::expected(UPSTREAM, "a table `[ca.upstream]`", &other.type_str()));
        }
    };
    match table.keys().next() {
        Some(key) => Err(TableError::expected(key, "`[ca.upstream]` and nothing else in `ca`", key)),
        None => Ok(upstream),
    }
}
