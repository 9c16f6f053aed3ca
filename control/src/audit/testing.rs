//! Events, a store and a collector for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::chain::{Action, AuditEvent, GENESIS};
use super::checkpoint::Checkpoint;
use super::key::{AuditKeyRecord, AuditSigner};
use super::store::AuditStore;
use crate::ca::SealKey;
use crate::store::StoreError;
use crate::time;

/// Another key.
pub(crate) fn signer() -> AuditSigner {
    let directory = tempfile::tempdir().unwrap();
    let seal = SealKey::load(&directory.path().join("seal.key"), true).unwrap();
    AuditSigner::unseal(&AuditSigner::generate(&seal).unwrap(), &seal).unwrap()
}

/// An intact chain.
pub(crate) fn chain(count: u64) -> Vec<AuditEvent> {
    let mut previous = GENESIS;
    (1..=count)
        .map(|sequence| {
            let mut event = AuditEvent {
                sequence,
                at: time::from_millis(1_700_000_000_000) + Duration::from_millis(sequence),
                actor: "unix:uid=0".into(),
                action: Action::WorkloadCreated.as_str().into(),
                subject: format!("spiffe://mesh.local/w{sequence}"),
                detail: "{\"reason\":\"test \\\"é\\\"\"}".into(),
                hash: [0; 32],
            };
            event.hash = event.expected_hash(&previous);
            previous = event.hash;
            event
        })
        .collect()
}

/// A checkpoint of an event, made a second after it.
pub(crate) fn checkpoint(signer: &AuditSigner, event: &AuditEvent) -> Checkpoint {
    let at = event.at + Duration::from_secs(1);
    Checkpoint::sign("mesh.local".parse().unwrap(), event, event.sequence, at, signer).unwrap()
}

/// A store of nothing but the audit.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryStore(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    events: Vec<AuditEvent>,
    checkpoints: Vec<Checkpoint>,
    key: Option<AuditKeyRecord>,
    positions: BTreeMap<String, u64>,
    forgetful: bool,
}

impl MemoryStore {
    pub(crate) fn with(events: &[AuditEvent]) -> Self {
        let store = Self::default();
        store.push(events);
        store
    }

    pub(crate) fn push(&self, events: &[AuditEvent]) {
        self.0.lock().events.extend_from_slice(events);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<AuditEvent>)) {
        change(&mut self.0.lock().events);
    }

    /// Whether positions cannot be written.
    pub(crate) fn forgetful(&self, forgetful: bool) {
        self.0.lock().forgetful = forgetful;
    }
}

impl AuditStore for MemoryStore {
    async fn events_after(&self, sequence: u64, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
        let kept = self.0.lock();
        let after = kept.events.iter().filter(|event| event.sequence > sequence);
        Ok(after.take(limit as usize).cloned().collect())
    }

    async fn newest_event(&self) -> Result<Option<AuditEvent>, StoreError> {
        Ok(self.0.lock().events.last().cloned())
    }

    fn revision(&self) -> u64 {
        1
    }

    async fn audit_key(&self) -> Result<Option<AuditKeyRecord>, StoreError> {
        Ok(self.0.lock().key.clone())
    }

    async fn create_audit_key(&self, record: AuditKeyRecord) -> Result<AuditKeyRecord, StoreError> {
        Ok(self.0.lock().key.get_or_insert(record).clone())
    }

