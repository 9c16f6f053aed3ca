//! The log: text for people, JSON for collectors, to standard error. What is logged can be changed while the
//! process runs.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::reload;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Which lines are written; at first those of `SIGNET_LOG`.
pub struct Filter {
    reload: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
    state: Mutex<State>,
}

/// What is logged.
#[derive(Debug, Clone)]
pub struct State {
    /// The directives in force.
    pub filter: String,
    /// Those that the process began with, and goes back to.
    pub configured: String,
    /// When it goes back.
    pub reverts_at: Option<SystemTime>,
    /// Counts changes, so that an older one's end does not undo a newer one.
    change: u64,
}

/// Why a filter cannot be put into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// It cannot be read.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The log is gone: the process is at its end.
    #[error(transparent)]
    Reload(#[from] reload::Error),
}

/// Installs the log of this process. `SIGNET_LOG` holds directives such as `info,signet_proxy=debug`.
///
/// # Errors
/// When `SIGNET_LOG` cannot be read as directives.
pub fn install(format: Format) -> Result<Arc<Filter>, ParseError> {
    let directives = std::env::var("SIGNET_LOG").unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::from_str(&directives)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    Ok(Arc::new(match format {
        Format::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Filter::new(directives, move |filter| handle.reload(filter))
        }
        Format::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Filter::new(directives, move |filter| handle.reload(filter))
        }
    }))
}

impl Filter {
    fn new(
        configured: String,
        reload: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
    ) -> Self {
        let state = State { filter: configured.clone(), configured, reverts_at: None, change: 0 };
        Self { reload: Box::new(reload), state: Mutex::new(state) }
    }

    /// What is logged now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Logs what `directives` say, `lasting` for so long, or until the next change.
    ///
    /// # Errors
    /// When the directives cannot be read; what was logged before is logged on.
    pub fn change(self: &Arc<Self>, directives: &str, lasting: Option<Duration>) -> Result<(), FilterError> {
        let filter = EnvFilter::from_str(directives)?;
        let mut state = self.state.lock();
        (self.reload)(filter)?;
        state.change += 1;
        directives.clone_into(&mut state.filter);
        state.reverts_at = lasting.map(|lasting| signet_proto::clock::now() + lasting);
        if let Some(lasting) = lasting {
            let (this, change) = (Arc::clone(self), state.change);
            tokio::spawn(async move {
                tokio::time::sleep(lasting).await;
                this.revert(change);
            });
        }
        Ok(())
    }

    /// Back to what was configured, unless somebody changed it again after `change`.
    fn revert(&self, change: u64) {
        let mut state = self.state.lock();
        if state.change != change {
            return;
        }
        let reverted = EnvFilter::from_str(&state.configured).map_err(FilterError::from);
        if let Err(error) = reverted.and_then(|filter| Ok((self.reload)(filter)?)) {
            tracing::warn!(%error, "cannot go back to what was logged before");
            return;
        }
        state.filter = state.configured.clone();
        state.reverts_at = None;
        drop(state);
        tracing::info!("what is logged is again as configured");
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_change_for_a_while_reverts_unless_a_newer_one_came() {
        let reloads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reloads);
        let filter = Arc::new(Filter::new("info".into(), move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }));
        let minute = Duration::from_secs(60);
        filter.change("debug", Some(minute)).unwrap();
        assert!(filter.state().reverts_at.is_some());
        tokio::time::sleep(minute / 2).await;
        filter.change("warn", None).unwrap();
        tokio::time::sleep(minute).await;
        assert_eq!(filter.state().filter, "warn", "the older change's end does not count");
        filter.change("trace", Some(minute)).unwrap();
        tokio::time::sleep(minute * 2).await;
        assert_eq!(filter.state().filter, "info");
        assert!(filter.change("not=a=filter", None).is_err());
        assert_eq!((filter.state().filter.as_str(), reloads.load(Ordering::Relaxed)), ("info", 4));
    }
}
