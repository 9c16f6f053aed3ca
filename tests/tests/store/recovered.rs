//! After each disaster `signet-control recover` says what is lost, does what is safe, and control runs again: authorities
//! that ended, a clock that went back, keys without a store, a store without keys; on both engines, and with the keys in a
//! token.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use signet_tests::attest::Joiner;
use signet_tests::client::{Finished, psql_at};
use signet_tests::clock::Clock;
use signet_tests::mesh::{Mesh, Store, TRUST_DOMAIN, id};
use signet_tests::token::Token;
use signet_tests::{PATIENCE, eventually, on_both_engines};

const DAY: u64 = 24 * 3600;

on_both_engines!(after_each_disaster_control_runs_again_and_it_is_said_who_has_to_do_what);

async fn after_each_disaster_control_runs_again_and_it_is_said_who_has_to_do_what(store: Store) {
    let clock = Clock::default();
    let days_on = |days| clock.set_ahead(Duration::from_secs(days * DAY));
    let mut mesh = Mesh::on(store).by(&clock).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let ticket = mesh.ticket(&worker).await;
    let joined = Joiner::connect(mesh.grpc, &ticket).await.unwrap().become_instance().await.unwrap();

    // Nothing is wrong: nothing is done, and a root that is good is not given up.
    mesh.kill_control().await;
    let well = recover(&mesh, &["--new-root"]).await.succeeded().stdout;
    assert!(well.contains("not done, as the root is good until"), "{well}");
    assert!(well.contains("by join_token: 1 of 1 hold an SVID that is good"), "{well}");

    // Away for longer than the intermediate lives: control would replace it by itself, and so does this.
    days_on(40);
    let late = recover(&mesh, &[]).await.succeeded().stdout;
    assert!(late.contains("another one was made below the same root"), "{late}");
    assert!(late.contains(&format!("next: signet token create {worker}")), "{late}");
    let again = recover(&mesh, &[]).await.succeeded().stdout;
    assert!(!again.contains("done:"), "{again}");
    days_on(80);
    mesh.restart_control().await;

    // The root: it is warned of while there is time.
    days_on(3600);
    if store == Store::Postgres {
        // Who sees another time than the database does not lead: it replaces an intermediate when it starts, only.
        mesh.kill_control().await;
        mesh.restart_control().await;
    }
    eventually("the end of the root is warned of", PATIENCE, async || match mesh.readiness().await {
        (200, told) if told.contains("warning: the root ends in") => Ok(()),
        (status, told) => Err(format!("{status}: {told}")),
    })
    .await;
    mesh.kill_control().await;
    days_on(3700);
    let refused = mesh.attempt().run().await;
    assert!(refused.code() != 0 && refused.all().contains("signet-control recover"), "{}", refused.all());
    let ended = recover(&mesh, &[]).await;
    assert_eq!(ended.code(), 1, "{}", ended.all());
    assert!(ended.stdout.contains("nobody is believed by it"), "{}", ended.stdout);
    assert!(ended.stdout.contains("recover --new-root"), "{}", ended.stdout);
    let anew = recover(&mesh, &["--new-root"]).await.succeeded().stdout;
    assert!(anew.contains("another root and intermediate sign"), "{anew}");
    assert!(anew.contains(&format!("next: signet token create {worker}")), "{anew}");
    mesh.restart_control().await;
    let ticket = mesh.ticket(&worker).await;
    let rejoined = Joiner::connect(mesh.grpc, &ticket).await.unwrap().become_instance().await.unwrap();
    assert_ne!(rejoined.svid.instance, joined.svid.instance);

    // The clock goes back to where all of this has not been yet, and forth again.
    let backup = mesh.directory().join("signet.backup").display().to_string();
    let _ = mesh.upkeep(&["backup", "--out", &backup]).run().await.succeeded();
    mesh.kill_control().await;
    days_on(0);
    let back = recover(&mesh, &[]).await;
    assert_eq!(back.code(), 1, "{}", back.all());
    assert!(back.stdout.contains("behind the newest audit event"), "{}", back.stdout);
    assert!(back.stdout.contains("if the clock above is wrong, set it right"), "{}", back.stdout);
    days_on(3700);
    let _ = recover(&mesh, &[]).await.succeeded();

    // A store without its keys: all that is registered is saved.
    let (seal, aside) = (seal_key(&mesh), mesh.directory().join("aside.key"));
    fs::rename(&seal, &aside).unwrap();
    let keyless = recover(&mesh, &[]).await;
    assert_eq!(keyless.code(), 1, "{}", keyless.all());
    assert!(keyless.stdout.contains("bring the seal key back"), "{}", keyless.stdout);
    let documents = fs::read_to_string(mesh.data().join("recovered.yaml")).unwrap();
    assert!(documents.contains(&format!("id: {worker}")), "{documents}");
    fs::rename(&aside, &seal).unwrap();

    // Keys without their store.
    lose_store(&mesh).await;
    let storeless = recover(&mesh, &[]).await;
    assert_eq!(storeless.code(), 1, "{}", storeless.all());
    assert!(storeless.stdout.contains("restore --from BACKUP"), "{}", storeless.stdout);
    assert!(!mesh.data().join("signet.db").exists(), "looking makes no store");
    if store == Store::Postgres {
        assert!(mesh.select("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await.is_empty());
    }
    let _ = mesh.upkeep(&["restore", "--from", &backup]).run().await.succeeded();
    let _ = recover(&mesh, &[]).await.succeeded();
    mesh.restart_control().await;
    let known = mesh.identities().await;
    assert!(known.iter().any(|row| row["instance"] == rejoined.svid.instance.as_str()), "{known:?}");
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_a_token_are_lost_with_it_and_come_back_with_it() {
    let mut token = Token::start().await;
    let clock = Clock::default();
    let uri = token.uri();
    let keys = ["--ca-key", uri.as_str()];
    let mut mesh =
        Mesh::on(Store::Sqlite).options(&keys).environment(token.environment()).by(&clock).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let ticket = mesh.ticket(&worker).await;
    let joined = Joiner::connect(mesh.grpc, &ticket).await.unwrap().become_instance().await.unwrap();
    let backup = mesh.directory().join("signet.backup").display().to_string();
    let _ = mesh.upkeep(&["backup", "--out", &backup]).run().await.succeeded();
    token.is_backed_up("kept");
    mesh.kill_control().await;
    let well = recover(&mesh, &keys).await.succeeded().stdout;
    assert!(well.contains("root: good until"), "{well}");

    // It is away: what is registered is saved, and what to bring is said.
    token.goes_away().await;
    let away = recover(&mesh, &keys).await;
    assert_eq!(away.code(), 1, "{}", away.all());
    for told in ["is not there", "next: bring the token back", "the last SVID ends", "signet apply -f"] {
        assert!(away.stdout.contains(told), "{told}: {}", away.all());
    }
    let documents = fs::read_to_string(mesh.data().join("recovered.yaml")).unwrap();
    assert!(documents.contains(&format!("id: {worker}")), "{documents}");
    token.serve().await;
    let _ = recover(&mesh, &keys).await.succeeded();

    // It was erased: another one of that name is not it.
    token.is_erased().await;
    let erased = recover(&mesh, &keys).await;
    assert_eq!(erased.code(), 1, "{}", erased.all());
    assert!(erased.stdout.contains("next: bring the token back"), "{}", erased.all());
    let refused = mesh.attempt().run().await;
    assert_ne!(refused.code(), 0, "what it cannot sign it should not promise: {}", refused.all());
    token.restores("kept").await;
    let _ = recover(&mesh, &keys).await.succeeded();

    // The store is lost: with a backup and the token all is there.
    lose_store(&mesh).await;
    let storeless = recover(&mesh, &keys).await;
    assert_eq!(storeless.code(), 1, "{}", storeless.all());
    assert!(storeless.stdout.contains("keys of authorities are in a token"), "{}", storeless.stdout);
    assert!(storeless.stdout.contains("restore --from BACKUP"), "{}", storeless.stdout);
    let _ = mesh.upkeep(&["restore", "--from", &backup]).run().await.succeeded();
    let _ = recover(&mesh, &keys).await.succeeded();
    mesh.restart_control().await;
    assert!(mesh.identities().await.iter().any(|row| row["instance"] == joined.svid.instance.as_str()));
    assert_eq!(token.keys().await.len(), 2, "a store that is restored destroys nothing");
    mesh.kill_control().await;

    // The root has ended: another one is made in the token.
    clock.set_ahead(Duration::from_secs(3700 * DAY));
    let ended = recover(&mesh, &keys).await;
    assert!(ended.code() == 1 && ended.stdout.contains("recover --new-root"), "{}", ended.all());
    let anew = recover(&mesh, &[&keys[..], &["--new-root"]].concat()).await.succeeded().stdout;
    assert!(anew.contains("another root and intermediate sign"), "{anew}");
    assert_eq!(token.keys().await.len(), 4, "the keys before sign lists as long as something hangs on them");
    mesh.restart_control().await;
    let ticket = mesh.ticket(&worker).await;
    let rejoined = Joiner::connect(mesh.grpc, &ticket).await.unwrap().become_instance().await.unwrap();
    assert_ne!(rejoined.svid.instance, joined.svid.instance);
    mesh.verify_audit().await;
}

/// Of control that does not run.
async fn lose_store(mesh: &Mesh) {
    match &mesh.database {
        Some(database) => {
            let empty = "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION signet";
            let _ = psql_at(database.socket(), database.port(), "signet", empty).run().await.succeeded();
        }
        None => {
            for part in ["signet.db", "signet.db-wal", "signet.db-shm"] {
                let _ = fs::remove_file(mesh.data().join(part));
            }
        }
    }
}

/// Replicas share one.
fn seal_key(mesh: &Mesh) -> PathBuf {
    match &mesh.database {
        Some(_) => mesh.directory().join("../seal.key"),
        None => mesh.data().join("seal.key"),
    }
}

async fn recover(mesh: &Mesh, options: &[&str]) -> Finished {
    let seal_key = seal_key(mesh).display().to_string();
    let options = [&["recover", "--trust-domain", TRUST_DOMAIN, "--seal-key-file", &seal_key], options];
    mesh.upkeep(&options.concat()).run().await
}
