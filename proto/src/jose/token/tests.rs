use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// RFC 7515 appendix A.3 and RFC 8037 appendix A.4, whose payload is not JSON.
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const ED25519: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

fn rfc_keys() -> KeySet {
    let set = json!({ "keys": [
        { "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
          "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" },
        { "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
    ] });
    KeySet::read(set.to_string().as_bytes()).unwrap()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header, that nobody signed.
fn unsigned(header: &str) -> String {
    format!("{}.{}.{}", encode(header), encode("{}"), encode([0; 64]))
}

fn refusal(text: &str) -> &'static str {
    Token::parse(text).map(|_| "parsed").unwrap_or_else(|error| error.reason())
}

#[test]
fn examples_of_the_standards_verify() {
    let claims = Token::parse(ES256).unwrap().verify(&rfc_keys()).unwrap();
    assert_eq!(claims, json!({ "iss": "joe", "exp": 1_300_819_380, "http://example.com/is_root": true }));
    // The signature is good: what is signed is not an object of claims.
    let refused = Token::parse(ED25519).unwrap().verify(&rfc_keys()).unwrap_err();
    assert!(matches!(refused, TokenError::Malformed(_)), "{refused}");
}

#[test]
fn any_byte_changed_anywhere_is_refused() {
    let keys = rfc_keys();
    for at in 0..ES256.len() {
        for other in b"ABab01-_.=" {
            let mut changed = ES256.as_bytes().to_vec();
            if changed[at] == *other {
                continue;
            }
            changed[at] = *other;
            let changed = String::from_utf8(changed).unwrap();
            let verified = Token::parse(&changed).and_then(|token| token.verify(&keys));
            assert!(verified.is_err(), "{at} {}", char::from(*other));
        }
    }
}

#[test]
fn three_parts_of_base64url_and_nothing_else() {
    let (signed, signature) = ES256.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    for text in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        signed.to_owned(),
        format!("{ES256}."),
        format!(".{ES256}"),
        format!("{ES256}.{signature}"),
        format!("{header}..{claims}.{signature}"),
        format!("{ES256}="),
        format!("{header}=.{claims}.{signature}"),
        format!("{ES256}\n"),
        format!(" {ES256}"),
        format!("{ES256} garbage"),
        format!("{ES256}AAAA").replace('-', "+"),
        format!("{}\u{e9}", &ES256[..ES256.len() - 1]),
        format!("{header}.{claims}\u{0}.{signature}"),
        format!(".{claims}.{signature}"),
        format!("{header}.{}.", encode("{}")).replace(header, &encode("[]")),
        format!("{}.{claims}.{signature}", encode(r#"{"alg":"ES256"}{}"#)),
        format!("{}.{claims}.{signature}", encode(r#"{"alg":"ES256"} x"#)),
        format!("{}.{claims}.{signature}", encode("null")),
        format!("{}.{claims}.{signature}", encode(b"{\"alg\":\"ES256\xff\"}")),
    ] {
        assert_eq!(refusal(&text), "malformed", "{text}");
    }
    // The last character of the signature has four unused bits: any other than zeros is another text.
    let changed = format!("{}R", &ES256[..ES256.len() - 1]);
    assert_eq!(refusal(&changed), "malformed");
    let large = format!("{header}.{}.{signature}", "A".repeat(MAX_TOKEN_BYTES));
    assert_eq!(refusal(&large), "too_large");
}

#[test]
fn an_empty_signature_is_parsed_and_is_wrong() {
    let (signed, _) = ES256.rsplit_once('.').unwrap();
    let text = format!("{signed}.");
    assert_eq!(Token::parse(&text).unwrap().verify(&rfc_keys()), Err(TokenError::Signature));
}

#[test]
fn headers_that_ask_for_something_else_are_refused() {
    for (header, reason) in [
        (r#"{"alg":"none"}"#, "algorithm"),
        (r#"{"alg":"None"}"#, "algorithm"),
        (r#"{"alg":""}"#, "algorithm"),
        (r#"{"alg":"HS256"}"#, "algorithm"),
        (r#"{"alg":"ES256K"}"#, "algorithm"),
        (r#"{"alg":["ES256"]}"#, "algorithm"),
        (r#"{"typ":"JWT"}"#, "algorithm"),
        (r#"{"alg":"ES256","alg":"none"}"#, "duplicate_claim"),
        (r#"{"alg":"none","alg":"ES256"}"#, "duplicate_claim"),
        (r#"{"alg":"ES256","kid":"a","kid":"b"}"#, "duplicate_claim"),
        (r#"{"alg":"ES256","x":{"y":1,"y":1}}"#, "duplicate_claim"),
        (r#"{"alg":"ES256","\u0061lg":"none"}"#, "duplicate_claim"),
        (r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, "header"),
        (r#"{"alg":"ES256","crit":[]}"#, "header"),
        (r#"{"alg":"ES256","b64":false}"#, "header"),
        (r#"{"alg":"ES256","cty":"JWT"}"#, "header"),
        (r#"{"alg":"ES256","enc":"A256GCM"}"#, "header"),
        (r#"{"alg":"ES256","zip":"DEF"}"#, "header"),
        (r#"{"alg":"ES256","typ":"dpop+jwt"}"#, "header"),
        (r#"{"alg":"ES256","typ":"logout+jwt"}"#, "header"),
        (r#"{"alg":"ES256","typ":1}"#, "header"),
        (r#"{"alg":"ES256","typ":null}"#, "header"),
        (r#"{"alg":"ES256","kid":1}"#, "header"),
        (r#"{"alg":"ES256","kid":null}"#, "header"),
        (r#"{"alg":"ES256","kid":""}"#, "header"),
        (r#"{"alg":"ES256","typ":"JWT","kid":"a"}"#, "parsed"),
        (r#"{"alg":"ES256","typ":"application/at+jwt"}"#, "parsed"),
    ] {
        assert_eq!(refusal(&unsigned(header)), reason, "{header}");
    }
    let huge = json!({ "alg": "ES256", "kid": "k".repeat(MAX_KEY_ID_BYTES + 1) });
    assert_eq!(refusal(&unsigned(&huge.to_string())), "header");
}

#[test]
fn keys_that_a_token_brings_or_points_to_are_not_looked_at() {
    let own = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = own.public_key().as_ref();
    let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
    let header = json!({ "alg": "ES256", "jku": "https://attacker.example/keys", "x5u": "https://attacker.example/",
                         "x5c": ["MIIB"], "jwk": { "kty": "EC", "crv": "P-256", "x": x, "y": y } });
    let signed = format!("{}.{}", encode(header.to_string()), encode(r#"{"iss":"joe"}"#));
    let signature = own.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let text = format!("{signed}.{}", encode(signature));
    assert_eq!(Token::parse(&text).unwrap().verify(&rfc_keys()), Err(TokenError::Signature));
}

#[test]
fn every_algorithm_verifies_with_its_key_and_no_other() {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let components = aws_lc_rs::rsa::PublicKey::as_ref(rsa.public_key()).to_vec();
    let (n, e) = rsa_parts(&components);
    let ec = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let point = ec.public_key().as_ref();
    let set = json!({ "keys": [
        { "kid": "rsa", "kty": "RSA", "n": encode(n), "e": encode(e) },
        { "kid": "ec", "kty": "EC", "crv": "P-384", "x": encode(&point[1..49]), "y": encode(&point[49..]) },
    ] });
    let keys = KeySet::read(set.to_string().as_bytes()).unwrap();
    let sign = |kid: &str, algorithm: &str, padding: Option<&'static dyn signature::RsaEncoding>| {
        let header = json!({ "alg": algorithm, "kid": kid }).to_string();
        let signed = format!("{}.{}", encode(header), encode(r#"{"a":1}"#));
        let signature = match padding {
            Some(padding) => {
                let mut signature = vec![0; rsa.public_modulus_len()];
                rsa.sign(padding, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            None => ec.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    };
    let verify =
        |text: &str| Token::parse(text).and_then(|token| token.verify(&keys)).map_err(|e| e.reason());
    let rsa: [(&str, &'static dyn signature::RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    for (name, padding) in rsa {
        assert_eq!(verify(&sign("rsa", name, Some(padding))), Ok(json!({ "a": 1 })), "{name}");
        assert_eq!(verify(&sign("ec", name, Some(padding))), Err("algorithm"), "{name}");
    }
    assert_eq!(verify(&sign("rsa", "PS256", Some(&signature::RSA_PKCS1_SHA256))), Err("signature"));
    assert_eq!(verify(&sign("rsa", "RS512", Some(&signature::RSA_PKCS1_SHA256))), Err("signature"));
    assert_eq!(verify(&sign("ec", "ES384", None)), Ok(json!({ "a": 1 })));
    for (kid, algorithm) in [("ec", "ES256"), ("ec", "EdDSA"), ("rsa", "ES384"), ("rsa", "EdDSA")] {
        assert_eq!(verify(&sign(kid, algorithm, None)), Err("algorithm"), "{kid} {algorithm}");
    }
}

/// Modulus and exponent of an RSAPublicKey.
fn rsa_parts(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    use x509_parser::der_parser::ber::BerObjectContent;
    let (_, sequence) = x509_parser::der_parser::der::parse_der_sequence(der).unwrap();
    let part = |at: usize| match &sequence.as_sequence().unwrap()[at].content {
        BerObjectContent::Integer(bytes) => bytes.iter().copied().skip_while(|byte| *byte == 0).collect(),
        other => panic!("{other:?}"),
    };
    (part(0), part(1))
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-zA-Z0-9_.=-]{0,200}") {
        let _ = Token::parse(&text).and_then(|token| token.verify(&rfc_keys()));
    }

    #[test]
    fn no_header_panics(header in "\\PC{0,80}", members in "(\"(alg|kid|typ|crit)\":(\"ES256\"|1|null|\\[\\]),?){0,4}") {
        let _ = Token::parse(&unsigned(&header));
        let _ = Token::parse(&unsigned(&format!("{{{}}}", members.trim_end_matches(','))));
    }

    #[test]
    fn what_is_believed_is_what_was_signed(at in any::<prop::sample::Index>(), other in any::<char>()) {
        let mut text: Vec<char> = ES256.chars().collect();
        let at = at.index(text.len());
        prop_assume!(text[at] != other);
        text[at] = other;
        let text: String = text.into_iter().collect();
        prop_assert!(Token::parse(&text).and_then(|token| token.verify(&rfc_keys())).is_err());
    }
}
