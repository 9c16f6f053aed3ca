use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

const NOW: u64 = 1_800_000_000;

struct Signer {
    key: EcdsaKeyPair,
    kid: &'static str,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        Self { key, kid }
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({ "kid": self.kid, "kty": "EC", "crv": "P-256", "alg": "ES256",
                "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..65]) })
    }

    fn authorities(&self) -> JwtAuthorities {
        JwtAuthorities::new([self.jwk()]).unwrap()
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "kid": self.kid, "typ": "JWT" })
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn claims() -> Value {
    json!({ "sub": "spiffe://prod.example/orders", "aud": ["billing", "audit"], "exp": NOW + 300, "iat": NOW })
}

fn verify(text: &str, keys: &JwtAuthorities) -> Result<JwtSvid, JwtSvidError> {
    let domain: TrustDomain = "prod.example".parse().unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    JwtSvid::verify(text, "billing", |asked| (*asked == domain).then_some(keys), now)
}

fn refusal(text: &str, keys: &JwtAuthorities) -> &'static str {
    verify(text, keys).map_or_else(|error| error.reason(), |_| "believed")
}

#[test]
fn token_of_the_profile_is_believed() {
    let signer = Signer::new("a");
    for header in [
        signer.header(),
        json!({ "alg": "ES256", "kid": "a", "typ": "JOSE" }),
        json!({ "alg": "ES256", "kid": "a" }),
    ] {
        let svid = verify(&signer.sign(&header.to_string(), &claims().to_string()), &signer.authorities());
        let svid = svid.unwrap();
        assert_eq!(svid.id.as_str(), "spiffe://prod.example/orders");
        assert_eq!(svid.key_id, "a");
        assert_eq!(svid.audience, ["billing", "audit"]);
        assert_eq!(svid.expires_at, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW + 300));
    }
    let mut one = claims();
    one["aud"] = json!("billing");
    assert!(
        verify(&signer.sign(&signer.header().to_string(), &one.to_string()), &signer.authorities()).is_ok()
    );
}

#[test]
fn each_claim_that_is_wrong_is_enough_to_refuse() {
    let signer = Signer::new("a");
    let keys = signer.authorities();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value,
        }
        refusal(&signer.sign(&signer.header().to_string(), &claims.to_string()), &keys)
    };
    for (name, value, expected) in [
        ("exp", Value::Null, "claim"),
        ("exp", json!("1900000000"), "claim"),
        ("exp", json!(-1), "claim"),
        ("exp", json!(1e300), "claim"),
        ("exp", json!(NOW), "expired"),
        ("exp", json!(NOW + 1), "believed"),
        ("aud", Value::Null, "claim"),
        ("aud", json!([]), "claim"),
        ("aud", json!(""), "claim"),
        ("aud", json!(["billing", ""]), "claim"),
        ("aud", json!(["billing", 1]), "claim"),
        ("aud", json!(["billin", "BILLING", "billing/"]), "audience"),
        ("sub", Value::Null, "claim"),
        ("sub", json!(["spiffe://prod.example/orders"]), "claim"),
        ("sub", json!("orders"), "subject"),
        ("sub", json!("spiffe://prod.example/../orders"), "subject"),
        ("sub", json!("spiffe://other.example/orders"), "trust_domain"),
        ("nbf", json!(NOW + 60), "not_yet"),
        ("nbf", json!(NOW + 10), "believed"),
        ("iat", json!(NOW + 60), "not_yet"),
        ("iat", json!("now"), "claim"),
    ] {
        assert_eq!(with(name, value.clone()), expected, "{name} {value}");
    }
    let twice = claims().to_string().replacen('{', r#"{"sub":"spiffe://prod.example/admin","#, 1);
    assert_eq!(refusal(&signer.sign(&signer.header().to_string(), &twice), &keys), "duplicate_claim");
}

#[test]
fn header_says_no_more_than_the_standard_allows() {
    let signer = Signer::new("a");
    let keys = signer.authorities();
    for (header, expected) in [
        (json!({ "alg": "ES256" }), "no_key_id"),
        (json!({ "alg": "ES256", "kid": "b" }), "key_unknown"),
        (json!({ "alg": "ES384", "kid": "a" }), "algorithm"),
        (json!({ "alg": "EdDSA", "kid": "a" }), "algorithm"),
        (json!({ "alg": "none", "kid": "a" }), "algorithm"),
        (json!({ "alg": "ES256", "kid": "a", "typ": "at+jwt" }), "header"),
        (json!({ "alg": "ES256", "kid": "a", "typ": "jwt" }), "header"),
        (json!({ "alg": "ES256", "kid": "a", "jku": "https://evil.example/keys" }), "header"),
        (json!({ "alg": "ES256", "kid": "a", "jwk": signer.jwk() }), "header"),
        (json!({ "alg": "ES256", "kid": "a", "x5c": [] }), "header"),
    ] {
        let token = signer.sign(&header.to_string(), &claims().to_string());
        assert_eq!(refusal(&token, &keys), expected, "{header}");
    }
    let twice = r#"{"alg":"ES256","kid":"b","kid":"a"}"#;
    assert_eq!(refusal(&signer.sign(twice, &claims().to_string()), &keys), "duplicate_claim");
}

#[test]
fn what_somebody_else_signed_is_not_believed() {
    let (signer, other) = (Signer::new("a"), Signer::new("a"));
    let token = other.sign(&other.header().to_string(), &claims().to_string());
    assert_eq!(refusal(&token, &signer.authorities()), "signature");
    assert_eq!(refusal(&token, &JwtAuthorities::default()), "trust_domain");
    // Without a signature, and with the public key as a shared secret.
    let header = json!({ "alg": "none", "kid": "a" }).to_string();
    let unsigned =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims().to_string()));
    assert_eq!(refusal(&unsigned, &signer.authorities()), "algorithm");
    let header = json!({ "alg": "HS256", "kid": "a" }).to_string();
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims().to_string()));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, signer.key.public_key().as_ref());
    let tag = hmac::sign(&secret, signed.as_bytes());
    let shared = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(refusal(&shared, &signer.authorities()), "algorithm");
}

#[test]
fn keys_are_public_and_named() {
    let signer = Signer::new("a");
    let with = |name: &str, value: Value| {
        let mut key = signer.jwk();
        key[name] = value;
        JwtAuthorities::new([key])
    };
    assert_eq!(with("kid", Value::Null), Err(JwtAuthorityError::NoKeyId { position: 0 }));
    assert_eq!(with("d", json!("AAAA")), Err(JwtAuthorityError::Private { position: 0 }));
    assert!(matches!(with("kid", json!("")), Err(JwtAuthorityError::Set(_))));
    assert!(JwtAuthorities::new([signer.jwk(), signer.jwk()]).is_err(), "two of one name");
    let kept = with("x5u", json!("https://evil.example")).unwrap();
    assert_eq!(kept.keys()[0].get("x5u"), None);
    assert_eq!(kept.keys()[0]["use"], "jwt-svid");
    let oidc: Value = serde_json::from_str(&kept.to_oidc_jwks()).unwrap();
    assert_eq!(oidc["keys"][0]["use"], "sig");
    let texts: Vec<String> = kept.keys().iter().map(ToString::to_string).collect();
    assert_eq!(JwtAuthorities::parse(texts.iter().map(String::as_str)), Ok(kept));
    // A curve that is not known here stays in the set, and is believed by nobody here.
    let unknown = with("crv", json!("P-521")).unwrap();
    let token = signer.sign(&signer.header().to_string(), &claims().to_string());
    assert_eq!(refusal(&token, &unknown), "key_unusable");
}
