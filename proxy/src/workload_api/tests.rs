//! The socket as clients meet it: real gRPC on a real socket, a control that answers as it is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustix::process::{getegid, geteuid};
use signet_proto::policy::PolicySet;
use signet_proto::spiffe::TrustBundle;
use signet_proto::standard::envoy::extensions::transport_sockets::tls::v3::Secret;
use signet_proto::standard::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use signet_proto::standard::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use signet_proto::standard::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use signet_proto::standard::google::rpc;
use signet_proto::standard::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use signet_proto::standard::spiffe::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use super::*;
use crate::capture::Callers;
use crate::config::Entrance;
use crate::connections::{Connections, Content, Peer, Subject};
use crate::control::Addresses;
use crate::identity::control::join;
use crate::identity::socket::{self, Socket};
use crate::identity::tests::control::Control;
use crate::identity::tests::{HOUR, by_token, eventually, mesh};
use crate::telemetry::{CloseReason, Direction};
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

fn another_domain() -> TrustBundle {
    let domain = "other.test";
    TrustBundle::new(domain.parse().unwrap(), vec![TestAuthority::of(domain).root], 1).unwrap()
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
    assert_eq!(client.fetch_jwtsvid(jwt.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    client.fetch_jwtsvid(marked(jwt.clone())).await.unwrap();

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
async fn tokens_are_for_an_audience_and_are_checked_for_whoever_asks() {
    let served = Served::start(&[&us()], HOUR).await;
    let mut client = served.spiffe().await;
    let ask = |audience: &[&str], spiffe_id: &str| {
        let audience = audience.iter().map(|name| (*name).to_owned()).collect();
        marked(JwtsvidRequest { audience, spiffe_id: spiffe_id.to_owned() })
    };
    let orders = format!("spiffe://{DOMAIN}/orders");
    let token = client.fetch_jwtsvid(ask(&["billing"], &orders)).await.unwrap().into_inner().svids.remove(0);
    assert_eq!(token.spiffe_id, orders);
    for (asked, code) in [
        (ask(&[], ""), Code::InvalidArgument),
        (ask(&[""], ""), Code::InvalidArgument),
        (ask(&["a"; 9], ""), Code::InvalidArgument),
        (ask(&["billing"], "orders"), Code::InvalidArgument),
        (ask(&["billing"], "spiffe://other.example/orders"), Code::PermissionDenied),
    ] {
        assert_eq!(client.fetch_jwtsvid(asked).await.unwrap_err().code(), code);
    }

    let check = |audience: &str, svid: &str| {
        marked(ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() })
    };
    let believed = client.validate_jwtsvid(check("billing", &token.svid)).await.unwrap().into_inner();
    assert_eq!(believed.spiffe_id, orders);
    assert!(believed.claims.unwrap().fields.contains_key("exp"));
    let (signed, _) = token.svid.rsplit_once('.').unwrap();
    let unsigned = format!("{signed}.");
    for (audience, svid) in
        [("other", token.svid.as_str()), ("", &token.svid), ("billing", ""), ("billing", &unsigned)]
    {
        let refused = client.validate_jwtsvid(check(audience, svid)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let mut stream = client.fetch_jwt_bundles(marked(JwtBundlesRequest {})).await.unwrap().into_inner();
    let bundles = stream.message().await.unwrap().unwrap().bundles;
    let keys = String::from_utf8(bundles[&format!("spiffe://{DOMAIN}")].clone()).unwrap();
    assert!(keys.contains("\"kid\":\"key\"") && keys.contains("\"use\":\"jwt-svid\""), "{keys}");

    let served = Served::start(&[&format!("{},gives=bundles", us())], HOUR).await;
    let mut client = served.spiffe().await;
    let refused = client.fetch_jwtsvid(ask(&["billing"], "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
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

#[tokio::test(start_paused = true)]
async fn who_asks_before_there_is_an_svid_is_told_to_come_again() {
    let (mesh, stop) = (mesh(), CancellationToken::new());
    let none_yet = Feed::new(&mesh, None, stop.clone()).next().await.unwrap_err();
    assert_eq!((none_yet.code(), none_yet.message()), (Code::Unavailable, "the proxy has no identity yet"));
    stop.cancel();
    let ends = Feed::new(&mesh, None, stop).next().await.unwrap_err();
    assert_eq!(ends.code(), Code::Unavailable, "{ends}");
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
    assert_eq!(names(&all), [format!("spiffe://{DOMAIN}"), format!("spiffe://{DOMAIN}/orders")]);
    let again = client.fetch_secrets(DiscoveryRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.version_info, again.version_info, "by what is in them");
    let many = (0..65).map(|number| number.to_string()).collect();
    let many = DiscoveryRequest { resource_names: many, ..DiscoveryRequest::default() };
    assert_eq!(client.fetch_secrets(many).await.unwrap_err().code(), Code::InvalidArgument);
}

/// A stream of differences.
struct Differences {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

impl Differences {
    async fn open(served: &Served, first: DeltaDiscoveryRequest) -> Self {
        let mut client = SecretDiscoveryServiceClient::new(served.channel().await);
        let (requests, mut queue) = mpsc::channel(8);
        requests.send(first).await.unwrap();
        let queue = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
        Self { requests, responses: client.delta_secrets(queue).await.unwrap().into_inner() }
    }

    /// The next response, which is taken; its resources by name and version, and what is removed.
    async fn next(&mut self) -> (BTreeMap<String, String>, Vec<String>) {
        let response = self.responses.message().await.unwrap().unwrap();
        let taken = DeltaDiscoveryRequest { response_nonce: response.nonce, ..Default::default() };
        self.requests.send(taken).await.unwrap();
        let named = response.resources.into_iter().map(|resource| {
            let secret = Secret::decode(&resource.resource.unwrap().value[..]).unwrap();
            assert_eq!(secret.name, resource.name);
            (resource.name, resource.version)
        });
        (named.collect(), response.removed_resources)
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_subscribe: strings(names), ..Default::default() }
}

fn keys(resources: &BTreeMap<String, String>) -> Vec<&str> {
    resources.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn differences_are_what_is_wanted_and_what_changed_of_it() {
    let served = Served::start(&[&us()], HOUR).await;
    let mut stream = Differences::open(&served, subscribe(&["default", "ROOTCA", "nonsense"])).await;
    let (first, removed) = stream.next().await;
    assert_eq!((keys(&first), removed), (vec!["ROOTCA", "default"], strings(&["nonsense"])));

    let wider = another_bundle(&served.mesh);
    served.mesh.update(|inputs| inputs.bundles = vec![wider]).unwrap();
    let (second, removed) = stream.next().await;
    assert_eq!((keys(&second), removed), (vec!["ROOTCA"], Vec::new()), "the SVID is the same");
    assert_ne!(second["ROOTCA"], first["ROOTCA"]);

    // What is not taken is not sent again; nothing of what is left off; what is asked for again, again.
    let refused = DeltaDiscoveryRequest {
        response_nonce: "2".into(),
        error_detail: Some(rpc::Status { code: 13, message: "bad".into() }),
        ..Default::default()
    };
    stream.requests.send(refused).await.unwrap();
    let less =
        DeltaDiscoveryRequest { resource_names_unsubscribe: strings(&["ROOTCA"]), ..Default::default() };
    stream.requests.send(less).await.unwrap();
    stream.requests.send(subscribe(&["default", "ALL"])).await.unwrap();
    let (third, _) = stream.next().await;
    assert_eq!(keys(&third), ["ALL", "default"]);
    assert_eq!(third["default"], first["default"]);

    // A stream after this one: what it has is not sent to it.
    let mut again = subscribe(&["default", "ROOTCA"]);
    again.initial_resource_versions = first.into_iter().collect();
    let mut stream = Differences::open(&served, again).await;
    assert_eq!(keys(&stream.next().await.0), ["ROOTCA"]);

    let many: Vec<String> = (0..65).map(|number| number.to_string()).collect();
    stream
        .requests
        .send(DeltaDiscoveryRequest { resource_names_subscribe: many, ..Default::default() })
        .await
        .unwrap();
    assert_eq!(stream.responses.message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn differences_of_everything_tell_what_is_gone() {
    let served = Served::start(&[&us()], HOUR).await;
    let own = served.mesh.bundles().remove(0);
    let foreign = another_domain();
    let (both, alone) = (vec![own.clone(), foreign], vec![own]);
    served.mesh.update(|inputs| inputs.bundles = both.clone()).unwrap();
    let mut stream = Differences::open(&served, subscribe(&["*"])).await;
    let svid = format!("spiffe://{DOMAIN}/orders");
    assert_eq!(keys(&stream.next().await.0), [&format!("spiffe://{DOMAIN}"), &svid, "spiffe://other.test"]);
    served.mesh.update(|inputs| inputs.bundles = alone).unwrap();
    assert_eq!(stream.next().await, (BTreeMap::new(), strings(&["spiffe://other.test"])));
    served.mesh.update(|inputs| inputs.bundles = both).unwrap();
    assert_eq!(keys(&stream.next().await.0), ["spiffe://other.test"]);
    served.api.shelves()[0].standing.send_replace(Standing::Refused("revoked_instance".into()));
    assert_eq!(stream.responses.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn what_is_refused_stays_refused_until_it_changes() {
    let served = Served::start(&[&us()], HOUR).await;
    let mut client = SecretDiscoveryServiceClient::new(served.channel().await);
    let (requests, mut queue) = mpsc::channel(8);
    let queue = futures_util::stream::poll_fn(move |context| queue.poll_recv(context));
    let ask = |names: &[&str], nonce: &str, error: Option<&str>| DiscoveryRequest {
        resource_names: strings(names),
        response_nonce: nonce.into(),
        error_detail: error.map(|message| rpc::Status { code: 13, message: message.into() }),
        ..DiscoveryRequest::default()
    };
    requests.send(ask(&["ROOTCA"], "", None)).await.unwrap();
    let mut stream = client.stream_secrets(queue).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    requests.send(ask(&["ROOTCA"], &first.nonce, Some("I do not like it"))).await.unwrap();
    let wider = another_bundle(&served.mesh);
    served.mesh.update(|inputs| inputs.bundles = vec![wider]).unwrap();
    let second = stream.message().await.unwrap().unwrap();
    assert_ne!(second.version_info, first.version_info, "the next one is another one");
    // Of the one before: the names in it are no news any more.
    requests.send(ask(&["default"], &first.nonce, None)).await.unwrap();
    // Nothing by name, and then something else.
    requests.send(ask(&[], &second.nonce, None)).await.unwrap();
    requests.send(ask(&["ALL"], &second.nonce, None)).await.unwrap();
    assert_eq!(names(&stream.message().await.unwrap().unwrap()), ["ALL"]);
}

/// A proxy of its own that has its identity from the socket.
struct Fed {
    mesh: Arc<Mesh>,
    connections: Arc<Connections>,
    stop: CancellationToken,
}

impl Fed {
    fn by(served: &Served, spiffe_id: Option<&str>) -> Self {
        let (connections, stop) = (Arc::<Connections>::default(), CancellationToken::new());
        let mesh = Arc::new(Mesh::new(Arc::clone(&connections)));
        mesh.update(|inputs| inputs.policy = Some(Arc::new(PolicySet::empty()))).unwrap();
        let spiffe_id = spiffe_id.map(|id| id.parse().unwrap());
        let from = Socket { path: served.path.clone(), spiffe_id };
        tokio::spawn(socket::follow(from, Arc::clone(&mesh), stop.clone()));
        Self { mesh, connections, stop }
    }

    fn serial(&self) -> Option<Vec<u8>> {
        self.mesh.credentials().map(|(svid, _)| svid.profile().serial.clone())
    }
}

impl Drop for Fed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn another_proxy_has_its_identity_from_the_socket_and_follows_it() {
    let served = Served::start(&[&us()], Duration::from_secs(4)).await;
    let fed = Fed::by(&served, None);
    eventually("an SVID", || fed.serial().is_some()).await;
    let (svid, _) = fed.mesh.credentials().unwrap();
    assert_eq!(svid.id().to_string(), format!("spiffe://{DOMAIN}/orders"));
    assert_ne!(
        Some(svid.profile().serial.clone()),
        served.mesh.credentials().map(|(svid, _)| svid.profile().serial.clone())
    );

    // Bundles come and go with the answers; one that cannot be read is no obstacle.
    let own = served.mesh.bundles().remove(0);
    let foreign = another_domain();
    served.mesh.update(|inputs| inputs.bundles = vec![foreign, own.clone()]).unwrap();
    eventually("two bundles", || fed.mesh.bundles().len() == 2).await;
    served.mesh.update(|inputs| inputs.bundles = vec![own]).unwrap();
    eventually("one bundle", || fed.mesh.bundles().len() == 1).await;
    let first = fed.serial();
    eventually("a rotation", || fed.serial() != first).await;

    // What it is entitled to no more it uses no more, and what is open ends; until it is given one again.
    let open = fed.connections.register(Subject {
        direction: Direction::Outbound,
        peer: Peer::Meant(format!("spiffe://{DOMAIN}/web").parse().unwrap()),
        local: format!("spiffe://{DOMAIN}/orders").parse().unwrap(),
        port: None,
        address: None,
        content: Content::Connection,
    });
    let taken_out =
        || served.api.shelves()[0].standing.send_replace(Standing::Refused("revoked_instance".into()));
    let given = taken_out();
    let told = socket::once(&Socket { path: served.path.clone(), spiffe_id: None }).await.unwrap_err();
    assert!(told.to_string().contains("revoked_instance"), "{told}");
    eventually("no SVID", || fed.mesh.credentials().is_none() && fed.mesh.current().is_none()).await;
    assert_eq!(open.close_reason(), Some(CloseReason::SvidEnded));
    assert_eq!(fed.mesh.missing(), ["identity: no SVID yet"]);
    served.api.shelves()[0].standing.send_replace(given);
    eventually("an SVID again", || fed.mesh.current().is_some()).await;
}

#[tokio::test]
async fn calls_for_tokens_take_places_like_streams() {
    let served = Served::start(&[&us()], HOUR).await;
    let ask = || marked(JwtsvidRequest { audience: vec!["api".into()], spiffe_id: String::new() });
    served.spiffe().await.fetch_jwtsvid(ask()).await.expect("there is room");
    let mut open = Vec::new();
    while open.len() < usize::try_from(STREAMS_OF_A_USER).unwrap() {
        let mut client = served.spiffe().await;
        for _ in 0..STREAMS_OF_A_CONNECTION - 1 {
            let stream = client.fetch_x509_bundles(marked(X509BundlesRequest {})).await;
            open.push((client.clone(), stream.unwrap().into_inner()));
            if open.len() == usize::try_from(STREAMS_OF_A_USER).unwrap() {
                break;
            }
        }
    }
    let refused = served.spiffe().await.fetch_jwtsvid(ask()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    open.pop();
    let mut client = served.spiffe().await;
    eventually("a place", || served.api.board().streams_of(geteuid().as_raw()) < STREAMS_OF_A_USER).await;
    client.fetch_jwtsvid(ask()).await.expect("there is room again");
}

#[tokio::test]
async fn a_proxy_that_wants_another_identity_takes_none() {
    let served = Served::start(&[&us()], HOUR).await;
    let wanted = Socket {
        path: served.path.clone(),
        spiffe_id: Some(format!("spiffe://{DOMAIN}/orders").parse().unwrap()),
    };
    assert_eq!(socket::once(&wanted).await.unwrap().id().path(), "/orders");
    let other = Socket { spiffe_id: Some(format!("spiffe://{DOMAIN}/payments").parse().unwrap()), ..wanted };
    let told = socket::once(&other).await.unwrap_err().to_string();
    assert!(told.contains("gives `spiffe://mesh.test/orders`") && told.contains("/payments"), "{told}");
    let nowhere = Socket { path: "/nowhere/workload.sock".into(), spiffe_id: None };
    let told = socket::once(&nowhere).await.unwrap_err().to_string();
    assert!(told.contains("/nowhere/workload.sock") && told.contains("No such file"), "{told}");
}
