//! What may end a proxy: a signal, or the end of the process that it lives beside. The first counts; whoever insists
//! with a second signal does not wait for the drain.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why a proxy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was told to, by this signal.
    Signal(&'static str),
    /// The process ended that it lives beside.
    Job(Pid),
}

impl Ending {
    /// Whether others do not know yet, and still call. Nobody calls for an app that is gone.
    #[must_use]
    pub fn is_news(self) -> bool {
        matches!(self, Self::Signal(_))
    }
}

/// Everything that may end this proxy.
pub struct Endings {
    terminate: Signal,
    interrupt: Signal,
    job: Option<(Pid, AsyncFd<OwnedFd>)>,
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
    pub fn listen(job: Option<Pid>) -> Result<Self, EndingsError> {
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
        })
    }

    /// The first of them. From then on a second signal ends the process at once.
    pub async fn first(mut self) -> Ending {
        let job = self.job.take();
        let ending = tokio::select! {
            name = self.signal() => Ending::Signal(name),
            pid = async {
                match &job {
                    // It is readable once the process has ended.
                    Some((pid, process)) if process.readable().await.is_ok() => *pid,
                    _ => std::future::pending().await,
                }
            } => Ending::Job(pid),
        };
        match ending {
            Ending::Signal(signal) => tracing::info!(signal, "stopping"),
            Ending::Job(pid) => tracing::info!(%pid, "stopping: the process of `exit-with-pid` has ended"),
        }
        tokio::spawn(async move {
            if !matches!(ending, Ending::Signal(_)) {
                let signal = self.signal().await;
                tracing::info!(signal, "stopping already; another signal ends this proxy at once");
            }
            self.signal().await;
            tracing::warn!("told to stop again: ending at once");
            std::process::exit(1);
        });
        ending
    }

    async fn signal(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
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
        let first = Endings::listen(Some(pid)).unwrap().first();
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
        let error = Endings::listen(Some(pid)).err().unwrap().to_string();
        assert!(error.contains("`exit-with-pid`") && error.contains(&pid.to_string()), "{error}");
    }

    #[test]
    fn only_who_is_told_to_stop_waits_for_callers() {
        assert!(Ending::Signal("SIGTERM").is_news());
        assert!(!Ending::Job(Pid::INIT).is_news());
    }
}
