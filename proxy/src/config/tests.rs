use std::path::Path;

use clap::{CommandFactory, Parser};
use signet_proto::handshake::ExpiredLists;
use signet_proto::ticket::TicketError;

use super::file::parse;
use super::values::{CrlExpired, Timeout};
use super::*;
use crate::identity::{Joining, Proof};

fn load(arguments: &[&str]) -> Result<Config, ConfigError> {
    let line = ["signet-proxy", "run"].iter().chain(arguments);
    let Command::Run(arguments) = Arguments::try_parse_from(line).unwrap().command else { panic!() };
    Config::load(*arguments)
}

fn file_error(text: &str) -> String {
    parse(Path::new("proxy.toml"), text).unwrap_err().to_string()
}

const FILES: [&str; 6] = ["--svid-file", "svid.pem", "--key-file", "key.pem", "--bundle-file", "bundle.pem"];

#[test]
fn command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn flags_and_file_mean_the_same() {
    let file = parse(
        Path::new("proxy.toml"),
        r#"
        svid-file = "svid.pem"
        drain-timeout = "5s"
        [[inbound]]
        listen = "15443"
        forward = "127.0.0.1:8080"
        [[outbound]]
        listen = "127.0.0.1:7001"
        peer = "spiffe://prod.example/orders"
        port = 5432
        address = "10.0.0.2:15443"
        protocol = "tcp"
        "#,
    )
    .unwrap();
    let inbound: Inbound = "15443=127.0.0.1:8080".parse().unwrap();
    let outbound: Outbound =
        "tcp://127.0.0.1:7001=spiffe://prod.example/orders:5432@10.0.0.2:15443".parse().unwrap();
    assert_eq!(file.inbound, [inbound]);
    assert_eq!(file.outbound, [outbound]);
    assert_eq!(file.drain_timeout.unwrap().0, Duration::from_secs(5));
}

#[test]
fn revocation_lists_are_named_in_flags_and_file_and_their_end_only_with_them() {
    let flags = ["--inbound", "1=127.0.0.1:2", "--crl-file", "a.crl", "--crl-file", "lists"];
    let crls = load(&[&FILES[..], &flags].concat()).unwrap().crls.unwrap();
    assert_eq!(crls.places, [PathBuf::from("a.crl"), "lists".into()]);
    assert_eq!(crls.expired, ExpiredLists::Refuse, "deny by default");
    let used = load(&[&FILES[..], &flags, &["--crl-expired", "use"]].concat()).unwrap().crls.unwrap();
    assert_eq!(used.expired, ExpiredLists::Use);
    let file = parse(Path::new("proxy.toml"), "crl-file = [\"a.crl\"]\ncrl-expired = \"use\"").unwrap();
    assert_eq!((file.crl_file.len(), file.crl_expired), (1, Some(CrlExpired::Use)));
    let alone = load(&[&FILES[..], &flags[..2], &["--crl-expired", "use"]].concat()).unwrap_err();
    assert!(matches!(alone, ConfigError::Alone { key: "crl-expired", .. }), "{alone}");
    assert!(file_error("crl-expired = \"never\"").contains("crl-expired"));
}

#[test]
fn captured_and_balanced_listeners_mean_the_same_in_flags_and_file() {
    let file = parse(
        Path::new("proxy.toml"),
        r#"
        unknown-destinations = "passthrough"
        [[inbound]]
        listen = "15006"
        forward = "original"
        proxy-protocol-from = ["10.0.0.0/8", "192.0.2.7"]
        [[outbound]]
        listen = "15001"
        destination = "original"
        [[outbound]]
        listen = "unix:/run/app.sock"
        peer = "spiffe://prod.example/orders"
        [[route]]
        destination = "DB.internal.:5432"
        peer = "spiffe://prod.example/db"
        protocol = "tcp"
        "#,
    )
    .unwrap();
    let inbound = "15006=original,proxy-protocol-from=10.1.2.3/8,proxy-protocol-from=192.0.2.7";
    assert_eq!(file.inbound, [inbound.parse().unwrap()]);
    let outbound = ["15001=original", "unix:/run/app.sock=spiffe://prod.example/orders"];
    assert_eq!(file.outbound, outbound.map(|text| text.parse::<Outbound>().unwrap()));
    assert_eq!(file.route, ["tcp://db.internal:5432=spiffe://prod.example/db".parse().unwrap()]);
    assert_eq!(file.unknown_destinations, Some(Unknown::Passthrough));
    assert_eq!(Requested::new("[FD00::2]", 80), "[fd00::2]:80".parse().unwrap());
}

