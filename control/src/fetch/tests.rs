use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::attest::oidc::testing::{Answer, Issuer};

fn fetcher(allowed: &[&str]) -> Fetcher {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let allowed = allowed.iter().map(|network| network.parse().unwrap()).collect();
    Fetcher { tls: Arc::new(tls), allowed, bearer_file: None }
}

/// Fetches what is answered like this.
async fn get(answer: Answer) -> Result<Document, FetchError> {
    let issuer = Issuer::start(&Value::Null).await;
    issuer.answer("/keys", answer);
    let fetcher = fetcher(&["127.0.0.0/8"]);
    let url = Url::parse(&format!("{}/keys", issuer.url), &fetcher.allowed).unwrap();
    fetcher.get(&url, Trust::SETTINGS).await
}

async fn reason(answer: Answer) -> &'static str {
    get(answer).await.unwrap_err().reason()
}

#[tokio::test]
async fn json_comes_with_how_long_it_is_good() {
    let answer = || Answer::json(&json!({ "keys": [] }));
    let document = get(answer()).await.unwrap();
    assert_eq!(document.body, r#"{"keys":[]}"#);
    assert_eq!(document.max_age, None);
    for (cache_control, max_age) in [
        ("public, max-age=3600", Some(3600)),
        ("MAX-AGE=60,must-revalidate", Some(60)),
        ("max-age=\"10\"", Some(10)),
        ("no-cache, max-age=3600", None),
        ("max-age=3600, no-store", None),
        ("s-maxage=5", None),
        ("max-age=-1", None),
        ("max-age=99999999999999999999999", None),
        ("", None),
    ] {
        let document = get(answer().with("cache-control", cache_control)).await.unwrap();
        assert_eq!(document.max_age, max_age.map(Duration::from_secs), "{cache_control}");
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON", "application/jwk-set+json"] {
        get(answer().with("content-type", kind)).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_followed_and_nothing_else_is_read() {
    for status in [301, 302, 303, 307, 308] {
        let redirect = Answer::status(status).with("location", "http://127.0.0.1:1/");
        assert_eq!(reason(redirect).await, "redirect");
    }
    for status in [201, 204, 401, 403, 404, 500, 503] {
        assert_eq!(reason(Answer::status(status)).await, "status", "{status}");
    }
    let document = || Answer::json(&json!({}));
    for kind in ["text/html", "", "application/jsonp", "text/json"] {
        assert_eq!(reason(document().with("content-type", kind)).await, "content_type", "{kind}");
    }
    assert_eq!(reason(document().with("content-encoding", "gzip")).await, "content_type");
}

#[tokio::test]
async fn large_answers_are_not_read() {
    let sized = |length| Answer { body: "a".repeat(length), ..Answer::json(&Value::Null) };
    assert_eq!(get(sized(MAX_KEY_SET_BYTES)).await.unwrap().body.len(), MAX_KEY_SET_BYTES);
    assert_eq!(reason(sized(MAX_KEY_SET_BYTES + 1)).await, "body");
    let mut headers = Answer::json(&Value::Null);
    headers.headers.push(("x-large", "a".repeat(2 * MAX_HEADER_BYTES)));
    assert_eq!(reason(headers).await, "http");
    let mut headers = Answer::json(&Value::Null);
    headers.headers.extend(std::iter::repeat_n(("x-many", "a".to_owned()), MAX_HEADERS + 1));
    assert_eq!(reason(headers).await, "http");
}

#[tokio::test]
async fn only_permitted_addresses_are_connected_to() {
    let issuer = Issuer::start(&Value::Null).await;
    let port = issuer.url.rsplit_once(':').unwrap().1.to_owned();
    for host in
        ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "0.0.0.0"]
    {
        let url = Url::parse(&format!("https://{host}:{port}/keys"), &[]).unwrap();
        let refused = fetcher(&[]).get(&url, Trust::SETTINGS).await.unwrap_err();
        assert_eq!(refused.reason(), "address", "{host}: {refused}");
    }
    assert!(issuer.seen().is_empty(), "not even connected to");
}

#[tokio::test]
async fn a_server_that_is_nobody_known_is_not_spoken_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        // Plain text where TLS should be.
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        let _ = stream.try_write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}");
    });
    let fetcher = fetcher(&["127.0.0.0/8"]);
    let url = Url::parse(&format!("https://{address}/keys"), &fetcher.allowed).unwrap();
    assert_eq!(fetcher.get(&url, Trust::SETTINGS).await.unwrap_err().reason(), "tls");
}

#[tokio::test]
async fn one_address_that_refuses_is_said() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let fetcher = fetcher(&["127.0.0.0/8"]);
    let url = Url::parse(&format!("http://{address}/"), &fetcher.allowed).unwrap();
    let begun = Instant::now();
    assert_eq!(fetcher.get(&url, Trust::SETTINGS).await.unwrap_err().reason(), "connect");
    assert!(begun.elapsed() < CONNECT);
}

#[tokio::test]
async fn a_bearer_token_is_one_line_of_bounded_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "secret\n").unwrap();
    let value = bearer(&path).await.unwrap();
    assert_eq!(value, "Bearer secret");
    assert!(value.is_sensitive());
    for wrong in ["a\nb".to_owned(), "a\0".to_owned(), "a".repeat(20_000)] {
        std::fs::write(&path, wrong).unwrap();
        assert_eq!(bearer(&path).await.unwrap_err().reason(), "file");
    }
    assert!(bearer(&directory.path().join("none")).await.is_err());
}
