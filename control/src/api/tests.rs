//! Over real sockets and TLS: what a proxy and an operator see.

mod audit;
mod door;
mod roles;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusBuilder;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use signet_proto::handshake::{
    ALPN_H2, Revocations, Svid, Trust, WorkloadKey, client_config, pinned_client_config, server_name,
};
use signet_proto::spiffe::{SpiffeId, TrustBundle};
use signet_proto::ticket::JoinTicket;
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::attest_request::Proof;
use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::mesh_client::MeshClient;
use signet_proto::v1::report_client::ReportClient;
use signet_proto::v1::revoke_request::What;
use signet_proto::v1::{self, WatchResponse};
use signet_proto::verbs::Verb;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Streaming};
use tower::service_fn;

use crate::config::Config;
use crate::service::Service;

/// A running service, and an operator at its socket.
struct Mesh {
    directory: TempDir,
    service: Service,
    operator: AdminClient<Channel>,
}

/// An attested proxy.
struct Proxy {
    id: SpiffeId,
    instance: String,
    svid: Svid,
    trust: Arc<Trust>,
    channel: Channel,
}

impl Mesh {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let service = start(directory.path()).await;
        let operator = operator(directory.path()).await;
        let mut mesh = Self { directory, service, operator };
        for name in ["orders", "payments", "operator"] {
            mesh.workload(name).await;
        }
        mesh
    }

    async fn restart(self) -> Self {
        let Self { directory, service, operator: old } = self;
        drop(old);
        service.stop().await;
        let service = start(directory.path()).await;
        let operator = operator(directory.path()).await;
        Self { directory, service, operator }
    }

    async fn workload(&mut self, name: &str) {
        let request = v1::CreateWorkloadRequest {
            spiffe_id: format!("spiffe://mesh.local/{name}"),
            owner: "team".into(),
            purpose: "test".into(),
            ..v1::CreateWorkloadRequest::default()
        };
        self.operator.create_workload(request).await.unwrap();
    }

    async fn ticket(&mut self, name: &str) -> JoinTicket {
        let request = v1::CreateTokenRequest { spiffe_id: format!("spiffe://mesh.local/{name}"), ttl: None };
        self.operator.create_token(request).await.unwrap().into_inner().ticket.parse().unwrap()
    }

    async fn proxy(&mut self, name: &str) -> Proxy {
        let ticket = self.ticket(name).await;
        Proxy::join(&ticket).await.unwrap()
    }

    async fn apply(&mut self, yaml: &str) -> u64 {
        let request = v1::ApplyPolicyRequest { yaml: yaml.into(), file: "test.yaml".into() };
        self.operator.apply_policy(request).await.unwrap().into_inner().revision
    }

    async fn revoke(&mut self, what: What) -> v1::MutationResponse {
        let request = v1::RevokeRequest { what: Some(what), reason: "test".into() };
        self.operator.revoke(request).await.unwrap().into_inner()
    }

    async fn applied(&mut self, revision: u64, timeout: Duration) -> v1::AwaitAppliedResponse {
        let timeout = Some(crate::time::duration_to_proto(timeout));
        let request = v1::AwaitAppliedRequest { revision, timeout };
        self.operator.await_applied(request).await.unwrap().into_inner()
    }
}

async fn start(directory: &Path) -> Service {
    start_with(directory, &[]).await
}

async fn start_with(directory: &Path, more: &[&str]) -> Service {
    let directory = directory.to_str().unwrap();
    let arguments = [
        "signet-control",
        "run",
        "--data-dir",
        directory,
        "--grpc-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
    ];
    let (_, config) = Config::from_args(arguments.iter().chain(more)).unwrap();
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    Service::start(config, metrics).await.unwrap()
}

