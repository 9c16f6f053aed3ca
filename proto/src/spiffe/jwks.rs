//! The JWK set form of a bundle (SPIFFE Trust Domain and Bundle section 4, X509-SVID section 6,
//! RFC 7517).
//!
//! A name that occurs twice in an object is refused, at every level: readers disagree on which of the
//! two counts. Keys of `use: jwt-svid` are read as such, those of another `use` are ignored, as the standard wants it; a key
//! of ours that is wrong makes the whole set an error, because a bundle that lost an authority is not that bundle.
//!
//! One member is our own, as the standard allows: `signet_retired_x5c` lists authorities that left the bundle in the
//! ordinary course, so that a mesh that is federated with ours need not cut what they vouched for. Others ignore it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};

use super::bundle::MAX_AUTHORITIES;
use super::certificate::{Certificate, MAX_CERTIFICATE_BYTES};
use super::jwt::{JWT_SVID, JwtAuthorities, JwtAuthorityError};
use super::key::PublicKey;
use crate::json;

/// Largest JWK set that is looked at, in bytes.
const MAX_JWKS_BYTES: usize = 2 * 1024 * 1024;

/// How often a reader should come back, in seconds: the standard's suggestion for a busy domain.
const REFRESH_HINT: u64 = 300;

const X509_SVID: &str = "x509-svid";
const RETIRED: &str = "signet_retired_x5c";

/// What a JWK set says.
#[derive(Debug)]
pub(super) struct JwkSet {
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) retired: Vec<CertificateDer<'static>>,
    pub(super) jwt: JwtAuthorities,
    pub(super) sequence: u64,
    /// Seconds.
    pub(super) refresh_hint: Option<u64>,
}

pub(super) fn read(text: &str) -> Result<JwkSet, JwksError> {
    if text.len() > MAX_JWKS_BYTES {
        return Err(JwksError::TooLarge { length: text.len() });
    }
    let set = json::parse(text.as_bytes()).map_err(|error| JwksError::Json(error.to_string()))?;
    let sequence = whole_number(&set, "spiffe_sequence")?.unwrap_or(0);
    let refresh_hint = whole_number(&set, "spiffe_refresh_hint")?;
    let keys = set.get("keys").and_then(Value::as_array).ok_or(JwksError::NoKeys)?;
    let (mut authorities, mut jwt) = (Vec::new(), Vec::new());
    for (position, key) in keys.iter().enumerate() {
        if key.get("use").is_some_and(|purpose| purpose == JWT_SVID) {
            jwt.push(key.clone());
            continue;
        }
        authorities.extend(authority(key).map_err(|problem| JwksError::Key { position, problem })?);
        if authorities.len() > MAX_AUTHORITIES {
            return Err(JwksError::TooMany);
        }
    }
    if authorities.is_empty() {
        return Err(JwksError::NoUsableKey);
    }
    Ok(JwkSet {
        authorities,
        retired: retired(&set)?,
        jwt: JwtAuthorities::new(jwt)?,
        sequence,
        refresh_hint,
    })
}

pub(super) fn write(
    authorities: &[CertificateDer<'static>],
    retired: &[CertificateDer<'static>],
    jwt: &JwtAuthorities,
    sequence: u64,
) -> String {
    let keys: Vec<Value> = authorities
        .iter()
        .map(|der| {
            let mut key = Certificate::read(der).map(|read| public_members(&read.key)).unwrap_or_default();
            key.insert("use".into(), X509_SVID.into());
            key.insert("x5c".into(), json!([STANDARD.encode(der)]));
            Value::Object(key)
        })
        .chain(jwt.keys().iter().cloned())
        .collect();
    let mut set = json!({ "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": REFRESH_HINT });
    if let (Some(set), false) = (set.as_object_mut(), retired.is_empty()) {
        set.insert(RETIRED.into(), retired.iter().map(|der| STANDARD.encode(der)).collect());
    }
    set.to_string()
}

/// Authorities that left.
fn retired(set: &Value) -> Result<Vec<CertificateDer<'static>>, JwksError> {
    let certificate = |text: &Value| {
        let text = text.as_str().filter(|text| text.len() <= MAX_CERTIFICATE_BYTES * 2)?;
        STANDARD.decode(text).ok().map(CertificateDer::from)
    };
    match set.get(RETIRED) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= MAX_AUTHORITIES => {
            list.iter().map(certificate).collect::<Option<_>>().ok_or(JwksError::Retired)
        }
        Some(_) => Err(JwksError::Retired),
    }
}

