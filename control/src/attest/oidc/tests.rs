use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::hmac;
use serde_json::json;

use super::testing::{Signer, config, encode, jwks};
use super::*;

mod issuers;

fn claims(issuer: &str) -> Value {
    let now = time::to_millis(time::now()) / 1000;
    json!({ "iss": issuer, "aud": ["signet"], "sub": "repo:shop/orders", "jti": "t-1", "iat": now, "exp": now + 600,
            "team": "shop" })
}

fn settings(issuer: &str, rest: &str) -> JwtConfig {
    config(&format!("issuer = \"{issuer}\"\naudience = [\"signet\"]\nclaims = {{ team = \"team\" }}\n{rest}"))
}

/// Attestors that run as long as the test's runtime.
fn run(config: JwtConfig) -> JwtAttestors {
    let attestors = JwtAttestors::start([("ci".to_owned(), config)]).unwrap();
    tokio::spawn(attestors.clone().run(CancellationToken::new()));
    attestors
}

/// With a key set in a file.
struct Static {
    attestors: JwtAttestors,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

const STATIC: &str = "https://issuer.example";

fn with_file(keys: &Value, rest: &str) -> Static {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys.json");
    std::fs::write(&path, keys.to_string()).unwrap();
    let attestors = run(settings(STATIC, &format!("jwks-file = {path:?}\n{rest}")));
    Static { attestors, path, _directory: directory }
}

async fn answer(attestors: &JwtAttestors, token: &str) -> &'static str {
    attestors.verify("ci", token).await.map_or_else(|error| error.reason(), |_| "believed")
}

/// As if so many seconds had passed.
fn later(attestors: &JwtAttestors, seconds: u64) {
    for attestor in attestors.0.values() {
        attestor.source.later(Duration::from_secs(seconds));
    }
}

#[tokio::test]
async fn a_token_becomes_selectors_and_evidence() {
    let key = Signer::new("one");
    let fixed = with_file(&jwks(&[&key]), "");
    let token = key.sign(&claims(STATIC));
    let proven = fixed.attestors.verify("ci", &token).await.unwrap();
    assert_eq!(proven.attestor, "ci");
    let selectors: Vec<_> = proven.selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["ci", "ci:team:shop"]);
    assert_eq!(proven.evidence["subject"], "repo:shop/orders");
    assert_eq!(proven.evidence["key_id"], "one");
    assert_eq!(proven.evidence["token_sha256"], hex::encode(&crate::sha256(token.as_bytes())));
    assert!(proven.evidence.to_string().len() < 2048);
    assert!(!proven.evidence.to_string().contains(token.rsplit('.').next().unwrap()), "proves nothing again");
    assert_eq!(fixed.attestors.verify("other", &token).await, Err(JwtError::AttestorUnknown));
}

/// ECDSA has another signature for each: the token is the same.
#[tokio::test]
async fn a_token_that_is_good_with_one_key_is_known_again_by_what_was_signed() {
    let key = Signer::new("one");
    let fixed = with_file(&jwks(&[&key]), "reuse = \"same-key\"");
    let (one, other) = (key.sign(&claims(STATIC)), key.sign(&claims(STATIC)));
    assert_ne!(one, other);
    let used = async |token: &str| fixed.attestors.verify("ci", token).await.unwrap().proof;
    assert_eq!(used(&one).await, used(&other).await);
    let mut another = claims(STATIC);
    another["jti"] = json!("another");
    assert_ne!(used(&one).await.sha256, used(&key.sign(&another)).await.sha256);
    let expires = claims(STATIC)["exp"].as_u64().unwrap();
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(expires);
    assert!(used(&one).await.ends >= ends, "the leeway is part of its life");
    let allowed = with_file(&jwks(&[&key]), "");
    assert!(!allowed.attestors.verify("ci", &one).await.unwrap().one_key);
    assert!(fixed.attestors.verify("ci", &one).await.unwrap().one_key);
}

