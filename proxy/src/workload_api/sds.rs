//! Envoy's secret discovery service, state of the world: each answer has all the secrets that were asked for, in a new
//! version if anything in them changed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use signet_proto::standard::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use signet_proto::standard::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use tonic::{Request, Response, Status};

use super::board::Streaming;
use super::feed::{Feed, Material};
use super::secrets::{Names, TYPE, secrets};
use super::{Asking, Gives, WorkloadApi};
use crate::telemetry::metrics;

const STREAM: &str = "StreamSecrets";
const FETCH: &str = "FetchSecrets";
const DELTA: &str = "DeltaSecrets";
/// Whoever opens a stream says what it is for.
const FIRST_NAMES: Duration = Duration::from_secs(10);
/// Of what a client says why it did not take something.
const LONGEST_REASON: usize = 512;

/// The service.
pub(super) struct Sds(pub(super) Arc<WorkloadApi>);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Messages<DiscoveryResponse>;
    type DeltaSecretsStream = Messages<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<tonic::Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let asking = self.0.admitted(STREAM, request.extensions())?;
        let streaming = self.0.begin(&asking, STREAM)?;
        let api = Arc::clone(&self.0);
        let requests = request.into_inner();
        let client = Client { api, asking, streaming, requests, wanted: None, sent: Sent::default() };
        Ok(Response::new(Box::pin(stream::unfold(Some(client), |client| async {
            let mut client = client?;
            match client.next().await? {
                Ok(response) => Some((Ok(response), Some(client))),
                Err(status) => Some((Err(status), None)),
            }
        }))))
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
        let (resources, version_info) = secrets(&material, &names)?;
        streaming.updated();
        Ok(Response::new(DiscoveryResponse {
            version_info,
            resources,
            type_url: TYPE.into(),
            nonce: String::new(),
        }))
    }

    async fn delta_secrets(
        &self,
        request: Request<tonic::Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.0.admitted(DELTA, request.extensions())?;
        let status = Status::unimplemented("no delta of secrets: use `api_type: GRPC`");
        Err(self.0.refused(DELTA, "unavailable", status))
    }
}

impl WorkloadApi {
    fn feed_of(&self, asking: &Asking, names: &Names) -> Feed {
        let shelf =
            asking.shelf.as_ref().filter(|shelf| names.want_svid() && shelf.rule.gives == Gives::Svid);
        self.feed(shelf.map(|shelf| shelf.standing()))
    }
}

/// An open stream.
struct Client {
    api: Arc<WorkloadApi>,
    asking: Asking,
    streaming: Streaming,
    requests: tonic::Streaming<DiscoveryRequest>,
    /// What it asked for last.
    wanted: Option<(Names, Feed)>,
    sent: Sent,
}

/// What it was told last.
#[derive(Debug, Default)]
struct Sent {
    count: u64,
    /// None: the names are new, and are answered whatever is in them.
    version: Option<String>,
}

/// What the request of a client means.
#[derive(Debug, PartialEq, Eq)]
enum Answers {
    /// Nothing: it is the first one.
    Nothing,
    /// It took what it was sent last.
    Acknowledges,
    /// It did not.
    Refuses,
    /// It is about something older; the answer to the newest one is on its way.
    Older,
}