fn whole_number(set: &Value, name: &'static str) -> Result<Option<u64>, JwksError> {
    match set.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(JwksError::Number { name }),
    }
}

/// The certificate of one key of the set; none when the key is for something else.
fn authority(key: &Value) -> Result<Option<CertificateDer<'static>>, &'static str> {
    let key = key.as_object().ok_or("expected an object")?;
    match key.get("use") {
        Some(Value::String(purpose)) if purpose == X509_SVID => {}
        None | Some(Value::String(_)) => return Ok(None),
        Some(_) => return Err("expected `use` to be a string"),
    }
    let Some([Value::String(text)]) = key.get("x5c").and_then(Value::as_array).map(Vec::as_slice) else {
        return Err("expected `x5c` with exactly one certificate, base64");
    };
    if text.len() > MAX_CERTIFICATE_BYTES * 2 {
        return Err("the certificate in `x5c` is too large");
    }
    let der =
        STANDARD.decode(text).map_err(|_| "expected `x5c` in standard base64 with padding, not base64url")?;
    // The bundle will name the rule that a wrong certificate breaks; here only its key is compared
    // with what the JWK says about it (RFC 7517 section 4.7).
    if let Ok(certificate) = Certificate::read(&der) {
        let differs = |(name, value): (&String, &Value)| key.get(name) != Some(value);
        if public_members(&certificate.key).iter().any(differs) {
            return Err(
                "`kty` and the other parts of the key differ from the key of the certificate in `x5c`",
            );
        }
    }
    Ok(Some(der.into()))
}

