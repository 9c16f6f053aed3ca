use std::io::Write;

use super::*;

fn load(arguments: &[&str]) -> Result<Config, ConfigError> {
    Config::from_args(["signet-control", "run"].iter().chain(arguments)).map(|(_, config)| config)
}

fn with_file(text: &str, arguments: &[&str]) -> (String, Result<Config, ConfigError>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let loaded = load(&[["--config", &path].as_slice(), arguments].concat());
    (path, loaded)
}

fn message(text: &str, arguments: &[&str]) -> String {
    let (path, loaded) = with_file(text, arguments);
    loaded.unwrap_err().to_string().replace(&path, "FILE")
}

#[test]
fn seal_key_is_in_one_place() {
    let place = |arguments: &[&str]| load(arguments).map(|config| config.seal_key.to_string());
    assert_eq!(place(&["--seal-key-file", "/a/key"]).unwrap(), "/a/key");
    assert_eq!(place(&["--seal-key", "keyring:signet"]).unwrap(), "keyring:signet");
    assert_eq!(
        with_file("seal-key = \"passphrase:/a/b\"\n", &[]).1.unwrap().seal_key.to_string(),
        "passphrase:/a/b"
    );
    let both = place(&["--seal-key", "keyring:signet", "--seal-key-file", "/a/key"]).unwrap_err();
    assert!(both.to_string().contains("`seal-key-file` is set"), "{both}");
    assert!(place(&["--seal-key", "keyring:"]).is_err());
}

#[test]
fn command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn nothing_set_means_the_documented_defaults() {
    let config = load(&[]).unwrap();
    assert_eq!(config.data_dir, Path::new("signet-data"));
    assert_eq!(config.admin_socket, Path::new("signet-data/admin.sock"));
    assert_eq!(config.seal_key, SealPlace::File("signet-data/seal.key".into()));
    assert_eq!(config.trust_domain.as_str(), "mesh.local");
    assert_eq!(config.grpc_listen.to_string(), "127.0.0.1:8443");
    assert_eq!(config.ttl.default, Duration::from_secs(3600));
    assert_eq!(config.ttl.min, Duration::from_secs(60));
    assert_eq!(config.ttl.max, Duration::from_secs(7 * 86_400));
}

#[test]
fn flags_win_over_the_file() {
    let text =
        "default-ttl = \"2h\"\nmin-ttl = \"5m\"\nadvertise = [\"control:8443\"]\nlog-format = \"json\"\n";
    let (_, config) = with_file(text, &["--default-ttl", "3h"]);
    let config = config.unwrap();
    assert_eq!(config.ttl.default, Duration::from_secs(3 * 3600));
    assert_eq!(config.ttl.min, Duration::from_secs(300));
    assert_eq!(config.advertise, ["control:8443"]);
    assert_eq!(config.log_format, LogFormat::Json);
}

#[test]
fn mistakes_in_the_file_name_key_line_and_what_was_expected() {
    for (text, expected) in [
        ("\ntrust-domain = \"Prod\"\n", "FILE:2: trust-domain: "),
        ("data-dir = \"x\"\nmin-ttl = \"soon\"\n", "FILE:2: min-ttl: expected a duration such as"),
        ("data-dir = \"x\"\n\ngrpc-lisen = \"127.0.0.1:1\"\n", "FILE:3: "),
        ("data-dir = \"x\"\nmin-ttl\n", "FILE:2: "),
        ("grpc-listen = 8443\n", "FILE:1: grpc-listen: "),
        ("data-dir = \"x\"\ndefault-ttl = \"10s\"\n", "FILE:2: default-ttl: expected 1m (min-ttl) to 7d"),
    ] {
        let message = message(text, &[]);
        assert!(message.starts_with(expected), "{message}\nexpected {expected}");
    }
}

#[test]
fn unknown_key_lists_the_known_ones() {
    let message = message("grpc-lisen = \"127.0.0.1:1\"\n", &[]);
    assert!(message.contains("grpc-lisen") && message.contains("grpc-listen"), "{message}");
}

