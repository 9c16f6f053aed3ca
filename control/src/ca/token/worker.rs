//! The thread of a module. PKCS#11 is initialized once in a process for each module, so that all tokens behind it are
//! served here. A module is never unloaded; when a token was lost it is finalized and begun anew, as some do not find
//! their way back otherwise.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::session::{Lost, Refused, Sessions};
use super::{Answer, Ask, TokenError, TokenPlace};

/// Hardware makes a key within a second or two.
const DEADLINE: Duration = Duration::from_secs(10);
/// So many wait for a module; more are turned away.
const WAITING: usize = 256;

static WORKERS: LazyLock<Mutex<HashMap<PathBuf, Worker>>> = LazyLock::new(Mutex::default);

/// The way to a module's thread.
#[derive(Debug, Clone)]
pub(super) struct Worker(SyncSender<Job>);

/// Something that was asked, and who waits for the answer.
struct Job {
    place: Arc<TokenPlace>,
    ask: Ask,
    until: Instant,
    answer: SyncSender<Result<Answer, TokenError>>,
}

impl Worker {
    /// The one of this module.
    pub(super) fn of(module: &Path) -> Result<Self, TokenError> {
        let mut workers = WORKERS.lock();
        if let Some(worker) = workers.get(module) {
            return Ok(worker.clone());
        }
        let (jobs, waiting) = sync_channel(WAITING);
        let path = module.to_owned();
        let started = std::thread::Builder::new().name("pkcs11".into()).spawn(move || serve(&path, &waiting));
        started.map_err(|error| TokenError::Module { path: module.to_owned(), error: error.to_string() })?;
        let worker = Self(jobs);
        workers.insert(module.to_owned(), worker.clone());
        Ok(worker)
    }

    /// Asks and waits. Whoever does so on a thread of the runtime gives its other tasks away meanwhile.
    pub(super) fn ask(&self, place: &Arc<TokenPlace>, ask: Ask) -> Result<Answer, TokenError> {
        let shared =
            Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        let wait = || self.wait(place, ask);
        if shared { tokio::task::block_in_place(wait) } else { wait() }
    }

    fn wait(&self, place: &Arc<TokenPlace>, ask: Ask) -> Result<Answer, TokenError> {
        let (answer, answered) = sync_channel(1);
        let job = Job { place: Arc::clone(place), ask, until: Instant::now() + DEADLINE, answer };
        self.0.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => TokenError::Busy(place.to_string()),
            TrySendError::Disconnected(_) => TokenError::Silent(place.to_string()),
        })?;
        answered.recv_timeout(DEADLINE).map_err(|error| match error {
            RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected => {
                TokenError::Silent(place.to_string())
            }
        })?
    }
}

impl Job {
    /// Whoever has stopped waiting is told nothing.
    fn answer(self, answer: Result<Answer, TokenError>) {
        let _ = self.answer.try_send(answer);
    }
}

/// Begins the module for a job, and serves until a token is lost; then the job that found out is tried once more.
fn serve(module: &Path, waiting: &Receiver<Job>) {
    let mut loaded = None;
    let mut again: Option<Job> = None;
    let mut refused = HashMap::new();
    while let Some(first) = again.take().or_else(|| waiting.recv().ok()) {
        match begin(module, &mut loaded, &first) {
            Ok(context) => {
                again = serve_with(&context, &mut refused, first, waiting);
                if let Err(error) = context.finalize() {
                    tracing::debug!(%error, "a PKCS#11 module does not end");
                }
            }
            Err(error) => first.answer(Err(error)),
        }
    }
}

/// Returns the job that found a token lost, unless it was the first: that one is told.
fn serve_with(context: &Pkcs11, refused: &mut Refused, first: Job, waiting: &Receiver<Job>) -> Option<Job> {
    let mut sessions = Sessions::new(context, refused);
    let mut next = Some((first, true));
    while let Some((job, fresh)) = next.take().or_else(|| waiting.recv().ok().map(|job| (job, false))) {
        if job.until <= Instant::now() {
            continue;
        }
        match sessions.answer(&job.place, &job.ask) {
            Ok(answer) => job.answer(answer),
            Err(Lost(_)) if !fresh => return Some(job),
            Err(Lost(error)) => {
                job.answer(Err(error));
                return None;
            }
        }
    }
    None
}

/// Loads the module, once, and initializes it.
fn begin(module: &Path, loaded: &mut Option<Pkcs11>, job: &Job) -> Result<Pkcs11, TokenError> {
    let failed = |error: Error| TokenError::Module { path: module.to_owned(), error: error.to_string() };
    let context = match loaded {
        Some(context) => context.clone(),
        None => loaded.insert(Pkcs11::new(module).map_err(failed)?).clone(),
    };
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(context),
        Err(error) => Err(TokenError::Away { token: job.place.to_string(), reason: error.to_string() }),
    }
}
