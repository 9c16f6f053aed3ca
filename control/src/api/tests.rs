//! Over real sockets and TLS: what a proxy and an operator see.

mod audit;
mod bundles;
mod door;
mod inventory;
mod joining;
mod older;
mod policy;
mod requests;
mod roles;
mod watching;

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
use crate::service::{Service, ServiceError};

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
    try_start(directory, more).await.unwrap()
}

async fn try_start(directory: &Path, more: &[&str]) -> Result<Service, ServiceError> {
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
    Service::start(config, metrics).await
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
            ..v1::AttestRequest::default()
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
        let request = v1::RenewRequest {
            csr: key.csr(Some(&self.id)).unwrap(),
            version: "test".into(),
            ..v1::RenewRequest::default()
        };
        let answer = IdentityClient::new(self.channel.clone()).renew(request).await?.into_inner();
        Ok(svid(&answer.svid.unwrap(), &key))
    }

    async fn watch(&self, port: u32, upstreams: &[&str]) -> Streaming<WatchResponse> {
        let request = v1::WatchRequest {
            listeners: vec![v1::Listener { port, app_port: 8080 }],
            upstreams: upstreams.iter().map(|name| format!("spiffe://mesh.local/{name}")).collect(),
            version: "test".into(),
            ..v1::WatchRequest::default()
        };
        self.watch_with(request).await
    }

    async fn watch_with(&self, request: v1::WatchRequest) -> Streaming<WatchResponse> {
        MeshClient::new(self.channel.clone()).watch(request).await.unwrap().into_inner()
    }

    async fn report(&self, position: u64, closed: u64) -> Result<(), tonic::Status> {
        let closed = vec![v1::ClosedConnections { reason: "policy_lost".into(), count: closed }];
        let request = v1::ReportRequest { position, closed, ..v1::ReportRequest::default() };
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