async fn operator(directory: &Path) -> AdminClient<Channel> {
    let socket = directory.join("admin.sock");
    let connector = service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://control");
    AdminClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

async fn dial(address: &str, config: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let address = address.to_owned();
    let connector = service_fn(move |_: Uri| {
        let (address, connector) = (address.clone(), TlsConnector::from(config.clone()));
        async move {
            let stream = TcpStream::connect(address).await?;
            connector.connect(server_name(), stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://control").connect_with_connector(connector).await
}

fn proof(ticket: &JoinTicket) -> Proof {
    let secret = ticket.secret.as_ref().unwrap().to_vec();
    Proof::JoinToken(v1::JoinTokenProof { secret })
}

fn control() -> SpiffeId {
    "spiffe://mesh.local/signet/control".parse().unwrap()
}

impl Proxy {
    async fn join(ticket: &JoinTicket) -> Result<Self, tonic::Status> {
        let address = &ticket.control[0];
        let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
        let channel = dial(address, pinned).await.unwrap();
        let key = WorkloadKey::generate().unwrap();
        let request = v1::AttestRequest {
            proof: Some(proof(ticket)),
            csr: key.csr(None).unwrap(),
            version: "test".into(),
            spiffe_id: String::new(),
        };
        let answer = IdentityClient::new(channel).attest(request).await?.into_inner();
        let issued = answer.svid.unwrap();
        let svid = svid(&issued, &key);
        let bundle = TrustBundle::try_from(&answer.bundles[0]).unwrap();
        let trust = Arc::new(Trust::new([bundle], Revocations::default()));
        svid.check(&trust, crate::time::now()).unwrap();
        let channel = connect(address, &svid, &trust).await;
        Ok(Self { id: svid.id().clone(), instance: issued.instance, svid, trust, channel })
    }

    async fn renew(&self) -> Result<Svid, tonic::Status> {
        let key = WorkloadKey::generate().unwrap();
        let request = v1::RenewRequest { csr: key.csr(Some(&self.id)).unwrap(), version: "test".into() };
        let answer = IdentityClient::new(self.channel.clone()).renew(request).await?.into_inner();
        Ok(svid(&answer.svid.unwrap(), &key))
    }

    async fn watch(&self, port: u32, upstreams: &[&str]) -> Streaming<WatchResponse> {
        let request = v1::WatchRequest {
            listeners: vec![v1::Listener { port, app_port: 8080 }],
            upstreams: upstreams.iter().map(|name| format!("spiffe://mesh.local/{name}")).collect(),
            version: "test".into(),
        };
        MeshClient::new(self.channel.clone()).watch(request).await.unwrap().into_inner()
    }

    async fn report(&self, revision: u64, closed: u64) -> Result<(), tonic::Status> {
        let closed = vec![v1::ClosedConnections { reason: "policy_lost".into(), count: closed }];
        let request =
            v1::ReportRequest { applied_revision: revision, closed, ..v1::ReportRequest::default() };
        ReportClient::new(self.channel.clone()).report(request).await.map(drop)
    }
}

async fn connect(address: &str, svid: &Svid, trust: &Arc<Trust>) -> Channel {
    let config = client_config(Some(svid), Arc::clone(trust), control(), &[ALPN_H2]).unwrap();
    dial(address, config).await.unwrap()
}

fn svid(issued: &v1::IssuedSvid, key: &WorkloadKey) -> Svid {
    let chain = issued.chain.iter().cloned().map(CertificateDer::from).collect();
    Svid::new(chain, key.signing_key().unwrap()).unwrap()
}

async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    tokio::time::timeout(Duration::from_secs(5), stream.message()).await.unwrap().unwrap().unwrap()
}

fn policy(name: &str, target: &str) -> String {
    format!(
        "kind: Policy\nname: {name}\ntarget: spiffe://mesh.local/{target}\nrules:\n  - name: r\n    allow: {{ports: [80]}}\n"
    )
}

#[tokio::test]
async fn proxy_joins_renews_and_is_pushed_what_concerns_it() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    assert_eq!(orders.id.path(), "/orders");
    let renewed = orders.renew().await.unwrap();
    renewed.check(&orders.trust, crate::time::now()).unwrap();
    assert_eq!(renewed.profile().instance, orders.svid.profile().instance);

    let mut stream = orders.watch(15443, &["payments"]).await;
    let first = next(&mut stream).await;
    assert!(first.bundles.is_some() && first.policies.is_some() && first.revocations.is_some());
    assert!(first.services.unwrap().services[0].endpoints.is_empty());

    let started = Instant::now();
    let revision = mesh.apply(&policy("mine", "orders")).await;
    let message = next(&mut stream).await;
    let took = started.elapsed();
    assert_eq!(message.revision, revision);
    assert_eq!(message.policies.unwrap().documents.len(), 1);
    assert!(message.bundles.is_none() && message.revocations.is_none() && message.services.is_none());
    assert!(took < Duration::from_millis(500), "pushed after {took:?}");

    mesh.apply(&policy("other", "payments")).await;
    let payments = mesh.proxy("payments").await;
    let mut other = payments.watch(15444, &[]).await;
    next(&mut other).await;
    let message = next(&mut stream).await;
    assert!(message.policies.is_none(), "another's policy is not sent");
    let endpoint = &message.services.unwrap().services[0].endpoints[0];
    assert_eq!((endpoint.address.as_str(), endpoint.port, endpoint.app_port), ("127.0.0.1", 15444, 8080));
    assert_eq!(endpoint.instance, payments.instance);
}

#[tokio::test]
async fn of_a_hundred_joins_with_one_ticket_one_wins_and_the_others_learn_nothing() {
    let mut mesh = Mesh::start().await;
    let ticket = Arc::new(mesh.ticket("orders").await);
    let joins: Vec<_> = (0..100)
        .map(|_| {
            let ticket = Arc::clone(&ticket);
            tokio::spawn(async move { Proxy::join(&ticket).await.map(drop) })
        })
        .collect();
    let mut won = 0;
    for join in joins {
        match join.await.unwrap() {
            Ok(()) => won += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::Unauthenticated);
                assert!(status.message().starts_with("unknown or used or expired token"), "{status}");
            }
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn lost_answer_to_a_join_is_given_again_to_the_same_key() {
    let mut mesh = Mesh::start().await;
    let ticket = mesh.ticket("orders").await;
    let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
    let channel = dial(&ticket.control[0], pinned).await.unwrap();
    let key = WorkloadKey::generate().unwrap();
    let attest = async |csr: Vec<u8>| {
        let request = v1::AttestRequest {
            proof: Some(proof(&ticket)),
            csr,
            version: "test".into(),
            spiffe_id: String::new(),
        };
        IdentityClient::new(channel.clone()).attest(request).await
    };
    let first = attest(key.csr(None).unwrap()).await.unwrap().into_inner().svid.unwrap();
    let again = attest(key.csr(None).unwrap()).await.unwrap().into_inner().svid.unwrap();
    assert_eq!(first.instance, again.instance);
    svid(&again, &key);
    let other = WorkloadKey::generate().unwrap();
    for csr in [other.csr(None).unwrap(), Vec::new()] {
        let refused = attest(csr).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(refused.message().starts_with("unknown or used or expired token"), "{refused}");
    }
}

#[tokio::test]
async fn revoked_instance_loses_its_stream_and_its_calls_and_others_are_told() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut victim = orders.watch(1, &[]).await;
    let mut witness = payments.watch(2, &["orders"]).await;
    next(&mut victim).await;
    while next(&mut witness).await.services.is_none_or(|services| services.services[0].endpoints.is_empty()) {
    }
    mesh.revoke(What::Instance(orders.instance.clone())).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), victim.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    let mut told = (false, false);
    while told != (true, true) {
        let message = next(&mut witness).await;
        if let Some(revocations) = message.revocations {
            told.0 = revocations.instances.iter().any(|revoked| revoked.instance == orders.instance);
        }
        if let Some(services) = message.services {
            told.1 = services.services[0].endpoints.is_empty();
        }
    }
    assert_eq!(orders.renew().await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(orders.report(1, 0).await.unwrap_err().code(), Code::PermissionDenied);
    payments.renew().await.unwrap();
}

#[tokio::test]
async fn operator_waits_until_everyone_concerned_has_a_change_in_force() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let (mut one, mut other) = (orders.watch(1, &[]).await, payments.watch(2, &[]).await);
    for (proxy, stream) in [(&orders, &mut one), (&payments, &mut other)] {
        let first = next(stream).await;
        proxy.report(first.revision, 0).await.unwrap();
    }
    let revision = mesh.apply(&policy("mine", "orders")).await;
    next(&mut one).await;
    let waiting = mesh.applied(revision, Duration::from_millis(100)).await;
    assert!(!waiting.complete);
    orders.report(revision, 7).await.unwrap();
    let applied = mesh.applied(revision, Duration::from_secs(5)).await;
    assert!(applied.complete);
    assert_eq!(applied.proxies.len(), 1, "only the one it concerns");
    assert_eq!(applied.proxies[0].closed_connections, 7);
    assert!(applied.proxies[0].after.is_some());
    let binding = Some(v1::RoleBinding {
        subject: "spiffe://mesh.local/operator".into(),
        role: v1::Role::Admin.into(),
        scope: "everything".into(),
    });
    let unseen = mesh.operator.grant_role(v1::GrantRoleRequest { binding });
    let unseen = unseen.await.unwrap().into_inner().revision;
    assert!(mesh.applied(unseen, Duration::from_secs(5)).await.complete);
}

#[tokio::test]
async fn each_call_is_for_those_it_is_for() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    let ticket = mesh.ticket("orders").await;
    let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
    let anonymous = dial(&ticket.control[0], pinned).await.unwrap();
    let code = |result: Result<(), tonic::Status>| result.unwrap_err().code();
    let mut admin = AdminClient::new(anonymous.clone());
    let status = || v1::StatusRequest {};
    assert_eq!(code(admin.status(status()).await.map(drop)), Code::Unauthenticated);
    let mut watch = MeshClient::new(anonymous.clone());
    assert_eq!(code(watch.watch(v1::WatchRequest::default()).await.map(drop)), Code::Unauthenticated);
    let mut renew = IdentityClient::new(anonymous.clone());
    assert_eq!(code(renew.renew(v1::RenewRequest::default()).await.map(drop)), Code::Unauthenticated);
    let mut report = ReportClient::new(anonymous);
    assert_eq!(code(report.report(v1::ReportRequest::default()).await.map(drop)), Code::Unauthenticated);

    let mut admin = AdminClient::new(orders.channel.clone());
    assert_eq!(code(admin.status(status()).await.map(drop)), Code::PermissionDenied);
    let binding = Some(v1::RoleBinding {
        subject: orders.id.to_string(),
        role: v1::Role::Viewer.into(),
        scope: "everything".into(),
    });
    let grant = v1::GrantRoleRequest { binding };
    assert_eq!(code(admin.grant_role(grant.clone()).await.map(drop)), Code::PermissionDenied);
    mesh.operator.grant_role(grant).await.unwrap();
    admin.status(status()).await.unwrap();
}

#[tokio::test]
async fn proxy_that_is_not_connected_is_named_when_a_change_concerns_it() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let _operator = mesh.proxy("operator").await;
    let mut stream = orders.watch(1, &[]).await;
    next(&mut stream).await;
    drop(stream);
    let mut other = payments.watch(2, &[]).await;
    next(&mut other).await;
    let until = Instant::now() + Duration::from_secs(5);
    let connected = async |mesh: &mut Mesh| {
        mesh.operator.status(v1::StatusRequest {}).await.unwrap().into_inner().connected_proxies
    };
    while connected(&mut mesh).await > 1 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let revision = mesh.apply(&policy("mine", "orders")).await;
    let applied = mesh.applied(revision, Duration::from_secs(5)).await;
    assert!(!applied.complete);
    let [absent] = &applied.proxies[..] else { panic!("{applied:?}") };
    assert_eq!(absent.instance, orders.instance);
    assert!(!absent.applied && !absent.connected);

    let revision = mesh.apply(&policy("other", "payments")).await;
    next(&mut other).await;
    payments.report(revision, 0).await.unwrap();
    assert!(mesh.applied(revision, Duration::from_secs(5)).await.complete, "it does not concern orders");

    let revision = mesh.revoke(What::Instance(orders.instance.clone())).await.revision;
    next(&mut other).await;
    payments.report(revision, 0).await.unwrap();
    let applied = mesh.applied(revision, Duration::from_secs(5)).await;
    assert!(applied.complete, "what is revoked, and who never watched, is not asked: {applied:?}");
}

