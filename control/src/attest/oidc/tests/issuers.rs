//! Issuers that change their keys, fail, are slow, or lead elsewhere.

use tokio_rustls::TlsAcceptor;

use super::super::testing::{Answer, Issuer};
use super::*;

const LOCAL: &str = "allow-addresses = [\"127.0.0.0/8\"]";

#[tokio::test]
async fn an_issuer_changes_its_keys() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let issuer = Issuer::start(&jwks(&[&one])).await;
    let attestors = run(settings(&issuer.url, LOCAL));
    let (old, new) = (one.sign(&claims(&issuer.url)), two.sign(&claims(&issuer.url)));
    assert_eq!(answer(&attestors, &old).await, "believed");
    issuer.answer("/keys", Answer::json(&jwks(&[&one, &two])));
    assert_eq!(answer(&attestors, &new).await, "key_unknown", "fetched just now");
    assert_eq!(issuer.count("/keys"), 1);
    later(&attestors, 31);
    assert_eq!(answer(&attestors, &new).await, "believed");
    assert_eq!(answer(&attestors, &old).await, "believed");
    issuer.answer("/keys", Answer::json(&jwks(&[&two])));
    assert_eq!(answer(&attestors, &old).await, "believed", "until the next refresh");
    later(&attestors, 240);
    while issuer.count("/keys") < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(answer(&attestors, &old).await, "key_unknown", "gone");
    assert_eq!(answer(&attestors, &new).await, "believed");
}

#[tokio::test]
async fn many_who_name_a_new_key_share_one_fetch() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let issuer = Issuer::start(&jwks(&[&one])).await;
    let attestors = run(settings(&issuer.url, LOCAL));
    assert_eq!(answer(&attestors, &one.sign(&claims(&issuer.url))).await, "believed");
    let slow = Answer { after: Duration::from_millis(300), ..Answer::json(&jwks(&[&one, &two])) };
    issuer.answer("/keys", slow);
    later(&attestors, 31);
    let token = two.sign(&claims(&issuer.url));
    let asked = (0..64).map(|_| answer(&attestors, &token));
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| *answer == "believed"), "{answers:?}");
    assert_eq!(issuer.count("/keys"), 2);
    for name in ["three", "four", "five"] {
        let unknown = Signer::new(name).sign(&claims(&issuer.url));
        assert_eq!(answer(&attestors, &unknown).await, "key_unknown");
    }
    assert_eq!(issuer.count("/keys"), 2, "at most once in thirty seconds");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_fetch() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let issuer = Issuer::start(&jwks(&[&one])).await;
    let attestors = run(settings(&issuer.url, LOCAL));
    assert_eq!(answer(&attestors, &one.sign(&claims(&issuer.url))).await, "believed");
    issuer.answer("/keys", Answer { after: Duration::from_millis(200), ..Answer::json(&jwks(&[&two])) });
    later(&attestors, 31);
    let token = two.sign(&claims(&issuer.url));
    let gone = tokio::time::timeout(Duration::from_millis(50), answer(&attestors, &token)).await;
    assert!(gone.is_err());
    assert_eq!(answer(&attestors, &token).await, "believed");
    assert_eq!(issuer.count("/keys"), 2);
}

#[tokio::test]
async fn keys_stay_good_while_their_issuer_fails() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let issuer = Issuer::start(&jwks(&[&one])).await;
    let attestors = run(settings(&issuer.url, LOCAL));
    assert_eq!(answer(&attestors, &one.sign(&claims(&issuer.url))).await, "believed");
    for wrong in [
        Answer::status(500),
        Answer::status(302).with("location", "/elsewhere"),
        Answer { body: "<html>".to_owned(), ..Answer::json(&Value::Null) },
        Answer { body: " ".repeat(300_000), ..Answer::json(&Value::Null) },
        Answer::json(&json!({ "keys": [one.jwk(), one.jwk()] })),
        Answer::json(&json!({ "keys": vec![two.jwk(); 65] })),
    ] {
        issuer.answer("/keys", wrong);
        later(&attestors, 31);
        let before = issuer.count("/keys");
        assert_eq!(answer(&attestors, &two.sign(&claims(&issuer.url))).await, "key_unknown");
        assert_eq!(issuer.count("/keys"), before + 1);
        assert_eq!(answer(&attestors, &one.sign(&claims(&issuer.url))).await, "believed");
    }
    assert_eq!(issuer.count("/elsewhere"), 0);
    issuer.answer("/keys", Answer::json(&json!({ "keys": [] })));
    later(&attestors, 31);
    assert_eq!(answer(&attestors, &two.sign(&claims(&issuer.url))).await, "key_unknown");
    assert_eq!(
        answer(&attestors, &one.sign(&claims(&issuer.url))).await,
        "key_unknown",
        "it believes nobody"
    );
}

