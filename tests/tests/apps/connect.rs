//! HTTP CONNECT: one listener for all peers, for apps that can be told a proxy. The authority is looked up like
//! the destination of a captured connection: routes first, then what control knows.

use std::net::SocketAddr;
use std::process::Command;

use signet_tests::apps::{MariaDb, Nginx, Postgres, TcpEcho, mariadb};
use signet_tests::client::{Client, curl, psql};
use signet_tests::logs::field;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::process::Process;
use signet_tests::proxy::Proxy;
use signet_tests::sockets::free_address;
use signet_tests::tools::tool;
use signet_tests::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A proxy of `/frontend` with a CONNECT listener and these routes.
async fn connecting(mesh: &Mesh, routes: &[String], options: &[(&str, &str)]) -> Proxy {
    let mut builder = mesh.proxy(&id("/frontend")).await.connect();
    for route in routes {
        builder = builder.with("--route", route);
    }
    for (name, value) in options {
        builder = builder.with(name, value);
    }
    builder.start().await
}

/// curl that is told that proxy, and asks it for a tunnel even for plain HTTP.
fn curl_through(proxy: SocketAddr, url: &str) -> Client {
    curl().args(["--noproxy", "", "--proxytunnel", "--proxy", &format!("http://{proxy}"), "--include", url])
}

/// A local port that leads through the proxy to `authority`, for clients that cannot be told a proxy.
async fn socat(proxy: SocketAddr, authority: &str) -> (Process, SocketAddr) {
    let listen = free_address();
    let mut command = Command::new(tool("socat"));
    command.arg(format!("TCP-LISTEN:{},bind={},fork", listen.port(), listen.ip()));
    command.arg(format!("PROXY:{}:{authority},proxyport={}", proxy.ip(), proxy.port()));
    let process = Process::start("socat", command);
    eventually("socat listens", PATIENCE, async || {
        TcpStream::connect(listen).await.map_err(|error| error.to_string())
    })
    .await;
    (process, listen)
}