/// A public key as RFC 7518 section 6 and RFC 8037 write it.
fn public_members(key: &PublicKey<'_>) -> Map<String, Value> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let members = match key {
        PublicKey::Ec { curve, x, y } => json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) }),
        PublicKey::Ed25519 { x } => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(x) }),
        PublicKey::Rsa { modulus, exponent } => {
            json!({ "kty": "RSA", "n": encode(modulus), "e": encode(exponent) })
        }
    };
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// Why a text is not a SPIFFE JWK set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// Larger than is looked at.
    #[error("it has {length} bytes, expected at most {MAX_JWKS_BYTES}")]
    TooLarge {
        /// Bytes found.
        length: usize,
    },
    /// Not JSON, or a name twice in one object.
    #[error("{0}")]
    Json(String),
    /// No `keys`.
    #[error("expected an object with `keys`, a list")]
    NoKeys,
    /// A number that is not one.
    #[error("expected `{name}` to be a whole number")]
    Number {
        /// Which member.
        name: &'static str,
    },
    /// An `x509-svid` key that is wrong.
    #[error("keys[{position}]: {problem}")]
    Key {
        /// Counted from 0.
        position: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// The list of authorities that left is none.
    #[error("expected `{RETIRED}` to be a list of at most {MAX_AUTHORITIES} certificates, base64")]
    Retired,
    /// A `jwt-svid` key that is wrong.
    #[error(transparent)]
    Jwt(#[from] JwtAuthorityError),
    /// More authorities than [`MAX_AUTHORITIES`].
    #[error("more than {MAX_AUTHORITIES} keys of use `{X509_SVID}`")]
    TooMany,
    /// No key of use `x509-svid`.
    #[error("no key of use `{X509_SVID}`: such a bundle distrusts its whole trust domain")]
    NoUsableKey,
}

#[cfg(test)]
mod tests {
    use super::super::bundle::{BundleError, TrustBundle};
    use super::super::testing::{Parts, p256_key};
    use super::*;
    use proptest::prelude::*;

    fn authority(fill: u8) -> Vec<u8> {
        Parts { spki: p256_key(fill), ..Parts::authority("spiffe://prod.example") }.der()
    }

    fn bundle() -> TrustBundle {
        let authorities = vec![authority(1).into(), authority(2).into()];
        TrustBundle::new("prod.example".parse().unwrap(), authorities, 7).unwrap()
    }

    fn parse(text: &str) -> Result<TrustBundle, BundleError> {
        TrustBundle::from_jwks("prod.example".parse().unwrap(), text)
    }

    /// The bundle's JWK set after a change to its tree.
    fn changed(change: impl FnOnce(&mut Value)) -> Result<TrustBundle, BundleError> {
        let mut set = serde_json::from_str(&bundle().to_jwks()).unwrap();
        change(&mut set);
        parse(&set.to_string())
    }

    fn key_error(result: Result<TrustBundle, BundleError>) -> &'static str {
        match result {
            Err(BundleError::Jwks(JwksError::Key { position: 0, problem })) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bundle_is_the_same_after_the_way_through_a_jwk_set() {
        assert_eq!(parse(&bundle().to_jwks()), Ok(bundle()));
        let set: Value = serde_json::from_str(&bundle().to_jwks()).unwrap();
        assert_eq!(set["spiffe_sequence"], 7);
        let key = &set["keys"][0];
        assert_eq!(
            (&key["use"], &key["kty"], &key["crv"]),
            (&json!("x509-svid"), &json!("EC"), &json!("P-256"))
        );
        assert_eq!(key["x"], URL_SAFE_NO_PAD.encode([1; 32]));
        assert_eq!(key["x5c"], json!([STANDARD.encode(authority(1))]));
    }

    #[test]
    fn authorities_that_left_are_told_beside_the_keys() {
        let left = bundle().with_retired(vec![authority(3).into()]).unwrap();
        assert_eq!(parse(&left.to_jwks()), Ok(left.clone()));
        let set: Value = serde_json::from_str(&left.to_jwks()).unwrap();
        assert_eq!(set["keys"].as_array().unwrap().len(), 2, "they are no keys of the set");
        assert!(!bundle().to_jwks().contains(RETIRED));
        for wrong in [json!(null), json!("AAAA"), json!([1]), json!(["%%%"]), json!(vec!["AAAA"; 65])] {
            let read = changed(|set| set[RETIRED] = wrong.clone());
            assert_eq!(read, Err(BundleError::Jwks(JwksError::Retired)), "{wrong}");
        }
        let leaf = STANDARD.encode(Parts::leaf("spiffe://prod.example/a").der());
        assert!(changed(|set| set[RETIRED] = json!([leaf])).is_err(), "one that never could sign");
    }

    #[test]
    fn the_hint_when_to_come_back_is_told() {
        let domain = || "prod.example".parse().unwrap();
        let (read, hint) = TrustBundle::from_jwks_with_hint(domain(), &bundle().to_jwks()).unwrap();
        assert_eq!((read, hint), (bundle(), Some(std::time::Duration::from_secs(REFRESH_HINT))));
        let without = bundle().to_jwks().replace("spiffe_refresh_hint", "other");
        assert_eq!(TrustBundle::from_jwks_with_hint(domain(), &without).unwrap().1, None);
    }

    #[test]
    fn sets_without_sequence_and_with_other_members_are_read() {
        let read = changed(|set| {
            set.as_object_mut().unwrap().remove("spiffe_sequence");
            set["someone_elses"] = json!({ "member": [1.5, null, true, -1] });
        });
        assert_eq!(read.unwrap().sequence(), 0);
    }

    #[test]
    fn keys_for_other_uses_are_ignored_whatever_is_in_them() {
        let others = [
            json!({ "use": "tls", "kty": "EC", "x5c": 5 }),
            json!({ "use": "unheard-of" }),
            json!({ "kty": "EC" }),
        ];
        let read = changed(|set| set["keys"].as_array_mut().unwrap().extend(others.clone()));
        assert_eq!(read, Ok(bundle()));
        let only_others = changed(|set| set["keys"] = json!(others));
        assert_eq!(only_others, Err(BundleError::Jwks(JwksError::NoUsableKey)));
        assert_eq!(changed(|set| set["keys"] = json!([])), Err(BundleError::Jwks(JwksError::NoUsableKey)));
    }

    #[test]
    fn keys_of_tokens_go_both_ways_and_are_no_certificates() {
        let key = json!({ "kid": "a", "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
        let with = bundle().with_jwt(JwtAuthorities::new([key]).unwrap());
        assert_eq!(parse(&with.to_jwks()), Ok(with.clone()));
        assert_ne!(with, bundle());
        assert_eq!(with.jwt_authorities().keys()[0]["kid"], "a");
        let nameless = changed(|set| {
            set["keys"].as_array_mut().unwrap().push(json!({ "use": "jwt-svid", "kty": "EC" }));
        });
        assert!(matches!(nameless, Err(BundleError::Jwks(JwksError::Jwt(_)))), "{nameless:?}");
    }

    #[test]
    fn x5c_is_exactly_one_certificate_in_standard_base64() {
        let certificate = STANDARD.encode(authority(1));
        let unpadded = certificate.trim_end_matches('=').to_owned();
        for x5c in [json!([]), json!([certificate, certificate]), json!(certificate), json!([1]), json!(null)]
        {
            assert!(key_error(changed(|set| set["keys"][0]["x5c"] = x5c)).contains("exactly one"));
        }
        assert!(
            key_error(changed(|set| {
                set["keys"][0].as_object_mut().unwrap().remove("x5c");
            }))
            .contains("exactly one")
        );
        for text in ["%%%", "AA-_"] {
            assert!(
                key_error(changed(|set| set["keys"][0]["x5c"] = json!([text]))).contains("standard base64")
            );
        }
        if unpadded != certificate {
            assert!(changed(|set| set["keys"][0]["x5c"] = json!([unpadded])).is_err());
        }
        let large = "A".repeat(4 * MAX_CERTIFICATE_BYTES);
        assert!(key_error(changed(|set| set["keys"][0]["x5c"] = json!([large]))).contains("too large"));
        let leaf = STANDARD.encode(Parts::leaf("spiffe://prod.example/a").der());
        assert!(changed(|set| set["keys"][0]["x5c"] = json!([leaf])).is_err());
    }

    #[test]
    fn the_key_is_the_key_of_its_certificate() {
        for (member, value) in [("kty", "RSA"), ("crv", "P-384"), ("x", "AAAA"), ("y", "AAAA")] {
            assert!(key_error(changed(|set| set["keys"][0][member] = json!(value))).contains("differ"));
            let missing = changed(|set| {
                set["keys"][0].as_object_mut().unwrap().remove(member);
            });
            assert!(key_error(missing).contains("differ"));
        }
    }

    #[test]
    fn a_name_twice_is_refused_at_every_level() {
        let good = bundle().to_jwks();
        for (from, to) in [
            ("{", r#"{"keys":[],"#),
            (r#""kty""#, r#""use":"jwt-svid","kty""#),
            ("{", r#"{"other":{"deep":[{"a":1,"a":1}]},"#),
        ] {
            let text = good.replacen(from, to, 1);
            let Err(BundleError::Jwks(JwksError::Json(error))) = parse(&text) else { panic!("{text}") };
            assert!(error.contains("is there twice in one object"), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_set_is_refused() {
        for text in ["", "[]", "5", "{}", r#"{"keys":{}}"#, r#"{"keys":5}"#, "{\"keys\":[", "null"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(key_error(changed(|set| set["keys"][0] = json!("key"))), "expected an object");
        assert_eq!(
            key_error(changed(|set| set["keys"][0]["use"] = json!(1))),
            "expected `use` to be a string"
        );
        for number in [json!(-1), json!(1.5), json!("1"), json!(null)] {
            let error = changed(|set| set["spiffe_sequence"] = number.clone());
            assert_eq!(error, Err(BundleError::Jwks(JwksError::Number { name: "spiffe_sequence" })));
            assert!(changed(|set| set["spiffe_refresh_hint"] = number).is_err());
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&deep).is_err());
        let large = format!("{}{}", bundle().to_jwks(), " ".repeat(MAX_JWKS_BYTES));
        assert!(matches!(parse(&large), Err(BundleError::Jwks(JwksError::TooLarge { .. }))));
        let many = changed(|set| {
            let key = set["keys"][0].clone();
            set["keys"] = json!(vec![key; MAX_AUTHORITIES + 1]);
        });
        assert_eq!(many, Err(BundleError::Jwks(JwksError::TooMany)));
    }

    #[test]
    fn keys_of_every_kind_go_both_ways() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let kinds = [
            (KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(), "EC"),
            (KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), "OKP"),
            (rsa, "RSA"),
        ];
        for (key, kty) in kinds {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let certificate = params.self_signed(&key).unwrap();
            let bundle =
                TrustBundle::new("prod.example".parse().unwrap(), vec![certificate.into()], 1).unwrap();
            let set: Value = serde_json::from_str(&bundle.to_jwks()).unwrap();
            assert_eq!(set["keys"][0]["kty"], kty);
            assert_eq!(parse(&bundle.to_jwks()), Ok(bundle));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}", cut in any::<prop::sample::Index>()) {
            let _ = parse(&text);
            let good = bundle().to_jwks();
            let _ = parse(&good[..cut.index(good.len())]);
        }
    }
}
