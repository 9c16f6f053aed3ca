use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

fn ec(kid: &str) -> Value {
    json!({ "kid": kid, "kty": "EC", "crv": "P-256", "x": X, "y": Y })
}

fn rsa(bits: usize, exponent: &[u8]) -> Value {
    let mut modulus = vec![0xff; bits.div_ceil(8)];
    if !bits.is_multiple_of(8) {
        modulus[0] = 0xff >> (8 - bits % 8);
    }
    json!({ "kid": "a", "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(modulus), "e": URL_SAFE_NO_PAD.encode(exponent) })
}

fn read(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::read(json!({ "keys": keys }).to_string().as_bytes())
}

/// What a token with this `kid` would hear.
fn look(keys: &[Value], kid: Option<&str>, algorithm: Algorithm) -> &'static str {
    read(keys).unwrap().key(kid, algorithm).map_or_else(|error| error.reason(), |_| "found")
}

fn with(mut key: Value, member: &str, value: Value) -> Value {
    key[member] = value;
    key
}

fn without(mut key: Value, member: &str) -> Value {
    key.as_object_mut().unwrap().remove(member);
    key
}

#[test]
fn a_key_is_found_by_its_exact_name() {
    let keys = [ec("a"), with(ec("../../etc/passwd"), "x5t", json!("ignored"))];
    for (kid, found) in [
        ("a", "found"),
        ("../../etc/passwd", "found"),
        ("A", "key_unknown"),
        ("a ", "key_unknown"),
        ("a\0", "key_unknown"),
        ("./a", "key_unknown"),
        ("' or 1=1 --", "key_unknown"),
    ] {
        assert_eq!(look(&keys, Some(kid), Algorithm::Es256), found, "{kid:?}");
    }
}

#[test]
fn a_token_that_names_no_key_needs_a_set_with_one_that_fits() {
    let nameless = without(ec("a"), "kid");
    assert_eq!(look(std::slice::from_ref(&nameless), None, Algorithm::Es256), "found");
    assert_eq!(look(&[ec("a")], None, Algorithm::Es256), "found");
    assert_eq!(
        look(&[ec("a"), rsa(2048, &[1, 0, 1])].map(|key| without(key, "kid")), None, Algorithm::Es256),
        "found"
    );
    let two = read(&[nameless.clone(), ec("a")]).unwrap();
    assert_eq!(two.key(None, Algorithm::Es256).unwrap_err(), TokenError::KeyNotNamed);
    assert_eq!(look(&[ec("a")], None, Algorithm::Rs256), "key_unknown");
    assert_eq!(look(&[], None, Algorithm::Es256), "key_unknown");
    assert_eq!(look(&[nameless], Some("a"), Algorithm::Es256), "key_unknown");
}

#[test]
fn rsa_is_used_from_2048_to_8192_bits_with_an_ordinary_exponent() {
    for (bits, found) in [
        (1024, "key_unusable"),
        (2047, "key_unusable"),
        (2048, "found"),
        (4096, "found"),
        (8192, "found"),
        (8193, "key_unusable"),
        (16384, "key_unusable"),
    ] {
        assert_eq!(look(&[rsa(bits, &[1, 0, 1])], Some("a"), Algorithm::Rs256), found, "{bits}");
    }
    for exponent in [&[][..], &[1], &[3], &[1, 0, 0], &[0, 1, 0, 1], &[1, 0, 0, 0, 1]] {
        assert_eq!(look(&[rsa(2048, exponent)], Some("a"), Algorithm::Ps256), "key_unusable", "{exponent:?}");
    }
}

#[test]
fn weak_foreign_and_leaked_keys_are_known_and_not_used() {
    let ed25519 = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    for key in [
        with(ec("a"), "crv", json!("P-521")),
        with(ec("a"), "crv", json!("secp256k1")),
        with(ec("a"), "crv", json!("P-384")),
        with(ec("a"), "x", json!(Y)),
        with(ec("a"), "x", json!(format!("{X}="))),
        with(ec("a"), "x", json!(&X[..40])),
        with(ec("a"), "y", json!(7)),
        without(ec("a"), "y"),
        without(ec("a"), "kty"),
        with(ec("a"), "kty", json!("oct")),
        json!({ "kid": "a", "kty": "oct", "k": "c2VjcmV0" }),
        with(ec("a"), "d", json!("c2VjcmV0")),
        with(rsa(2048, &[1, 0, 1]), "p", json!("")),
        with(ec("a"), "alg", json!("HS256")),
        with(ec("a"), "alg", json!("none")),
        with(ec("a"), "alg", json!("RS256")),
        with(ec("a"), "alg", json!(1)),
        with(ec("a"), "key_ops", json!(["sign"])),
        with(ec("a"), "key_ops", json!("verify")),
        json!({ "kid": "a", "kty": "OKP", "crv": "X25519", "x": ed25519 }),
        json!({ "kid": "a", "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }),
        json!({ "kid": "a" }),
    ] {
        let keys = [key, ec("b")];
        assert_eq!(look(&keys, Some("a"), Algorithm::Es256), "key_unusable", "{}", keys[0]);
        assert_eq!(look(&keys, Some("b"), Algorithm::Es256), "found", "the rest stays usable");
        assert_eq!(read(&keys).unwrap().usable(), 1);
    }
}

#[test]
fn a_key_is_used_only_for_what_it_is_for() {
    assert_eq!(look(&[with(ec("a"), "use", json!("enc"))], Some("a"), Algorithm::Es256), "key_unknown");
    assert_eq!(look(&[with(ec("a"), "use", json!("sig"))], Some("a"), Algorithm::Es256), "found");
    assert_eq!(look(&[with(ec("a"), "key_ops", json!(["verify"]))], Some("a"), Algorithm::Es256), "found");
    let only = with(rsa(2048, &[1, 0, 1]), "alg", json!("PS256"));
    assert_eq!(look(std::slice::from_ref(&only), Some("a"), Algorithm::Ps256), "found");
    assert_eq!(look(&[only], Some("a"), Algorithm::Rs256), "algorithm");
    for algorithm in Algorithm::ALL {
        let found = if algorithm == Algorithm::Es256 { "found" } else { "algorithm" };
        assert_eq!(look(&[ec("a")], Some("a"), algorithm), found, "{algorithm}");
    }
}

#[test]
fn sets_that_do_not_say_one_thing_are_refused() {
    assert_eq!(read(&[ec("a"), ec("a")]).unwrap_err(), KeySetError::DuplicateKeyId { position: 1 });
    let unusable = with(ec("a"), "crv", json!("P-521"));
    assert_eq!(read(&[unusable, ec("a")]).unwrap_err(), KeySetError::DuplicateKeyId { position: 1 });
    assert!(read(&[with(ec("a"), "use", json!("enc")), ec("a")]).is_ok());
    for kid in [json!(1), json!(null), json!(""), json!("k".repeat(257))] {
        assert_eq!(read(&[with(ec("a"), "kid", kid)]).unwrap_err(), KeySetError::KeyId { position: 0 });
    }
    for text in [r#"{"keys":[],"keys":[]}"#, r#"{"keys":[{"kty":"EC","kty":"RSA"}]}"#, "{", "", "{} {}"] {
        assert!(matches!(KeySet::read(text.as_bytes()), Err(KeySetError::Json(_))), "{text}");
    }
    for text in ["[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, "null"] {
        assert_eq!(KeySet::read(text.as_bytes()).unwrap_err(), KeySetError::NoKeys, "{text}");
    }
}

#[test]
fn sets_are_bounded() {
    let many: Vec<Value> = (0..MAX_KEYS).map(|number| ec(&number.to_string())).collect();
    assert_eq!(read(&many).unwrap().usable(), MAX_KEYS);
    assert_eq!(read(&[many, vec![ec("one more")]].concat()).unwrap_err(), KeySetError::NoKeys);
    let large = vec![b' '; MAX_KEY_SET_BYTES + 1];
    assert_eq!(KeySet::read(&large).unwrap_err(), KeySetError::TooLarge { length: large.len() });
    assert_eq!(read(&[]).unwrap().usable(), 0);
}

proptest! {
    #[test]
    fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
        let _ = KeySet::read(&text);
        let good = json!({ "keys": [ec("a"), rsa(2048, &[1, 0, 1])] }).to_string();
        let _ = KeySet::read(&good.as_bytes()[..cut.index(good.len())]);
    }
}
