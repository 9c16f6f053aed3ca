//! What may end a proxy: a signal, or the end of the process that it lives beside. The first counts; whoever insists
//! with a second signal does not wait for the drain.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why a proxy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to, by this signal.
    Signal(&'static str),
    /// The process ended that it lives beside.
    Job(Pid),
    /// An operator or the app said that it is not needed any more (`POST /quit`).
    Quit,
    /// Another process serves in its place.
    Upgrade,
}

/// Everything that may end this proxy.
pub struct Endings {
    terminate: Signal,
    interrupt: Signal,
    job: Option<(Pid, AsyncFd<OwnedFd>)>,
    quit: CancellationToken,
}

/// Why one of them cannot be noticed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndingsError {
    /// The signals.
    #[error("cannot listen for SIGTERM and SIGINT: {0}")]
    Signals(io::Error),
    /// The process.
    #[error(
        "`exit-with-pid`: cannot watch process {pid}: {error}; expected the id of a process that runs, in a process \
         namespace shared with this one"
    )]
    Job {
        /// Which.
        pid: Pid,
        /// Why.
        error: io::Error,
    },
}

impl Endings {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the process does not run, or the system refuses.
    pub fn listen(job: Option<Pid>, quit: CancellationToken) -> Result<Self, EndingsError> {
        let listen = |kind| signal(kind).map_err(EndingsError::Signals);
        let job = job.map(|pid| {
            let opened = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from);
            let watched = opened.and_then(watch);
            watched.map(|process| (pid, process)).map_err(|error| EndingsError::Job { pid, error })
        });
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            job: job.transpose()?,
            quit,
        })
    }

    /// The first of them.
    pub async fn first(&mut self) -> Ending {
        let job = async |job: &Option<(Pid, AsyncFd<OwnedFd>)>| match job {
            // It is readable once the process has ended.
            Some((pid, process)) if process.readable().await.is_ok() => *pid,
            _ => std::future::pending().await,
        };
        tokio::select! {
            name = terminated(&mut self.terminate, &mut self.interrupt) => Ending::Signal(name),
            pid = job(&self.job) => Ending::Job(pid),
            () = self.quit.cancelled() => Ending::Quit,
        }
    }

    /// Says what it was, and listens on: a second signal ends the process at once. Where the first ending was none,
    /// `hurry` is cancelled by the first signal.
    pub fn listen_on(mut self, ending: Ending, hurry: CancellationToken) {
        match ending {
            Ending::Signal(signal) => tracing::info!(signal, "stopping"),
            Ending::Job(pid) => tracing::info!(%pid, "stopping: the process of `exit-with-pid` has ended"),
            Ending::Quit => tracing::info!("stopping: asked to quit on the admin listener"),
            Ending::Upgrade => {}
        }
        tokio::spawn(async move {
            if !matches!(ending, Ending::Signal(_)) {
                let signal = terminated(&mut self.terminate, &mut self.interrupt).await;
                tracing::info!(signal, "stopping already; another signal ends this process at once");
                hurry.cancel();
            }
            terminated(&mut self.terminate, &mut self.interrupt).await;
            tracing::warn!("told to stop again: ending at once");
            std::process::exit(1);
        });
    }
}

async fn terminated(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Whether a process has ended is told as readiness of its descriptor.
#[expect(
    deprecated,
    reason = "what `register_with_interest` asks for: the descriptor is owned, and never exchanged"
)]
fn watch(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(process, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn proxy_ends_with_its_job_and_not_before() {
        let mut job = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_child(&job);
        let mut endings = Endings::listen(Some(pid), CancellationToken::new()).unwrap();
        let first = endings.first();
        tokio::pin!(first);
        tokio::select! {
            biased;
            ending = &mut first => panic!("{ending:?} while the job runs"),
            () = tokio::task::yield_now() => {}
        }
        drop(job.stdin.take());
        assert_eq!(first.await, Ending::Job(pid));
        job.wait().unwrap();
        // Nobody has that number any more: there is nothing to wait for.
        let error = Endings::listen(Some(pid), CancellationToken::new()).err().unwrap().to_string();
        assert!(error.contains("`exit-with-pid`") && error.contains(&pid.to_string()), "{error}");
    }

    #[tokio::test]
    async fn proxy_ends_when_it_is_told_that_it_is_not_needed() {
        let quit = CancellationToken::new();
        let mut endings = Endings::listen(None, quit.clone()).unwrap();
        quit.cancel();
        assert_eq!(endings.first().await, Ending::Quit);
    }
}
