//! The audit for those who want all of it: events in order, pushed as they are committed, and checkpoints.
//!
//! Whoever is slow is waited for, not queued for; whoever may not operate any more gets nothing more.

use std::time::Duration;

use signet_proto::v1::{ListCheckpointsResponse, TailAuditRequest, TailAuditResponse};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Status};

use super::super::Rooms;
use super::super::status::ToStatus;
use super::messages;
use crate::audit::{AuditStore, Line, one_batch};

/// Events in one message, at most.
const EVENTS: u32 = 500;
const CHECKPOINTS: u32 = 5000;
/// Commits that change nothing for proxies, and those of other replicas, are not announced: so they are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// What a tail is answered with.
pub(super) type Events = ReceiverStream<Result<TailAuditResponse, Status>>;

pub(super) fn tail(rooms: &Rooms, request: Request<TailAuditRequest>) -> Result<Events, Status> {
    let place = rooms.tails.clone().try_acquire_owned().map_err(|_| {
        Status::resource_exhausted("too many follow the audit already: end one of them, then try again")
    })?;
    let caller = request.extensions().clone();
    let TailAuditRequest { after_sequence, follow } = request.into_inner();
    let (messages, stream) = mpsc::channel(1);
    let tail =
        Tail { rooms: rooms.clone(), caller, position: after_sequence, follow, messages, _place: place };
    tokio::spawn(tail.run());
    Ok(ReceiverStream::new(stream))
}

pub(super) async fn checkpoints(rooms: &Rooms, after: u64) -> Result<ListCheckpointsResponse, Status> {
    let found = rooms.store.checkpoints_after(after, CHECKPOINTS).await.map_err(|error| error.to_status())?;
    let checkpoints = found.into_iter().map(|found| Line::Checkpoint(found).to_string()).collect();
    Ok(ListCheckpointsResponse { checkpoints })
}

struct Tail {
    rooms: Rooms,
    /// To ask again, before each message, whether they still may.
    caller: Extensions,
    position: u64,
    follow: bool,
    messages: mpsc::Sender<Result<TailAuditResponse, Status>>,
    _place: OwnedSemaphorePermit,
}

impl Tail {
    async fn run(mut self) {
        let mut commits = self.rooms.store.committed();
        let end = loop {
            commits.mark_unchanged();
            let message = match self.next().await {
                Ok(message) => message,
                Err(status) => break Some(status),
            };
            if !message.events.is_empty() {
                let sent = tokio::select! {
                    sent = self.messages.send(Ok(message)) => sent.is_ok(),
                    () = self.rooms.stop.cancelled() => false,
                };
                if sent {
                    continue;
                }
                break None;
            }
            if !self.follow {
                break None;
            }
            tokio::select! {
                _ = commits.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
                () = self.messages.closed() => break None,
                () = self.rooms.stop.cancelled() => {
                    break Some(Status::unavailable("control is shutting down"));
                }
            }
        };
        if let Some(status) = end {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.messages.send(Err(status))).await;
        }
    }

    async fn next(&mut self) -> Result<TailAuditResponse, Status> {
        self.rooms.on_everything(&self.caller).await?;
        let store = &self.rooms.store;
        let events = store.events_after(self.position, EVENTS).await.map_err(|error| error.to_status())?;
        let events = one_batch(events);
        let newest = store.newest_event().await.map_err(|error| error.to_status())?;
        self.position = events.last().map_or(self.position, |event| event.sequence);
        Ok(TailAuditResponse {
            newest: newest.map_or(0, |event| event.sequence),
            events: events.into_iter().map(messages::event).collect(),
        })
    }
}
