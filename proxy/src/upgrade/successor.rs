//! The process that will take over, as the running one sees it. One at a time, and each has a deadline: until it says
//! that it is ready nothing has changed here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::doors::Shares;
use super::line::{Certify, Hello, Line, Listener as Offered, Nothing, Refused, Word};
use super::{FORM, UpgradeError};
use crate::capture::{Listener, Socket};
use crate::control::Addresses;
use crate::identity::vouch;
use crate::mesh::Mesh;
use crate::telemetry::metrics;

/// From the greeting until the new process is ready.
const PREPARATION: Duration = Duration::from_secs(120);

/// What is handed over to whoever comes, and how the newcomer is vouched for.
pub struct Successors {
    /// Where they come. Without it nobody does.
    pub listener: Option<Listener>,
    /// The listeners.
    pub shares: Shares,
    /// Who this is.
    pub mesh: Arc<Mesh>,
    /// Whom to ask for a certificate; without it the SVID comes from files, and so does the newcomer's.
    pub control: Option<Arc<Addresses>>,
}

/// A process that is ready, and waits for the word.
pub struct Successor {
    line: Line,
    /// Not closed before it has it.
    _shares: Shares,
}

impl Successor {
    /// Tells it that the listeners are its own. To be said once nothing is accepted here any more.
    pub async fn relieved(self) {
        metrics::upgrade("success");
        match self.line.say(Word::Yours(Nothing {}), &[]).await {
            Ok(()) => tracing::info!("handed over: the new process accepts from now on"),
            Err(error) => tracing::warn!(%error, "handed over, but the new process did not hear it"),
        }
    }
}

impl Successors {
    /// Ends when a new process is ready.
    pub async fn ready(self) -> Successor {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        loop {
            let stream = match listener.accept().await {
                Ok((Socket::Unix(stream), _)) => stream,
                Ok((Socket::Tcp(_), _)) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a new process");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            let prepared = async { self.prepare(Line::with(stream)?).await };
            match timeout(PREPARATION, prepared).await.unwrap_or(Err(UpgradeError::Silent)) {
                Ok(line) => {
                    // Sockets in the file system stay where they are, ours for successors among them.
                    self.shares.leave_behind();
                    return Successor { line, _shares: self.shares };
                }
                Err(error) => {
                    metrics::upgrade("failed");
                    tracing::warn!(%error, "the new process does not take over: this one carries on");
                }
            }
        }
    }

    async fn prepare(&self, mut line: Line) -> Result<Line, UpgradeError> {
        let Word::Hello(Hello { form, version }) = line.hear().await? else {
            return Err(UpgradeError::Unexpected("no greeting"));
        };
        let ours = Hello { form: FORM, version: env!("CARGO_PKG_VERSION").into() };
        line.say(Word::Hello(ours), &[]).await?;
        if form != FORM {
            return Err(UpgradeError::Form { found: form, expected: FORM });
        }
        tracing::info!(version, "a new process wants to take over");
        for (name, sockets) in self.shares.each() {
            let offered =
                Offered { name: name.to_owned(), sockets: u32::try_from(sockets.len()).unwrap_or(u32::MAX) };
            line.say(Word::Listener(offered), &sockets).await?;
        }
        line.say(Word::All(Nothing {}), &[]).await?;
        loop {
            match line.hear().await? {
                Word::Certify(request) => line.say(self.certified(request).await, &[]).await?,
                Word::Ready(_) => return Ok(line),
                _ => return Err(UpgradeError::Unexpected("neither a request nor readiness")),
            }
        }
    }

    async fn certified(&self, Certify { csr, ttl_seconds }: Certify) -> Word {
        let refused = |reason: String, is_final| Word::Refused(Refused { reason, is_final });
        let Some(control) = &self.control else {
            return refused("its own SVID comes from files".into(), true);
        };
        match vouch(control, &self.mesh, csr, ttl_seconds).await {
            Ok(answer) => Word::Certified(answer),
            Err(error) => refused(error.to_string(), error.is_final()),
        }
    }
}

/// Starts this program anew, as it is on disk by then, with the same arguments, at every SIGUSR2 until `stop`. Where it
/// could not take over, that is said instead.
///
/// # Errors
/// When the signal cannot be listened for, or it is not known which program this is.
pub fn start_on_signal(can_take_over: bool, stop: CancellationToken) -> io::Result<impl Future<Output = ()>> {
    let mut asked = signal(SignalKind::user_defined2())?;
    let program = env::current_exe()?;
    Ok(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = asked.recv() => {}
            }
            if !can_take_over {
                tracing::warn!("SIGUSR2: without `upgrade-socket` no new process can take over");
                continue;
            }
            tracing::info!(program = %program.display(), "SIGUSR2: starting the new process");
            if let Err(error) = start(&program, &stop) {
                metrics::upgrade("failed");
                tracing::error!(%error, program = %program.display(), "cannot start the new process: this one carries on");
            }
        }
    })
}

fn start(program: &PathBuf, stop: &CancellationToken) -> io::Result<()> {
    let mut child =
        Command::new(program).args(env::args_os().skip(1)).stdin(std::process::Stdio::null()).spawn()?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            // It outlives this one.
            () = stop.cancelled() => {}
            ended = child.wait() => match ended {
                Ok(status) => tracing::error!(%status, "the new process has ended; its own lines say why"),
                Err(error) => tracing::error!(%error, "cannot tell what became of the new process"),
            },
        }
    });
    Ok(())
}
