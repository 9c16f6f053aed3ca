//! Who gets through the inbound port: `openssl s_client` with certificates of every shape, against a proxy
//! whose identity comes from files, so that the test is the authority. The policy lets the whole trust domain
//! in: what is refused here is refused by the handshake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::path::PathBuf;

use rcgen::{CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use signet_tests::apps::Nginx;
use signet_tests::client::{Client, Finished, file};
use signet_tests::logs::field;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::pki::{Authority, Svid, dns, uri, valid_between};
use signet_tests::proxy::{Proxy, ProxyBuilder};
use signet_tests::tls;
use tempfile::TempDir;

const DOMAIN: &str = "peers.test";

/// A proxy in front of nginx, and the authority that both it and its callers have their certificates from.
struct Door {
    authority: Authority,
    proxy: Proxy,
    bundle: PathBuf,
    directory: TempDir,
    _nginx: Nginx,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_svid_gets_in_and_the_app_sees_its_hash() {
    let door = Door::open().await;
    let caller = door.authority.svid(&door.authority.id("/client"));

    let answer = door.ask(Some(&caller), &[]).await;

    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
    let files = caller.write(door.directory.path(), "hashed");
    let fingerprint = Client::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in", &files.svid.display().to_string()])
        .run()
        .await
        .succeeded();
    let hash =
        fingerprint.stdout.trim().rsplit('=').next().unwrap_or_default().replace(':', "").to_lowercase();
    let expected =
        format!("By={};Hash={hash};URI={}", door.authority.id("/server"), door.authority.id("/client"));
    assert_eq!(answer.stdout.lines().last(), Some(expected.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn well_formed_svids_of_every_kind_get_in() {
    let door = Door::open().await;
    let authority = &door.authority;
    let longest = authority.id(&format!("/{}", "a".repeat(2048 - authority.id("/").len())));
    assert_eq!(longest.len(), 2048, "SPIFFE-ID s2.3: up to 2048 bytes must be supported");
    let cases = [
        ("signed by the root itself", authority.svid_from_root(&authority.id("/client"))),
        ("the longest id", authority.svid(&longest)),
        ("dots, dashes and underscores", authority.svid(&authority.id("/a.b/c-d/e_f/.../X9"))),
        (
            "a DNS name beside the URI",
            authority
                .svid_with(&authority.id("/client"), |svid| svid.subject_alt_names.push(dns("client.test"))),
        ),
        (
            "key agreement too",
            authority.svid_with(&authority.id("/client"), |svid| {
                svid.key_usages.push(KeyUsagePurpose::KeyAgreement);
            }),
        ),
        (
            "without basic constraints",
            authority.svid_with(&authority.id("/client"), |svid| svid.is_ca = IsCa::NoCa),
        ),
    ];
    for (case, svid) in cases {
        let answer = door.ask(Some(&svid), &[]).await;
        assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{case}: {}", answer.all());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_usable_svid_is_refused() {
    let door = Door::open().await;
    let authority = &door.authority;
    let client = authority.id("/client");
    let stranger = Authority::new("elsewhere.test");
    let impostor = Authority::new(DOMAIN);
    let cases = [
        ("another trust domain, by its own authority", stranger.svid(&stranger.id("/client"))),
        ("another trust domain, by our authority", authority.svid("spiffe://elsewhere.test/client")),
        ("our trust domain, by a foreign authority", stranger.svid(&client)),
        ("our trust domain, by an authority of the same name", impostor.svid(&client)),
        ("expired", authority.svid_with(&client, |svid| valid_between(svid, -3600, -60))),
        ("not yet valid", authority.svid_with(&client, |svid| valid_between(svid, 3600, 7200))),
        ("signed by a leaf", authority.svid_signed_by_a_leaf(&client)),
        (
            "below an intermediate that is no authority",
            authority.svid_below(&client, |it| it.is_ca = IsCa::NoCa),
        ),
        (
            "below an intermediate that may not sign certificates",
            authority.svid_below(&client, |it| it.key_usages = vec![KeyUsagePurpose::CrlSign]),
        ),
        ("below an expired intermediate", authority.svid_below(&client, |it| valid_between(it, -3600, -60))),
    ];
    door.refuses("without a certificate", None).await;
    for (case, svid) in &cases {
        door.refuses(case, Some(svid)).await;
    }
    door.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_break_the_x509_svid_profile_are_refused() {
    let door = Door::open().await;
    let authority = &door.authority;
    let client = authority.id("/client");
    let usage =
        |usages: &[KeyUsagePurpose]| authority.svid_with(&client, |svid| svid.key_usages = usages.to_vec());
    let sign = KeyUsagePurpose::DigitalSignature;
    let cases = [
        ("keyCertSign", usage(&[sign, KeyUsagePurpose::KeyCertSign])),
        ("cRLSign", usage(&[sign, KeyUsagePurpose::CrlSign])),
        ("key usage without digitalSignature", usage(&[KeyUsagePurpose::KeyAgreement])),
        ("no key usage", usage(&[])),
        (
            "key usage that is not critical",
            authority.svid_with(&client, |svid| {
                svid.key_usages.clear();
                // id-ce-keyUsage, a BIT STRING with only digitalSignature.
                svid.custom_extensions =
                    vec![CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![0x03, 0x02, 0x07, 0x80])];
            }),
        ),
        (
            "cA=true",
            authority
                .svid_with(&client, |svid| svid.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ),
        (
            "only code signing",
            authority.svid_with(&client, |svid| {
                svid.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            }),
        ),
        (
            "only server authentication",
            authority.svid_with(&client, |svid| {
                svid.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
        (
            "an unknown critical extension",
            authority.svid_with(&client, |svid| {
                let mut extension =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![0x05, 0x00]);
                extension.set_criticality(true);
                svid.custom_extensions = vec![extension];
            }),
        ),
    ];
    for (case, svid) in &cases {
        door.refuses(case, Some(svid)).await;
    }
    door.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_without_exactly_one_spiffe_id_are_refused() {
    let door = Door::open().await;
    let authority = &door.authority;
    let client = authority.id("/client");
    let names =
        |names: Vec<rcgen::SanType>| authority.svid_with(&client, |svid| svid.subject_alt_names = names);
    let mut cases = vec![
        ("no alternative name".to_owned(), names(vec![])),
        ("only a DNS name".to_owned(), names(vec![dns("client.peers.test")])),
        ("two URIs".to_owned(), names(vec![uri(&client), uri(&authority.id("/admin"))])),
        ("the same URI twice".to_owned(), names(vec![uri(&client), uri(&client)])),
        (
            "a SPIFFE ID and another URI".to_owned(),
            names(vec![uri(&client), uri("https://peers.test/client")]),
        ),
    ];
    let too_long = authority.id(&format!("/{}", "a".repeat(2049 - authority.id("/").len())));
    let malformed = [
        "spiffe://peers.test",
        "spiffe://peers.test/",
        "spiffe://peers.test/client/",
        "spiffe://peers.test//client",
        "spiffe://peers.test/a//b",
        "spiffe://peers.test/.",
        "spiffe://peers.test/..",
        "spiffe://peers.test/a/../client",
        "spiffe://peers.test/a/./client",
        "spiffe://peers.test/%63lient",
        "spiffe://peers.test/client%00",
        "spiffe://peers.test/client\0",
        "spiffe://peers.test/client\n",
        "spiffe://peers.test/client\r\nx: y",
        "spiffe://peers.test/client,URI=spiffe://peers.test/admin",
        "spiffe://peers.test/client;URI=spiffe://peers.test/admin",
        "spiffe://peers.test/cli\"ent",
        "spiffe://peers.test/cli ent",
        "spiffe://peers.test/client?x=y",
        "spiffe://peers.test/client#x",
        "spiffe://peers.test:443/client",
        "spiffe://user@peers.test/client",
        "spiffe://PEERS.test/client",
        "SPIFFE://peers.test/client",
        "spiffe:///client",
        "spiffe:/peers.test/client",
        "https://peers.test/client",
        "peers.test/client",
        "",
        &too_long,
    ];
    for id in malformed {
        cases.push((format!("the id {:?}", &id[..id.len().min(80)]), names(vec![uri(id)])));
    }
    for (case, svid) in &cases {
        door.refuses(case, Some(svid)).await;
    }
    door.is_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_1_3_is_spoken() {
    let door = Door::open().await;
    let caller = door.authority.svid(&door.authority.id("/client"));

    for old in ["-tls1_2", "-tls1_1", "-tls1"] {
        let answer = door.ask(Some(&caller), &[old]).await;
        assert!(!answer.stdout.contains("HTTP/1.1"), "{old}: {}", answer.all());
    }
    let alert = door.ask(Some(&caller), &["-tls1_2"]).await;
    assert!(alert.stderr.contains("alert protocol version"), "{}", alert.all());
    let answer = door.ask(Some(&caller), &["-tls1_3"]).await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn key_exchange_is_hybrid_first_and_classical_for_those_who_cannot() {
    let door = Door::open().await;
    let caller = door.authority.svid(&door.authority.id("/client"));

    for (group, expected) in [("X25519", "X25519"), ("P-256", "prime256v1")] {
        let answer = door.describe(&caller, &["-groups", group]).await;
        let key = answer.stdout.lines().find(|line| line.starts_with("Server Temp Key:")).unwrap_or_default();
        assert!(key.contains(expected), "{group}: {key:?} in {}", answer.all());
    }
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let answer = door.describe(&caller, &["-ciphersuites", suite]).await;
        assert!(answer.stdout.contains(&format!("Cipher is {suite}")), "{suite}: {}", answer.all());
    }
    let group = door.describe(&caller, &["-groups", "P-521"]).await;
    assert!(!group.stdout.contains("Cipher is TLS_"), "P-521 is not offered: {}", group.all());

    // openssl 3.0 has no post-quantum groups; rustls has.
    let stream = tls::connect(door.proxy.inbound(), &caller).await;
    let group = stream.get_ref().1.negotiated_key_exchange_group().expect("the handshake is over");
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_is_resumed_past_a_revocation() {
    let (mesh, nginx) = (Mesh::start().await, Nginx::start().await);
    let (client, web) = (id("/client"), id("/web"));
    mesh.policy(&allow("web", &web, &[&client])).await;
    mesh.workload(&client).await;
    mesh.workload(&web).await;
    let server = mesh.proxy(&web).await.inbound("http://", nginx.address).start().await;

    // An operator's credentials are a plain SVID in files, as any foreign client would have it.
    let credentials = mesh.directory().join("client");
    let ticket = mesh.ticket(&client).await;
    let _ = mesh
        .command(&["login", &ticket, "--dir", &credentials.display().to_string()])
        .run()
        .await
        .succeeded();
    let svid = std::fs::read_to_string(credentials.join("svid.pem")).expect("written by login");
    let end = "-----END CERTIFICATE-----\n";
    let (_leaf, chain) = svid.split_once(end).expect("a leaf, and what stands above it");
    let chain = file(mesh.directory(), "chain.pem", chain).display().to_string();
    let session = mesh.directory().join("session.pem");
    let ask = async |option: &str| {
        let path = |name: &str| credentials.join(name).display().to_string();
        Client::new("openssl")
            .args(["s_client", "-ign_eof", "-connect", &server.inbound().to_string()])
            .args(["-cert", &path("svid.pem"), "-key", &path("key.pem"), "-cert_chain", &chain])
            .args(["-CAfile", &path("bundle.pem"), option, &session.display().to_string()])
            .input(REQUEST)
            .run()
            .await
    };

    let first = ask("-sess_out").await;
    assert!(first.stdout.contains("HTTP/1.1 200"), "{}", first.all());
    let _ = mesh.signet(&["revoke", &client, "--reason", "left the company"]).await.succeeded();

    let again = ask(if session.exists() { "-sess_in" } else { "-sess_out" }).await;
    assert!(!again.stdout.contains("HTTP/1.1 200"), "a revoked caller gets nothing: {}", again.all());
    assert!(!again.stdout.contains("Reused, TLS"), "no session outlives its check: {}", again.all());
}

const REQUEST: &str = "GET /identity HTTP/1.1\r\nHost: peers.test\r\nConnection: close\r\n\r\n";

impl Door {
    async fn open() -> Self {
        let authority = Authority::new(DOMAIN);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let nginx = Nginx::start().await;
        let bundle = authority.write_bundle(directory.path());
        let server = authority.id("/server");
        let policy = allow("peers", &server, &[&format!("\"{}\"", authority.id("/*"))]);
        let policy = file(directory.path(), "policy.yaml", policy);
        let files = authority.svid(&server).write(directory.path(), "server");
        let proxy = ProxyBuilder::with_files(&files, &bundle, &policy)
            .inbound("http://", nginx.address)
            .start()
            .await;
        Self { authority, proxy, bundle, directory, _nginx: nginx }
    }

    /// Sends a request over TLS with these credentials; on standard output is what came back, nothing else.
    async fn ask(&self, svid: Option<&Svid>, options: &[&str]) -> Finished {
        self.s_client(svid).args(["-quiet", "-ign_eof"]).args(options).input(REQUEST).run().await
    }

    /// Only the handshake, with all that `s_client` tells about it.
    async fn describe(&self, svid: &Svid, options: &[&str]) -> Finished {
        self.s_client(Some(svid)).args(options).run().await
    }

    fn s_client(&self, svid: Option<&Svid>) -> Client {
        let address = self.proxy.inbound().to_string();
        let mut client = Client::new("openssl")
            .args(["s_client", "-connect", &address, "-verify_return_error", "-CAfile"])
            .args([&self.bundle]);
        if let Some(svid) = svid {
            let files = svid.write(self.directory.path(), "caller");
            client = client.arg("-cert").arg(&files.svid).arg("-key").arg(&files.key);
            if !svid.chain_pem.is_empty() {
                client = client.arg("-cert_chain").arg(&files.chain);
            }
        }
        client
    }

    /// No answer, one more failed handshake in the metrics, and a log line that says so.
    async fn refuses(&self, case: &str, svid: Option<&Svid>) {
        const FAILURES: &str = "signet_handshake_failures_total";
        let before = self.proxy.metrics().await.count(FAILURES, &[("direction", "inbound")]);
        let mark = self.proxy.process.logs().mark();

        let answer = self.ask(svid, &[]).await;

        assert!(!answer.stdout.contains("HTTP/1.1"), "{case} got an answer: {}", answer.all());
        self.proxy.counts(FAILURES, &[("direction", "inbound")], before + 1).await;
        let refused = [("direction", "inbound"), ("close_reason", "handshake_failed")];
        let line = self.proxy.access_since(mark, &refused).await;
        println!("{case}: {}", field(&line, "detail"));
    }

    /// After all that, a proper caller is served.
    async fn is_unharmed(&self) {
        let answer = self.ask(Some(&self.authority.svid(&self.authority.id("/client"))), &[]).await;
        assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.all());
    }
}