#[test]
fn what_leads_back_to_the_proxy_itself_is_refused() {
    for inbound in [["1=127.0.0.1:15020", "2=127.0.0.1:80"], ["1=127.0.0.1:80", "2=127.0.0.1:1"]] {
        let line = [&FILES[..], &["--inbound", inbound[0], "--inbound", inbound[1]]].concat();
        assert!(matches!(load(&line), Err(ConfigError::Loop { .. })), "{inbound:?}");
    }
    let route = ["--outbound", "1=connect", "--route", "a:1=spiffe://td/a"];
    assert!(matches!(load(&[&FILES[..], &route].concat()), Err(ConfigError::NoAddress { .. })));
    let twice = [
        &route[..2],
        &["--route", "a:1=spiffe://td/a@10.0.0.1:1", "--route", "A.:1=spiffe://td/b@10.0.0.1:1"],
    ];
    assert!(matches!(load(&[&FILES[..], &twice.concat()].concat()), Err(ConfigError::SameRoute(_))));
    let unused =
        [&FILES[..], &["--inbound", "1=127.0.0.1:80", "--route", "a:1=spiffe://td/a@10.0.0.1:1"]].concat();
    assert!(matches!(load(&unused), Err(ConfigError::UnusedRoute)));
}

#[test]
fn mistakes_in_the_file_name_line_key_and_expectation() {
    let unknown = file_error("drain-timeout = \"5s\"\nlisten = 1\n");
    assert!(unknown.starts_with("proxy.toml:2:1: "), "{unknown}");
    assert!(unknown.contains("`listen`") && unknown.contains("`metrics-listen`"), "{unknown}");

    let value = file_error("[[inbound]]\nlisten = \"here\"\nforward = \"127.0.0.1:1\"\n");
    assert!(value.starts_with("proxy.toml:2:10: `inbound[0].listen`: expected PORT, IP:PORT"), "{value}");

    let both =
        file_error("[[outbound]]\nlisten = \"1\"\npeer = \"spiffe://td/a\"\ndestination = \"original\"\n");
    assert!(both.contains("`outbound[0]`: expected `peer`"), "{both}");

    let id = file_error("[[outbound]]\nlisten = \"127.0.0.1:1\"\npeer = \"orders\"\n");
    assert!(id.starts_with("proxy.toml:3:8: `outbound[0].peer`: "), "{id}");

    let syntax = file_error("inbound = [\n");
    assert!(syntax.starts_with("proxy.toml:"), "{syntax}");
}

