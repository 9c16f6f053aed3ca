//! What a connection costs that nobody uses, at both proxies of a pair.

use std::net::SocketAddr;

use signet_tests::apps::{Redis, RequestApp};
use signet_tests::door::Door;
use signet_tests::kernel::{allow_descriptors, processor_time, read_calls};
use signet_tests::logs::is_message;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::proxy::{Proxy, ProxyBuilder};
use signet_tests::report::measured;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// How many, unless `SIGNET_IDLE_CONNECTIONS` says otherwise.
const CONNECTIONS: usize = 2000;
/// Being opened at a time.
const AT_ONCE: usize = 50;
/// Generous: two sockets, a TLS session and the buffers of a connection that was used once.
const CEILING: u64 = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_costs_little_at_both_proxies() {
    let count = match std::env::var("SIGNET_IDLE_CONNECTIONS") {
        Ok(count) => count.parse().expect("SIGNET_IDLE_CONNECTIONS is a number"),
        Err(_) => CONNECTIONS,
    };
    allow_descriptors(2 * count as u64 + 200);
    let (mesh, redis) = (Mesh::start().await, Redis::start().await);
    let (client, cache) = (id("/client"), id("/cache"));
    mesh.policy(&allow("cache", &cache, &[&client])).await;
    mesh.workload(&client).await;
    mesh.workload(&cache).await;
    let roomy = |proxy: ProxyBuilder| {
        proxy.with("--max-connections", 2 * count).with("--max-connections-per-identity", 2 * count)
    };
    let server = roomy(mesh.proxy(&cache).await).inbound("tcp://", redis.address).start().await;
    let caller = roomy(mesh.proxy(&client).await).outbound("tcp://", &cache).start().await;
    drop(open(caller.outbound()).await);
    let ends: [(&str, &Proxy); 2] = [("caller's", &caller), ("app's", &server)];
    let before = ends.map(|(_, proxy)| (proxy.process.resident_bytes(), processor_time(&proxy.process)));

    let mut connections = Vec::new();
    let mut opening = JoinSet::new();
    while connections.len() < count {
        if opening.len() < AT_ONCE && connections.len() + opening.len() < count {
            opening.spawn(open(caller.outbound()));
            continue;
        }
        connections.push(opening.join_next().await.expect("one is being opened").expect("opened"));
    }

    for ((name, proxy), (memory, processor)) in ends.iter().zip(before) {
        let each = proxy.process.resident_bytes().saturating_sub(memory) / count as u64;
        let opened = (processor_time(&proxy.process).saturating_sub(processor)) / count as u32;
        measured(&format!("{name} proxy, of {count} idle connections each"), format!("{each} B"));
        measured(&format!("{name} proxy, processor time to open each"), format!("{opened:?}"));
        assert!(each < CEILING, "the {name} proxy holds {each} bytes for each idle connection");
    }
    // All of them are alive.
    for connection in connections.iter_mut().step_by(count / 50 + 1) {
        ping(connection).await;
    }
}

/// A proxy reads its files again when they change, not because it has read them: that would go on for ever, and
/// with files that cannot be used it would fill the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_nobody_uses_does_nothing() {
    const A_FEW: u64 = 100;
    let app = RequestApp::start().await;
    let (quiet, refusing) =
        (Door::open("http://", app.address).await, Door::open("http://", app.address).await);
    std::fs::write(&refusing.frame.policy, "nonsense: true\n").expect("our own file");
    let refusal =
        |event: &_| is_message(event, "files changed but cannot be used; what is in force stays in force");
    refusing.proxy.process.wait_for_log("that the file cannot be used", refusal).await;
    quiet.is_unharmed().await;

    // The deadline of a caller that says nothing is the span: 5 s.
    let (calls, used) = (read_calls(&quiet.proxy.process), processor_time(&quiet.proxy.process));
    let silent = TcpStream::connect(quiet.proxy.inbound()).await.expect("it accepts");
    let begun = Instant::now();
    let closed = timeout(signet_tests::PATIENCE, silent.readable()).await;
    closed.expect("it ends").expect("in order");
    let calls = read_calls(&quiet.proxy.process) - calls;
    let used = processor_time(&quiet.proxy.process).saturating_sub(used);
    measured(
        "reads of a proxy that nobody uses",
        format!("{calls} in {:?}, {used:?} of processor time", begun.elapsed()),
    );

    let refusals = refusing.proxy.process.logs().events(refusal).len();
    let failed = [("result", "failed")];
    let counted = refusing.proxy.metrics().await.count("signet_svid_rotations_total", &failed);
    assert_eq!((refusals, counted), (1, 1), "one change that cannot be used: so many lines and counts");
    assert!(calls < A_FEW, "it reads without a reason: {calls} times");
}

async fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the proxy accepts");
    ping(&mut stream).await;
    stream
}

async fn ping(stream: &mut TcpStream) {
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").await.expect("it reads");
    timeout(signet_tests::PATIENCE, stream.read_exact(&mut answer))
        .await
        .expect("in time")
        .expect("it answers");
    assert_eq!(&answer, b"+PONG\r\n");
}
