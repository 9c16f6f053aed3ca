//! An HTTP/1.1 app that keeps what it received to the letter, and reads it as strictly as the RFCs allow: what
//! a lenient server could take for something else is malformed here. What it answers is the test's, byte by
//! byte.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::received::{Parsed, Received, head, parse};
use crate::PATIENCE;

/// See the module.
#[derive(Debug)]
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

/// What it says to a request, and what it does then.
#[derive(Debug, Clone)]
pub struct Said {
    /// The response, from its first byte to its last.
    pub bytes: Vec<u8>,
    /// What comes after.
    pub then: Then,
}

/// What an app does after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Waits for the next request.
    Keep,
    /// Ends its direction, and reads on until the other side ends.
    Close,
    /// Resets the connection, as a process that dies does.
    Reset,
}

/// What one connection brought.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Complete, well-formed requests.
    pub requests: Vec<Received>,
    /// What is after them: an unfinished request, or what is none.
    pub rest: Vec<u8>,
    /// Why that is none, if it is none.
    pub malformed: Option<String>,
    open: bool,
}

struct State {
    answer: Box<dyn Fn(&Received) -> Said + Send + Sync>,
    at_head: bool,
    conversations: Mutex<Vec<Conversation>>,
    changed: watch::Sender<()>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.conversations.lock().fmt(f)
    }
}

impl Said {
    /// Says this, and waits for the next request.
    #[must_use]
    pub fn and_keep(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Keep }
    }

    /// Says this, and ends.
    #[must_use]
    pub fn and_close(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Close }
    }

    /// Says this, and dies.
    #[must_use]
    pub fn and_reset(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), then: Then::Reset }
    }

    /// 200 with this body.
    #[must_use]
    pub fn ok(body: &str) -> Self {
        Self::and_keep(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }
}

impl Recorder {
    /// Answers every request with its own target.
    pub async fn start() -> Self {
        Self::answering(|request| Said::ok(&request.target)).await
    }

    /// Answers every request as it is told, after the request's end.
    pub async fn answering(answer: impl Fn(&Received) -> Said + Send + Sync + 'static) -> Self {
        Self::run(Box::new(answer), false).await
    }

    /// Answers as soon as it has read a request's head.
    pub async fn answering_heads(answer: impl Fn(&Received) -> Said + Send + Sync + 'static) -> Self {
        Self::run(Box::new(answer), true).await
    }

    async fn run(answer: Box<dyn Fn(&Received) -> Said + Send + Sync>, at_head: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let changed = watch::Sender::new(());
        let state = Arc::new(State { answer, at_head, conversations: Mutex::default(), changed });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let number = state.begin();
                sessions.spawn(async move {
                    let _ = converse(&state, number, stream).await;
                    state.change(number, |conversation| conversation.open = false);
                });
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// What all connections brought so far, in the order in which they were accepted.
    #[must_use]
    pub fn conversations(&self) -> Vec<Conversation> {
        self.state.conversations.lock().clone()
    }

    /// All complete requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.conversations().into_iter().flat_map(|conversation| conversation.requests).collect()
    }

    /// As [`Recorder::conversations`], once every connection has ended.
    ///
    /// # Panics
    /// When one does not end.
    pub async fn ended(&self) -> Vec<Conversation> {
        let mut changed = self.state.changed.subscribe();
        let ended = async {
            while self.state.conversations.lock().iter().any(|conversation| conversation.open) {
                let _ = changed.changed().await;
            }
        };
        timeout(PATIENCE, ended).await.expect("every connection to the app ends");
        self.conversations()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn begin(&self) -> usize {
        let mut conversations = self.conversations.lock();
        conversations.push(Conversation { open: true, ..Conversation::default() });
        conversations.len() - 1
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut Conversation)) {
        change(&mut self.conversations.lock()[number]);
        self.changed.send_replace(());
    }
}

async fn converse(state: &State, number: usize, mut stream: TcpStream) -> std::io::Result<()> {
    let mut pending = Vec::new();
    let mut head_answered = false;
    loop {
        if state.at_head
            && !head_answered
            && let Some(request) = head(&pending)
        {
            head_answered = true;
            if !say(&mut stream, (state.answer)(&request)).await? {
                return Ok(());
            }
        }
        match parse(&pending) {
            Parsed::Complete(request, length) => {
                pending.drain(..length);
                let said = (!state.at_head).then(|| (state.answer)(&request));
                head_answered = false;
                state.change(number, |conversation| {
                    conversation.requests.push(*request);
                    conversation.rest.clone_from(&pending);
                });
                if let Some(said) = said
                    && !say(&mut stream, said).await?
                {
                    return Ok(());
                }
                continue;
            }
            Parsed::Incomplete => {}
            Parsed::Malformed(why) => {
                let first = state.conversations.lock()[number].malformed.is_none();
                state.change(number, |conversation| {
                    conversation.malformed.get_or_insert(why);
                });
                if first {
                    stream
                        .write_all(
                            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                        )
                        .await?;
                    stream.shutdown().await?;
                }
            }
        }
        if stream.read_buf(&mut pending).await? == 0 {
            return Ok(());
        }
        state.change(number, |conversation| conversation.rest.clone_from(&pending));
    }
}

/// Whether the connection goes on.
async fn say(stream: &mut TcpStream, said: Said) -> std::io::Result<bool> {
    if said.then == Then::Reset {
        // What was said reaches the other side before the reset does: it is read there first.
        set_socket_linger(&*stream, Some(Duration::ZERO))?;
    }
    stream.write_all(&said.bytes).await?;
    match said.then {
        Then::Keep => {}
        Then::Close => stream.shutdown().await?,
        Then::Reset => return Ok(false),
    }
    Ok(true)
}
