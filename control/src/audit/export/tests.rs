use std::fs;
use std::path::Path;

use super::*;
use crate::audit::testing::{self, Behaviour, Collector, MemoryStore, chain, checkpoint};
use crate::audit::{AuditSigner, Report, Start, verify};
use crate::time;

/// Events, every 100th with its checkpoint.
async fn history(count: u64) -> (MemoryStore, AuditSigner) {
    let (events, signer) = (chain(count), testing::signer());
    let store = MemoryStore::default();
    for event in events.iter().filter(|event| event.sequence.is_multiple_of(100)) {
        store.add_checkpoint(checkpoint(&signer, event)).await.unwrap();
    }
    store.push(&events);
    (store, signer)
}

fn sink(address: &str) -> Sink {
    Sink::open(address.parse().unwrap()).unwrap()
}

fn file_sink(path: &Path) -> Sink {
    sink(&format!("file:{}", path.display()))
}

async fn drain(store: &MemoryStore, sink: &Sink) -> Progress {
    loop {
        let progress = export_once(store, sink).await.unwrap();
        if progress.is_idle() {
            return progress;
        }
    }
}

/// What somebody finds who has only the copy.
fn verified(copy: &str, signer: &AuditSigner) -> Report {
    let lines: Vec<Line> = copy.lines().map(|line| Line::parse(line).unwrap()).collect();
    let (mut events, mut checkpoints) = (Vec::new(), Vec::new());
    for line in lines {
        match line {
            Line::Event(event) => events.push(event),
            Line::Checkpoint(checkpoint) => checkpoints.push(checkpoint),
        }
    }
    verify(events, checkpoints, signer.public(), Start::Genesis)
}

#[tokio::test]
async fn copy_in_a_file_can_be_verified_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let (store, signer) = history(1234).await;
    let sink = file_sink(&path);
    let first = export_once(&store, &sink).await.unwrap();
    assert_eq!((first.events, first.checkpoints, first.position, first.lag), (500, 5, 500, 734));
    let end = drain(&store, &sink).await;
    assert_eq!((end.position, end.lag), (1234, 0));
    let report = verified(&fs::read_to_string(&path).unwrap(), &signer);
    assert_eq!((report.is_intact(), report.intact_to, report.checkpoints, report.tail), (true, 1234, 12, 34));
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1246, "nothing twice");
}

#[tokio::test]
async fn checkpoint_that_is_made_after_its_event_was_sent_is_sent_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let (events, signer) = (chain(10), testing::signer());
    let store = MemoryStore::with(&events);
    let sink = file_sink(&path);
    drain(&store, &sink).await;
    store.add_checkpoint(checkpoint(&signer, &events[9])).await.unwrap();
    let late = export_once(&store, &sink).await.unwrap();
    assert_eq!((late.events, late.checkpoints), (0, 1));
    assert!(drain(&store, &sink).await.is_idle());
    assert_eq!(verified(&fs::read_to_string(&path).unwrap(), &signer).covered_to, 10);
}

#[tokio::test]
async fn file_knows_itself_how_far_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let (store, signer) = history(700).await;
    store.forgetful(true);
    let failed = export_once(&store, &file_sink(&path)).await.unwrap_err();
    assert!(matches!(failed, ExportError::Store(StoreError::Full)), "killed before it was remembered");
    store.forgetful(false);
    let torn = fs::read_to_string(&path).unwrap();
    fs::write(&path, &torn[..torn.len() - 10]).unwrap();
    drain(&store, &file_sink(&path)).await;
    let copy = fs::read_to_string(&path).unwrap();
    assert_eq!(copy.lines().count(), 707, "nothing twice, nothing lost");
    assert!(verified(&copy, &signer).is_intact());
}

#[tokio::test]
async fn rotated_files_are_one_copy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let (store, signer) = history(1100).await;
    let sink = file_sink(&path);
    let mut copy = String::new();
    for _ in 0..2 {
        export_once(&store, &sink).await.unwrap();
        copy.push_str(&fs::read_to_string(&path).unwrap());
        fs::rename(&path, directory.path().join("rotated")).unwrap();
    }
    drain(&store, &file_sink(&path)).await;
    copy.push_str(&fs::read_to_string(&path).unwrap());
    assert_eq!(copy.lines().count(), 1111);
    assert!(verified(&copy, &signer).is_intact());
}

