//! Sessions that were begun elsewhere, with the same certificates: a server of OpenSSL issues the ticket, and
//! the proxy is offered it. It is never resumed, so each time everything is checked again. CVE-2022-21654,
//! CVE-2025-23419: a resumed session passed by what was checked at its beginning.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_proto::clock;
use signet_tests::apps::RequestApp;
use signet_tests::client::{Client, Finished, file};
use signet_tests::door::{Door, FAILURES, INBOUND};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::pki::{SvidFiles, valid_between};
use signet_tests::process::Process;
use signet_tests::raw_tls::RawClient;
use signet_tests::sockets::free_address;
use signet_tests::tools::tool;
use signet_tests::{PATIENCE, eventually, tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const REQUEST: &str = "GET /asked HTTP/1.1\r\nHost: door.test\r\nConnection: close\r\n\r\n";
const EARLY_REQUEST: &str = "GET /early HTTP/1.1\r\nHost: door.test\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn no_ticket_is_ever_issued() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let ticket = door.frame.directory().join("ticket");

    let answer = s_client(door.proxy.inbound(), Some(&door.frame.client), &door.frame.bundle)
        .args(["-ign_eof", "-sess_out", &ticket.display().to_string()])
        .input(REQUEST)
        .run()
        .await;
    assert!(answer.stdout.contains("HTTP/1.1 200"), "{}", answer.all());
    assert!(!ticket.exists(), "OpenSSL received a ticket");
    assert!(!answer.stdout.contains("Post-Handshake New Session Ticket"), "{}", answer.all());

    let config = Arc::new(tls::config(door.frame.svid()));
    let mut client = RawClient::connect(door.proxy.inbound(), &config).await;
    assert!(client.ask().await.expect("an answer").contains("200"));
    assert_eq!(client.tls.tls13_tickets_received(), 0);
    // A second connection of the same rustls client has nothing to resume.
    let mut again = RawClient::connect(door.proxy.inbound(), &config).await;
    assert!(again.ask().await.expect("an answer").contains("200"));
    assert_eq!(again.tls.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_session_is_not_resumed_wherever_and_by_whomever() {
    let app = RequestApp::start().await;
    let door = Door::open_with(|proxy| proxy.inbound("http://", app.address).inbound("", app.address)).await;
    let frame = &door.frame;
    let issuer = Issuer::start(&frame.server, &frame.bundle).await;
    let ticket = issuer.ticket(&frame.client, frame.directory()).await;

    for listener in door.proxy.inbounds() {
        let answer = offer(*listener, Some(&frame.client), &frame.bundle, &ticket).await;
        assert!(answer.stdout.contains("HTTP/1.1 200"), "{}", answer.all());
        assert!(answer.stdout.contains("New, TLSv1.3"), "a whole handshake: {}", answer.all());
    }

    // Without the certificate that the session was begun with.
    let answer = offer(door.proxy.inbound(), None, &frame.bundle, &ticket).await;
    assert!(!answer.stdout.contains("HTTP/1.1"), "{}", answer.all());
    door.proxy.counts(FAILURES, &[INBOUND, ("reason", "no_certificate")], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_data_is_refused_and_never_reaches_the_app() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let frame = &door.frame;
    let eager = eager_issuer(&frame.server).await;
    let ticket = taken(eager, &frame.client, &frame.bundle, frame.directory()).await;
    let early = file(frame.directory(), "early", EARLY_REQUEST);
    let ask = async |address| {
        s_client(address, Some(&frame.client), &frame.bundle)
            .args(["-ign_eof", "-sess_in", &ticket.display().to_string()])
            .args(["-early_data", &early.display().to_string()])
            .input(REQUEST)
            .run()
            .await
    };

    let answer = ask(door.proxy.inbound()).await;

    assert!(answer.stdout.contains("Early data was rejected"), "{}", answer.all());
    assert!(answer.stdout.contains("HTTP/1.1 200") && answer.stdout.contains("/asked"), "{}", answer.all());
    assert!(!answer.stdout.contains("/early\""), "{}", answer.all());
    assert_eq!(app.requests(), 1);
    // rustls lets a ticket be used once, so this comes last.
    let accepted = ask(eager).await;
    assert!(accepted.stdout.contains("Early data was accepted"), "its issuer takes it: {}", accepted.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_session_does_not_outlive_its_svid() {
    const LIFE: i64 = 4;
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let frame = &door.frame;
    let issuer = Issuer::start(&frame.server, &frame.bundle).await;
    let end = clock::now() + Duration::from_secs(LIFE.unsigned_abs());
    let client = frame.authority.id("/client");
    let short = frame.authority.svid_with(&client, |svid| valid_between(svid, -60, LIFE));
    let short = short.write(frame.directory(), "short");
    let ticket = issuer.ticket(&short, frame.directory()).await;
    let answer = offer(door.proxy.inbound(), Some(&short), &frame.bundle, &ticket).await;
    assert!(answer.stdout.contains("HTTP/1.1 200"), "{}", answer.all());

    eventually("the SVID has expired", PATIENCE, async || {
        match clock::now() > end + Duration::from_secs(1) {
            true => Ok(()),
            false => Err("it has not".to_owned()),
        }
    })
    .await;

    let answer = offer(door.proxy.inbound(), Some(&short), &frame.bundle, &ticket).await;
    assert!(!answer.stdout.contains("HTTP/1.1"), "{}", answer.all());
    door.proxy.counts(FAILURES, &[INBOUND, ("reason", "expired")], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_session_does_not_outlive_its_policy() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;
    let frame = &door.frame;
    let issuer = Issuer::start(&frame.server, &frame.bundle).await;
    let ticket = issuer.ticket(&frame.client, frame.directory()).await;
    let answer = offer(door.proxy.inbound(), Some(&frame.client), &frame.bundle, &ticket).await;
    assert!(answer.stdout.contains("HTTP/1.1 200"), "{}", answer.all());

    let other = frame.authority.id("/somebody-else");
    let policy = allow("door", &frame.authority.id("/server"), &[&other]);
    std::fs::write(&frame.policy, policy).expect("our own file");

    eventually("the policy is in force", PATIENCE, async || {
        let answer = offer(door.proxy.inbound(), Some(&frame.client), &frame.bundle, &ticket).await;
        if answer.stdout.contains("HTTP/1.1 403") { Ok(()) } else { Err(answer.all()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_session_does_not_outlive_a_revocation() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (client, web) = (id("/client"), id("/web"));
    mesh.policy(&allow("web", &web, &[&client])).await;
    mesh.workload(&client).await;
    mesh.workload(&web).await;
    let server = mesh.proxy(&web).await.inbound("http://", app.address).start().await;
    let (credentials, bundle) = credentials(&mesh, &client).await;
    let issuer = Issuer::start(&credentials, &bundle).await;
    let ticket = issuer.ticket(&credentials, mesh.directory()).await;
    let answer = offer(server.inbound(), Some(&credentials), &bundle, &ticket).await;
    assert!(answer.stdout.contains("HTTP/1.1 200"), "{}", answer.all());

    let _ = mesh.signet(&["revoke", &client, "--reason", "left the company"]).await.succeeded();

    let answer = offer(server.inbound(), Some(&credentials), &bundle, &ticket).await;
    assert!(!answer.stdout.contains("HTTP/1.1"), "{}", answer.all());
    server.counts(FAILURES, &[INBOUND, ("reason", "revoked_identity")], 1).await;
}

/// A server of OpenSSL that resumes whatever it issued a ticket for.
struct Issuer {
    address: SocketAddr,
    bundle: PathBuf,
    _process: Process,
}

impl Issuer {
    async fn start(credentials: &SvidFiles, bundle: &Path) -> Self {
        let address = free_address();
        let mut command = Command::new(tool("openssl"));
        command.args(["s_server", "-www", "-Verify", "4", "-accept", &address.to_string()]);
        command.arg("-cert").arg(&credentials.svid).arg("-key").arg(&credentials.key);
        command.arg("-cert_chain").arg(&credentials.chain).arg("-CAfile").arg(bundle);
        let process = Process::start("openssl s_server", command);
        eventually("s_server listens", PATIENCE, async || {
            TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        Self { address, bundle: bundle.to_owned(), _process: process }
    }

    /// A ticket for these credentials, which the issuer was seen to resume.
    async fn ticket(&self, credentials: &SvidFiles, directory: &Path) -> PathBuf {
        let ticket = taken(self.address, credentials, &self.bundle, directory).await;
        let resumed = s_client(self.address, Some(credentials), &self.bundle)
            .args(["-ign_eof", "-sess_in", &ticket.display().to_string()])
            .input("GET / HTTP/1.0\r\n\r\n")
            .run()
            .await;
        assert!(resumed.stdout.contains("Reused, TLSv1.3"), "its issuer resumes it: {}", resumed.all());
        ticket
    }
}

async fn taken(issuer: SocketAddr, credentials: &SvidFiles, bundle: &Path, directory: &Path) -> PathBuf {
    let ticket = directory.join("ticket");
    let taken = s_client(issuer, Some(credentials), bundle)
        .args(["-ign_eof", "-sess_out", &ticket.display().to_string()])
        .input("GET / HTTP/1.0\r\n\r\n")
        .run()
        .await;
    assert!(ticket.exists(), "a ticket: {}", taken.all());
    ticket
}

/// A server of rustls that takes early data, which `s_server` does only while somebody types.
async fn eager_issuer(credentials: &SvidFiles) -> SocketAddr {
    let chain = CertificateDer::pem_file_iter(&credentials.svid).expect("our own file");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("our own PEM");
    let key = PrivateKeyDer::from_pem_file(&credentials.key).expect("our own PEM");
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key fits the certificate");
    config.max_early_data_size = 16 * 1024;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who breaks off gets nothing.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

/// Offers the ticket and sends a request. However that ends, nothing was resumed.
async fn offer(
    address: SocketAddr,
    credentials: Option<&SvidFiles>,
    bundle: &Path,
    ticket: &Path,
) -> Finished {
    let answer = s_client(address, credentials, bundle)
        .args(["-ign_eof", "-sess_in", &ticket.display().to_string()])
        .input(REQUEST)
        .run()
        .await;
    assert!(!answer.stdout.contains("Reused, TLS"), "it was resumed: {}", answer.all());
    answer
}

fn s_client(address: SocketAddr, credentials: Option<&SvidFiles>, bundle: &Path) -> Client {
    let client = Client::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-verify_return_error", "-CAfile"])
        .arg(bundle);
    match credentials {
        Some(SvidFiles { svid, chain, key }) => {
            client.arg("-cert").arg(svid).arg("-key").arg(key).arg("-cert_chain").arg(chain)
        }
        None => client,
    }
}

/// An operator's credentials are a plain SVID in files, as any foreign client would have it.
async fn credentials(mesh: &Mesh, id: &str) -> (SvidFiles, PathBuf) {
    let directory = mesh.directory().join("credentials");
    let ticket = mesh.ticket(id).await;
    let _ = mesh.command(&["login", &ticket, "--dir"]).arg(&directory).run().await.succeeded();
    let svid = std::fs::read_to_string(directory.join("svid.pem")).expect("written by login");
    let (_leaf, chain) = svid.split_once("-----END CERTIFICATE-----\n").expect("a leaf and what is above it");
    let chain = file(mesh.directory(), "chain.pem", chain);
    let credentials = SvidFiles { svid: directory.join("svid.pem"), chain, key: directory.join("key.pem") };
    (credentials, directory.join("bundle.pem"))
}
