//! What those can do who have proven nothing, or not enough: little, and not for long.

use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;
use tokio_rustls::client::TlsStream;
use tonic_prost::ProstCodec;

use super::*;

/// A TLS connection on which nothing was said yet.
async fn mute(address: &str, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(config).connect(server_name(), stream).await.unwrap()
}

/// Waits until the other side ends it.
async fn ended(stream: &mut TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest))
        .await
        .expect("still open");
}

/// Begins a call whose message never ends. What is answered is answered without it.
async fn endless(channel: &Channel, path: &'static str) -> tonic::Status {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let message = tokio_stream::pending::<()>();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    let call = client.client_streaming::<_, (), (), _>(
        tonic::Request::new(message),
        path,
        ProstCodec::<(), ()>::default(),
    );
    tokio::time::timeout(Duration::from_secs(5), call).await.expect("waits for the message").unwrap_err()
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let mut mesh = Mesh::start().await;
    let ticket = mesh.ticket("orders").await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(mesh.service.grpc).await.unwrap());
    }
    let started = Instant::now();
    Proxy::join(&ticket).await.unwrap().renew().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn connection_without_a_request_does_not_stay() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    // On one that has asked something, and stays.
    orders.renew().await.unwrap();
    let address = mesh.service.grpc.to_string();
    let config = client_config(Some(&orders.svid), Arc::clone(&orders.trust), control(), &[ALPN_H2]).unwrap();
    // Ours begins before the other end's, whatever holds up either.
    let started = Instant::now();
    ended(&mut mute(&address, config).await).await;
    let took = started.elapsed();
    assert!(took > Duration::from_secs(9), "{took:?}");
    orders.renew().await.unwrap();
}

#[tokio::test]
async fn stranger_may_ask_for_a_challenge_and_get_an_introduction_from_nobody() {
    let mut mesh = Mesh::start().await;
    let introduction = mesh.operator.get_introduction(v1::GetIntroductionRequest {}).await.unwrap();
    let introduction: JoinTicket = introduction.into_inner().introduction.parse().unwrap();
    assert!(introduction.secret.is_none());
    assert_eq!(introduction.root_sha256, mesh.ticket("orders").await.root_sha256);
    let pinned = pinned_client_config(introduction.root_sha256, control(), &[ALPN_H2]).unwrap();
    let channel = dial(&introduction.control[0], pinned).await.unwrap();
    let request = v1::ChallengeRequest { attestor: "devices".into(), csr_sha256: vec![0; 32] };
    let answer = IdentityClient::new(channel.clone()).challenge(request).await.unwrap_err();
    assert_eq!(answer.code(), Code::NotFound, "let in, and no attestor of that name is here");
    let refused = AdminClient::new(channel).get_introduction(v1::GetIntroductionRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn message_of_whoever_may_not_call_is_not_waited_for() {
    let mut mesh = Mesh::start().await;
    let ticket = mesh.ticket("orders").await;
    let orders = mesh.proxy("orders").await;
    let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
    let anonymous = dial(&ticket.control[0], pinned).await.unwrap();
    for path in [
        "/signet.v1.Admin/ApplyPolicy",
        "/signet.v1.Identity/Renew",
        "/signet.v1.Mesh/Watch",
        "/signet.v1.Report/Report",
        "/signet.v1.Identity/Attest/",
        "/nothing",
    ] {
        assert_eq!(endless(&anonymous, path).await.code(), Code::Unauthenticated, "{path}");
    }
    let refused = endless(&orders.channel, "/signet.v1.Admin/ApplyPolicy").await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    mesh.revoke(What::Instance(orders.instance.clone())).await;
    until_refused(&orders).await;
    let refused = endless(&orders.channel, "/signet.v1.Report/Report").await;
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// The revocation has reached the door when the first call is refused.
async fn until_refused(proxy: &Proxy) {
    let refused = async { while proxy.renew().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
}

#[tokio::test]
async fn revoked_peer_hears_why_and_does_not_stay() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    orders.renew().await.unwrap();
    mesh.revoke(What::Instance(orders.instance.clone())).await;
    until_refused(&orders).await;
    let address = mesh.service.grpc.to_string();
    let again = Proxy { channel: connect(&address, &orders.svid, &orders.trust).await, ..orders };
    let refused = again.renew().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("revoked_instance"), "{refused}");
    let config = client_config(Some(&again.svid), Arc::clone(&again.trust), control(), &[ALPN_H2]).unwrap();
    ended(&mut mute(&address, config).await).await;
}
