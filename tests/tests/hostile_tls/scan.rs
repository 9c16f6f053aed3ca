//! What the port offers, as a scanner sees it.

use signet_tests::apps::RequestApp;
use signet_tests::client::Client;
use signet_tests::door::Door;
use signet_tests::report::measured;

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_finds_tls_1_3_and_nothing_else() {
    let app = RequestApp::start().await;
    let door = Door::open("http://", app.address).await;

    let scan = Client::new("sslscan")
        .args(["--no-colour", "--xml=-", &door.proxy.inbound().to_string()])
        .run()
        .await
        .succeeded();

    let offered = |tag: &str| -> Vec<String> {
        let lines = scan.stdout.lines().map(str::trim).filter(|line| line.starts_with(&format!("<{tag} ")));
        lines.map(ToOwned::to_owned).collect()
    };
    let enabled: Vec<_> =
        offered("protocol").into_iter().filter(|line| line.contains("enabled=\"1\"")).collect();
    assert_eq!(enabled, ["<protocol type=\"tls\" version=\"1.3\" enabled=\"1\" />"], "{}", scan.stdout);
    let mut ciphers: Vec<_> = offered("cipher").iter().map(|line| attribute(line, "cipher")).collect();
    ciphers.sort_unstable();
    assert_eq!(ciphers, ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]);
    // The scanner's OpenSSL knows no post-quantum group.
    let mut groups: Vec<_> = offered("group").iter().map(|line| attribute(line, "name")).collect();
    groups.sort_unstable();
    assert_eq!(groups, ["secp256r1 (NIST P-256)", "x25519"], "{}", scan.stdout);
    measured("sslscan finds", format!("TLS 1.3, {}, {}", ciphers.join(", "), groups.join(", ")));
    for weakness in ["renegotiation supported=\"1\"", "vulnerable=\"1\"", "compression supported=\"1\""] {
        assert!(!scan.stdout.contains(weakness), "{weakness}: {}", scan.stdout);
    }

    // It asks for a certificate without naming who may have signed it, and does not go on without one.
    let asked = Client::new("openssl")
        .args(["s_client", "-ign_eof", "-connect", &door.proxy.inbound().to_string(), "-CAfile"])
        .arg(&door.frame.bundle)
        .input("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .run()
        .await;
    assert!(asked.all().contains("alert certificate required"), "RFC 8446 s4.4.2.4: {}", asked.all());
    assert!(!asked.stdout.contains("HTTP/1.1"), "{}", asked.all());
    assert_eq!(app.requests(), 0);
    door.is_unharmed().await;
}

fn attribute(line: &str, name: &str) -> String {
    let value = line.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
    value.unwrap_or_else(|| panic!("{name} in {line}")).0.to_owned()
}
