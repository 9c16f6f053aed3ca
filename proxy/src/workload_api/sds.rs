//! Envoy's secret discovery service: once, as the state of the world (each answer has all the secrets that were asked for,
//! in a new version if anything in them changed), or by differences ([`Delta`]).

use std::sync::Arc;

use signet_proto::standard::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use signet_proto::standard::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use tonic::{Request, Response, Status};

use super::delta::Delta;
use super::discovery::{Answers, Messages, Sent, Subscription, about_secrets, converse};
use super::feed::Material;
use super::secrets::{Names, TYPE, look_up};
use super::{Asking, WorkloadApi};

const STREAM: &str = "StreamSecrets";
const FETCH: &str = "FetchSecrets";
const DELTA: &str = "DeltaSecrets";

/// The service.
pub(super) struct Sds(pub(super) Arc<WorkloadApi>);

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Messages<DiscoveryResponse>;
    type DeltaSecretsStream = Messages<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<tonic::Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let asking = self.0.admitted(STREAM, request.extensions())?;
        let (api, requests) = (Arc::clone(&self.0), request.into_inner());
        converse(api, asking, STREAM, requests, World::default()).map(Response::new)
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let asking = self.0.admitted(FETCH, request.extensions())?;
        let streaming = self.0.begin(&asking, FETCH)?;
        let request = request.into_inner();
        about_secrets(&request.type_url)?;
        let names = Names::of(request.resource_names)?;
        let material = self.0.feed_of(&asking, &names).next().await?;
        let (version_info, resources) = look_up(&material, &names).whole()?;
        streaming.updated();
        let nonce = String::new();
        Ok(Response::new(DiscoveryResponse { version_info, resources, type_url: TYPE.into(), nonce }))
    }

    async fn delta_secrets(
        &self,
        request: Request<tonic::Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let asking = self.0.admitted(DELTA, request.extensions())?;
        let (api, requests) = (Arc::clone(&self.0), request.into_inner());
        converse(api, asking, DELTA, requests, Delta::default()).map(Response::new)
    }
}

/// The state of the world.
#[derive(Debug, Default)]
struct World {
    wanted: Names,
    /// Whether it ever asked by name.
    has_named: bool,
    sent: Sent,
    /// None: the names are new, and are answered whatever is in them.
    version: Option<String>,
}

impl Subscription for World {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn hear(&mut self, request: DiscoveryRequest, asking: &Asking) -> Result<bool, Status> {
        about_secrets(&request.type_url)?;
        let (nonce, error) = (&request.response_nonce, request.error_detail.as_ref());
        if self.sent.answered_by(nonce, error, asking) == Answers::Older {
            return Ok(false);
        }
        // Nothing is all that there is, but of who named something before it is nothing.
        let names = match request.resource_names {
            names if names.is_empty() && self.has_named => Names::NONE,
            names => Names::of(names)?,
        };
        self.has_named |= names.are_named();
        let is_other = names != self.wanted;
        if is_other {
            (self.wanted, self.version) = (names, None);
        }
        Ok(is_other)
    }

    fn names(&self) -> &Names {
        &self.wanted
    }

    fn answer(&mut self, material: &Material) -> Result<Option<DiscoveryResponse>, Status> {
        if self.wanted == Names::NONE {
            return Ok(None);
        }
        let (version_info, resources) = look_up(material, &self.wanted).whole()?;
        if self.version.as_ref() == Some(&version_info) {
            return Ok(None);
        }
        self.version = Some(version_info.clone());
        let nonce = self.sent.next();
        Ok(Some(DiscoveryResponse { version_info, resources, type_url: TYPE.into(), nonce }))
    }
}