#[tokio::test]
async fn file_of_another_history_is_not_continued() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let (store, _) = history(50).await;
    drain(&store, &file_sink(&path)).await;
    let restored = MemoryStore::with(&chain(40));
    let refused = export_once(&restored, &file_sink(&path)).await.unwrap_err();
    assert!(matches!(refused, ExportError::Diverged { sequence: 50, .. }), "{refused}");
    let mut other = chain(60);
    other[49].hash[0] ^= 1;
    let refused = export_once(&MemoryStore::with(&other), &file_sink(&path)).await.unwrap_err();
    assert!(matches!(refused, ExportError::Diverged { sequence: 50, .. }), "{refused}");
}

#[tokio::test]
async fn collector_that_fails_in_every_way_misses_nothing() {
    let (store, signer) = history(3600).await;
    let collector = Collector::start(Behaviour::Keep).await;
    let sink = sink(&collector.url());
    export_once(&store, &sink).await.unwrap();
    for trouble in [
        Behaviour::Answer("500 Internal Server Error"),
        Behaviour::Answer("503 Service Unavailable"),
        Behaviour::CloseAtOnce,
        Behaviour::CloseInRequest,
        Behaviour::CloseInAnswer,
        Behaviour::Babble,
    ] {
        collector.behave(trouble);
        let position = store.sink_position(sink.name().to_owned()).await.unwrap();
        export_once(&store, &sink).await.unwrap_err();
        assert_eq!(store.sink_position(sink.name().to_owned()).await.unwrap(), position, "{trouble:?}");
        collector.behave(Behaviour::Keep);
        export_once(&store, &sink).await.unwrap();
    }
    drain(&store, &sink).await;
    let report = verified(&collector.kept(), &signer);
    assert_eq!((report.is_intact(), report.intact_to, report.checkpoints), (true, 3600, 36), "{report}");
}

#[tokio::test]
async fn collector_says_where_to_go_on() {
    let (store, _) = history(900).await;
    let collector = Collector::start(Behaviour::Acknowledge("200 OK", "120")).await;
    let sink = sink(&collector.url());
    let part = export_once(&store, &sink).await.unwrap();
    assert_eq!((part.events, part.position, part.lag), (500, 120, 780));
    collector.behave(Behaviour::Keep);
    assert_eq!(export_once(&store, &sink).await.unwrap().position, 620);
    collector.behave(Behaviour::Acknowledge("409 Conflict", "20"));
    assert_eq!(export_once(&store, &sink).await.unwrap().position, 20, "it lost its end");
    let stuck = export_once(&store, &sink).await.unwrap_err();
    assert!(matches!(stuck, ExportError::Stuck { acknowledged: 20, .. }), "{stuck}");
    collector.behave(Behaviour::Acknowledge("200 OK", "99999"));
    assert_eq!(export_once(&store, &sink).await.unwrap().position, 520, "nobody has what was never sent");
}

#[tokio::test]
async fn batches_are_bounded_by_bytes_and_never_empty() {
    let mut events = chain(12);
    for event in &mut events {
        event.detail = "x".repeat(200 * 1024);
    }
    assert_eq!(one_batch(events.clone()).len(), 2);
    events[0].detail = "x".repeat(3 * BATCH_BYTES);
    assert_eq!(one_batch(events).len(), 1);
    assert!(one_batch(Vec::new()).is_empty());
}

#[tokio::test]
async fn sink_that_stays_down_is_warned_about() {
    let (store, _) = history(30).await;
    let collector = Collector::start(Behaviour::Answer("500 Internal Server Error")).await;
    let exporter = Exporter::new(sink(&collector.url()));
    let start = time::from_millis(1_900_000_000_000);
    exporter.run(&store, start).await.unwrap_err();
    exporter.run(&store, start + Duration::from_secs(50)).await.unwrap_err();
    assert_eq!(exporter.warning(start + Duration::from_secs(59)), None);
    let exports = Exports::new([exporter]);
    let [warning] = exports.warnings(start + Duration::from_secs(120)).try_into().unwrap();
    assert!(warning.contains("30 events behind") && warning.contains("500"), "{warning}");
    collector.behave(Behaviour::Keep);
    let exporter = exports.iter().next().unwrap();
    assert_eq!(exporter.run(&store, start).await.unwrap(), PAUSE);
    assert!(exports.warnings(start + Duration::from_secs(3600)).is_empty());
}