#[test]
fn flags_that_cannot_be_read_say_what_was_expected() {
    for (text, expected) in [
        ("15443", "expected [IP:]PORT=IP:PORT"),
        ("15443=8080", "expected IP:PORT such as 127.0.0.1:8080, found `8080`"),
        ("x=127.0.0.1:8080", "expected PORT, IP:PORT or unix:PATH"),
        ("1=127.0.0.1:1,x=y", "expected proxy-protocol-from=CIDR"),
        ("1=127.0.0.1:1,proxy-protocol-from=10.0.0.0/40", "expected addresses such as 10.0.0.0/8"),
    ] {
        let error = text.parse::<Inbound>().unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!("127.0.0.1:1=orders".parse::<Outbound>().unwrap_err().starts_with("`orders`: "));
    assert!("0s".parse::<Timeout>().is_err());
}

#[test]
fn identity_source_is_one_and_whole() {
    let inbound = ["--inbound", "15443=127.0.0.1:8080"];
    assert!(matches!(load(&inbound), Err(ConfigError::NoSource)));
    let both = [&inbound[..], &FILES, &["--join", "x"]].concat();
    assert!(matches!(load(&both), Err(ConfigError::TwoSources("join", "svid-file"))));
    let partial = [&inbound[..], &FILES[..4]].concat();
    assert!(matches!(load(&partial), Err(ConfigError::MissingFile("bundle-file"))));
    let garbage = [&inbound[..], &["--join", "hello"]].concat();
    assert!(matches!(load(&garbage), Err(ConfigError::Ticket { key: "join", error: TicketError::Prefix })));
}

#[test]
fn a_workload_api_is_a_source_by_itself_with_policy_from_a_file() {
    let line = ["--inbound", "15443=127.0.0.1:8080", "--svid-socket", "unix:///run/spire/agent.sock"];
    let policy = ["--policy-file", "policy.yaml", "--spiffe-id", "spiffe://td/orders"];
    let Source::Socket(socket, files) = load(&[&line[..], &policy].concat()).unwrap().source else {
        panic!("another source")
    };
    assert_eq!(socket.path, Path::new("/run/spire/agent.sock"));
    assert_eq!(socket.spiffe_id, Some("spiffe://td/orders".parse().unwrap()));
    assert!(files.identity.is_none() && files.policy.is_some());
    for (with, key) in [(&FILES[..], "svid-file"), (&["--join", "x"], "join"), (&JWT, "attest")] {
        let two = load(&[&line[..], with].concat());
        assert!(matches!(two, Err(ConfigError::TwoSources("svid-socket", other)) if other == key), "{two:?}");
    }
    let far = load(&[&line[..], &["--outbound", "127.0.0.1:1=spiffe://td/a"]].concat());
    assert!(matches!(far, Err(ConfigError::NoAddress { .. })), "{far:?}");
    let apps = ["--workload-api-listen", "unix:/run/app.sock", "--workload-api-caller", "uid=1000"];
    let error = load(&[&line[..], &apps].concat()).unwrap_err().to_string();
    assert!(error.starts_with("`workload-api-listen` goes with `join`"), "{error}");
}

fn ticket(secret: Option<Vec<u8>>) -> String {
    let ticket = signet_proto::ticket::JoinTicket {
        control: vec!["control:8443".into()],
        trust_domain: "prod.example".parse().unwrap(),
        root_sha256: [7; 32],
        other_roots_sha256: Vec::new(),
        secret: secret.map(zeroize::Zeroizing::new),
    };
    ticket.to_string()
}

const JWT: [&str; 2] = ["--attest", "jwt=kubernetes:/run/token"];

fn joining(join: &str, also: &[&str]) -> Result<Joining, ConfigError> {
    let line = [&["--inbound", "15443=127.0.0.1:8080", "--join", join][..], also].concat();
    match load(&line)?.source {
        Source::Control(joining) => Ok(joining),
        other => panic!("{} was not asked for", other.name()),
    }
}

#[test]
fn an_introduction_goes_with_a_proof_and_a_ticket_is_one() {
    let introduction = ticket(None);
    let with_token = joining(&introduction, &JWT).unwrap();
    assert!(
        matches!(with_token.proof, Proof::Attest(Attest::Jwt { attestor, .. }) if attestor == "kubernetes")
    );
    let alone = joining(&introduction, &[]).unwrap_err().to_string();
    assert!(alone.starts_with("`join`: an introduction proves nothing: set `attest`"), "{alone}");

    let secret = ticket(Some(vec![9; 32]));
    assert!(matches!(joining(&secret, &[]).unwrap().proof, Proof::Ticket(_)));
    let x509 = joining(&secret, &["--attest", "x509=devices:a.pem:a.key"]).unwrap();
    assert!(matches!(x509.proof, Proof::Attest(Attest::X509 { .. })), "the secret stays unspent");
}

#[test]
fn a_proof_needs_to_know_where_control_is() {
    let inbound = ["--inbound", "15443=127.0.0.1:8080"];
    for line in [[&inbound[..], &JWT].concat(), [&inbound[..], &FILES, &JWT].concat()] {
        let error = load(&line).unwrap_err().to_string();
        assert!(error.starts_with("`attest` goes with `join` or `join-file`"), "{error}");
    }
}

#[test]
fn a_wish_goes_with_a_proof_and_is_of_the_same_mesh() {
    let introduction = ticket(None);
    let wish = |id| [&JWT[..], &["--spiffe-id", id]].concat();
    let wanted = joining(&introduction, &wish("spiffe://prod.example/orders")).unwrap().spiffe_id;
    assert_eq!(wanted.unwrap().path(), "/orders");
    let elsewhere = joining(&introduction, &wish("spiffe://other.example/orders")).unwrap_err().to_string();
    assert!(elsewhere.starts_with("`spiffe-id`: `spiffe://other.example/orders` is not of"), "{elsewhere}");
    let ticket = ticket(Some(vec![9; 32]));
    let alone = joining(&ticket, &["--spiffe-id", "spiffe://prod.example/orders"]).unwrap_err().to_string();
    assert!(alone.starts_with("`spiffe-id` goes with `attest`"), "{alone}");
}

#[test]
fn proofs_mean_the_same_in_flags_and_file() {
    let read = |text: &str| parse(Path::new("proxy.toml"), text).map_err(|error| error.to_string());
    let jwt = read("[attest]\nkind = \"jwt\"\nattestor = \"kubernetes\"\nfile = \"/run/token\"\n").unwrap();
    assert_eq!(jwt.attest, Some("jwt=kubernetes:/run/token".parse().unwrap()));
    let x509 = "spiffe-id = \"spiffe://td/a\"\nattest = { kind = \"x509\", attestor = \"d\", chain = \"c\", key = \"k\" }";
    assert_eq!(read(x509).unwrap().attest, Some("x509=d:c:k".parse().unwrap()));
    for (wrong, said) in [
        ("[attest]\nkind = \"jwt\"\nattestor = \"k\"\n", "expected `attestor` and `file`"),
        ("[attest]\nkind = \"x509\"\nattestor = \"k\"\nfile = \"f\"\n", "`chain` and `key`"),
        ("[attest]\nkind = \"saml\"\nattestor = \"k\"\n", "`attest.kind`"),
        ("[attest]\nkind = \"jwt\"\nattestor = \"K\"\nfile = \"f\"\n", "attestor's name"),
    ] {
        let error = file_error(wrong);
        assert!(error.starts_with("proxy.toml:") && error.contains(said), "{error}");
    }
}

#[test]
fn listeners_are_needed_and_distinct() {
    assert!(matches!(load(&FILES), Err(ConfigError::NoListener)));
    let twice = [&FILES[..], &["--inbound", "1=127.0.0.1:8080", "--inbound", "1=127.0.0.1:8081"]].concat();
    assert!(matches!(load(&twice), Err(ConfigError::SameAddress(_))));
    let nowhere = [&FILES[..], &["--outbound", "127.0.0.1:1=spiffe://td/a"]].concat();
    assert!(matches!(load(&nowhere), Err(ConfigError::NoAddress { .. })));
}

#[test]
fn a_sealed_copy_needs_its_key_and_an_svid_that_is_not_on_disk_anyway() {
    let inbound = ["--inbound", "15443=127.0.0.1:8080"];
    let error = |more: &[&str]| load(&[&inbound[..], more].concat()).unwrap_err().to_string();
    let ticket = ["--join", "none"];
    let state = ["--state-file", "state"];
    assert!(error(&[&ticket[..], &state].concat()).contains("`state-key`"));
    let key = ["--state-key", "keyring:signet"];
    assert!(error(&[&ticket[..], &key].concat()).contains("`state-file`"));
    assert!(error(&[&FILES[..], &state, &key].concat()).contains("`join`"));
    let gone = ["--state-key", "/nowhere/state.key"];
    let said = error(&[&ticket[..], &state, &gone].concat());
    assert!(said.contains("/nowhere/state.key") && said.contains("head -c 32"), "{said}");
}

#[test]
fn the_end_may_come_without_grace_and_with_a_process() {
    let living = |more: &[&str]| {
        load(&[&["--inbound", "15443=127.0.0.1:8080"][..], &FILES, more].concat()).unwrap().living
    };
    assert_eq!(living(&[]).patience.grace, Duration::from_secs(5));
    let config = living(&["--drain-grace", "0s", "--exit-with-pid", "1", "--allow-quit"]);
    assert_eq!(config.patience.grace, Duration::ZERO);
    assert_eq!(config.exit_with.unwrap(), rustix::process::Pid::INIT);
    assert!(config.allow_quit && !living(&["--allow-quit", "false"]).allow_quit);
    assert!(!config.profiles && living(&["--profiles"]).profiles);
    for (text, key) in [("exit-with-pid = 0", "exit-with-pid"), ("drain-grace = \"-1s\"", "drain-grace")] {
        assert!(file_error(text).contains(key), "{text}");
    }
}

#[test]
fn the_socket_for_apps_needs_rules_and_control() {
    let file = parse(
        Path::new("proxy.toml"),
        "workload-api-listen = \"unix:/run/app.sock\"\n[[workload-api-caller]]\nuid = 1000\ngives = \"bundles\"\n",
    )
    .unwrap();
    assert_eq!(file.workload_api_caller, ["uid=1000,gives=bundles".parse().unwrap()]);
    assert_eq!(file.workload_api_listen, Some("unix:/run/app.sock".parse().unwrap()));
    let tcp = file_error("workload-api-listen = \"127.0.0.1:1\"\n");
    assert!(tcp.contains("`workload-api-listen`: expected unix:PATH"), "{tcp}");

    let app = ["--inbound", "1=127.0.0.1:2"];
    let listen = ["--workload-api-listen", "unix:/run/app.sock"];
    let caller = ["--workload-api-caller", "uid=1000"];
    for (given, key, with) in [
        (&listen[..], "workload-api-listen", "workload-api-caller"),
        (&caller[..], "workload-api-caller", "workload-api-listen"),
        (&[listen, caller].concat()[..], "workload-api-listen", "join"),
    ] {
        let error = load(&[&FILES[..], &app, given].concat()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{key}` goes with")) && error.contains(with), "{error}");
    }
    let twice = ["--outbound", "unix:/run/app.sock=spiffe://td/a@10.0.0.1:1"];
    let same = load(&[&FILES[..], &twice, &listen, &caller].concat());
    assert!(matches!(same, Err(ConfigError::SameAddress(_))), "{same:?}");
}
