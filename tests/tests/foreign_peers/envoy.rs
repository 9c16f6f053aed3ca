//! Envoy (BoringSSL), as caller of our inbound port and as peer behind our outbound port.

use signet_tests::apps::{H2App, RequestApp, TcpEcho};
use signet_tests::client::file;
use signet_tests::door::{Door, Frame};
use signet_tests::envoy::{Carries, Envoy, Mutual};
use signet_tests::mesh::allow;
use signet_tests::sockets::{EchoConnection, send_half_close_and_read};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::{get, identities, names_the_client, refused};

const HTTP1: &str = "--http1.1";
const HTTP2: &str = "--http2-prior-knowledge";

#[tokio::test(flavor = "multi_thread")]
async fn envoy_calls_our_app_over_every_protocol() {
    let (app, h2, echo) = (RequestApp::start().await, H2App::start().await, TcpEcho::start().await);
    let door = Door::open_with(|proxy| {
        proxy.inbound("", app.address).inbound("", h2.address).inbound("tcp://", echo.address)
    })
    .await;
    let (frame, inbounds) = (&door.frame, door.proxy.inbounds());
    let (server, impostor) = (frame.authority.id("/server"), frame.authority.id("/another-server"));
    let mutual = Mutual { own: &frame.client, bundle: &frame.bundle, peer: &server };
    let (_envoy, entries) = Envoy::default()
        .calling(Carries::Http1, inbounds[0], mutual)
        .calling(Carries::Http2, inbounds[1], mutual)
        .calling(Carries::Tcp, inbounds[2], mutual)
        .calling(Carries::Http1, inbounds[0], Mutual { peer: &impostor, ..mutual })
        .start(frame.directory())
        .await;

    for version in [HTTP1, HTTP2] {
        let answer = get(entries[0], version).await;
        assert!(answer.stdout.contains(" 200"), "{}", answer.all());
        let seen = identities(&answer.stdout);
        assert!(names_the_client(frame, &seen), "one identity, and not the forged one: {seen:?}");
        let answer = get(entries[1], version).await;
        assert!(answer.stdout.contains(" 200"), "{}", answer.all());
    }
    for request in h2.requests() {
        let seen: Vec<String> = request.identities().iter().map(ToString::to_string).collect();
        assert!(names_the_client(frame, &seen), "over HTTP/2: {seen:?}");
    }
    door.proxy.access(&[("protocol", "http/1.1"), ("status", "200"), ("verdict", "allow")]).await;
    door.proxy.access(&[("protocol", "http/2"), ("status", "200"), ("verdict", "allow")]).await;

    EchoConnection::open(entries[2]).await.ping().await.expect("bytes go both ways");
    let text = vec![b'x'; 300_000];
    assert_eq!(send_half_close_and_read(entries[2], &text).await, text, "and back after the end of one way");
    assert_eq!(door.failures(None).await, 0);

    // We are not whom it means: it says so, and does not go on.
    let answer = get(entries[3], HTTP1).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 503"), "{}", answer.all());
    refused(&door.proxy, "inbound", "refused_by_peer").await;
    assert_eq!(app.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_with_another_identity_is_refused_by_policy_and_by_the_handshake() {
    let (app, echo) = (RequestApp::start().await, TcpEcho::start().await);
    let frame = Frame::new();
    let server = frame.authority.id("/server");
    let policy = allow("door", &server, &[&frame.authority.id("/client")]);
    let _ = file(frame.directory(), "policy.yaml", policy);
    let proxy = frame.proxy().inbound("http://", app.address).inbound("tcp://", echo.address).start().await;
    let door = Door { frame, proxy };
    let (frame, inbounds) = (&door.frame, door.proxy.inbounds());
    let other = frame.authority.svid(&frame.authority.id("/other")).write(frame.directory(), "other");
    let elsewhere = signet_tests::pki::Authority::new("elsewhere.test");
    let stranger = elsewhere.svid(&elsewhere.id("/client")).write(frame.directory(), "stranger");
    let mutual = Mutual { own: &other, bundle: &frame.bundle, peer: &server };
    let (_envoy, entries) = Envoy::default()
        .calling(Carries::Http1, inbounds[0], mutual)
        .calling(Carries::Tcp, inbounds[1], mutual)
        .calling(Carries::Http1, inbounds[0], Mutual { own: &stranger, ..mutual })
        .start(frame.directory())
        .await;

    let answer = get(entries[0], HTTP1).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{}", answer.all());
    let mut stream = TcpStream::connect(entries[1]).await.expect("Envoy accepts");
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received).await;
    assert!(received.is_empty(), "{}", received.escape_ascii());
    let denied = [("source", frame.authority.id("/other")), ("verdict", "deny".to_owned())];
    let denied = denied.each_ref().map(|(name, value)| (*name, value.as_str()));
    door.proxy.accesses(2, &denied).await;

    let answer = get(entries[2], HTTP1).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 503"), "{}", answer.all());
    refused(&door.proxy, "inbound", "unknown_trust_domain").await;
    assert_eq!(app.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_app_calls_envoy_over_every_protocol() {
    let (app, echo) = (RequestApp::start().await, TcpEcho::start().await);
    let frame = Frame::new();
    let client = frame.authority.id("/client");
    let (server, admin) = (frame.authority.id("/server"), frame.authority.id("/admin"));
    let mutual = Mutual { own: &frame.server, bundle: &frame.bundle, peer: &client };
    let (_envoy, peers) = Envoy::default()
        .serving(Carries::Http1, app.address, mutual)
        .serving(Carries::Tcp, echo.address, mutual)
        .serving(Carries::Http1, app.address, Mutual { peer: &admin, ..mutual })
        .start(frame.directory())
        .await;
    let at = |id: &str, address: std::net::SocketAddr| format!("{id}@{address}");
    let caller = frame
        .caller_proxy()
        .outbound("", &at(&server, peers[0]))
        .outbound("tcp://", &at(&server, peers[1]))
        .outbound("http://", &at(&server, peers[2]))
        .outbound("http://", &at(&frame.authority.id("/another-server"), peers[0]))
        .start()
        .await;
    let entries = caller.outbounds();

    for version in [HTTP1, HTTP2] {
        let answer = get(entries[0], version).await;
        assert!(answer.stdout.contains(" 200"), "{}", answer.all());
        // In Envoy's words, by what it verified.
        let seen = identities(&answer.stdout);
        assert!(names_the_client(&frame, &seen), "one identity, and not the forged one: {seen:?}");
    }
    EchoConnection::open(entries[1]).await.ping().await.expect("bytes go both ways");
    let text = vec![b'x'; 300_000];
    assert_eq!(send_half_close_and_read(entries[1], &text).await, text, "and back after the end of one way");
    assert_eq!(app.requests(), 2);

    // Envoy does not mean us, and we do not mean Envoy.
    for (entry, why) in [(entries[2], "Envoy expects another"), (entries[3], "we expect another")] {
        let answer = get(entry, HTTP1).await;
        let status = answer.stdout.split(' ').nth(1).unwrap_or_default().to_owned();
        assert!(["502", "503"].contains(&status.as_str()), "{why}: {}", answer.all());
        assert!(!answer.stdout.contains("\"method\""), "{why}: {}", answer.all());
    }
    refused(&caller, "outbound", "unexpected_peer").await;
    assert_eq!(app.requests(), 2);
}
