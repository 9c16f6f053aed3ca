//! What finding out the protocol costs: the time from connecting to the first byte of the app's answer, told
//! and not told what is spoken.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use signet_tests::apps::{MariaDb, Nats, Nginx, Postgres, Redis};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::process::Process;
use signet_tests::report::{measured, percentiles};
use signet_tests::sockets::free_address;
use signet_tests::tools::tool;
use signet_tests::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TRIES: usize = 50;

/// A protocol: how it is declared, what its client says first, and how to tell the app's answer.
struct Spoken {
    name: &'static str,
    scheme: &'static str,
    app: SocketAddr,
    opening: Vec<u8>,
    /// What the first bytes are, of which everything is read up to the answer itself.
    answer: Answer,
}

enum Answer {
    /// The app's first bytes.
    Bytes(&'static [u8]),
    /// Any, as long as the fifth byte says that it is a greeting of this version.
    Greeting,
    /// HTTP/2 frames, which the proxy itself begins, up to the headers of the answer.
    Headers,
}

#[tokio::test(flavor = "multi_thread")]
async fn detection_costs_no_protocol_a_noticeable_time() {
    let (mesh, root) = (Mesh::start().await, tempfile::tempdir().unwrap());
    let (nginx, postgres, redis) = (Nginx::start().await, Postgres::start().await, Redis::start().await);
    let (mariadb, nats, (_nghttpd, http2)) =
        (MariaDb::start().await, Nats::start().await, nghttpd(root.path()).await);
    nginx.serve("x", "x");
    let spoken = [
        Spoken {
            name: "HTTP/1.1",
            scheme: "http://",
            app: nginx.address,
            opening: b"GET /files/x HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            answer: Answer::Bytes(b"HTTP/1.1 200"),
        },
        Spoken {
            name: "HTTP/2",
            scheme: "http://",
            app: http2,
            opening: http2_request(),
            answer: Answer::Headers,
        },
        Spoken {
            name: "PostgreSQL",
            scheme: "tcp://",
            app: postgres.address,
            opening: postgres_startup(),
            answer: Answer::Bytes(b"R"),
        },
        Spoken {
            name: "Redis",
            scheme: "tcp://",
            app: redis.address,
            opening: b"*1\r\n$4\r\nPING\r\n".to_vec(),
            answer: Answer::Bytes(b"+PONG"),
        },
        Spoken {
            name: "MariaDB",
            scheme: "tcp://",
            app: mariadb.address,
            opening: Vec::new(),
            answer: Answer::Greeting,
        },
        Spoken {
            name: "NATS",
            scheme: "tcp://",
            app: nats.address,
            opening: Vec::new(),
            answer: Answer::Bytes(b"INFO "),
        },
    ];
    let (client, told, untold) = (id("/client"), id("/told"), id("/untold"));
    for workload in [&client, &told, &untold] {
        mesh.workload(workload).await;
    }
    mesh.policy(&[allow("told", &told, &[&client]), allow("untold", &untold, &[&client])].join("---\n"))
        .await;
    let (mut declared, mut detected) = (mesh.proxy(&told).await, mesh.proxy(&untold).await);
    let mut caller = mesh.proxy(&client).await;
    for Spoken { scheme, app, .. } in &spoken {
        declared = declared.inbound(scheme, *app);
        detected = detected.inbound("", *app);
        let port = app.port();
        caller = caller.outbound(scheme, &format!("{told}:{port}")).outbound("", &format!("{untold}:{port}"));
    }
    let (_declared, _detected) = (declared.start().await, detected.start().await);
    let caller = caller.start().await;

    for (protocol, entries) in spoken.iter().zip(caller.outbounds().chunks(2)) {
        for (entry, how) in entries.iter().zip(["declared", "detected"]) {
            let mut times = Vec::new();
            for _ in 0..TRIES {
                times.push(protocol.first_byte(*entry).await);
            }
            times.sort_unstable();
            // The detection of a stalled server would cost its whole deadline, not once but every time.
            let median = times[TRIES / 2];
            assert!(median < Duration::from_secs(1), "{} {how}: {median:?}", protocol.name);
            measured(&format!("first byte of {}, {how}", protocol.name), percentiles(times));
        }
    }
    let metrics = caller.metrics().await;
    for (result, least) in [("http/1.1", 1), ("http/2", 1), ("tcp", 4)] {
        let seen = metrics.count("signet_detection_total", &[("result", result)]);
        assert!(
            seen >= least * TRIES as u64,
            "{result}: {seen} of {:?}",
            metrics.values("signet_detection_total", "result")
        );
    }
}

impl Spoken {
    async fn first_byte(&self, entry: SocketAddr) -> Duration {
        let started = Instant::now();
        let mut stream = TcpStream::connect(entry).await.unwrap();
        stream.write_all(&self.opening).await.unwrap();
        timeout(PATIENCE, self.answered(&mut stream))
            .await
            .unwrap_or_else(|_| panic!("{} is silent", self.name));
        started.elapsed()
    }

    async fn answered(&self, stream: &mut TcpStream) {
        match self.answer {
            Answer::Bytes(expected) => {
                let mut first = vec![0; expected.len()];
                stream.read_exact(&mut first).await.unwrap();
                assert_eq!(first, expected, "{}", self.name);
            }
            Answer::Greeting => {
                let mut first = [0; 5];
                stream.read_exact(&mut first).await.unwrap();
                assert_eq!((first[3], first[4]), (0, 10), "packet 0 of protocol version 10");
            }
            Answer::Headers => loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).await.unwrap();
                // HEADERS: `:status: 200` from the static table of RFC 7541.
                if head[3] == 1 {
                    assert_eq!(payload[0], 0x88, "not 200: {payload:02x?}");
                    return;
                }
            },
        }
    }
}

/// The preface, empty settings, and GET http://a/ on stream 1, with nothing but the static table.
fn http2_request() -> Vec<u8> {
    let headers = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        &[0, 0, headers.len() as u8, 1, 0x05, 0, 0, 0, 1],
        &headers,
    ]
    .concat()
}

fn postgres_startup() -> Vec<u8> {
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = 8 + parameters.len() as u32;
    [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), parameters].concat()
}

async fn nghttpd(root: &Path) -> (Process, SocketAddr) {
    std::fs::write(root.join("index.html"), "x").unwrap();
    let app = free_address();
    let mut command = Command::new(tool("nghttpd"));
    command.args(["--no-tls", "--address", "127.0.0.1", "--htdocs"]).arg(root).arg(app.port().to_string());
    let process = Process::start("nghttpd", command);
    eventually("nghttpd", PATIENCE, async || {
        TcpStream::connect(app).await.map_err(|error| error.to_string())
    })
    .await;
    (process, app)
}
