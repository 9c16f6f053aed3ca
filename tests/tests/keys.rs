//! Where the keys of the authorities are, and what becomes of them there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use linux_keyutils::{KeyRing, KeyRingIdentifier};
use signet_tests::apps::Nginx;
use signet_tests::client::{Client, Finished, file};
use signet_tests::mesh::{Mesh, Store, TRUST_DOMAIN, allow, id};
use signet_tests::openssl_root::OpenSslRoot;
use signet_tests::token::{PIN, Token};
use signet_tests::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn seal_key_moves_from_a_file_to_a_passphrase_and_into_the_kernel() {
    let mut mesh = Mesh::start().await;
    let before = mesh.json(&["ca", "status"]).await;
    let passphrase = file(mesh.directory(), "passphrase", "correct horse battery staple\n");
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    let passphrase = format!("passphrase:{}", passphrase.display());
    let told = |finished: Finished, expected: &str| {
        assert!(finished.all().contains(expected), "{expected}: {}", finished.all());
    };
    let reseal =
        |mesh: &Mesh, more: &[&str]| mesh.upkeep(&["reseal", "--trust-domain", TRUST_DOMAIN]).args(more);
    let running = reseal(&mesh, &["--to", &passphrase]).run().await;
    assert_ne!(running.code(), 0, "control runs: {}", running.all());

    mesh.kill_control().await;
    let expected = format!("run control with --seal-key {passphrase}");
    told(reseal(&mesh, &["--to", &passphrase]).run().await.succeeded(), &expected);
    told(reseal(&mesh, &["--to", &passphrase]).run().await.succeeded(), "already");
    let old = mesh.attempt().run().await;
    assert_ne!(old.code(), 0);
    told(old, "does not open: wrong seal key");
    mesh.options(&["--seal-key", &passphrase]);
    mesh.restart_control().await;
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();

    let name = format!("signet-test-{}", std::process::id());
    let ring = KeyRing::from_special_id(KeyRingIdentifier::Session, false).expect("a keyring");
    let key = ring.add_key(&name, &[7; 32][..]).expect("a key");
    let place = format!("keyring:{name}");
    mesh.kill_control().await;
    let moved = reseal(&mesh, &["--seal-key", &passphrase, "--to", &place]).run().await;
    told(moved.succeeded(), &place);
    mesh.options(&["--seal-key", &place]);
    mesh.restart_control().await;
    key.invalidate().expect("our own key");
    let after = mesh.json(&["ca", "status"]).await;
    assert_eq!(before["root"]["sha256"], after["root"]["sha256"]);
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    let events = mesh.events().await;
    assert_eq!(events.iter().filter(|event| event["action"] == "keys.resealed").count(), 2);
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_a_token_sign_there_are_replaced_and_destroyed_and_come_back_with_it() {
    let mut token = Token::start().await;
    let options = ["--ca-key", &token.uri(), "--ca-key-algorithm", "p384"];
    let mut mesh = Mesh::on(Store::Sqlite).options(&options).environment(token.environment()).start().await;
    let nginx = Nginx::start().await;
    let (caller, server) = (id("/frontend"), id("/web"));
    let pair = mesh.pair(&caller, &server, "http://", nginx.address).await;
    mesh.policy(&allow("web", &server, &[&caller])).await;
    nginx.serve("page", b"hello");
    let url = format!("http://{}/files/page", pair.entry());
    let answers = async || {
        let _ =
            Client::new("curl").args(["--fail", "--silent", "--noproxy", "*", &url]).run().await.succeeded();
    };
    answers().await;
    let keys = token.keys().await;
    assert_eq!(keys.len(), 2, "a root and an intermediate: {keys:?}");
    for key in &keys {
        assert!(key.contains("SECP384R1") && key.contains("CKA_NEVER_EXTRACTABLE"), "{key}");
    }

    // One after the other, and what is compromised is destroyed.
    let first = mesh.json(&["ca", "status"]).await;
    let first =
        first["authorities"].as_array().unwrap().iter().find(|one| one["kind"] == "intermediate").unwrap();
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    assert_eq!(token.keys().await.len(), 3, "the first one signs revocation lists");
    let stolen =
        ["ca", "compromised", first["id"].as_str().unwrap(), "--within", "20s", "--reason", "a test"];
    let _ = mesh.signet(&stolen).await.succeeded();
    let has = async |count: usize| {
        eventually("keys are destroyed", PATIENCE, async || {
            let keys = token.keys().await;
            if keys.len() == count { Ok(()) } else { Err(format!("{keys:?}")) }
        })
        .await;
    };
    has(2).await;
    let _ = mesh.signet(&["ca", "prepare", "root"]).await.succeeded();
    has(3).await;
    let _ = mesh.signet(&["ca", "retire", "root"]).await.succeeded();
    has(2).await;
    answers().await;

    token.goes_away().await;
    eventually("control says so", PATIENCE, async || match mesh.readiness().await {
        (503, told) if told.contains("token") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(mesh.metrics().await.count("signet_control_tokens_away", &[]), 1);
    let refused = mesh.signet(&["ca", "rotate-intermediate"]).await;
    assert!(
        refused.code() != 0 && refused.all().contains("token `pkcs11:token=signet%20ca"),
        "{}",
        refused.all()
    );
    answers().await;
    token.serve().await;
    mesh.is_ready().await;
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();

    mesh.kill_control().await;
    token.has_pin_file("0000-0000");
    let refused = mesh.attempt().run().await;
    assert!(refused.code() != 0 && refused.all().contains("refuses the PIN"), "{}", refused.all());
    token.has_pin_file(PIN);
    // Back into the store: new keys are made there, and those of now are used where they are.
    mesh.options(&["--ca-key", "sealed", "--ca-key", &token.uri()]);
    mesh.restart_control().await;
    let before = token.keys().await.len();
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    assert_eq!(token.keys().await.len(), before);
    answers().await;
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_kept_elsewhere_and_signs_by_file() {
    let mut mesh = Mesh::start_with(&["--intermediate-ttl", "2d"]).await;
    let nginx = Nginx::start().await;
    let (caller, server) = (id("/frontend"), id("/web"));
    let pair = mesh.pair(&caller, &server, "http://", nginx.address).await;
    mesh.policy(&allow("web", &server, &[&caller])).await;
    nginx.serve("page", b"hello");
    let url = format!("http://{}/files/page", pair.entry());
    let answers = async || {
        let _ =
            Client::new("curl").args(["--fail", "--silent", "--noproxy", "*", &url]).run().await.succeeded();
    };
    let directory = mesh.directory().to_owned();
    let root = OpenSslRoot::new(&directory).await;
    let (csr, chain) = (root.at("csr.pem"), root.at("chain.pem"));
    let install = async |mesh: &Mesh| mesh.signet(&["ca", "install", "--chain", &chain]).await;
    let _ = file(&directory, "chain.pem", std::fs::read(root.at("root.pem")).expect("openssl wrote it"));
    let early = install(&mesh).await;
    assert!(early.code() != 0 && early.all().contains("nothing was asked for"), "{}", early.all());

    let _ = mesh.signet(&["ca", "csr", "--out", &csr]).await.succeeded();
    let printed = mesh.signet(&["ca", "csr"]).await.succeeded().stdout;
    assert_eq!(
        printed.trim(),
        std::fs::read_to_string(&csr).expect("written").trim(),
        "the same until it is installed"
    );
    let alone = install(&mesh).await;
    assert!(alone.code() != 0 && alone.all().contains("expected two certificates"), "{}", alone.all());
    mesh.kill_control().await;
    mesh.restart_control().await;
    root.sign(1).await;
    let _ = install(&mesh).await.succeeded();
    let _ = mesh.signet(&["ca", "activate", "root"]).await.succeeded();
    answers().await;
    let status = mesh.json(&["ca", "status"]).await;
    root.openssl("x509 -in root.pem -outform DER -out root.der").await;
    let digest =
        Client::new("openssl").args(["dgst", "-sha256", "-r", &root.at("root.der")]).run().await.succeeded();
    assert!(digest.stdout.starts_with(status["root"]["sha256"].as_str().unwrap()), "{status}");

    // Control cannot go on alone, and says so before it is too late.
    let alone = mesh.signet(&["ca", "rotate-intermediate"]).await;
    assert!(alone.code() != 0 && alone.all().contains("signet ca csr"), "{}", alone.all());
    eventually("it is said what somebody has to do", PATIENCE, async || {
        let told = mesh.signet(&["status"]).await.all();
        if told.contains("signet ca install --chain") { Ok(()) } else { Err(told) }
    })
    .await;
    eventually("and measured", PATIENCE, async || {
        match mesh.metrics().await.count("signet_control_authority_awaited", &[]) {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
    let _ = mesh.signet(&["ca", "csr", "--out", &csr]).await.succeeded();
    root.sign(30).await;
    let _ = install(&mesh).await.succeeded();
    let after = mesh.json(&["ca", "status"]).await;
    assert_ne!(status["intermediate"]["sha256"], after["intermediate"]["sha256"]);
    assert_eq!(status["root"]["sha256"], after["root"]["sha256"]);
    assert!(!mesh.signet(&["status"]).await.all().contains("signet ca install"));
    // A new proxy: its chain holds as openssl sees it too.
    let late = mesh.proxy(&caller).await.outbound("http://", &server).start().await;
    let url = format!("http://{}/files/page", late.outbound());
    let _ = Client::new("curl").args(["--fail", "--silent", "--noproxy", "*", &url]).run().await.succeeded();
    let seen = Client::new("openssl").args([
        "s_client",
        "-CAfile",
        &root.at("root.pem"),
        "-connect",
        &mesh.grpc.to_string(),
    ]);
    let seen = seen.run().await.all();
    assert!(seen.contains("Verify return code: 0 (ok)") || seen.contains("Verification: OK"), "{seen}");
    mesh.verify_audit().await;
}