#[tokio::test]
async fn policy_that_cannot_be_read_stops_neither_revocations_nor_the_start() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let broken = crate::store::model::NewPolicy {
        name: "broken".into(),
        target: "spiffe://mesh.local/orders".into(),
        document: "{}".into(),
    };
    let control = crate::store::model::Actor::control();
    mesh.service.store.apply_policies(vec![broken], control, |_| Ok(())).await.unwrap();
    let mut mesh = mesh.restart().await;
    let address = mesh.service.grpc.to_string();
    let orders = Proxy { channel: connect(&address, &orders.svid, &orders.trust).await, ..orders };
    let mut stream = orders.watch(1, &[]).await;
    assert_eq!(next(&mut stream).await.policies.unwrap().documents, ["{}"], "the proxy denies");
    mesh.revoke(What::Instance(payments.instance.clone())).await;
    assert_eq!(next(&mut stream).await.revocations.unwrap().instances.len(), 1);
    mesh.apply(&policy("mine", "orders")).await;
    assert_eq!(next(&mut stream).await.policies.unwrap().documents.len(), 2);
}

/// Every verb of the service definition, so that one that is added without asking who calls fails here.
#[tokio::test]
async fn no_admin_verb_forgets_to_ask_who_calls() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    let ticket = mesh.ticket("orders").await;
    let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
    let anonymous = dial(&ticket.control[0], pinned).await.unwrap();
    for verb in Verb::ALL.iter().filter(|verb| verb.service() == "Admin") {
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(verb.path());
        for (channel, expected) in
            [(&anonymous, Code::Unauthenticated), (&orders.channel, Code::PermissionDenied)]
        {
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let answer = client.unary(tonic::Request::new(()), path.clone(), codec).await;
            assert_eq!(answer.unwrap_err().code(), expected, "{verb:?}");
        }
    }
}

