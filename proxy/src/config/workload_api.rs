//! The socket for apps that do their own TLS: where it is, and who may ask there.

use std::path::PathBuf;

use super::ConfigError;
use super::args::Keys;
use super::source::Source;
use crate::workload_api::CallerRule;

const MOST_RULES: usize = 64;

/// The socket for apps that do their own TLS.
#[derive(Debug)]
pub struct AppSocket {
    /// Its path.
    pub path: PathBuf,
    /// Who may ask, the first rule that fits; never empty.
    pub callers: Vec<CallerRule>,
    /// The life of their SVIDs; 0: the workload's usual one.
    pub ttl_seconds: u32,
}

impl AppSocket {
    /// None, if there is to be none.
    pub(super) fn of(keys: &Keys, source: &Source) -> Result<Option<Self>, ConfigError> {
        let alone = |key, with| Err(ConfigError::Alone { key, with });
        let (listen, callers) = match (&keys.workload_api_listen, &keys.workload_api_caller) {
            (None, callers) if callers.is_empty() => return Ok(None),
            (None, _) => return alone("workload-api-caller", "`workload-api-listen`, where they ask"),
            (Some(_), callers) if callers.is_empty() => {
                let with = "`workload-api-caller` (such as uid=1000): without a rule nobody is served";
                return alone("workload-api-listen", with);
            }
            (Some(listen), callers) => (listen, callers),
        };
        if callers.len() > MOST_RULES {
            return Err(ConfigError::TooManyRules { found: callers.len(), allowed: MOST_RULES });
        }
        let Some(joining) = source.joining() else {
            let with =
                "`join`: apps get SVIDs of their own, for which control is asked, never the one of the proxy";
            return alone("workload-api-listen", with);
        };
        Ok(Some(Self { path: listen.0.clone(), callers: callers.clone(), ttl_seconds: joining.ttl_seconds }))
    }
}