/// What the listener answers to these bytes: all of a refusal, which ends the connection, or the head of a 200.
async fn answer(proxy: &Proxy, request: &str) -> String {
    let mut stream = TcpStream::connect(proxy.outbound()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, async {
        while stream.read_buf(&mut answer).await.unwrap_or(0) > 0 {
            if answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"\r\n\r\n") {
                break;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("neither 200 nor an end: {}", String::from_utf8_lossy(&answer)));
    String::from_utf8_lossy(&answer).into_owned()
}

async fn connect(proxy: &Proxy, authority: impl std::fmt::Display) -> String {
    answer(proxy, &format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_peer_is_reached_by_name_or_as_control_knows_it() {
    let mesh = Mesh::start().await;
    let (nginx, postgres, database) = (Nginx::start().await, Postgres::start().await, MariaDb::start().await);
    let (frontend, web, db, first) = (id("/frontend"), id("/web"), id("/db"), id("/speaks/first"));
    let mut policies = Vec::new();
    for workload in [&frontend, &web, &db, &first] {
        mesh.workload(workload).await;
        policies.push(allow(workload.rsplit('/').next().unwrap(), workload, &[&frontend]));
    }
    mesh.policy(&policies.join("---\n")).await;
    let _web = mesh.proxy(&web).await.inbound("", nginx.address).start().await;
    let _db = mesh.proxy(&db).await.inbound("", postgres.address).start().await;
    let _first = mesh.proxy(&first).await.inbound("tcp://", database.address).start().await;
    let routes = [
        format!("http://web.test:80={web}"),
        format!("db.test:5432={db}"),
        format!("tcp://first.test:3306={first}"),
    ];
    let caller = connecting(&mesh, &routes, &[]).await;
    let entry = caller.outbound();

    // The second is the app's own address, which control knows with its endpoint.
    for authority in ["web.test:80".to_owned(), nginx.address.to_string()] {
        let url = format!("http://{authority}/identity");
        let page = curl_through(entry, &url).run().await.succeeded().stdout;
        let (established, page) = page.split_once("\r\n\r\n").expect("two heads");
        assert!(established.starts_with("HTTP/1.1 200"), "{established}");
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.ends_with(&format!(";URI={frontend}")), "the app sees who calls: {page}");
        let line = caller.access(&[("requested", &authority)]).await;
        assert_eq!(field(&line, "destination"), web, "{line}");
    }
    let (_socat, listen) = socat(entry, "db.test:5432").await;
    assert_eq!(psql(listen, "select 6 * 7").run().await.succeeded().stdout.trim(), "42");
    let (_socat, listen) = socat(entry, "first.test:3306").await;
    assert_eq!(mariadb(listen, "select 6 * 7").run().await.succeeded().stdout.trim(), "42");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_comes_out_of_a_connect_listener() {
    let (mesh, nginx, echo) = (Mesh::start().await, Nginx::start().await, TcpEcho::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    let web_proxy = mesh.proxy(&web).await.inbound("http://", nginx.address).start().await;
    let caller = connecting(&mesh, &[format!("http://web.test:80={web}")], &[]).await;

    for unknown in
        ["web.test:81", "other.test:80", "192.0.2.1:80", "[2001:db8::1]:443", &echo.address.to_string()]
    {
        let refused = connect(&caller, unknown).await;
        assert!(refused.starts_with("HTTP/1.1 403 "), "{unknown}: {refused}");
        assert!(refused.contains(unknown), "it says what is unknown: {refused}");
        caller.access(&[("requested", unknown), ("direction", "outbound")]).await;
    }
    for other in [
        "GET / HTTP/1.1\r\nHost: web.test\r\n\r\n",
        "POST http://web.test/ HTTP/1.1\r\nHost: web.test\r\nContent-Length: 0\r\n\r\n",
    ] {
        let refused = answer(&caller, other).await;
        assert!(refused.starts_with("HTTP/1.1 405 "), "{other}: {refused}");
    }
    for malformed in [
        "CONNECT web.test HTTP/1.1\r\nHost: web.test\r\n\r\n",
        "CONNECT web.test:0 HTTP/1.1\r\nHost: web.test:0\r\n\r\n",
        "CONNECT web.test:http HTTP/1.1\r\nHost: web.test\r\n\r\n",
        "CONNECT web.test:65536 HTTP/1.1\r\nHost: web.test\r\n\r\n",
        "CONNECT http://web.test:80/ HTTP/1.1\r\nHost: web.test\r\n\r\n",
        "CONNECT /web.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n",
        "CONNECT user@web.test:80 HTTP/1.1\r\nHost: web.test\r\n\r\n",
        "CONNECT\r\n\r\n",
        "\x16\x03\x01\r\n\r\n",
    ] {
        let refused = answer(&caller, malformed).await;
        assert!(refused.starts_with("HTTP/1.1 400 "), "{malformed}: {refused}");
    }

    // The policy lets nobody in: the tunnel stands, and the app's answer is the refusal.
    let denied = curl_through(caller.outbound(), "http://web.test/x").run().await.succeeded().stdout;
    assert!(denied.contains("\r\n\r\nHTTP/1.1 403") && denied.contains("no_policy"), "{denied}");
    drop(web_proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn passthrough_is_for_strangers_and_not_for_proxy_and_control() {
    let (mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    mesh.workload(&id("/frontend")).await;
    let caller = connecting(&mesh, &[], &[("--unknown-destinations", "passthrough")]).await;

    let answered = connect(&caller, echo.address).await;
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
    caller.counts("signet_passthrough_total", &[], 1).await;

    let localhost = |address: SocketAddr| format!("localhost:{}", address.port());
    let mapped = |address: SocketAddr| format!("[::ffff:127.0.0.1]:{}", address.port());
    for own in [caller.admin, caller.outbound(), mesh.grpc] {
        let mut other_names =
            vec![own.to_string(), localhost(own), mapped(own), format!("0.0.0.0:{}", own.port())];
        // Other addresses of this machine.
        for here in ["127.0.0.2", "127.255.255.254", "[::1]", "[::]", "[::1%lo]", "[::1%25lo]", "127.1"] {
            other_names.push(format!("{here}:{}", own.port()));
        }
        for authority in other_names {
            let refused = connect(&caller, &authority).await;
            assert!(
                refused.starts_with("HTTP/1.1 403 ")
                    || authority.contains('%') && refused.starts_with("HTTP/1.1 400 "),
                "{authority}: {refused}"
            );
        }
    }
    caller.counts("signet_passthrough_total", &[], 1).await;
}
