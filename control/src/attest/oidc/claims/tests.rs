use proptest::prelude::*;
use serde_json::json;

use super::super::testing::config;
use super::*;

const NOW: u64 = 1_700_000_000;

fn settings() -> JwtConfig {
    config(
        r#"
        issuer = "https://issuer.example"
        audience = ["signet", "signet-2"]
        jwks-file = "keys"
        claims = { sub = "sub" }
        require = { owner = "shop", "/deep/flag" = "true" }
        max-lifetime = "1h"
        "#,
    )
}

fn good() -> Value {
    json!({ "iss": "https://issuer.example", "aud": "signet", "iat": NOW, "exp": NOW + 600, "owner": "shop",
            "deep": { "flag": true } })
}

/// The answer to good claims after a change, and so many seconds after they were made.
fn judge(change: impl FnOnce(&mut Value), after: i64) -> &'static str {
    let mut claims = good();
    change(&mut claims);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(after).unwrap());
    check(&settings(), &claims, now).map_or_else(|error| error.reason(), |_| "good")
}

fn with(name: &str, value: Value) -> &'static str {
    judge(|claims| claims[name] = value, 0)
}

fn without(name: &str) -> &'static str {
    judge(
        |claims| {
            claims.as_object_mut().unwrap().remove(name);
        },
        0,
    )
}

#[test]
fn the_issuer_is_exactly_ours() {
    for other in [
        "https://issuer.example/",
        "https://ISSUER.example",
        "http://issuer.example",
        "https://issuer.example.attacker.example",
        "",
    ] {
        assert_eq!(with("iss", json!(other)), "issuer", "{other}");
    }
    assert_eq!(with("iss", json!(["https://issuer.example"])), "issuer");
    assert_eq!(without("iss"), "issuer");
}

#[test]
fn one_of_the_audiences_is_ours() {
    for (audience, answer) in [
        (json!("signet"), "good"),
        (json!("signet-2"), "good"),
        (json!(["other", "signet"]), "good"),
        (json!("Signet"), "audience"),
        (json!("signet "), "audience"),
        (json!("other"), "audience"),
        (json!([]), "audience"),
        (json!(["other"]), "audience"),
        (json!(["signet", 1]), "malformed"),
        (json!([["signet"]]), "malformed"),
        (json!({ "signet": true }), "malformed"),
        (json!(null), "malformed"),
        (json!(1), "malformed"),
        (json!(vec!["signet"; 33]), "malformed"),
    ] {
        assert_eq!(with("aud", audience.clone()), answer, "{audience}");
    }
    assert_eq!(without("aud"), "audience");
}

#[test]
fn a_token_without_an_end_is_none() {
    assert_eq!(without("exp"), "no_expiry");
    for wrong in [json!(null), json!("1700000600"), json!(-1), json!(1e300), json!([NOW + 600]), json!(true)]
    {
        assert_eq!(with("exp", wrong.clone()), "malformed", "{wrong}");
        assert_eq!(with("iat", wrong.clone()), "malformed", "{wrong}");
        assert_eq!(with("nbf", wrong.clone()), "malformed", "{wrong}");
    }
    assert_eq!(with("exp", json!(NOW as f64 + 600.5)), "good", "a number may have a fraction");
}

#[test]
fn times_count_with_half_a_minute_of_leeway() {
    assert_eq!(judge(|_| {}, 629), "good");
    assert_eq!(judge(|_| {}, 630), "token_expired");
    assert_eq!(judge(|_| {}, 1_000_000), "token_expired");
    assert_eq!(judge(|_| {}, -30), "good");
    assert_eq!(judge(|_| {}, -31), "issued_in_future");
    assert_eq!(with("nbf", json!(NOW + 30)), "good");
    assert_eq!(with("nbf", json!(NOW + 31)), "not_yet_valid");
}

#[test]
fn a_life_is_bounded_and_begins_before_it_ends() {
    assert_eq!(with("exp", json!(NOW + 3_600)), "good");
    assert_eq!(with("exp", json!(NOW + 3_601)), "lifetime");
    assert_eq!(with("exp", json!(NOW)), "lifetime");
    let no_beginning = |exp: u64, after| {
        judge(
            |claims| {
                claims.as_object_mut().unwrap().remove("iat");
                claims["exp"] = json!(exp);
            },
            after,
        )
    };
    assert_eq!(no_beginning(NOW + 3_600, 0), "good");
    assert_eq!(no_beginning(NOW + 3_601, 0), "lifetime");
    assert_eq!(no_beginning(NOW, 10), "good", "within the leeway");
    assert_eq!(with("exp", json!(253_402_300_799_u64)), "lifetime");
}

#[test]
fn what_is_required_is_there_and_the_same() {
    assert_eq!(with("owner", json!("other")), "claim_mismatch");
    assert_eq!(with("owner", json!("shop ")), "claim_mismatch");
    assert_eq!(with("owner", json!(["shop"])), "claim_mismatch");
    assert_eq!(with("owner", json!("")), "claim_missing");
    assert_eq!(without("owner"), "claim_missing");
    assert_eq!(with("deep", json!({ "flag": "true" })), "good");
    assert_eq!(with("deep", json!({ "flag": false })), "claim_mismatch");
    assert_eq!(with("deep", json!("/deep/flag")), "claim_missing");
}

proptest! {
    #[test]
    fn whatever_the_times_an_accepted_token_lives_now(iat in NOW - 10_000..NOW + 10_000, life in 0u64..10_000, after in -5_000i64..5_000) {
        let answer = judge(|claims| { claims["iat"] = json!(iat); claims["exp"] = json!(iat + life); }, after);
        let now = NOW.checked_add_signed(after).unwrap();
        let lives = now + 30 >= iat && now < iat + life + 30 && (1..=3_600).contains(&life);
        prop_assert_eq!(answer == "good", lives, "{}", answer);
    }
}
