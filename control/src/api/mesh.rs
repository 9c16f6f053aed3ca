//! Watch: one stream per proxy, pushed. Leave: goodbye.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::Stream;
use futures_util::stream::unfold;
use signet_proto::digest::StateDigest;
use signet_proto::locality::{Locality, LocalityError};
use signet_proto::policy::{Pattern, Schema};
use signet_proto::v1::mesh_server::Mesh;
use signet_proto::v1::{self, LeaveRequest, LeaveResponse, WatchRequest, WatchResponse};
use tonic::{Request, Response, Status};

use super::Rooms;
use super::caller::Member;
use super::status::ToStatus;
use crate::publish::{Ended, Following, MeshState, Moved, NewWatcher, Opened, Rung, View};
use crate::store::model::{Actor, Lease, Listener};
use crate::telemetry::metrics;
use crate::time;
use crate::visible::is_hidden;

const MAX_LISTENERS: usize = 64;
const MAX_UPSTREAMS: usize = 1024;
const MAX_VERSION: usize = 64;
/// Who comes while there is no database waits this long before it is sent on: it may have been everywhere already.
const BACK_IN_CONTACT: Duration = Duration::from_secs(5);
/// Services that move within this time are told together: a rollout is many small moves.
const COALESCE: Duration = Duration::from_millis(5);

#[tonic::async_trait]
impl Mesh for Rooms {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let member = self.gate.member(request.extensions()).await?;
        let asked = Asked::parse(request.into_inner())?;
        // On the heap once, not in each state of the stream.
        let watch = Box::new(Watch::open(self.clone(), member, asked).await?);
        // Runs in the connection's own task, and only when there is room to send: nothing waits in between.
        let messages = unfold(Some(watch), |watch: Option<Box<Watch>>| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(message) => Some((Ok(message), Some(watch))),
                Err(end) => {
                    watch.end = Some(end.message().to_owned());
                    Some((Err(end), None))
                }
            }
        });
        Ok(Response::new(Box::pin(messages)))
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
    have: Option<StateDigest>,
    claim: Option<u64>,
    schema: Schema,
    locality: Option<Locality>,
}

impl Asked {
    fn parse(request: WatchRequest) -> Result<Self, Status> {
        let WatchRequest { listeners, upstreams, version, have, claim, policy_schema, locality } = request;
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
        let locality = (!locality.is_empty())
            .then(|| locality.parse())
            .transpose()
            .map_err(|error: LocalityError| Status::invalid_argument(format!("locality: {error}")))?;
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
            // What is not understood is as good as nothing: all is sent.
            have: have.as_ref().and_then(StateDigest::read),
            claim: (claim > 0).then_some(claim),
            schema: Schema::of_number(policy_schema),
            locality,
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
    opened: Opened,
    following: Following,
    view: View,
    /// The newest revision looked at; none before the first message.
    told: Option<u64>,
    /// Why it ended, if that was our wish.
    end: Option<String>,
}

impl Watch {
    /// Enters the books first and looks at the state afterwards, so that a revocation in between is seen.
    async fn open(rooms: Rooms, member: Member, asked: Asked) -> Result<Self, Status> {
        // What this replica knows may be older than what the proxy has: another one knows better.
        let mut cut_off = rooms.cut_off.clone();
        let back = async { cut_off.wait_for(|cut| !cut).await.is_ok() };
        if !tokio::time::timeout(BACK_IN_CONTACT, back).await.unwrap_or(false) {
            return Err(ending(Ended::CutOff));
        }
        // Before it is told anything: a change that concerns it names it from now on, connected or not.
        rooms.store.watched(member.instance).await.map_err(|error| error.to_status())?;
        let id = member.identity.id.clone();
        let Asked { listeners, upstreams, version, have, claim, schema, locality } = asked;
        let (instance, address) = (member.instance, member.address);
        let lease = Lease { instance, spiffe_id: id.clone(), address, listeners, locality };
        let now = time::now();
        let claim = claim.unwrap_or_else(|| u64::try_from(time::to_millis(now)).unwrap_or_default());
        let new = NewWatcher { version, schema, lease: lease.clone(), upstreams: upstreams.clone(), claim };
        let opened = rooms.watchers.open(&new, now);
        let following = rooms.endpoints.follow(opened.stream, &opened.bell, &upstreams);
        rooms.endpoints.hold(opened.stream, &lease);
        tracing::info!(%id, instance = %member.instance, address = %member.address, "watch stream opened");
        let view = View::new(id, upstreams, schema, have);
        Ok(Self { rooms, member, opened, following, view, told: None, end: None })
    }

    /// The next message; an error is the end.
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            let rung = if self.told.is_some() { self.rung().await } else { self.opened.bell.take() };
            if let Some(why) = rung.ended {
                return Err(ending(why));
            }
            if self.rooms.stop.is_cancelled() {
                return Err(ending(Ended::ShuttingDown));
            }
            let state = Arc::clone(&self.rooms.state.borrow());
            if let Err(status) = self.rooms.gate.require_standing(&self.member.identity) {
                // No grace for what was revoked while its stream was being opened.
                self.rooms.endpoints.remove(self.member.instance);
                return Err(status);
            }
            if rung.whole {
                self.view.forget();
            }
            if let Some(message) = self.push(&state, rung.services) {
                return Ok(message);
            }
        }
    }

    async fn rung(&self) -> Rung {
        let bell = &self.opened.bell;
        let mut rung = bell.take();
        while rung.is_nothing() {
            bell.rung().await;
            rung = bell.take();
        }
        if rung.can_wait() {
            tokio::time::sleep(COALESCE).await;
            rung.join(bell.take());
        }
        rung
    }

    /// What brings the proxy up to `state`, and to the services that may have moved.
    fn push(&mut self, state: &MeshState, moved: Moved) -> Option<WatchResponse> {
        let (instance, stream) = (&self.member.instance, self.opened.stream);
        let told = self.told.replace(state.commit.revision);
        let Some((mut message, has)) = self.view.next(state, &mut self.following, moved) else {
            self.rooms.watchers.unconcerned(instance, stream, state.generation);
            return None;
        };
        // Booked before it is sent: the acknowledgement can be faster than we are.
        message.position = self.rooms.watchers.sent(instance, stream, state.generation, has);
        if told.is_none() {
            let sections = [
                message.bundles.is_none(),
                message.policies.is_none(),
                message.revocations.is_none(),
                message.services.is_none(),
                message.traffic.is_none(),
            ];
            metrics::sections_unchanged(sections.into_iter().filter(|unchanged| *unchanged).count() as u64);
        }
        // The first message and endpoints are not about a commit that was just made.
        let fresh = told.is_some_and(|told| told < state.commit.revision);
        metrics::pushed(time::now().duration_since(state.commit.at).ok().filter(|_| fresh));
        Some(message)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let reason = self.end.as_deref().unwrap_or("closed by the proxy");
        tracing::info!(
            id = %self.member.identity.id, instance = %self.member.instance, reason, "watch stream ended"
        );
        self.rooms.watchers.close(&self.member.instance, self.opened.stream);
        self.rooms.endpoints.release(self.opened.stream, self.member.instance, Instant::now());
    }
}

fn ending(why: Ended) -> Status {
    match why {
        Ended::Superseded => Status::aborted("superseded by a newer stream of this instance"),
        Ended::ShuttingDown => Status::unavailable("control is shutting down"),
        Ended::CutOff => Status::unavailable("this control has lost its database: go to another"),
    }
}