#[test]
fn values_that_do_not_go_together_name_where_they_were_set() {
    let text = "intermediate-ttl = \"2h\"\n";
    let message = message(text, &["--default-ttl", "3h"]);
    assert_eq!(
        message,
        "--default-ttl: expected 1m (min-ttl) to 1h (half of intermediate-ttl, at most 7d), found `3h`"
    );
}

#[test]
fn tickets_would_name_an_address_that_is_none() {
    let message = message("grpc-listen = \"0.0.0.0:8443\"\n", &[]);
    assert!(message.starts_with("FILE:1: grpc-listen: expected one IP address"), "{message}");
    load(&["--grpc-listen", "0.0.0.0:8443", "--advertise", "control:8443"]).unwrap();
    assert!(load(&["--advertise", "control"]).is_err());
}

#[test]
fn listener_for_the_web_has_a_certificate_and_its_key() {
    let all = ["--https-listen", "127.0.0.1:443", "--https-certificate", "c.pem", "--https-key", "k.pem"];
    assert_eq!(load(&all).unwrap().https.unwrap().certificate, Path::new("c.pem"));
    assert_eq!(load(&[]).unwrap().https, None);
    for part in [&all[..2], &all[2..4], &all[4..], &all[..4], &all[2..]] {
        let error = load(part).unwrap_err().to_string();
        assert!(error.contains("with it"), "{part:?}: {error}");
    }
}

#[test]
fn short_lives_for_tests_are_possible() {
    let config = load(&["--intermediate-ttl", "2m", "--min-ttl", "2s", "--default-ttl", "10s"]).unwrap();
    assert_eq!(config.ttl.max, Duration::from_secs(60));
    let config = load(&["--intermediate-ttl", "60s"]).unwrap();
    assert_eq!(config.ttl.default, Duration::from_secs(30), "defaults give way to what is set");
}

