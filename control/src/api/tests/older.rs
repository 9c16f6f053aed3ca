//! A store that is older than it was: refused, or accepted in so many words.

use super::*;
use crate::audit::{Action, CHECKPOINT_FILE, Checkpoint, newest_checkpoint};
use crate::store::{Location, Store};

const OFTEN: [&str; 2] = ["--audit-checkpoint-every", "1s"];
const ACCEPT: &str = "--accept-older-store";

impl Mesh {
    async fn open(directory: TempDir, more: &[&str]) -> Self {
        let service = start_with(directory.path(), more).await;
        let operator = operator(directory.path()).await;
        Self { directory, service, operator }
    }

    async fn close(self) -> TempDir {
        let Self { directory, service, operator } = self;
        drop(operator);
        service.stop().await;
        // The threads of the store end a moment later.
        let log = directory.path().join("signet.db-wal");
        let gone = async {
            while log.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
        directory
    }

    async fn events(&mut self) -> Vec<v1::AuditEvent> {
        let request = v1::ListAuditRequest { limit: 1000, subject: String::new() };
        self.operator.list_audit(request).await.unwrap().into_inner().events
    }

    async fn accepted(&mut self) -> usize {
        let accepted = Action::OlderStoreAccepted.as_str();
        self.events().await.iter().filter(|event| event.action == accepted).count()
    }

    /// The checkpoint beside the store, once it covers all that has happened.
    async fn covered(&mut self) -> Checkpoint {
        let newest = self.events().await.last().unwrap().sequence;
        for _ in 0..200 {
            let kept = newest_checkpoint(self.directory.path(), []).unwrap();
            if let Some(kept) = kept.filter(|kept| kept.sequence >= newest) {
                return kept;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no checkpoint of event {newest}");
    }

    fn backup(&self) -> Vec<u8> {
        let mut file = Vec::new();
        Store::backup(&Location::from(self.directory.path()), &mut file).unwrap();
        file
    }
}

async fn refused(directory: &Path, more: &[&str]) -> String {
    match try_start(directory, more).await {
        Err(error @ ServiceError::Older(_)) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("started on an older store"),
    }
}

#[tokio::test]
async fn restored_backup_is_started_on_only_if_told_and_goes_on_from_there() {
    let mut mesh = Mesh::open(tempfile::tempdir().unwrap(), &OFTEN).await;
    mesh.workload("orders").await;
    let backup = mesh.backup();
    for name in ["a", "b", "c"] {
        mesh.workload(name).await;
    }
    let lost = mesh.covered().await;
    let old = mesh.close().await;
    let new = tempfile::tempdir().unwrap();
    for file in [CHECKPOINT_FILE, "seal.key"] {
        std::fs::copy(old.path().join(file), new.path().join(file)).unwrap();
    }
    let restored = Store::restore(&Location::from(new.path()), &mut backup.as_slice()).unwrap();
    assert!(restored.sequence < lost.sequence);

    for _ in 0..2 {
        let told = refused(new.path(), &OFTEN).await;
        assert!(told.contains("lacks audit events") && told.contains(ACCEPT), "{told}");
    }
    let mut mesh = Mesh::open(new, &[OFTEN[0], OFTEN[1], ACCEPT]).await;
    assert_eq!(mesh.accepted().await, 1);
    let first = mesh.covered().await;
    assert_ne!(first.hash, lost.hash);
    for name in ["d", "e", "f", "g"] {
        mesh.workload(name).await;
    }
    assert!(mesh.covered().await.sequence > first.sequence, "checkpoints go on");
    let mut mesh = mesh.restart().await;
    assert_eq!(mesh.accepted().await, 1, "nothing was lost this time");
}

#[tokio::test]
async fn older_database_file_in_place_of_the_newer_one_is_noticed() {
    let copies = tempfile::tempdir().unwrap();
    let sink = format!("file:{}", copies.path().join("audit.jsonl").display());
    let usual = [OFTEN[0], OFTEN[1], "--audit-sink", &sink];
    let mut mesh = Mesh::open(tempfile::tempdir().unwrap(), &usual).await;
    mesh.covered().await;
    let directory = mesh.close().await;
    let (database, older) = (directory.path().join("signet.db"), copies.path().join("older.db"));
    std::fs::copy(&database, &older).unwrap();

    let mut mesh = Mesh::open(directory, &usual).await;
    for name in ["a", "b", "c"] {
        mesh.workload(name).await;
    }
    let lost = mesh.covered().await;
    let copied = async {
        while newest_checkpoint(copies.path(), [copies.path().join("audit.jsonl").as_path()]).unwrap()
            != Some(lost.clone())
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), copied).await.unwrap();
    let directory = mesh.close().await;
    std::fs::copy(&older, &database).unwrap();

    refused(directory.path(), &usual).await;
    std::fs::remove_file(directory.path().join(CHECKPOINT_FILE)).unwrap();
    refused(directory.path(), &usual).await;
    let mut mesh = Mesh::open(directory, &[&usual[..], &[ACCEPT]].concat()).await;
    assert_eq!(mesh.accepted().await, 1);
    let directory = mesh.close().await;
    // The copy still holds what was lost; that was accepted, and signed since.
    let mut mesh = Mesh::open(directory, &usual).await;
    mesh.covered().await;
    assert_eq!(mesh.accepted().await, 1);
}