#[tokio::test]
async fn restart_of_control_loses_nothing_and_nobody() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut stream = payments.watch(15444, &[]).await;
    next(&mut stream).await;
    mesh.apply(&policy("mine", "orders")).await;
    let mut mesh = mesh.restart().await;
    let address = mesh.service.grpc.to_string();
    let orders = Proxy { channel: connect(&address, &orders.svid, &orders.trust).await, ..orders };
    orders.renew().await.unwrap();
    let mut stream = orders.watch(1, &["payments"]).await;
    let first = next(&mut stream).await;
    assert_eq!(first.policies.unwrap().documents.len(), 1);
    let endpoints = &first.services.unwrap().services[0].endpoints;
    assert_eq!(endpoints[0].port, 15444, "known before its proxy is back");
    let events = mesh.operator.list_audit(v1::ListAuditRequest { limit: u32::MAX, subject: String::new() });
    assert!(events.await.unwrap().into_inner().events.len() >= 9);
}

#[tokio::test]
async fn departed_proxy_loses_its_endpoints_at_once_but_not_its_stream() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut leaving = payments.watch(15444, &[]).await;
    next(&mut leaving).await;
    let mut stream = orders.watch(1, &["payments"]).await;
    assert_eq!(next(&mut stream).await.services.unwrap().services[0].endpoints.len(), 1);
    let leave = || MeshClient::new(payments.channel.clone());
    leave().leave(v1::LeaveRequest {}).await.unwrap();
    assert!(next(&mut stream).await.services.unwrap().services[0].endpoints.is_empty());
    let revision = mesh.apply(&policy("mine", "payments")).await;
    assert_eq!(next(&mut leaving).await.revision, revision, "it drains, and hears of changes meanwhile");
    let _back = payments.watch(15444, &[]).await;
    assert_eq!(next(&mut stream).await.services.unwrap().services[0].endpoints.len(), 1);
}

