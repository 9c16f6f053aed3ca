//! The process that runs already, as its successor sees it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use signet_proto::v1;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::line::{Certify, Hello, Line, Nothing, Word};
use super::{FORM, UpgradeError};
use crate::control::CALL_DEADLINE;

/// For its first answer, and for its last.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// It asks control meanwhile.
const CERTIFICATE_DEADLINE: Duration = CALL_DEADLINE.saturating_mul(3);
const MOST_LISTENERS: usize = 1024;

/// The process that runs already.
#[derive(Debug)]
pub struct Predecessor {
    line: Line,
    listeners: HashMap<String, VecDeque<Vec<OwnedFd>>>,
}

impl Predecessor {
    /// Finds the process that listens at `path`, if there is one, and takes its sockets.
    ///
    /// # Errors
    /// When there is one, and it hands nothing over.
    pub async fn find(path: &Path) -> Result<Option<Self>, UpgradeError> {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(UpgradeError::Socket { path: path.to_owned(), error }),
        };
        let greeted = timeout(ANSWER_DEADLINE, Self::greet(Line::with(stream)?)).await;
        greeted.map_err(|_| UpgradeError::Silent)?.map(Some)
    }

    async fn greet(mut line: Line) -> Result<Self, UpgradeError> {
        line.say(Word::Hello(Hello { form: FORM, version: env!("CARGO_PKG_VERSION").into() }), &[]).await?;
        let Word::Hello(Hello { form, version }) = line.hear().await? else {
            return Err(UpgradeError::Unexpected("no greeting"));
        };
        if form != FORM {
            return Err(UpgradeError::Form { found: form, expected: FORM });
        }
        let mut listeners: HashMap<_, VecDeque<_>> = HashMap::new();
        for _ in 0..MOST_LISTENERS {
            match line.hear().await? {
                Word::Listener(listener) => {
                    let sockets = line.sockets_of(&listener)?;
                    listeners.entry(listener.name).or_default().push_back(sockets);
                }
                Word::All(_) => {
                    tracing::info!(
                        version,
                        listeners = listeners.len(),
                        "taking over from the running proxy"
                    );
                    return Ok(Self { line, listeners });
                }
                _ => return Err(UpgradeError::Unexpected("something between its listeners")),
            }
        }
        Err(UpgradeError::Unexpected("too many listeners"))
    }

    /// The sockets of the next listener of that name.
    pub(super) fn take(&mut self, name: &str) -> Option<Vec<OwnedFd>> {
        self.listeners.get_mut(name)?.pop_front()
    }

    /// Control's answer to a signing request that the running proxy vouches for.
    ///
    /// # Errors
    /// When there is none.
    pub async fn certify(
        &mut self,
        csr: &[u8],
        ttl_seconds: u32,
    ) -> Result<v1::AttestResponse, UpgradeError> {
        self.line.say(Word::Certify(Certify { csr: csr.to_vec(), ttl_seconds }), &[]).await?;
        match timeout(CERTIFICATE_DEADLINE, self.line.hear()).await.map_err(|_| UpgradeError::Silent)?? {
            Word::Certified(answer) => Ok(answer),
            Word::Refused(refused) => {
                Err(UpgradeError::Certificate { reason: refused.reason, is_final: refused.is_final })
            }
            _ => Err(UpgradeError::Unexpected("no certificate")),
        }
    }

    /// Says that this process serves from now on; ends when the other does not, any more.
    pub(super) async fn relieve(mut self) -> Result<(), UpgradeError> {
        // What is not in our configuration is not listened on any more.
        self.listeners.clear();
        self.line.say(Word::Ready(Nothing {}), &[]).await?;
        match timeout(ANSWER_DEADLINE, self.line.hear()).await.map_err(|_| UpgradeError::Silent)?? {
            Word::Yours(_) => Ok(()),
            _ => Err(UpgradeError::Unexpected("no hand-over")),
        }
    }
}
