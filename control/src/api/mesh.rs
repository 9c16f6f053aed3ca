//! Watch: one stream per proxy, pushed. Leave: goodbye.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signet_proto::policy::Pattern;
use signet_proto::v1::mesh_server::Mesh;
use signet_proto::v1::{self, LeaveRequest, LeaveResponse, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::Rooms;
use super::caller::Member;
use super::status::ToStatus;
use crate::publish::{MeshState, NewWatcher, ServiceStream, View};
use crate::store::model::{Actor, Lease, Listener};
use crate::telemetry::metrics;
use crate::time;
use crate::visible::is_hidden;

const MAX_LISTENERS: usize = 64;
const MAX_UPSTREAMS: usize = 1024;
const MAX_VERSION: usize = 64;

#[tonic::async_trait]
impl Mesh for Rooms {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let member = self.gate.member(request.extensions()).await?;
        let asked = Asked::parse(request.into_inner())?;
        let (messages, stream) = mpsc::channel(1);
        let watch = Watch::open(self.clone(), member, asked, messages).await?;
        tokio::spawn(watch.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    /// An open stream stays open: whoever drains still wants to hear of revocations.
    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let Member { identity, instance, request_id, .. } = self.gate.member(request.extensions()).await?;
        self.endpoints.remove(instance);
        self.watchers.departed(&instance);
        let actor = Actor::identity(&identity.id).in_call(request_id);
        self.store
            .depart_instance(instance, identity.id.clone(), actor)
            .await
            .map_err(|error| error.to_status())?;
        tracing::info!(id = %identity.id, %instance, "instance departed");
        Ok(Response::new(LeaveResponse {}))
    }
}

struct Asked {
    listeners: Vec<Listener>,
    upstreams: Vec<Pattern>,
    version: String,
}

impl Asked {
    fn parse(request: WatchRequest) -> Result<Self, Status> {
        let WatchRequest { listeners, upstreams, version } = request;
        if listeners.len() > MAX_LISTENERS || upstreams.len() > MAX_UPSTREAMS {
            return Err(Status::invalid_argument(format!(
                "expected at most {MAX_LISTENERS} listeners and {MAX_UPSTREAMS} upstreams"
            )));
        }
        if version.len() > MAX_VERSION || version.chars().any(is_hidden) {
            return Err(Status::invalid_argument(format!(
                "version: expected at most {MAX_VERSION} bytes without control characters"
            )));
        }
        let listeners: BTreeSet<Listener> = listeners
            .iter()
            .map(listener)
            .collect::<Option<_>>()
            .ok_or_else(|| Status::invalid_argument("listeners: expected ports from 1 to 65535"))?;
        let upstreams: BTreeSet<Pattern> = upstreams
            .iter()
            .map(|id| id.parse().map_err(|error| Status::invalid_argument(format!("upstreams: {error}"))))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            listeners: listeners.into_iter().collect(),
            upstreams: upstreams.into_iter().collect(),
            version,
        })
    }
}

fn listener(listener: &v1::Listener) -> Option<Listener> {
    let port = u16::try_from(listener.port).ok().filter(|port| *port != 0)?;
    Some(Listener { port, app_port: u16::try_from(listener.app_port).ok()? })
}

/// One open stream. Dropping it closes its books, however the stream ended.
struct Watch {
    rooms: Rooms,
    member: Member,
    stream: u64,
    ended: CancellationToken,
    lease: Lease,
    services: ServiceStream,
    messages: mpsc::Sender<Result<WatchResponse, Status>>,
}

enum Next {
    Changed,
    End(Option<Status>),
}

impl Watch {
    /// Enters the books first and looks at the state afterwards, so that a revocation in between is seen.
    async fn open(
        rooms: Rooms,
        member: Member,
        asked: Asked,
        messages: mpsc::Sender<Result<WatchResponse, Status>>,
    ) -> Result<Self, Status> {
        // Before it is told anything: a change that concerns it names it from now on, connected or not.
        rooms.store.watched(member.instance).await.map_err(|error| error.to_status())?;
        let lease = Lease {
            instance: member.instance,
            spiffe_id: member.identity.id.clone(),
            address: member.address,
            listeners: asked.listeners,
        };
        let new = NewWatcher { version: asked.version, lease: lease.clone() };
        let (stream, ended) = rooms.watchers.open(&new, time::now());
        let services = rooms.endpoints.subscribe(&asked.upstreams);
        rooms.endpoints.hold(stream, &lease);
        let watch = Self { rooms, member, stream, ended, lease, services, messages };
        tracing::info!(
            id = %watch.member.identity.id, instance = %watch.member.instance,
            address = %watch.member.address, "watch stream opened"
        );
        Ok(watch)
    }

    async fn run(mut self) {
        let mut view = View::new(self.member.identity.id.clone());
        let mut states = self.rooms.state.clone();
        let mut told = None;
        let mut services = Some(self.services.current());
        let end = loop {
            let state = Arc::clone(&states.borrow_and_update());
            if let Err(status) = self.rooms.gate.require_standing(&self.member.identity) {
                // No grace for what was revoked while its stream was being opened.
                self.rooms.endpoints.remove(self.member.instance);
                break Some(status);
            }
            if !self.push(&mut view, &state, told, services.take()).await {
                break None;
            }
            told = Some(state.commit.revision);
            let next = tokio::select! {
                changed = states.changed() => match changed {
                    Ok(()) => Next::Changed,
                    Err(_) => Next::End(Some(Status::unavailable("control is shutting down"))),
                },
                () = self.services.changed() => {
                    services = Some(self.services.current());
                    Next::Changed
                }
                () = self.rooms.stop.cancelled() => {
                    Next::End(Some(Status::unavailable("control is shutting down")))
                }
                () = self.ended.cancelled() => {
                    Next::End(Some(Status::aborted("superseded by a newer stream of this instance")))
                }
                () = self.messages.closed() => Next::End(None),
            };
            if let Next::End(status) = next {
                break status;
            }
        };
        let reason = end.as_ref().map_or("closed by the proxy", |status| status.message());
        tracing::info!(
            id = %self.member.identity.id, instance = %self.member.instance, reason, "watch stream ended"
        );
        if let Some(status) = end {
            let _ = tokio::time::timeout(Duration::from_secs(1), self.messages.send(Err(status))).await;
        }
    }

    /// Brings the proxy up to `state`, after the revision `told`, and to `services`, if they may have changed. False: the stream is gone.
    async fn push(
        &mut self,
        view: &mut View,
        state: &MeshState,
        told: Option<u64>,
        services: Option<Vec<v1::Service>>,
    ) -> bool {
        let message = view.next(state, services);
        let sent = message.is_some();
        // Booked before it is sent: the acknowledgement can be faster than we are.
        self.rooms.watchers.evaluated(&self.member.instance, self.stream, state.commit.revision, sent);
        let Some(message) = message else { return true };
        if self.messages.send(Ok(message)).await.is_err() {
            return false;
        }
        // The first message and endpoints are not about a commit that was just made.
        let fresh = told.is_some_and(|told| told < state.commit.revision);
        metrics::pushed(time::now().duration_since(state.commit.at).ok().filter(|_| fresh));
        true
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.rooms.watchers.close(&self.member.instance, self.stream);
        self.rooms.endpoints.release(self.stream, &self.lease, Instant::now());
    }
}
