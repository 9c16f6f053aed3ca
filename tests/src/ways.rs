//! One app and both ways to it that an attacker has: the plain listener of the proxy beside the caller, and the
//! mutual TLS port of the proxy beside the app, with an SVID that control issued. The second meets one proxy
//! only, and nothing that the first would have removed on the way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use signet_proto::handshake::{Revocations, Svid, Trust, WorkloadKey, client_config, server_name};
use signet_proto::spiffe::{SpiffeId, TrustBundle};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::mesh::{Mesh, Pair, id};

/// Where somebody comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As the app beside the caller's proxy: plain text, two proxies.
    Pair,
    /// As a peer with an SVID: mutual TLS, one proxy.
    Peer,
}

/// Both of them.
pub const BOTH: [Way; 2] = [Way::Pair, Way::Peer];

/// A mesh with an app, and what is needed to come in.
#[derive(Debug)]
pub struct Ways {
    /// The two proxies.
    pub pair: Pair,
    mesh: Mesh,
    credentials: PathBuf,
}

/// Either a TCP or a TLS connection.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl std::fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a connection")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl Ways {
    /// Starts a mesh in which both callers may ask `app` for `paths` (`*` for every one of them, and bytes).
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn to(app: SocketAddr, scheme: &str, paths: &str) -> Self {
        let mesh = Mesh::start().await;
        let (frontend, client, web) = (id("/frontend"), id("/client"), id("/web"));
        let condition =
            if paths == "*" { String::new() } else { format!("\n      http: {{ paths: [\"{paths}\"] }}") };
        mesh.policy(&format!(
            "kind: Policy\nname: web\ntarget: {web}\nrules:\n  - name: callers\n    allow:\n      from: [{frontend}, {client}]{condition}\n"
        ))
        .await;
        let pair = mesh.pair(&frontend, &web, scheme, app).await;

        mesh.workload(&client).await;
        let credentials = mesh.directory().join("client");
        let ticket = mesh.ticket(&client).await;
        let login = ["login", &ticket, "--dir", &credentials.display().to_string()];
        let _ = mesh.command(&login).run().await.succeeded();
        Self { pair, mesh, credentials }
    }

    /// The identity that comes in there.
    #[must_use]
    pub fn caller(&self, way: Way) -> String {
        match way {
            Way::Pair => id("/frontend"),
            Way::Peer => id("/client"),
        }
    }

    /// A connection; `alpn` is what a peer says it will speak.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn connect(&self, way: Way, alpn: &[u8]) -> Box<dyn Duplex> {
        self.enter(way, alpn, TcpSocket::new_v4().expect("a socket")).await
    }

    /// A connection whose own end holds few answers that nobody reads: the kernel would else let it grow to many
    /// megabytes.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn connect_narrow(&self, way: Way, alpn: &[u8]) -> Box<dyn Duplex> {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("less than the kernel's most");
        self.enter(way, alpn, socket).await
    }

    async fn enter(&self, way: Way, alpn: &[u8], socket: TcpSocket) -> Box<dyn Duplex> {
        let address = match way {
            Way::Pair => self.pair.entry(),
            Way::Peer => self.pair.server.inbound(),
        };
        let tcp = socket.connect(address).await.expect("the proxy accepts");
        match way {
            Way::Pair => Box::new(tcp),
            Way::Peer => {
                let read = |name: &str| std::fs::read(self.credentials.join(name)).expect("login wrote it");
                let key = WorkloadKey::signing_key_from_pem(&read("key.pem")).expect("a key");
                let svid = Svid::from_pem(&read("svid.pem"), key).expect("an SVID");
                let bundle = TrustBundle::from_pem(svid.id().trust_domain().clone(), &read("bundle.pem"));
                let trust = Trust::new([bundle.expect("a bundle")], Revocations::default());
                let web = SpiffeId::from_str(&id("/web")).expect("an id");
                let config = client_config(Some(&svid), Arc::new(trust), web, &[alpn]).expect("a client");
                let tls = TlsConnector::from(config).connect(server_name(), tcp).await;
                Box::new(tls.expect("the handshake succeeds"))
            }
        }
    }

    /// Says `bytes` and no more, and hears what comes until the other side ends.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn say(&self, way: Way, bytes: &[u8]) -> Vec<u8> {
        self.converse(way, bytes, false).await
    }

    /// As [`Ways::say`], but ends its own side only when there is an answer.
    ///
    /// # Panics
    /// When there is neither an answer nor an end in time.
    pub async fn say_and_wait(&self, way: Way, bytes: &[u8]) -> Vec<u8> {
        self.converse(way, bytes, true).await
    }

    async fn converse(&self, way: Way, bytes: &[u8], waits: bool) -> Vec<u8> {
        const LIMIT: Duration = Duration::from_secs(15);
        let mut stream = self.connect(way, b"http/1.1").await;
        let mut answer = Vec::new();
        let over = timeout(LIMIT, async {
            // It may close before it has read everything.
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
            while waits && statuses(&answer).iter().all(|status| *status < 200) {
                if !stream.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {
                    return;
                }
            }
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut answer).await;
        });
        assert!(
            over.await.is_ok(),
            "{way:?}: no end after {:.300}; so far {:?}",
            bytes.escape_ascii().to_string(),
            String::from_utf8_lossy(&answer)
        );
        answer
    }

    /// Ends both proxies, and with them every connection to the app.
    pub fn close(self) {
        drop(self.pair);
        drop(self.mesh);
    }
}

/// The statuses of the responses in `answer`, interim ones included.
#[must_use]
pub fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.split("HTTP/1.")
        .skip(1)
        .filter_map(|response| response.get(2..5).and_then(|status| status.parse().ok()))
        .collect()
}