#[tokio::test]
async fn evidence_is_small_whatever_the_claims() {
    let key = Signer::new("one");
    let fixed = with_file(&jwks(&[&key]), "");
    let mut long = claims(STATIC);
    long["sub"] = json!("ü".repeat(2_000));
    long["jti"] = json!({ "not": "text" });
    let proven = fixed.attestors.verify("ci", &key.sign(&long)).await.unwrap();
    assert!(proven.evidence.to_string().len() < 2048);
    assert_eq!(proven.evidence["token_id"], Value::Null);
}

#[tokio::test]
async fn tokens_that_somebody_made_up_are_refused() {
    let (key, other) = (Signer::new("one"), Signer::new("one"));
    let fixed = with_file(&jwks(&[&key]), "");
    let good = claims(STATIC).to_string();
    let token = key.sign(&claims(STATIC));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let payload = encode(&good);
    let none = encode(r#"{"alg":"none","kid":"one"}"#);
    // HMAC with the public key as the secret (RFC 8725 section 2.1).
    let header = encode(r#"{"alg":"HS256","kid":"one"}"#);
    let confused = format!("{header}.{payload}");
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.public());
    let confused = format!("{confused}.{}", encode(hmac::sign(&secret, confused.as_bytes())));
    let embedded = json!({ "alg": "ES256", "kid": "one", "jwk": other.jwk() }).to_string();
    let pointed =
        json!({ "alg": "ES256", "kid": "one", "jku": "https://a.example/", "x5u": "https://a.example/" });
    let named = |kid: &str| key.sign_texts(&json!({ "alg": "ES256", "kid": kid }).to_string(), &good);
    for (token, reason) in [
        (format!("{none}.{payload}."), "algorithm"),
        (format!("{none}.{payload}.{signature}"), "algorithm"),
        (confused, "algorithm"),
        (other.sign(&claims(STATIC)), "signature"),
        (other.sign_texts(&embedded, &good), "signature"),
        (other.sign_texts(&pointed.to_string(), &good), "signature"),
        (key.sign_texts(&pointed.to_string(), &good), "believed"),
        (format!("{signed}."), "signature"),
        (format!("{token}="), "malformed"),
        (format!("{token}.{signature}"), "malformed"),
        (format!("{token} "), "malformed"),
        (format!("{token}\n"), "malformed"),
        (signed.to_owned(), "malformed"),
        ("a".repeat(17_000), "too_large"),
        (named("two"), "key_unknown"),
        (named("ONE"), "key_unknown"),
        (named("../keys/one"), "key_unknown"),
        (named("one\0"), "key_unknown"),
        (named("' union select 'x"), "key_unknown"),
        (named(&"k".repeat(5_000)), "header"),
        (key.sign_texts(r#"{"alg":"ES256","kid":"one","kid":"two"}"#, &good), "duplicate_claim"),
        (key.sign_texts(r#"{"alg":"ES256","kid":"one","crit":["x"],"x":1}"#, &good), "header"),
        (key.sign_texts(r#"{"alg":"ES256","kid":"one","typ":"secevent+jwt"}"#, &good), "header"),
        (key.sign_texts(r#"{"alg":"ES256"}"#, &good), "believed"),
        (key.sign_texts(r#"{"alg":"RS256","kid":"one"}"#, &good), "algorithm"),
    ] {
        assert_eq!(answer(&fixed.attestors, &token).await, reason, "{token:.200}");
    }
}

#[tokio::test]
async fn tokens_that_the_issuer_signed_have_to_say_the_right_things() {
    let key = Signer::new("one");
    let fixed = with_file(&jwks(&[&key]), "require = { owner = \"shop\" }");
    let mut good = claims(STATIC);
    good["owner"] = json!("shop");
    let with = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        key.sign(&changed)
    };
    let without = |name: &str| {
        let mut changed = good.clone();
        changed.as_object_mut().unwrap().remove(name);
        key.sign(&changed)
    };
    let now = time::to_millis(time::now()) / 1000;
    let header = r#"{"alg":"ES256","kid":"one"}"#;
    let twice = good.to_string().replacen('{', r#"{"iss":"https://other.example","#, 1);
    let deep = good.to_string().replacen('{', r#"{"x":[{"a":1,"a":1}],"#, 1);
    for (token, reason) in [
        (key.sign(&good), "believed"),
        (without("exp"), "no_expiry"),
        (without("iss"), "issuer"),
        (without("aud"), "audience"),
        (without("owner"), "claim_missing"),
        (without("iat"), "believed"),
        (with("iss", json!("https://other.example")), "issuer"),
        (with("aud", json!("sigstore")), "audience"),
        (with("exp", json!(now - 31)), "token_expired"),
        (with("exp", json!(now + 26 * 3600)), "lifetime"),
        (with("nbf", json!(now + 60)), "not_yet_valid"),
        (with("iat", json!(now + 60)), "issued_in_future"),
        (with("owner", json!("other")), "claim_mismatch"),
        (with("team", json!("a\u{1b}[31m")), "claim_unusable"),
        (with("team", json!("x".repeat(300))), "claim_unusable"),
        (key.sign_texts(header, &twice), "duplicate_claim"),
        (key.sign_texts(header, &deep), "duplicate_claim"),
        (key.sign_texts(header, &format!("{good}{good}")), "malformed"),
        (key.sign_texts(header, "[]"), "malformed"),
        (key.sign_texts(header, ""), "malformed"),
    ] {
        assert_eq!(answer(&fixed.attestors, &token).await, reason, "{token:.200}");
    }
}

#[tokio::test]
async fn every_byte_that_is_changed_is_noticed() {
    let key = Signer::new("one");
    let fixed = with_file(&jwks(&[&key]), "");
    let token = key.sign(&claims(STATIC));
    assert_eq!(answer(&fixed.attestors, &token).await, "believed");
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] ^= 0x01;
        let changed = String::from_utf8(changed).unwrap();
        assert_ne!(answer(&fixed.attestors, &changed).await, "believed", "{at}: {changed}");
    }
}

#[tokio::test]
async fn only_the_algorithms_of_the_settings_are_taken() {
    let key = Signer::new("one");
    let fixed = with_file(&jwks(&[&key]), "algorithms = [\"RS256\", \"EdDSA\"]");
    assert_eq!(answer(&fixed.attestors, &key.sign(&claims(STATIC))).await, "algorithm");
}

#[tokio::test]
async fn keys_that_are_too_weak_are_said_to_be() {
    let key = Signer::new("one");
    let weak = json!({ "kid": "weak", "kty": "RSA", "n": encode([0xff; 128]), "e": "AQAB" });
    let curve = json!({ "kid": "curve", "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" });
    let fixed = with_file(&json!({ "keys": [key.jwk(), weak, curve] }), "");
    let good = claims(STATIC).to_string();
    for header in [r#"{"alg":"RS256","kid":"weak"}"#, r#"{"alg":"ES256","kid":"curve"}"#] {
        assert_eq!(answer(&fixed.attestors, &key.sign_texts(header, &good)).await, "key_unusable");
    }
    assert_eq!(answer(&fixed.attestors, &key.sign(&claims(STATIC))).await, "believed");
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_when_a_new_key_is_named() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let fixed = with_file(&jwks(&[&one]), "");
    assert_eq!(answer(&fixed.attestors, &one.sign(&claims(STATIC))).await, "believed");
    std::fs::write(&fixed.path, jwks(&[&two]).to_string()).unwrap();
    later(&fixed.attestors, 31);
    assert_eq!(answer(&fixed.attestors, &two.sign(&claims(STATIC))).await, "believed");
    assert_eq!(answer(&fixed.attestors, &one.sign(&claims(STATIC))).await, "key_unknown");
}
