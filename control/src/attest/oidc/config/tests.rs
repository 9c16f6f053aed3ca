use super::*;

const ISSUER: &str = "issuer = \"https://issuer.example\"\naudience = [\"signet\"]\n";

fn read(text: &str) -> Result<JwtConfig, TableError> {
    JwtConfig::read(text.parse().unwrap())
}

/// The mistake in a table with issuer and audience, as it is told.
fn mistake(rest: &str) -> String {
    read(&format!("{ISSUER}{rest}")).unwrap_err().to_string()
}

#[test]
fn little_is_needed_and_the_rest_has_defaults() {
    let config = read(&format!("{ISSUER}profile = \"kubernetes\"")).unwrap();
    let KeyOrigin::Discovery(url) = &config.keys else { panic!("{:?}", config.keys) };
    assert_eq!(url.to_string(), "https://issuer.example/.well-known/openid-configuration");
    assert_eq!(config.algorithms, Algorithm::ALL);
    assert_eq!(config.leeway, Duration::from_secs(30));
    assert_eq!(config.max_lifetime, Duration::from_secs(25 * 3600));
    assert!(config.allow_addresses.is_empty() && config.require.is_empty() && config.claims.is_empty());
}

#[test]
fn a_token_of_one_job_is_good_with_one_key_unless_told() {
    let reuse = |profile: &str, rest: &str| {
        read(&format!("{ISSUER}profile = \"{profile}\"\nclaims = {{ team = \"team\" }}\n{rest}"))
            .unwrap()
            .reuse
    };
    for (profile, usual) in [
        ("github", Reuse::SameKey),
        ("gitlab", Reuse::SameKey),
        ("kubernetes", Reuse::Allow),
        ("google", Reuse::Allow),
        ("azure", Reuse::Allow),
        ("generic", Reuse::Allow),
    ] {
        assert_eq!(reuse(profile, ""), usual, "{profile}");
        assert_eq!(reuse(profile, "reuse = \"same-key\""), Reuse::SameKey);
        assert_eq!(reuse(profile, "reuse = \"allow\""), Reuse::Allow);
    }
    assert!(mistake("profile = \"azure\"\nreuse = \"never\"").contains("reuse: unknown variant"));
}

#[test]
fn everything_can_be_set() {
    let config = read(
        r##"
        profile = "generic"
        issuer = "https://sts.windows.net/tenant/"
        audience = ["signet", "api://signet"]
        jwks-url = "https://keys.example:8443/a?b=c"
        claims = { team = "/org/team", "kubernetes.io" = "kubernetes.io" }
        require = { owner = "shop" }
        ca-file = "/ca.pem"
        bearer-file = "/token"
        allow-addresses = ["10.0.0.0/8", "::1/128"]
        algorithms = ["ES256", "RS256"]
        max-lifetime = "10m"
        leeway = "0s"
        "##,
    )
    .unwrap();
    assert!(matches!(config.keys, KeyOrigin::Jwks(_)));
    assert_eq!(config.claims[1].0, "team");
    assert_eq!(config.require, [(ClaimPath::Name("owner".to_owned()), "shop".to_owned())]);
    assert_eq!(config.allow_addresses.len(), 2);
    assert_eq!(config.algorithms, [Algorithm::Es256, Algorithm::Rs256]);
}

#[test]
fn the_document_is_below_the_issuer_with_one_slash() {
    let of = |issuer: &str| {
        let text = format!("issuer = \"{issuer}\"\naudience = [\"signet\"]\nprofile = \"azure\"");
        let KeyOrigin::Discovery(url) = read(&text).unwrap().keys else { panic!("{issuer}") };
        url.to_string()
    };
    for issuer in ["https://issuer.example/t", "https://issuer.example/t/"] {
        assert_eq!(of(issuer), "https://issuer.example/t/.well-known/openid-configuration");
    }
}

#[test]
fn issuers_that_are_no_urls_need_keys_from_elsewhere() {
    let text = "issuer = \"kubernetes/serviceaccount\"\naudience = [\"signet\"]\nprofile = \"kubernetes\"\n";
    assert!(read(text).unwrap_err().to_string().starts_with("issuer: expected a URL"));
    read(&format!("{text}jwks-file = \"keys.json\"")).unwrap();
}

