//! stunnel and nginx (OpenSSL) and GnuTLS.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use signet_tests::apps::{H2App, RequestApp, TcpEcho};
use signet_tests::client::{curl, file};
use signet_tests::door::{Door, Frame};
use signet_tests::envoy::listens;
use signet_tests::pki::{SvidFiles, dns};
use signet_tests::process::Process;
use signet_tests::raw_tls::REQUEST;
use signet_tests::sockets::{EchoConnection, free_address, send_half_close_and_read};
use signet_tests::tools::tool;
use signet_tests::{PATIENCE, sockets};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::refused;

#[tokio::test(flavor = "multi_thread")]
async fn stunnel_calls_our_app() {
    let echo = TcpEcho::start().await;
    let door = Door::open("tcp://", echo.address).await;
    let elsewhere = signet_tests::pki::Authority::new("elsewhere.test");
    let stranger = elsewhere.svid(&elsewhere.id("/client")).write(door.frame.directory(), "stranger");
    let (entry, strange) = (free_address(), free_address());
    let services = [
        ("client = yes", entry, door.proxy.inbound(), &door.frame.client),
        ("client = yes", strange, door.proxy.inbound(), &stranger),
    ];
    let _stunnel = stunnel(&door.frame, &services).await;

    EchoConnection::open(entry).await.ping().await.expect("bytes go both ways");
    let text = vec![b'x'; 300_000];
    assert_eq!(send_half_close_and_read(entry, &text).await, text, "and back after the end of one way");
    let (closed, answer) = sockets::send_and_read(strange, b"let me in\n", PATIENCE).await;
    assert!(closed && answer.is_empty(), "{}", answer.escape_ascii());
    refused(&door.proxy, "inbound", "unknown_trust_domain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_app_calls_stunnel_and_nginx() {
    let echo = TcpEcho::start().await;
    let frame = Frame::new();
    let (stunnel_port, nginx_port) = (free_address(), free_address());
    let service = ("verifyChain = yes", stunnel_port, echo.address, &frame.server);
    let _stunnel = stunnel(&frame, &[service]).await;
    let _nginx = nginx(&frame, nginx_port, echo.address).await;
    let at = |id: &str, address| format!("{}@{address}", frame.authority.id(id));
    let caller = frame
        .caller_proxy()
        .outbound("tcp://", &at("/server", stunnel_port))
        .outbound("tcp://", &at("/server", nginx_port))
        .outbound("tcp://", &at("/another-server", stunnel_port))
        .outbound("tcp://", &at("/another-server", nginx_port))
        .start()
        .await;
    let entries = caller.outbounds();

    for entry in &entries[..2] {
        EchoConnection::open(*entry).await.ping().await.expect("bytes go both ways");
    }
    for entry in &entries[2..] {
        let (closed, answer) = sockets::send_and_read(*entry, b"who are you?\n", PATIENCE).await;
        assert!(closed && answer.is_empty(), "{}", answer.escape_ascii());
    }
    refused(&caller, "outbound", "unexpected_peer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gnutls_calls_our_app() {
    let app = RequestApp::start().await;
    let frame = Frame::new();
    // It knows servers by their DNS names.
    let server = frame.authority.svid_with(&frame.authority.id("/server"), |svid| {
        svid.subject_alt_names.push(dns("door.test"));
    });
    let _ = server.write(frame.directory(), "server");
    let proxy = frame.proxy().inbound("http://", app.address).start().await;
    let door = Door { frame, proxy };

    for (priority, expected) in [
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3", true),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3:-GROUP-ALL:+GROUP-SECP256R1", true),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305", true),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.2", false),
        ("NORMAL:-VERS-ALL:+VERS-TLS1.3:-GROUP-ALL:+GROUP-SECP521R1", false),
    ] {
        let said = gnutls(&door, priority).await;
        assert_eq!(said.contains("HTTP/1.1 200"), expected, "{priority}: {said}");
        assert_eq!(said.contains("certificate is trusted"), expected, "{priority}: {said}");
    }
    assert_eq!(app.requests(), 3);
}

/// Most clients offer HTTP/2 and HTTP/1.1 and take what the server chooses. What is chosen must work.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_offers_both_versions_of_http_is_answered() {
    let (http1, http2) = (RequestApp::start().await, H2App::start().await);
    for (speaks, app) in [("HTTP/2", http2.address), ("HTTP/1.1", http1.address)] {
        for scheme in ["http://", ""] {
            let door = Door::open(scheme, app).await;
            let SvidFiles { svid, key, .. } = &door.frame.client;
            let answer = curl()
                .args(["--insecure", "--include", "--cert"])
                .arg(svid)
                .arg("--key")
                .arg(key)
                .arg(format!("https://{}/", door.proxy.inbound()))
                .run()
                .await
                .succeeded();
            assert!(answer.stdout.contains(" 200"), "the app speaks {speaks} ({scheme:?}): {}", answer.all());
        }
    }
}

/// What `gnutls-cli` says while it sends a request. It leaves when its input ends, so that is kept open.
async fn gnutls(door: &Door, priority: &str) -> String {
    let inbound = door.proxy.inbound();
    let mut command = tokio::process::Command::new(tool("gnutls-cli"));
    command.arg("--x509cafile").arg(&door.frame.bundle).arg("--x509certfile").arg(&door.frame.client.svid);
    command.arg("--x509keyfile").arg(&door.frame.client.key).args(["--verify-hostname", "door.test"]);
    command.args(["--priority", priority, "--port", &inbound.port().to_string(), "127.0.0.1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(REQUEST).await.expect("it reads");
    let mut output = child.stdout.take().expect("piped");
    let mut said = String::new();
    timeout(PATIENCE, output.read_to_string(&mut said)).await.expect("it ends").expect("text");
    said
}

/// stunnel with services of that kind, each from an address to another.
async fn stunnel(frame: &Frame, services: &[(&str, SocketAddr, SocketAddr, &SvidFiles)]) -> Process {
    let mut text = "foreground = yes\npid =\nsyslog = no\nsslVersion = TLSv1.3\n".to_owned();
    for (number, (kind, accept, connect, credentials)) in services.iter().enumerate() {
        text += &format!(
            "[s{number}]\n{kind}\naccept = {accept}\nconnect = {connect}\ncert = {}\nkey = {}\nCAfile = {}\nverifyChain = yes\n",
            credentials.svid.display(),
            credentials.key.display(),
            frame.bundle.display()
        );
    }
    let mut command = Command::new(tool("stunnel4"));
    command.arg(file(frame.directory(), "stunnel.conf", text));
    let process = Process::start("stunnel", command);
    for (_, accept, ..) in services {
        listens("stunnel", *accept).await;
    }
    process
}

/// nginx that terminates TLS for bytes.
async fn nginx(frame: &Frame, listen: SocketAddr, app: SocketAddr) -> Process {
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid nginx.pid;
events {{ }}
stream {{
  server {{
    listen {listen} ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate {};
    ssl_certificate_key {};
    ssl_client_certificate {};
    ssl_verify_client on;
    ssl_verify_depth 4;
    proxy_pass {app};
  }}
}}
",
        frame.server.svid.display(),
        frame.server.key.display(),
        frame.bundle.display()
    );
    let mut command = Command::new(tool("nginx"));
    command.arg("-p").arg(frame.directory()).args(["-e", "stderr", "-c"]);
    command.arg(file(frame.directory(), "nginx.conf", text));
    let process = Process::start("nginx", command);
    listens("nginx", listen).await;
    process
}
