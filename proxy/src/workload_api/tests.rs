//! The socket as clients meet it: real gRPC on a real socket, a control that answers as it is told.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustix::process::{getegid, geteuid};
use signet_proto::policy::PolicySet;
use signet_proto::spiffe::TrustBundle;
use signet_proto::standard::envoy::extensions::transport_sockets::tls::v3::Secret;
use signet_proto::standard::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use signet_proto::standard::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use signet_proto::standard::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use signet_proto::standard::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use signet_proto::standard::spiffe::{JwtsvidRequest, X509BundlesRequest, X509svidRequest};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::*;
use crate::capture::Callers;
use crate::config::Entrance;
use crate::control::Addresses;
use crate::identity::control::join;
use crate::identity::tests::control::Control;
use crate::identity::tests::{HOUR, by_token, mesh};
use crate::testing::{DOMAIN, TestAuthority, bundle};

/// A socket that is served, with these rules.
struct Served {
    api: Arc<WorkloadApi>,
    mesh: Arc<Mesh>,
    path: PathBuf,
    _directory: TempDir,
}

impl Served {
    async fn start(rules: &[&str], life: Duration) -> Self {
        let control = Control::start(life).await;
        let (_token, proof) = by_token("eyJ.the.token");
        let (joining, mesh) = (control.joining(proof), mesh());
        let addresses = Arc::new(Addresses::new(joining.control.clone()));
        join(&joining, &addresses, &mesh).await.unwrap();
        mesh.update(|inputs| inputs.policy = Some(Arc::new(PolicySet::empty()))).unwrap();
        let lender = Lender { control: addresses, mesh: Arc::clone(&mesh), ttl_seconds: 0 };
        let rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let api = Arc::new(WorkloadApi::new(&lender, rules, CancellationToken::new()));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workload.sock");
        let listener = Listener::bind(&Entrance::Unix(path.clone()), Callers::Admitted).await.unwrap();
        tokio::spawn(Arc::clone(&api).serve(listener));
        Self { api, mesh, path, _directory: directory }
    }

    async fn channel(&self) -> Channel {
        let path = self.path.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://socket").connect_with_connector(connector).await.unwrap()
    }

    async fn spiffe(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel().await)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.api.stop.cancel();
    }
}

fn us() -> String {
    format!("uid={}", geteuid().as_raw())
}

fn nobody() -> String {
    format!("uid={}", geteuid().as_raw() + 1)
}

fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// The code of a call, or of the first thing on its stream.
async fn code<T>(called: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Code {
    match called {
        Err(status) => status.code(),
        Ok(stream) => stream.into_inner().message().await.map_or_else(|status| status.code(), |_| Code::Ok),
    }
}

fn another_bundle(mesh: &Mesh) -> TrustBundle {
    let own = mesh.credentials().unwrap().1.bundle(&DOMAIN.parse().unwrap()).unwrap().clone();
    let new = bundle([&TestAuthority::new()]);
    let both = own.authorities().iter().chain(new.authorities()).cloned().collect();
    TrustBundle::new(own.trust_domain().clone(), both, 2).unwrap()
}

#[tokio::test]
async fn only_callers_of_a_rule_are_served_and_only_with_the_header() {
    let served = Served::start(&[&nobody(), &format!("{},gid={}", us(), getegid().as_raw())], HOUR).await;
    let mut client = served.spiffe().await;
    assert_eq!(code(client.fetch_x509svid(X509svidRequest {}).await).await, Code::InvalidArgument);
    let mut wrong = marked(X509svidRequest {});
    wrong.metadata_mut().insert("workload.spiffe.io", "1".parse().unwrap());
    assert_eq!(code(client.fetch_x509svid(wrong).await).await, Code::InvalidArgument);
    assert_eq!(code(client.fetch_x509svid(marked(X509svidRequest {})).await).await, Code::Ok);
    let jwt = JwtsvidRequest { audience: vec!["a".into()], spiffe_id: String::new() };
    assert_eq!(client.fetch_jwtsvid(marked(jwt.clone())).await.unwrap_err().code(), Code::Unimplemented);

    let served = Served::start(&[&nobody()], HOUR).await;
    let mut client = served.spiffe().await;
    assert_eq!(code(client.fetch_x509svid(X509svidRequest {}).await).await, Code::InvalidArgument);
    assert_eq!(code(client.fetch_x509svid(marked(X509svidRequest {})).await).await, Code::PermissionDenied);
    assert_eq!(
        code(client.fetch_x509_bundles(marked(X509BundlesRequest {})).await).await,
        Code::PermissionDenied
    );
    assert_eq!(client.fetch_jwtsvid(marked(jwt)).await.unwrap_err().code(), Code::PermissionDenied);
    let mut sds = SecretDiscoveryServiceClient::new(served.channel().await);
    let denied = sds.fetch_secrets(DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(matches!(served.api.shelves()[0].now(), Standing::Without(_)), "nothing is made for nobody");
}

#[tokio::test]
async fn whoever_only_verifies_gets_bundles_and_no_key() {
    let served = Served::start(&[&format!("{},gives=bundles", us())], HOUR).await;
    let mut client = served.spiffe().await;
    assert_eq!(code(client.fetch_x509svid(marked(X509svidRequest {})).await).await, Code::PermissionDenied);
    let mut stream = client.fetch_x509_bundles(marked(X509BundlesRequest {})).await.unwrap().into_inner();
    let bundles = stream.message().await.unwrap().unwrap().bundles;
    let root = served.mesh.bundles()[0].authorities()[0].to_vec();
    assert_eq!(bundles, [(format!("spiffe://{DOMAIN}"), root)].into());
    let mut sds = SecretDiscoveryServiceClient::new(served.channel().await);
    let all = sds.fetch_secrets(DiscoveryRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(&all), [format!("spiffe://{DOMAIN}")]);
    let named = DiscoveryRequest { resource_names: vec!["default".into()], ..DiscoveryRequest::default() };
    assert_eq!(sds.fetch_secrets(named).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_stream_shows_every_rotation_and_bundle_and_nothing_else() {
    let served = Served::start(&[&us()], Duration::from_secs(4)).await;
    let mut client = served.spiffe().await;
    let mut stream = client.fetch_x509svid(marked(X509svidRequest {})).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.svids[0].spiffe_id, format!("spiffe://{DOMAIN}/orders"));
    assert!(first.federated_bundles.is_empty());
    // Of no interest to the app.
    served
        .mesh
        .update(|inputs| inputs.policy = Some(Arc::new(PolicySet::deny_all("for a test".into()))))
        .unwrap();
    let wider = another_bundle(&served.mesh);
    served.mesh.update(|inputs| inputs.bundles = vec![wider.clone()]).unwrap();
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!(second.svids[0].x509_svid, first.svids[0].x509_svid);
    let authorities: Vec<&[u8]> = wider.authorities().iter().map(AsRef::as_ref).collect();
    assert_eq!(second.svids[0].bundle, authorities.concat());
    let third = stream.message().await.unwrap().unwrap();
    assert_ne!(third.svids[0].x509_svid_key, first.svids[0].x509_svid_key, "a rotation brings another key");
    assert_ne!(third.svids[0].x509_svid, first.svids[0].x509_svid);
    let shown = served.api.board().show(|_| None);
    assert_eq!((&shown[0]["uid"], &shown[0]["updates"]), (&geteuid().as_raw().into(), &3.into()));
    served.api.stop.cancel();
    let ended = stream.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
}

#[tokio::test]
async fn a_stream_ends_when_the_identity_is_gone() {
    let served = Served::start(&[&us()], HOUR).await;
    let mut client = served.spiffe().await;
    let mut stream = client.fetch_x509svid(marked(X509svidRequest {})).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    served.api.shelves()[0].standing.send_replace(Standing::Refused("revoked_instance".into()));
    let ended = stream.message().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::PermissionDenied, "revoked_instance"));
    assert_eq!(code(client.fetch_x509svid(marked(X509svidRequest {})).await).await, Code::PermissionDenied);
    let mut bundles = client.fetch_x509_bundles(marked(X509BundlesRequest {})).await.unwrap().into_inner();
    bundles.message().await.unwrap().expect("whom to believe is another matter");
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    secrets_of(response).into_iter().map(|secret| secret.name).collect()
}

fn secrets_of(response: &DiscoveryResponse) -> Vec<Secret> {
    response.resources.iter().map(|any| Secret::decode(&any.value[..]).unwrap()).collect()
}

#[tokio::test]
async fn secrets_come_by_name_and_again_when_they_change() {
    let served = Served::start(&[&us()], HOUR).await;
    let mut client = SecretDiscoveryServiceClient::new(served.channel().await);
    let (requests, mut queue) = mpsc::channel(8);
    let queue = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
    let ask = |names: &[&str], nonce: &str| DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.into(),
        ..DiscoveryRequest::default()
    };
    requests.send(ask(&["ROOTCA"], "")).await.unwrap();
    let mut stream = client.stream_secrets(queue).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(names(&first), ["ROOTCA"]);
    assert!(matches!(served.api.shelves()[0].now(), Standing::Without(_)), "no SVID for who wants none");

    // Taken; then, on the same stream, more.
    requests.send(ask(&["ROOTCA"], &first.nonce)).await.unwrap();
    requests.send(ask(&["ROOTCA", "default"], &first.nonce)).await.unwrap();
    let second = stream.message().await.unwrap().unwrap();
    assert_eq!(names(&second), ["ROOTCA", "default"]);
    let Some(Type::TlsCertificate(_)) = &secrets_of(&second)[1].r#type else { panic!("no certificate") };
    assert_ne!(first.version_info, second.version_info);

    let wider = another_bundle(&served.mesh);
    served.mesh.update(|inputs| inputs.bundles = vec![wider]).unwrap();
    let third = stream.message().await.unwrap().unwrap();
    assert_eq!(names(&third), ["ROOTCA", "default"], "all that was asked for");
    assert!(third.version_info != second.version_info && third.nonce != second.nonce);

    requests.send(ask(&["spiffe://mesh.test/somebody-else"], &third.nonce)).await.unwrap();
    let refused = stream.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("`default`"), "{refused}");
}

#[tokio::test]
async fn every_secret_is_there_without_names() {
    let served = Served::start(&[&us()], HOUR).await;
    let mut client = SecretDiscoveryServiceClient::new(served.channel().await);
    let all = client.fetch_secrets(DiscoveryRequest::default()).await.unwrap().into_inner();
    assert_eq!(names(&all), [format!("spiffe://{DOMAIN}/orders"), format!("spiffe://{DOMAIN}")]);
    let again = client.fetch_secrets(DiscoveryRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.version_info, again.version_info, "by what is in them");
    let many = (0..65).map(|number| number.to_string()).collect();
    let many = DiscoveryRequest { resource_names: many, ..DiscoveryRequest::default() };
    assert_eq!(client.fetch_secrets(many).await.unwrap_err().code(), Code::InvalidArgument);
}
