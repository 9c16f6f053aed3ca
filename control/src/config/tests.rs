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
fn command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn nothing_set_means_the_documented_defaults() {
    let config = load(&[]).unwrap();
    assert_eq!(config.data_dir, Path::new("signet-data"));
    assert_eq!(config.admin_socket, Path::new("signet-data/admin.sock"));
    assert_eq!(config.seal_key_file, Path::new("signet-data/seal.key"));
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
