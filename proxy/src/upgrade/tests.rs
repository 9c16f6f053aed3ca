//! Both ends of the hand-over, one after the other, by one path.

use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::capture::{Callers, Listener};
use crate::config::Entrance;
use crate::connections::Connections;
use crate::mesh::Mesh;

/// What a process has: listeners for others, and what it has for a successor.
async fn opened(doors: &mut Doors, app: &Path, path: &Path) -> (Vec<Listener>, Successors) {
    let peers = doors.open(&Entrance::Port(0), Callers::All).await.unwrap();
    let ours = doors.open(&Entrance::Unix(app.to_owned()), Callers::Loopback).await.unwrap();
    let mesh = Arc::new(Mesh::new(Arc::new(Connections::default())));
    let listener = doors.for_successors(Some(&path.to_owned())).await.unwrap();
    (vec![peers, ours], Successors { listener, shares: doors.shares(), mesh, control: None })
}

#[tokio::test]
async fn one_process_after_the_other_takes_over_and_callers_meet_one_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let (app, path) = (directory.path().join("app.sock"), directory.path().join("upgrade.sock"));
    let mut doors = Doors::find(Some(&path)).await.unwrap();
    assert!(doors.ours().is_cancelled(), "nobody runs yet");
    let (mut listeners, mut successors) = opened(&mut doors, &app, &path).await;
    let port = listeners[0].port().unwrap();
    for _ in 0..3 {
        let (new_app, new_path) = (app.clone(), path.clone());
        let newcomer = tokio::spawn(async move {
            // One that goes away before it is ready changes nothing.
            drop(Doors::find(Some(&new_path)).await.unwrap());
            let mut doors = Doors::find(Some(&new_path)).await.unwrap();
            let refused = doors.predecessor().unwrap().certify(b"", 0).await;
            assert!(matches!(refused, Err(UpgradeError::Certificate { is_final: true, .. })));
            let opened = opened(&mut doors, &new_app, &new_path).await;
            assert!(!doors.ours().is_cancelled(), "not before the other says so");
            doors.take_over().await;
            assert!(doors.ours().is_cancelled());
            opened
        });
        let successor = successors.ready().await;
        let _waits = (
            TcpStream::connect(("127.0.0.1", port)).await.unwrap(),
            UnixStream::connect(&app).await.unwrap(),
        );
        drop(listeners);
        successor.relieved().await;
        (listeners, successors) = newcomer.await.unwrap();
        assert_eq!(listeners[0].port(), Some(port));
        for listener in &listeners {
            listener.accept().await.unwrap();
        }
    }
    drop((listeners, successors));
    assert!(!app.exists() && !path.exists(), "the last one leaves nothing");
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "and nobody holds its sockets");
}
