//! What nobody renews is warned of before it ends, and is worth nothing after: each kind of certificate, by a clock that the
//! test sets. (Of a root tells `store`, of a revocation list
//! `cutting`, of a token `tokens`.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use signet_tests::apps::TcpEcho;
use signet_tests::attest::Joiner;
use signet_tests::client::{Client, file};
use signet_tests::clock::Clock;
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::openssl_root::OpenSslRoot;
use signet_tests::pki::{Authority, valid_between};
use signet_tests::proxy::{Proxy, ProxyBuilder};
use signet_tests::sockets::{EchoConnection, free_address};
use signet_tests::{PATIENCE, eventually};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Below a root elsewhere, which nobody asks again in time.
#[tokio::test(flavor = "multi_thread")]
async fn intermediate_own_svid_and_https_certificate_are_warned_of_and_end() {
    let (clock, directory) = (Clock::default(), tempfile::tempdir().unwrap());
    let root = OpenSslRoot::new(directory.path()).await;
    let https = free_address();
    web_certificate(&root, 60).await;
    let mesh = Mesh::on(Store::Sqlite).by(&clock).options(&[
        "--intermediate-ttl=30d",
        "--crl-every=1s",
        &format!("--https-listen={https}"),
        &format!("--https-certificate={}", root.at("https.pem")),
        &format!("--https-key={}", root.at("https.key")),
    ]);
    let mesh = mesh.start().await;
    let install = async |days| {
        let _ = mesh.signet(&["ca", "csr", "--out", &root.at("csr.pem")]).await.succeeded();
        root.sign(days).await;
        mesh.signet(&["ca", "install", "--chain", &root.at("chain.pem")]).await.succeeded()
    };
    let _ = install(40).await;
    let _ = mesh.signet(&["ca", "activate", "root"]).await.succeeded();
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let joins = async || {
        let ticket = mesh.ticket(&worker).await;
        let joiner = Joiner::connect(mesh.grpc, &ticket).await.map_err(|error| error.to_string())?;
        joiner.become_instance().await.map_err(|error| error.to_string())
    };
    let fetches = || {
        let url = format!("https://localhost:{}/bundle", https.port());
        Client::new("curl")
            .args(["--fail", "--silent", "--noproxy", "*", "--cacert", &root.at("root.pem"), &url])
            .by(&clock)
    };
    let _ = joins().await.unwrap();
    let _ = fetches().run().await.succeeded();
    ready(&mesh, 200, &[], &["warning"]).await;

    clock.set_ahead(24 * DAY);
    ready(&mesh, 200, &[], &["signet ca install", "HTTPS", "should have been replaced"]).await;
    // Less than half of --intermediate-ttl is left.
    clock.set_ahead(26 * DAY);
    ready(&mesh, 200, &["signet ca install --chain"], &["HTTPS", "should have been replaced"]).await;
    let awaited = async || match mesh.metrics().await.count("signet_control_authority_awaited", &[]) {
        1 => Ok(()),
        other => Err(format!("signet_control_authority_awaited {other}")),
    };
    eventually("the duty that watches authorities says it, too", PATIENCE, awaited).await;
    clock.set_ahead(35 * DAY);
    ready(&mesh, 200, &["the intermediate should have been replaced and ends in"], &["HTTPS"]).await;
    let _ = fetches().run().await.succeeded();

    clock.set_ahead(41 * DAY);
    ready(&mesh, 503, &["intermediate: ended", "own SVID: ended"], &[]).await;
    let refused = joins().await.unwrap_err();
    println!("nobody joins: {refused}");
    let _ = install(365).await;
    ready(&mesh, 200, &[], &["ended", "own SVID"]).await;
    eventually("who proves itself gets an SVID again", PATIENCE, async || joins().await.map(drop)).await;

    clock.set_ahead(52 * DAY);
    ready(&mesh, 200, &["the certificate of the HTTPS listener ends in"], &[]).await;
    let ends =
        mesh.metrics().await.sum("signet_control_ca_expiry_timestamp_seconds", &[("authority", "https")]);
    assert!(ends > 0.0, "who watches it sees that, too");
    let _ = fetches().run().await.succeeded();
    clock.set_ahead(61 * DAY);
    ready(&mesh, 200, &["the certificate of the HTTPS listener has ended"], &[]).await;
    let refused = fetches().run().await;
    assert!(refused.code() != 0, "curl believes what has ended: {}", refused.all());
    web_certificate(&root, 120).await;
    ready(&mesh, 200, &[], &["HTTPS"]).await;
    let _ = fetches().run().await.succeeded();
    mesh.verify_audit().await;
}