#[tokio::test]
async fn an_issuer_that_never_finishes_is_given_up() {
    let key = Signer::new("one");
    let issuer = Issuer::start(&jwks(&[&key])).await;
    issuer.answer("/keys", Answer { after: Duration::from_secs(3600), ..Answer::json(&jwks(&[&key])) });
    let attestors = run(settings(&issuer.url, LOCAL));
    let begun = std::time::Instant::now();
    assert_eq!(answer(&attestors, &key.sign(&claims(&issuer.url))).await, "keys_unavailable");
    assert!((4..8).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    issuer.answer("/keys", Answer::json(&jwks(&[&key])));
    later(&attestors, 10);
    assert_eq!(answer(&attestors, &key.sign(&claims(&issuer.url))).await, "believed");
}

#[tokio::test]
async fn discovery_leads_only_where_it_may() {
    let key = Signer::new("one");
    let issuer = Issuer::start(&jwks(&[&key])).await;
    let token = key.sign(&claims(&issuer.url));
    let keys = format!("{}/keys", issuer.url);
    for (named, jwks_uri) in [
        ("https://issuer.example", keys.as_str()),
        (&format!("{}/", issuer.url), &keys),
        ("", &keys),
        (&issuer.url, "file:///etc/passwd"),
        (&issuer.url, "http://169.254.169.254/latest/meta-data"),
        (&issuer.url, "http://localhost/keys"),
        (&issuer.url, "https://[::1]/keys"),
        (&issuer.url, "/keys"),
        (&issuer.url, ""),
    ] {
        issuer.discover(named, jwks_uri);
        let attestors = run(settings(&issuer.url, LOCAL));
        assert_eq!(answer(&attestors, &token).await, "keys_unavailable", "{named} {jwks_uri}");
    }
    let twice = format!(r#"{{"issuer":"{0}","jwks_uri":"{keys}","jwks_uri":"{keys}"}}"#, issuer.url);
    issuer.answer("/.well-known/openid-configuration", Answer { body: twice, ..Answer::json(&Value::Null) });
    assert_eq!(answer(&run(settings(&issuer.url, LOCAL)), &token).await, "keys_unavailable");
    assert_eq!(issuer.count("/keys"), 0);
    issuer.discover(&issuer.url, &keys);
    assert_eq!(answer(&run(settings(&issuer.url, LOCAL)), &token).await, "believed");
}

/// What the operator allows is the host that they name; its document must not lead to another one inside.
#[tokio::test]
async fn allowed_addresses_are_those_of_the_host_that_is_named() {
    let key = Signer::new("one");
    let issuer = Issuer::start(&jwks(&[&key])).await;
    let inside = tokio::net::TcpListener::bind("127.0.0.9:0").await.unwrap();
    let token = key.sign(&claims(&issuer.url));
    let port = inside.local_addr().unwrap().port();
    for elsewhere in [
        format!("http://127.0.0.9:{port}/keys"),
        format!("https://127.0.0.9:{port}/keys"),
        format!("https://localhost:{port}/keys"),
    ] {
        issuer.discover(&issuer.url, &elsewhere);
        let attestors = run(settings(&issuer.url, LOCAL));
        assert_eq!(answer(&attestors, &token).await, "keys_unavailable", "{elsewhere}");
    }
    let connected = tokio::time::timeout(Duration::from_millis(100), inside.accept()).await;
    assert!(connected.is_err(), "not even connected to");
}

#[tokio::test]
async fn the_operators_token_is_shown_only_where_the_operator_says() {
    let key = Signer::new("one");
    let (issuer, elsewhere) = (Issuer::start(&jwks(&[&key])).await, Issuer::start(&jwks(&[&key])).await);
    let directory = tempfile::tempdir().unwrap();
    let bearer = directory.path().join("token");
    std::fs::write(&bearer, "operators\n").unwrap();
    let token = key.sign(&claims(&issuer.url));
    let settings = settings(&issuer.url, &format!("{LOCAL}\nbearer-file = {bearer:?}"));
    assert_eq!(answer(&run(settings.clone()), &token).await, "believed");
    let seen = issuer.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|request| request.headers["authorization"] == "Bearer operators"));
    assert!(seen.iter().all(|request| request.headers["host"] == issuer.url.trim_start_matches("http://")));
    issuer.discover(&issuer.url, &format!("{}/keys", elsewhere.url));
    assert_eq!(answer(&run(settings), &token).await, "believed");
    assert!(elsewhere.seen().iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn keys_come_over_tls_from_whom_the_ca_file_vouches_for() {
    let key = Signer::new("one");
    let directory = tempfile::tempdir().unwrap();
    let mut authorities = Vec::new();
    for name in ["ours.pem", "other.pem"] {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&authority_key).unwrap();
        std::fs::write(directory.path().join(name), certificate.pem()).unwrap();
        authorities.push(rcgen::Issuer::new(params, authority_key));
    }
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = params.signed_by(&leaf_key, &authorities[0]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.into()], leaf_key.serialize_der().try_into().unwrap())
        .unwrap();
    let issuer = Issuer::start_tls(&jwks(&[&key]), TlsAcceptor::from(Arc::new(server))).await;
    let token = key.sign(&claims(STATIC));
    let with = |authority: &str, url: &str| {
        let ca = directory.path().join(authority);
        settings(STATIC, &format!("{LOCAL}\nca-file = {ca:?}\njwks-url = \"{url}/keys\""))
    };
    assert_eq!(answer(&run(with("ours.pem", &issuer.url)), &token).await, "believed");
    assert_eq!(answer(&run(with("other.pem", &issuer.url)), &token).await, "keys_unavailable");
    let by_address = issuer.url.replace("localhost", "127.0.0.1");
    assert_eq!(answer(&run(with("ours.pem", &by_address)), &token).await, "keys_unavailable", "another name");
}

#[tokio::test]
async fn settings_whose_files_are_wrong_do_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let start = || {
        let config = settings(STATIC, &format!("ca-file = {path:?}"));
        JwtAttestors::start([("ci".to_owned(), config)]).map(|_| ()).unwrap_err().to_string()
    };
    assert!(start().starts_with("attestors.ci: "), "{}", start());
    std::fs::write(&path, "no certificates").unwrap();
    assert!(start().contains("expected certificates in PEM"));
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert!(start().contains("ca.pem"));
}

#[tokio::test]
async fn without_the_task_that_fetches_nobody_waits_for_ever() {
    let key = Signer::new("one");
    let config = settings(STATIC, "jwks-file = \"/nowhere\"");
    let attestors = JwtAttestors::start([("ci".to_owned(), config)]).unwrap();
    assert_eq!(answer(&attestors, &key.sign(&claims(STATIC))).await, "keys_unavailable");
}
