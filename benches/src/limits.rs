//! Room for sockets, here and in the processes that inherit it.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not sockets of proxies.
const OTHERS: u64 = 1024;

/// Raises the soft limit of open files to the hard one, which it returns.
pub(crate) fn raise() -> Result<Option<u64>> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")?;
    Ok(maximum)
}

/// Raises it, and fails when that is not enough.
pub(crate) fn make_room(proxies: usize) -> Result<()> {
    let maximum = raise()?;
    let needed = proxies as u64 + OTHERS;
    ensure!(
        maximum.is_none_or(|maximum| maximum >= needed),
        "{proxies} proxies need {needed} open files, the hard limit is {}: raise it (ulimit -Hn), or measure fewer",
        maximum.unwrap_or_default()
    );
    Ok(())
}