/// Of control, while that is away, and of files that nobody replaces.
#[tokio::test(flavor = "multi_thread")]
async fn svids_of_proxies_and_apps_are_warned_of_and_end() {
    let (clock, directory, echo) = (Clock::default(), tempfile::tempdir().unwrap(), TcpEcho::start().await);
    let mut mesh = Mesh::on(Store::Sqlite).by(&clock).start().await;
    let (orders, ledger) = (id("/orders"), id("/ledger"));
    for workload in [&orders, &ledger] {
        mesh.short_lived_workload(workload, "8h").await;
    }
    mesh.policy(&allow("ledger", &ledger, &[&orders])).await;
    let server = mesh.proxy(&ledger).await.inbound("tcp://", echo.address).by(&clock).start().await;
    let socket = directory.path().join("workload.sock");
    let caller = mesh.proxy(&orders).await.outbound("tcp://", &ledger).by(&clock);
    let caller = caller
        .with("--workload-api-listen", format!("unix:{}", socket.display()))
        .with("--workload-api-caller", format!("uid={}", rustix::process::geteuid().as_raw()))
        .start()
        .await;
    let app = spiffe::WorkloadApiClient::connect_to(format!("unix:{}", socket.display())).await.unwrap();
    let _ = app.fetch_x509_svid().await.unwrap();
    let filed = from_files(&clock, directory.path()).await;
    let mut open = EchoConnection::open(caller.outbound()).await;
    mesh.kill_control().await;
    let proxies = [&caller, &server, &filed];
    for proxy in proxies {
        says(proxy, 200, "ready").await;
        assert!(!proxy.readyz().await.body.contains("warning"));
    }
    let ends = |name: &'static str| {
        let caller = &caller;
        async move { caller.metrics().await.sum(name, &[]) }
    };
    assert!(
        ends("signet_workload_svid_expiry_timestamp_seconds").await > 0.0,
        "who watches sees its end coming"
    );
    assert!(ends("signet_svid_expiry_timestamp_seconds").await > 0.0);

    clock.set_ahead(7 * HOUR);
    for proxy in proxies {
        says(proxy, 200, "warning: the SVID should have been renewed and ends in").await;
    }
    open.ping().await.expect("it is good still");
    let _ = app.fetch_x509_svid().await.unwrap();

    clock.set_ahead(9 * HOUR);
    for proxy in proxies {
        says(proxy, 503, "the SVID has ended").await;
    }
    tokio::time::timeout(PATIENCE, open.closed()).await.expect("what was open is closed");
    server.access(&[("direction", "inbound"), ("close_reason", "svid_ended")]).await;
    eventually("apps get nothing that has ended", PATIENCE, async || match app.fetch_x509_svid().await {
        Err(_) => Ok(()),
        Ok(svid) => Err(format!("{svid:?}")),
    })
    .await;
}

async fn from_files(clock: &Clock, directory: &Path) -> Proxy {
    let authority = Authority::new("files.test");
    let server = authority.id("/server");
    let svid =
        authority.svid_with(&server, |svid| valid_between(svid, -60, 8 * 3600)).write(directory, "server");
    let policy = file(directory, "policy.yaml", allow("server", &server, &[&authority.id("/client")]));
    let bundle = authority.write_bundle(directory);
    let echo = TcpEcho::start().await;
    ProxyBuilder::with_files(&svid, &bundle, &policy).inbound("tcp://", echo.address).by(clock).start().await
}

/// The certificate of a listener of the web, below the root.
async fn web_certificate(root: &OpenSslRoot, days: u32) {
    root.openssl("req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout web.key -out web.csr -subj /CN=localhost")
        .await;
    let _ = file(
        Path::new(&root.at("")),
        "web.ext",
        "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n",
    );
    root.openssl(&format!(
        "x509 -req -in web.csr -CA root.pem -CAkey root.key -CAcreateserial -days {days} -extfile web.ext -out web.pem"
    ))
    .await;
    for (made, shown) in [("web.key", "https.key"), ("web.pem", "https.pem")] {
        std::fs::rename(root.at(made), root.at(shown)).unwrap();
    }
}

/// Waits until control's `/readyz` answers so, with all of `expected` in it and nothing of `absent`.
async fn ready(mesh: &Mesh, status: u16, expected: &[&str], absent: &[&str]) {
    let wanted = format!("{status} with {expected:?} and without {absent:?}");
    eventually(&wanted, PATIENCE, async || match mesh.readiness().await {
        (seen, told)
            if seen == status
                && expected.iter().all(|part| told.contains(part))
                && !absent.iter().any(|part| told.contains(part)) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// The same of a proxy.
async fn says(proxy: &Proxy, status: u16, expected: &str) {
    eventually(expected, PATIENCE, async || match proxy.readyz().await {
        ready if ready.status == status && ready.body.contains(expected) => Ok(()),
        ready => Err(format!("{} {}", ready.status, ready.body)),
    })
    .await;
}