impl Client {
    /// The next response. None when the client is gone.
    async fn next(&mut self) -> Option<Result<DiscoveryResponse, Status>> {
        loop {
            let waits = self.wanted.is_none();
            let change = async {
                match &mut self.wanted {
                    Some((_, feed)) => feed.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                request = self.requests.message() => match request {
                    Ok(Some(request)) => if let Err(status) = self.hear(request) {
                        return Some(Err(self.api.refused(STREAM, "invalid", status)));
                    },
                    Ok(None) | Err(_) => return None,
                },
                material = change => {
                    let answered = material.and_then(|material| self.answer(&material));
                    if let Some(answer) = answered.transpose() {
                        return Some(answer);
                    }
                }
                () = tokio::time::sleep(FIRST_NAMES), if waits => {
                    return Some(Err(Status::deadline_exceeded("no secrets were asked for")));
                }
            }
        }
    }

    fn hear(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        about_secrets(&request.type_url)?;
        match self.sent.answered_by(&request) {
            Answers::Nothing => {}
            Answers::Older => return Ok(()),
            Answers::Acknowledges => metrics::secret_answered("ack"),
            Answers::Refuses => {
                metrics::secret_answered("nack");
                let reason = request.error_detail.as_ref().map(|error| error.message.as_str());
                let reason: String = reason.unwrap_or_default().chars().take(LONGEST_REASON).collect();
                tracing::warn!(caller = ?self.asking.caller, secrets = ?request.resource_names, reason,
                    "an SDS client did not take what it was sent, and keeps what it had");
            }
        }
        let names = Names::of(request.resource_names)?;
        if self.wanted.as_ref().is_none_or(|(before, _)| *before != names) {
            let feed = self.api.feed_of(&self.asking, &names);
            (self.wanted, self.sent.version) = (Some((names, feed)), None);
        }
        Ok(())
    }

    /// None if nothing of what was asked for changed.
    fn answer(&mut self, material: &Material) -> Result<Option<DiscoveryResponse>, Status> {
        let Some((names, _)) = &self.wanted else { return Ok(None) };
        let (resources, version) = secrets(material, names)?;
        if self.sent.version.as_ref() == Some(&version) {
            return Ok(None);
        }
        let nonce = self.sent.send(version.clone());
        self.streaming.updated();
        Ok(Some(DiscoveryResponse { version_info: version, resources, type_url: TYPE.into(), nonce }))
    }
}

impl Sent {
    /// Notes what is sent, and makes its nonce.
    fn send(&mut self, version: String) -> String {
        self.count += 1;
        self.version = Some(version);
        self.nonce()
    }

    fn nonce(&self) -> String {
        self.count.to_string()
    }

    fn answered_by(&self, request: &DiscoveryRequest) -> Answers {
        match request.response_nonce.as_str() {
            "" => Answers::Nothing,
            nonce if self.count == 0 || nonce != self.nonce() => Answers::Older,
            _ if request.error_detail.is_some() => Answers::Refuses,
            _ => Answers::Acknowledges,
        }
    }
}

fn about_secrets(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == TYPE {
        return Ok(());
    }
    let found: String = type_url.chars().take(256).collect();
    Err(Status::invalid_argument(format!("expected the type {TYPE}, found {found:?}")))
}

#[cfg(test)]
mod tests {
    use signet_proto::standard::google::rpc;

    use super::*;

    fn request(nonce: &str, error: Option<&str>) -> DiscoveryRequest {
        let error_detail = error.map(|message| rpc::Status { code: 13, message: message.into() });
        DiscoveryRequest { response_nonce: nonce.into(), error_detail, ..DiscoveryRequest::default() }
    }

    #[test]
    fn answers_are_to_the_newest_response_or_to_none() {
        let mut sent = Sent::default();
        assert_eq!(sent.answered_by(&request("", None)), Answers::Nothing);
        assert_eq!(sent.answered_by(&request("1", None)), Answers::Older, "of a stream before");
        let first = sent.send("a".into());
        assert_eq!(sent.answered_by(&request(&first, None)), Answers::Acknowledges);
        assert_eq!(sent.answered_by(&request(&first, Some("bad"))), Answers::Refuses);
        let second = sent.send("b".into());
        assert_ne!(first, second);
        assert_eq!(sent.answered_by(&request(&first, Some("bad"))), Answers::Older);
        assert_eq!(sent.answered_by(&request(&second, None)), Answers::Acknowledges);
    }

    #[test]
    fn only_secrets_can_be_discovered() {
        assert!(about_secrets("").is_ok() && about_secrets(TYPE).is_ok());
        let other = about_secrets("type.googleapis.com/envoy.config.cluster.v3.Cluster").unwrap_err();
        assert_eq!(other.code(), tonic::Code::InvalidArgument);
    }
}
