//! Tokens and key sets: no input panics, and with fixed keys the only token that is believed is the one that was
//! signed with them, byte for byte. Input that begins with `{` is a key set.
//!
//! `tests/fuzz/run 60 jwt`

#![no_main]
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use signet_proto::jose::{KeySet, MAX_KEYS, Token};

/// The public keys of RFC 7515 appendix A.3 and RFC 8037 appendix A.2.
const KEYS: &str = r#"{"keys":[
  {"kid":"ec","kty":"EC","crv":"P-256",
   "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
  {"kid":"ed","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const SIGNED: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

static ISSUER: LazyLock<KeySet> = LazyLock::new(|| KeySet::read(KEYS.as_bytes()).expect("fixed"));

fuzz_target!(|input: &[u8]| {
    if input.first() == Some(&b'{') {
        if let Ok(keys) = KeySet::read(input) {
            assert!(keys.usable() <= MAX_KEYS);
            let token = Token::parse(SIGNED).expect("fixed");
            let _ = token.verify(&keys);
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(token) = Token::parse(text) else { return };
    assert!(token.key_id().is_none_or(|id| !id.is_empty()));
    if let Ok(claims) = token.verify(&ISSUER) {
        assert!(claims.is_object());
        assert_eq!(text, SIGNED, "only what was signed is believed");
    }
});