#[test]
fn mistakes_name_the_key_and_what_was_expected() {
    for (rest, expected) in [
        ("", "claims: expected 1 to 32 entries"),
        ("profile = \"github-actions\"", "profile: unknown variant `github-actions`"),
        ("audiences = []", "audiences: unknown field `audiences`, expected one of"),
        ("claims = { Team = \"team\" }", "claims: expected a KEY of 1 to 63 of"),
        ("claims = { \"a:b\" = \"team\" }", "claims: expected a KEY of 1 to 63 of"),
        ("profile = \"github\"\nclaims = { ref = \"sub\" }", "claims: expected a KEY of 1 to 63 of"),
        ("claims = { team = \"\" }", "claims.team: expected the name of a claim"),
        ("claims = { team = \"/a~\" }", "claims.team: expected the name of a claim"),
        ("claims = { team = 5 }", "claims.team: invalid type: integer"),
        ("claims = { t = \"t\" }\nrequire = { o = \"\" }", "require.o: expected a value"),
        ("claims = { t = \"t\" }\nrequire = { \"/~\" = \"v\" }", "require./~: expected the name of a claim"),
        ("claims = { t = \"t\" }\nalgorithms = [\"none\"]", "algorithms: expected some of ES256"),
        ("claims = { t = \"t\" }\nalgorithms = [\"HS256\"]", "algorithms: expected some of ES256"),
        ("claims = { t = \"t\" }\nalgorithms = []", "algorithms: expected some of ES256"),
        ("claims = { t = \"t\" }\nleeway = \"6m\"", "leeway: expected 0s to 5m, found `6m`"),
        ("claims = { t = \"t\" }\nmax-lifetime = \"30d\"", "max-lifetime: expected 1m to 7d, found `30d`"),
        ("claims = { t = \"t\" }\nmax-lifetime = \"soon\"", "max-lifetime: expected a duration such as"),
        (
            "claims = { t = \"t\" }\nallow-addresses = [\"10.0.0.1/8/8\"]",
            "allow-addresses: expected networks",
        ),
        (
            "claims = { t = \"t\" }\njwks-url = \"http://keys.example\"",
            "jwks-url: expected https (http only to",
        ),
        ("claims = { t = \"t\" }\njwks-url = \"http://127.0.0.1\"", "jwks-url: expected https (http only to"),
        ("claims = { t = \"t\" }\njwks-url = \"https://k\"\njwks-file = \"k\"", "jwks-file: expected either"),
        (
            "claims = { t = \"t\" }\njwks-file = \"k\"\nca-file = \"ca\"",
            "ca-file: expected it only where keys are",
        ),
        (
            "claims = { t = \"t\" }\njwks-file = \"k\"\nallow-addresses = [\"::/0\"]",
            "allow-addresses: expected it only where",
        ),
    ] {
        let found = mistake(rest);
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
    for (text, expected) in [
        ("audience = [\"signet\"]", "missing field `issuer`"),
        ("issuer = \"https://issuer.example\"", "missing field `audience`"),
        ("issuer = \"https://i\"\naudience = []\nprofile = \"azure\"", "audience: expected 1 to 32 names"),
        (
            "issuer = \"https://i\"\naudience = [\"\"]\nprofile = \"azure\"",
            "audience: expected 1 to 512 bytes",
        ),
        ("issuer = \"https://i\"\naudience = \"signet\"", "audience: invalid type: string"),
        (
            "issuer = \"https://i/?t=1\"\naudience = [\"s\"]\nprofile = \"azure\"",
            "issuer: expected a URL without",
        ),
    ] {
        let found = read(text).unwrap_err().to_string();
        assert!(found.contains(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn issuers_that_anybody_can_have_an_account_at_need_to_be_narrowed() {
    for (issuer, profile) in [
        ("https://token.actions.githubusercontent.com", "github"),
        ("https://gitlab.com", "gitlab"),
        ("https://accounts.google.com/", "google"),
    ] {
        let text = format!("issuer = \"{issuer}\"\naudience = [\"signet\"]\nprofile = \"{profile}\"\n");
        let found = read(&text).unwrap_err().to_string();
        assert!(found.starts_with("require: expected which of all accounts"), "{found}");
        read(&format!("{text}require = {{ sub = \"ours\" }}")).unwrap();
    }
}