    async fn newest_checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.0.lock().checkpoints.last().cloned())
    }

    async fn checkpoints_after(&self, sequence: u64, limit: u32) -> Result<Vec<Checkpoint>, StoreError> {
        let kept = self.0.lock();
        let after = kept.checkpoints.iter().filter(|checkpoint| checkpoint.sequence > sequence);
        Ok(after.take(limit as usize).cloned().collect())
    }

    async fn add_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let checkpoints = &mut self.0.lock().checkpoints;
        if checkpoints.last().is_some_and(|newest| checkpoint.follows(newest).is_err()) {
            return Err(StoreError::Exists { what: "checkpoint", name: checkpoint.sequence.to_string() });
        }
        checkpoints.push(checkpoint);
        Ok(())
    }

    async fn sink_position(&self, name: String) -> Result<u64, StoreError> {
        Ok(self.0.lock().positions.get(&name).copied().unwrap_or(0))
    }

    async fn set_sink_position(&self, name: String, sequence: u64) -> Result<(), StoreError> {
        let mut kept = self.0.lock();
        if kept.forgetful {
            return Err(StoreError::Full);
        }
        kept.positions.insert(name, sequence);
        Ok(())
    }

    async fn accept_older(&self, checkpoint: Checkpoint, because: String) -> Result<(), StoreError> {
        let events = &mut self.0.lock().events;
        let (sequence, previous) = events.last().map_or((0, GENESIS), |last| (last.sequence, last.hash));
        let mut event = AuditEvent {
            sequence: sequence + 1,
            at: checkpoint.at + Duration::from_secs(1),
            actor: "control".into(),
            action: Action::OlderStoreAccepted.as_str().into(),
            subject: checkpoint.name(),
            detail: because,
            hash: [0; 32],
        };
        event.hash = event.expected_hash(&previous);
        events.push(event);
        Ok(())
    }

    async fn accepted_older(&self, checkpoint: &Checkpoint) -> Result<Option<u64>, StoreError> {
        let (name, kept) = (checkpoint.name(), self.0.lock());
        let accepted = kept
            .events
            .iter()
            .find(|event| event.subject == name && event.action == Action::OlderStoreAccepted.as_str());
        Ok(accepted.map(|event| event.sequence))
    }
}

/// What a collector does with a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behaviour {
    Keep,
    /// Keeps it, and answers this status with this acknowledgement.
    Acknowledge(&'static str, &'static str),
    /// Keeps nothing.
    Answer(&'static str),
    Stall,
    Drip,
    CloseAtOnce,
    CloseInRequest,
    /// Keeps it, and the answer breaks off.
    CloseInAnswer,
    Babble,
    Endless,
}

/// An HTTP server on this machine.
pub(crate) struct Collector {
    port: u16,
    state: Arc<Mutex<(Behaviour, String)>>,
    _task: AbortOnDropHandle<()>,
}

impl Collector {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new((behaviour, String::new())));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { port, state, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/audit?x=1", self.port)
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.state.lock().0 = behaviour;
    }

    /// All that it kept.
    pub(crate) fn kept(&self) -> String {
        self.state.lock().1.clone()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<(Behaviour, String)>>) -> std::io::Result<()> {
    let behaviour = state.lock().0;
    if matches!(behaviour, Behaviour::CloseAtOnce) {
        return Ok(());
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.starts_with("post /audit?x=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-ndjson\r\n"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    if matches!(behaviour, Behaviour::CloseInRequest) {
        let half = body.len() / 2;
        stream.read_exact(&mut body[..half]).await?;
        return Ok(());
    }
    stream.read_exact(&mut body).await?;
    let keeps = matches!(behaviour, Behaviour::Keep | Behaviour::Acknowledge(..) | Behaviour::CloseInAnswer);
    if keeps {
        state.lock().1.push_str(std::str::from_utf8(&body).unwrap());
    }
    let answer = match behaviour {
        Behaviour::Keep => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        Behaviour::Acknowledge(status, sequence) => {
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nsignet-acknowledged: {sequence}\r\n\r\n")
        }
        Behaviour::Answer(status) => {
            format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\nlocation: /\r\n\r\nno\n")
        }
        Behaviour::CloseInAnswer => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned(),
        Behaviour::Babble => "220 mail.example ESMTP\r\n".to_owned(),
        Behaviour::Stall => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return Ok(());
        }
        Behaviour::Drip => {
            for byte in b"HTTP/1.1 200 OK\r\n".iter().chain(std::iter::repeat_n(&b'x', 1000)) {
                stream.write_u8(*byte).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Ok(());
        }
        Behaviour::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        }
        Behaviour::CloseAtOnce | Behaviour::CloseInRequest => return Ok(()),
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