#[tokio::test]
async fn proxy_that_a_wrong_clock_lapsed_is_back_with_its_next_call() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut witness = payments.watch(2, &["orders"]).await;
    let mut victim = orders.watch(1, &[]).await;
    next(&mut victim).await;
    next(&mut witness).await;
    let ahead = crate::time::now() + Duration::from_secs(4000);
    assert_eq!(mesh.service.store.lapse_instances(ahead, 10).await.unwrap().len(), 2);
    let ended = tokio::time::timeout(Duration::from_secs(5), victim.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::PermissionDenied);
    let mut stream = orders.watch(1, &[]).await;
    assert!(
        !next(&mut stream).await.revocations.unwrap().instances.iter().any(|i| i.instance == orders.instance)
    );
    payments.renew().await.unwrap();
    let mut witness = payments.watch(2, &["orders"]).await;
    let first = next(&mut witness).await;
    assert!(first.revocations.unwrap().instances.is_empty());
    assert_eq!(first.services.unwrap().services[0].endpoints.len(), 1, "and so is its endpoint");
}

#[tokio::test]
async fn garbage_at_the_door_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut mesh = Mesh::start().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 255, 255, 1], &[0; 100]] {
        let mut stream = TcpStream::connect(mesh.service.grpc).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ =
            tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await.unwrap();
    }
    mesh.proxy("orders").await.renew().await.unwrap();
}
