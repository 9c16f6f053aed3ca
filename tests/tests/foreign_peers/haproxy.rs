//! haproxy (OpenSSL), on both sides, and the PROXY protocol that it speaks in front of TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use signet_tests::PATIENCE;
use signet_tests::apps::{H2App, RequestApp, TcpEcho};
use signet_tests::client::{curl, file};
use signet_tests::door::{Door, Frame};
use signet_tests::envoy::listens;
use signet_tests::logs::field;
use signet_tests::pki::SvidFiles;
use signet_tests::process::Process;
use signet_tests::raw_tls::REQUEST;
use signet_tests::sockets::{EchoConnection, free_address, send_and_read};
use signet_tests::tools::tool;

use crate::{get, identities, names_the_client};

const HTTP1: &str = "--http1.1";

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_calls_our_app() {
    let (app, h2, echo) = (RequestApp::start().await, H2App::start().await, TcpEcho::start().await);
    let door = Door::open_with(|proxy| {
        proxy.inbound("", app.address).inbound("", h2.address).inbound("tcp://", echo.address)
    })
    .await;
    let frame = &door.frame;
    let tls = tls(frame, &frame.client);
    let (http1, http2, bytes) = (free_address(), free_address(), free_address());
    let [to_http1, to_http2, to_bytes] = [0, 1, 2].map(|index| door.proxy.inbounds()[index]);
    let configuration = format!(
        "{DEFAULTS}
listen http1
  mode http
  bind {http1}
  server ours {to_http1} {tls} alpn http/1.1
listen http2
  mode http
  bind {http2}
  server ours {to_http2} {tls} alpn h2
listen bytes
  mode tcp
  bind {bytes}
  server ours {to_bytes} {tls}
"
    );
    let _haproxy = haproxy(frame, &configuration, http1).await;

    let answer = get(http1, HTTP1).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
    let seen = identities(&answer.stdout);
    assert!(names_the_client(frame, &seen), "one identity, and not the forged one: {seen:?}");
    let answer = get(http2, HTTP1).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
    let requests = h2.requests();
    let seen: Vec<String> = requests[0].identities().iter().map(ToString::to_string).collect();
    assert!(names_the_client(frame, &seen), "over HTTP/2: {seen:?}");
    EchoConnection::open(bytes).await.ping().await.expect("bytes go both ways");
    assert_eq!(door.failures(None).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_app_calls_haproxy() {
    let app = RequestApp::start().await;
    let frame = Frame::new();
    let (peer, backend) = (free_address(), app.address);
    let bundle = frame.bundle.display();
    let credentials = combined(&frame, &frame.server, "haproxy-server");
    let configuration = format!(
        "{DEFAULTS}
frontend peers
  mode http
  bind {peer} ssl crt {} ca-file {bundle} verify required ssl-min-ver TLSv1.3 alpn h2,http/1.1
  http-request set-header x-caller %[ssl_c_s_dn(CN)]
  default_backend app
backend app
  mode http
  server app {backend}
",
        credentials.display()
    );
    let _haproxy = haproxy(&frame, &configuration, peer).await;
    let caller = frame
        .caller_proxy()
        .outbound("http://", &format!("{}@{peer}", frame.authority.id("/server")))
        .outbound("http://", &format!("{}@{peer}", frame.authority.id("/another-server")))
        .start()
        .await;

    for version in [HTTP1, "--http2-prior-knowledge"] {
        let answer = get(caller.outbounds()[0], version).await;
        assert!(answer.stdout.contains(" 200"), "{}", answer.all());
        assert!(
            answer.stdout.contains("[\"x-caller\",\"workload\"]"),
            "our certificate came: {}",
            answer.all()
        );
    }
    let answer = get(caller.outbounds()[1], HTTP1).await;
    let status = answer.stdout.split(' ').nth(1).unwrap_or_default().to_owned();
    assert!(["502", "503"].contains(&status.as_str()), "{}", answer.all());
    assert_eq!(app.requests(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_haproxy_tells_is_the_one_in_the_log() {
    let app = RequestApp::start().await;
    let frame = Frame::new();
    let listener = |sources: &str| {
        let app = app.address;
        format!(
            "[[inbound]]\nlisten = \"127.0.0.1:0\"\nforward = \"{app}\"\nprotocol = \"http\"\nproxy-protocol-from = [\"{sources}\"]\n"
        )
    };
    let toml = format!("{}{}", listener("127.0.0.0/8"), listener("127.0.9.0/24"));
    let proxy = frame.proxy().config(&toml, 2, 0).start().await;
    let door = Door { frame, proxy };
    let (frame, inbound, other) = (&door.frame, door.proxy.inbounds()[0], door.proxy.inbounds()[1]);
    let tls = tls(frame, &frame.client);
    let [version1, version2, without, unasked, plain] = [(); 5].map(|()| free_address());
    let configuration = format!(
        "{DEFAULTS}
listen version1
  mode tcp
  bind {version1}
  server ours {inbound} {tls} send-proxy
listen version2
  mode tcp
  bind {version2}
  server ours {inbound} {tls} send-proxy-v2
listen without
  mode tcp
  bind {without}
  server ours {inbound} {tls}
listen unasked
  mode tcp
  bind {unasked}
  server ours {other} {tls} send-proxy-v2
listen plain
  mode tcp
  bind {plain}
  server ours {other} {tls}
"
    );
    let _haproxy = haproxy(frame, &configuration, version1).await;

    for (entry, source) in [(version1, "127.0.3.1"), (version2, "127.0.3.2")] {
        let mark = door.proxy.process.logs().mark();
        let answer = curl()
            .args(["--include", "--interface", source])
            .arg(format!("http://{entry}/"))
            .run()
            .await
            .succeeded();
        assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
        let line = door.proxy.access_since(mark, &[("kind", "request"), ("status", "200")]).await;
        let remote = field(&line, "remote");
        assert!(remote.starts_with(&format!("{source}:")), "{remote} in {line}");
        assert_eq!(
            field(&line, "source"),
            frame.authority.id("/client"),
            "the identity is that of TLS: {line}"
        );
    }

    // Who may say where a caller is must say it, and who may not is not heard.
    for (entry, case) in [(without, "no header"), (unasked, "a header from elsewhere")] {
        let mark = door.proxy.process.logs().mark();
        let (closed, answer) = send_and_read(entry, REQUEST, PATIENCE).await;
        assert!(closed && answer.is_empty(), "{case}: {}", answer.escape_ascii());
        let line = door.proxy.access_since(mark, &[("kind", "connection"), ("verdict", "none")]).await;
        println!("{case}: {line}");
        assert!(field(&line, "remote").starts_with("127.0.0.1:"), "{case}: {line}");
        assert_ne!(field(&line, "close_reason"), "finished", "{case}: {line}");
    }
    let answer = get(plain, HTTP1).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "from elsewhere without a header: {}", answer.all());
    assert_eq!(app.requests(), 3);
}

const DEFAULTS: &str = "global
  maxconn 200
defaults
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  retries 0";

/// As a client: who it is, and that the server's chain must lead to our root.
fn tls(frame: &Frame, credentials: &SvidFiles) -> String {
    let combined = combined(frame, credentials, "haproxy-client");
    format!(
        "ssl ssl-min-ver TLSv1.3 verify required ca-file {} crt {}",
        frame.bundle.display(),
        combined.display()
    )
}

/// haproxy wants the chain and its key in one file.
fn combined(frame: &Frame, credentials: &SvidFiles, name: &str) -> PathBuf {
    let read = |path: &Path| std::fs::read_to_string(path).expect("our own file");
    let text = format!("{}{}", read(&credentials.svid), read(&credentials.key));
    file(frame.directory(), &format!("{name}.pem"), text)
}

/// Starts it and waits until it listens, which it does everywhere at once. `probed` should be for HTTP: a
/// connection for bytes would be passed on at once, and a broken handshake be counted.
async fn haproxy(frame: &Frame, configuration: &str, probed: SocketAddr) -> Process {
    let configuration = file(frame.directory(), "haproxy.cfg", configuration);
    let mut command = Command::new(tool("haproxy"));
    // -db: in the foreground, in one process.
    command.arg("-db").arg("-f").arg(configuration);
    let process = Process::start("haproxy", command);
    listens("haproxy", probed).await;
    process
}
