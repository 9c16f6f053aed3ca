//! The operators' command line: exit codes, JSON, errors that say what to do, and who may do what.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use signet_tests::PATIENCE;
use signet_tests::apps::RequestApp;
use signet_tests::attest::Joiner;
use signet_tests::client::{Client, Finished};
use signet_tests::mesh::{Mesh, allow, id, parse_json, rows, signet};

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_what_kind_of_failure_it_was() {
    let mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let missing = mesh.directory().join("missing.yaml").display().to_string();

    let cases: [(i32, &[&str]); 14] = [
        (0, &["status"]),
        (0, &["workload", "list"]),
        (0, &["--help"]),
        (0, &["--version"]),
        (1, &["workload", "create", &worker, "--owner", "team-tests", "--purpose", "again"]),
        (1, &["workload", "create", "spiffe://elsewhere.test/x", "--owner", "a", "--purpose", "b"]),
        (2, &["policy", "validate", "-f", &missing]),
        (2, &["no-such-verb"]),
        (2, &["workload", "create", &worker]),
        (2, &["token", "create", &worker, "--ttl", "soon"]),
        (3, &["--control", "unix:/nonexistent/admin.sock", "status"]),
        (4, &["suspend", "spiffe://mesh.test/unknown"]),
        (4, &["token", "create", "spiffe://mesh.test/unknown"]),
        (4, &["policy", "show", "unknown"]),
    ];
    for (expected, arguments) in cases {
        let finished = mesh.signet(arguments).await;
        assert_eq!(finished.code(), expected, "signet {arguments:?}: {}", finished.all());
        if expected != 0 {
            assert!(!finished.stderr.trim().is_empty(), "signet {arguments:?} says why");
            assert!(finished.stdout.is_empty(), "errors go to standard error: {}", finished.stdout);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_names_are_refused_with_what_was_expected() {
    let mesh = Mesh::start().await;
    let malformed = [
        "worker",
        "spiffe://mesh.test",
        "spiffe://mesh.test/",
        "spiffe://mesh.test/a/",
        "spiffe://mesh.test//a",
        "spiffe://mesh.test/../a",
        "spiffe://mesh.test/a b",
        "spiffe://MESH.test/a",
        "spiffe://mesh.test/signet/control",
        "spiffe://mesh.test/signet/anything",
        "https://mesh.test/a",
    ];
    for name in malformed {
        let create = ["workload", "create", name, "--owner", "team-tests", "--purpose", "malformed"];
        let finished = mesh.signet(&create).await;
        assert!([1, 2].contains(&finished.code()), "{name}: {}", finished.all());
        assert!(!finished.stderr.trim().is_empty(), "{name}: it says why");
    }
    assert!(rows(mesh.json(&["workload", "list"]).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_json_on_demand_and_a_table_for_people() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let pair = mesh.pair(&frontend, &web, "http://", app.address).await;

    let lists: [&[&str]; 6] = [
        &["workload", "list"],
        &["identities"],
        &["identities", "--all", &web],
        &["policy", "list"],
        &["audit", "list", "--limit", "5"],
        &["role", "list"],
    ];
    for arguments in lists {
        let _ = rows(mesh.json(arguments).await);
        let table = mesh.signet(arguments).await.succeeded();
        assert!(
            serde_json::from_str::<Value>(&table.stdout).is_err(),
            "{arguments:?}: a table: {}",
            table.stdout
        );
    }
    for arguments in [&["status"][..], &["ca", "status"], &["policy", "show", "web"]] {
        assert!(mesh.json(arguments).await.is_object(), "{arguments:?}");
    }
    let identities = rows(mesh.json(&["identities"]).await);
    assert_eq!(identities.len(), 2);
    for row in &identities {
        assert_eq!((&row["status"], &row["connected"]), (&"active".into(), &true.into()), "{row}");
        assert_eq!(row["owner"], "team-tests", "{row}");
    }
    let one = rows(mesh.json(&["identities", &web]).await);
    assert!(one.len() == 1 && one[0]["spiffe_id"] == web.as_str(), "{one:?}");

    let pem = mesh.signet(&["bundle", "--format", "pem"]).await.succeeded();
    let certificate =
        Client::new("openssl").args(["x509", "-noout", "-text"]).input(pem.stdout).run().await.succeeded();
    assert!(certificate.stdout.contains("CA:TRUE"), "{}", certificate.stdout);
    let jwks = parse_json(&mesh.signet(&["bundle", "--format", "jwks"]).await.succeeded());
    assert_eq!(jwks["keys"][0]["use"], "x509-svid", "{jwks}");
    assert_eq!(jwks["keys"][0]["x5c"].as_array().map(Vec::len), Some(1), "{jwks}");
    drop(pair);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_with_an_unknown_field_is_refused_with_file_line_column_and_key() {
    let mesh = Mesh::start().await;
    let cases = [
        (
            "kind: Policy\nname: web\ntarget: spiffe://mesh.test/web\nrules:\n  - name: a\n    allow:\n      fromm: [spiffe://mesh.test/x]\n",
            7,
            "fromm",
        ),
        ("kind: Policy\nname: web\ntarget: spiffe://mesh.test/web\nrulez: []\n", 4, "rulez"),
        (
            "kind: Policy\nname: web\ntarget: spiffe://mesh.test/web\nrules:\n  - name: a\n    allow: { from: [spiffe://mesh.test/x], ports: [eighty] }\n",
            6,
            "ports",
        ),
        (
            "kind: Policy\nname: web\ntarget: spiffe://mesh.test/web\nrules:\n  - name: a\n    allow:\n      from:\n        - spiffe://mesh.test/x\n        - spiffe://mesh.test//y\n",
            9,
            "from",
        ),
        ("kind: Polizei\nname: web\ntarget: spiffe://mesh.test/web\nrules: []\n", 1, "kind"),
        ("kind: Policy\nname: web\ntarget: web\nrules: []\n", 3, "target"),
    ];
    for (yaml, line, key) in cases {
        let path = mesh.policy_file(yaml).display().to_string();
        for verb in ["validate", "apply"] {
            let finished = mesh.signet(&["policy", verb, "-f", &path]).await;
            assert_eq!(finished.code(), 1, "{verb}: {}", finished.all());
            let place = format!("policy.yaml:{line}:");
            assert!(finished.stderr.contains(&place), "{verb} names {place}: {}", finished.stderr);
            assert!(finished.stderr.contains(key), "{verb} names {key}: {}", finished.stderr);
        }
    }
    assert!(rows(mesh.json(&["policy", "list"]).await).is_empty(), "nothing was applied");

    let good = mesh.policy_file(&allow("web", &id("/web"), &[&id("/frontend")])).display().to_string();
    let _ = mesh.signet(&["policy", "validate", "-f", &good]).await.succeeded();
    assert!(rows(mesh.json(&["policy", "list"]).await).is_empty(), "validation applies nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_predicts_what_the_proxies_do() {
    let mesh = Mesh::start().await;
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&format!(
        "kind: Policy\nname: web\ntarget: {web}\nrules:\n  - name: reads\n    allow: {{ from: [{frontend}], http: {{ methods: [GET] }} }}\n"
    ))
    .await;
    let explain = async |source: &str, method: &str| {
        mesh.json(&["explain", source, &web, "--port", "8080", "--method", method, "--path", "/"]).await
    };

    let allowed = explain(&frontend, "GET").await;
    assert_eq!((&allowed["allowed"], &allowed["rule"]), (&true.into(), &"reads".into()), "{allowed}");
    let method = explain(&frontend, "POST").await;
    assert_eq!(method["allowed"], false, "{method}");
    assert!(method["explanation"].as_str().unwrap().contains("reads"), "the nearest miss: {method}");
    let stranger = explain(&id("/stranger"), "GET").await;
    assert_eq!(stranger["allowed"], false, "{stranger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_verbs() {
    let script = signet().args(["completion", "bash"]).run().await.succeeded();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = signet_tests::client::file(directory.path(), "signet.bash", &script.stdout);
    let ask = format!(
        "set -e; source {}; COMP_WORDS=(signet workload cre); COMP_CWORD=2; _signet signet cre workload; echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    let finished = Client::new("bash").args(["--noprofile", "--norc", "-c", &ask]).run().await.succeeded();
    assert_eq!(finished.stdout.trim(), "create", "{}", finished.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mutual_tls_only_a_granted_identity_administers() {
    let mut mesh = Mesh::start().await;
    let operator = id("/people/ada");
    mesh.workload(&operator).await;
    let home = mesh.directory().join("ada");
    let ticket = mesh.ticket(&operator).await;
    let ada = |control: &str| {
        signet()
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("SIGNET_CONTROL", control)
    };
    let _ = ada("unix:/nonexistent").args(["login", &ticket]).run().await.succeeded();
    let key = fs::metadata(home.join(".config/signet/key.pem")).expect("the key is written");
    assert_eq!(key.permissions().mode() & 0o777, 0o600, "for nobody else to read");
    let control = mesh.grpc.to_string();
    let remotely = async |arguments: &[&str]| -> Finished { ada(&control).args(arguments).run().await };

    let denied = remotely(&["status"]).await;
    assert_eq!(denied.code(), 5, "{}", denied.all());
    let create = ["workload", "create", "spiffe://mesh.test/new", "--owner", "ada", "--purpose", "none"];
    assert_eq!(remotely(&create).await.code(), 5);

    let elsewhere = id("/other/*");
    let _ = mesh.signet(&["role", "grant", "operator", &operator, "--on", &elsewhere]).await.succeeded();
    let denied = remotely(&create).await;
    assert_eq!(denied.code(), 5, "not below /other: {}", denied.all());
    assert!(denied.stderr.contains("signet role grant operator"), "it says what helps: {}", denied.all());
    let _ = mesh.signet(&["role", "grant", "admin", &operator]).await.succeeded();
    let _ = remotely(&create).await.succeeded();
    let events = rows(mesh.json(&["audit", "list", "--subject", "spiffe://mesh.test/new"]).await);
    assert!(events.iter().any(|event| event["actor"].as_str().unwrap().contains(&operator)), "{events:?}");

    let roles = rows(mesh.json(&["role", "list"]).await);
    let roles: Vec<_> = roles.iter().map(|row| (row["role"].as_str(), row["scope"].as_str())).collect();
    assert_eq!(roles, [(Some("admin"), Some("everything")), (Some("operator"), Some(&*elsewhere))]);

    let _ = mesh.signet(&["role", "withdraw", "admin", &operator]).await.succeeded();
    assert_eq!(remotely(&["status"]).await.code(), 5);

    // Without credentials there is nobody to grant anything to.
    let anonymous = signet()
        .env("SIGNET_CONTROL", mesh.grpc.to_string())
        .env("HOME", "/nonexistent")
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .args(["status"])
        .run()
        .await;
    assert!([1, 5].contains(&anonymous.code()), "{}", anonymous.all());

    mesh.kill_control().await;
    assert_eq!(remotely(&["status"]).await.code(), 3, "control is unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_machine_does_not_administer() {
    const NOBODY: u32 = 65_534;
    assert!(rustix::process::geteuid().is_root(), "this scenario needs root, to be somebody else");
    let mesh = Mesh::start().await;

    let denied = mesh.command(&["status"]).as_user(NOBODY).run().await;

    assert_eq!(denied.code(), 5, "{}", denied.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_and_a_forged_record_is_found() {
    let mut mesh = Mesh::start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let ticket = mesh.ticket(&worker).await;
    Joiner::connect(mesh.grpc, &ticket).await.unwrap().join().await.unwrap();
    mesh.policy(&allow("worker", &worker, &[&worker])).await;
    let _ = mesh.signet(&["revoke", &worker, "--reason", "exercise"]).await.succeeded();
    let _ = mesh.signet(&["policy", "delete", "worker"]).await.succeeded();
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    let _ = mesh.signet(&["retire", &worker]).await.succeeded();

    let events = rows(mesh.json(&["audit", "list", "--limit", "1000"]).await);
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    println!("audit: {actions:?}");
    assert!(events.len() >= 8, "one event for each change: {actions:?}");
    assert!(
        events.iter().any(|event| event["detail"].to_string().contains("exercise")),
        "the reason is kept"
    );
    let text = serde_json::to_string(&events).unwrap();
    assert!(!text.contains(&ticket[20..60]), "no secret is in the audit");
    mesh.verify_audit().await;

    // Whoever can write to the disk cannot rewrite history unnoticed.
    mesh.control.terminate();
    assert!(mesh.control.exit(PATIENCE).await.success(), "SIGTERM ends control in order");
    forge(&mesh).await;
    mesh.restart_control().await;
    let verified = mesh.signet(&["audit", "verify"]).await;
    assert_eq!(verified.code(), 1, "{}", verified.all());
}

/// Rewrites history the way somebody would who has the disk and a database shell.
async fn forge(mesh: &Mesh) {
    let store = fs::read_dir(mesh.data())
        .expect("the data directory")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0")))
        .expect("the embedded store");
    let statements = "drop trigger audit_is_not_changed; \
        update audit set detail = replace(detail, 'exercise', 'practice'); select changes();";
    let forged = Client::new("sqlite3").arg(store).arg(statements).run().await.succeeded();
    assert_ne!(forged.stdout.trim(), "0", "there is something to forge");
}