#[test]
fn socket_that_other_users_cannot_reach_is_not_promised_to_them() {
    let error = load(&["--admin-uid", "1000"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "--admin-uid: expected `admin-socket` outside of the data directory, which other users cannot enter, \
         found `signet-data/admin.sock`"
    );
    assert!(load(&["--admin-uid", "1000", "--admin-socket", "signet-data/other.sock"]).is_err());
    let config = load(&["--admin-uid", "1000", "--admin-socket", "/run/signet/admin.sock"]).unwrap();
    assert!(config.admin_uids.contains(&1000));
}

#[test]
fn store_is_a_directory_or_a_server_that_others_cannot_listen_to() {
    assert!(
        matches!(load(&[]).unwrap().store, Location::Directory(path) if path == Path::new("signet-data"))
    );
    assert!(matches!(load(&["--store", "sqlite", "--data-dir", "x"]).unwrap().store, Location::Directory(_)));
    let server = load(&["--store", "postgres://signet:hunter2@localhost/signet"]).unwrap().store;
    assert!(matches!(server, Location::Server(_)) && !format!("{server:?}").contains("hunter2"));
    let error = load(&["--store", "postgres://signet:hunter2@db.example/signet"]).unwrap_err().to_string();
    assert!(error.starts_with("--store: ") && error.contains("store-ca-file"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    assert_eq!(
        load(&["--store-ca-file", "ca.pem"]).unwrap_err().to_string(),
        "--store-ca-file: expected `store` to name a PostgreSQL server, found `ca.pem`"
    );
}

#[test]
fn migration_takes_the_same_settings() {
    let arguments = ["signet-control", "migrate", "--dry-run", "--data-dir", "x"];
    let (task, config) = Config::from_args(arguments).unwrap();
    assert_eq!(task, Task::Migrate { dry_run: true });
    assert_eq!(config.data_dir, Path::new("x"));
}

#[test]
fn audit_goes_to_files_and_collectors() {
    let text =
        "audit-checkpoint-every = \"10s\"\naudit-sink = [\"file:/var/log/a\", \"https://c.example/x\"]\n";
    let (_, config) = with_file(text, &[]);
    let config = config.unwrap();
    assert_eq!(config.audit_checkpoint_every, Duration::from_secs(10));
    let sinks: Vec<String> = config.audit_sinks.iter().map(ToString::to_string).collect();
    assert_eq!(sinks, ["file:/var/log/a", "https://c.example/x"]);
    assert!(!config.accept_older_store && load(&["--accept-older-store"]).unwrap().accept_older_store);
    let message = message("audit-sink = [\"http://c.example/\"]\n", &[]);
    assert!(message.starts_with("FILE:1: audit-sink[0]: ") && message.contains("this machine"), "{message}");
    let twice = load(&["--audit-sink", "file:/a", "--audit-sink", "file:/a"]).unwrap_err().to_string();
    assert_eq!(twice, "--audit-sink: expected each address once, found `file:/a`");
    assert!(load(&["--audit-checkpoint-every", "0s"]).is_err());
}

const JWT: &str = "\n[attestors.cluster]\nkind = \"jwt\"\nprofile = \"kubernetes\"\n\
                   issuer = \"https://cluster.example\"\naudience = [\"signet\"]\n";

#[test]
fn attestors_are_tables_of_the_file() {
    let (_, config) = with_file(JWT, &[]);
    let config = config.unwrap();
    assert!(matches!(&config.attestors["cluster"], AttestorConfig::Jwt(jwt) if jwt.audience == ["signet"]));
    assert!(load(&[]).unwrap().attestors.is_empty());
}

#[test]
fn upstream_is_a_table_of_the_file() {
    const VAULT: &str =
        "[ca.upstream]\nkind = \"vault\"\nurl = \"https://vault.example:8200\"\ntoken-file = \"/t\"\n";
    assert!(load(&[]).unwrap().upstream.is_none());
    assert!(with_file(VAULT, &[]).1.unwrap().upstream.is_some());
    for (text, expected) in [
        (VAULT.replace("https", "http"), "FILE:3: ca.upstream.url: expected https"),
        (VAULT.replace("token-file", "tokenfile"), "FILE:4: ca.upstream.tokenfile: unknown field"),
        (VAULT.replace("token-file = \"/t\"\n", ""), "FILE:1: ca.upstream: expected one of `token-file`"),
        (VAULT.replace("upstream", "above"), "FILE:1: ca.above: expected `[ca.upstream]` and nothing else"),
        ("[ca]\nupstream = 5\n".to_owned(), "FILE:2: ca.upstream: expected a table"),
    ] {
        let message = message(&text, &[]);
        assert!(message.starts_with(expected), "{message}\nexpected {expected}");
    }
}

#[test]
fn mistakes_in_attestors_name_key_line_and_what_was_expected() {
    for (text, expected) in [
        (JWT.replace("\"jwt\"", "\"x\""), "FILE:3: attestors.cluster.kind: expected"),
        (JWT.replace("kind = \"jwt\"", ""), "FILE:2: attestors.cluster: expected `kind`, one of"),
        (JWT.replace("cluster]", "Cluster]"), "FILE:2: attestors.Cluster: expected a name of 1 to 63"),
        (
            JWT.replace("audience", "audiences"),
            "FILE:6: attestors.cluster.audiences: unknown field `audiences`",
        ),
        (JWT.replace("[\"signet\"]", "[]"), "FILE:6: attestors.cluster.audience: expected 1 to 32 names"),
        (JWT.replace("https:", "ftp:"), "FILE:5: attestors.cluster.issuer: expected a URL such as"),
        (
            format!("{JWT}claims = {{ team = \"\" }}\n"),
            "FILE:7: attestors.cluster.claims.team: expected the name",
        ),
        (
            format!("{JWT}\n[attestors.cluster.claims]\nteam = 7\n"),
            "FILE:9: attestors.cluster.claims.team: invalid",
        ),
        (JWT.replace("issuer =", "ca-file ="), "FILE:2: attestors.cluster: missing field `issuer`"),
        ("attestors = 5\n".to_owned(), "FILE:1: attestors: invalid type"),
        ("[attestors]\na = 5\n".to_owned(), "FILE:2: attestors.a: expected a table"),
    ] {
        let message = message(&text, &[]);
        assert!(message.starts_with(expected), "{message}\nexpected {expected}");
    }
}
