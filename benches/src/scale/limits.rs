//! Room for one socket per proxy, here and in control, which inherits it.

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not sockets of proxies.
const OTHERS: u64 = 1024;

/// Raises the soft limit of open files to the hard one.
pub(super) fn make_room(proxies: usize) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("cannot raise the limit of open files")?;
    let needed = proxies as u64 + OTHERS;
    ensure!(
        maximum.is_none_or(|maximum| maximum >= needed),
        "{proxies} proxies need {needed} open files, the hard limit is {}: raise it (ulimit -Hn), or measure fewer",
        maximum.unwrap_or_default()
    );
    Ok(())
}
