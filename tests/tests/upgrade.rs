//! Living with an app: started in order, ended with its job, replaced by a new process under load, and back after a
//! restart while control is down.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use signet_tests::apps::{Nginx, Postgres, RequestApp, TcpEcho};
use signet_tests::binaries::binaries;
use signet_tests::client::{Client, curl, curl_get, noise, pgbench};
use signet_tests::disk::SmallDisk;
use signet_tests::logs::is_message;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::proxy::Proxy;
use signet_tests::report::{measured, pgbench_without_failures, wrk_without_failures};
use signet_tests::sockets::{EchoConnection, free_address};
use signet_tests::{PATIENCE, eventually};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn new_processes_take_over_under_wrk_and_pgbench_without_one_error() {
    const UPGRADES: usize = 3;
    let (mesh, nginx, postgres) = (Mesh::start().await, Nginx::start().await, Postgres::start().await);
    let (caller_id, web_id, ledger_id) = (id("/frontend"), id("/web"), id("/ledger"));
    for workload in [&caller_id, &web_id, &ledger_id] {
        mesh.workload(workload).await;
    }
    let policies = [allow("web", &web_id, &[&caller_id]), allow("ledger", &ledger_id, &[&caller_id])];
    mesh.policy(&policies.join("---\n")).await;
    let web = mesh.proxy(&web_id).await.inbound("http://", nginx.address);
    let mut web = upgradable(web).start().await;
    let ledger = mesh.proxy(&ledger_id).await.inbound("tcp://", postgres.address);
    let mut ledger = upgradable(ledger).start().await;
    let caller = mesh.proxy(&caller_id).await.outbound("http://", &web_id).outbound("tcp://", &ledger_id);
    let mut caller = upgradable(caller).start().await;
    nginx.serve("page", noise(1024));
    let (pages, rows) = (caller.outbounds()[0], caller.outbounds()[1]);
    let _ = pgbench(rows, &["-i", "-q", "-s", "1"]).run().await.succeeded();

    let url = format!("http://{pages}/files/page");
    let requests =
        Client::new("wrk").args(["-t", "2", "-c", "16", "-d", "25s", &url]).limit(PATIENCE * 3).start();
    let kept = pgbench(rows, &["-n", "-T", "25", "-c", "4", "-R", "100"]).limit(PATIENCE * 3).start();
    let new = pgbench(rows, &["-n", "-C", "-T", "25", "-c", "2", "-R", "40"]).limit(PATIENCE * 3).start();
    let mut replaced = Vec::new();
    for _ in 0..UPGRADES {
        for proxy in [&mut web, &mut ledger, &mut caller] {
            replaced.push(proxy.upgrade().await);
            assert_eq!(proxy.readyz().await.status, 200);
        }
    }
    assert!(!requests.is_finished() && !kept.is_finished() && !new.is_finished(), "the load runs");

    let what = format!("over {} upgrades in place", replaced.len());
    measured(&format!("wrk requests {what}, 0 failed"), wrk_without_failures(requests.finish().await));
    measured(
        &format!("pgbench transactions on kept connections {what}, 0 failed"),
        pgbench_without_failures(kept.finish().await),
    );
    measured(
        &format!("pgbench transactions, each on a new connection, {what}, 0 failed"),
        pgbench_without_failures(new.finish().await),
    );
    for mut old in replaced {
        assert_eq!(old.exit(PATIENCE).await.code(), Some(0), "it ends with its last connection");
    }
    // What was handed over is still one mesh: control's changes reach the newest process.
    mesh.policy(&allow("web", &web_id, &[&id("/nobody")])).await;
    let answer = curl_get(pages, "/files/page").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 403"), "{}", answer.stdout);
}

/// A loss of right reaches what is left with the process that was replaced; a new process that fails changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_to_take_over_changes_nothing_and_what_was_replaced_still_cuts() {
    let (mut mesh, echo) = (Mesh::start().await, TcpEcho::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    let server = mesh.proxy(&web).await.inbound("tcp://", echo.address).with("--allow-quit", "true");
    let mut server = upgradable(server).start().await;
    let caller = mesh.proxy(&frontend).await.outbound("tcp://", &web).start().await;
    let mut kept = EchoConnection::open(caller.outbound()).await;
    let works = async |caller: &Proxy| {
        EchoConnection::open(caller.outbound()).await.ping().await.expect("it serves");
    };

    // One that cannot run: a port is taken.
    let taken = format!("{}=tcp://{}", caller.outbound(), free_address());
    let mut broken = server.start_again_with("--inbound", &taken);
    assert_eq!(broken.exit(PATIENCE).await.code(), Some(1));
    server.counts("signet_upgrades_total", &[("result", "failed")], 1).await;
    works(&caller).await;
    // One that never gets a certificate, and dies.
    mesh.kill_control().await;
    let mut stuck = server.start_again();
    stuck
        .wait_for_log("it cannot join yet", |event| is_message(event, "cannot join yet, will try again"))
        .await;
    stuck.kill().await;
    server.counts("signet_upgrades_total", &[("result", "failed")], 2).await;
    assert_eq!(server.readyz().await.status, 200);
    works(&caller).await;
    mesh.restart_control().await;
    server.counts("signet_control_connected", &[], 1).await;
    kept.ping().await.expect("nothing was cut");

    // One by signal, from the program on disk.
    server.process.expect_end();
    server.process.start_successor();
    let took = |event: &serde_json::Value| is_message(event, "took over from the running proxy");
    server.process.wait_for_log("it takes over", took).await;
    works(&caller).await;
    kept.ping().await.expect("what is open stays where it is");
    mesh.policy(&allow("web", &web, &[&id("/nobody")])).await;
    timeout(PATIENCE, kept.closed()).await.expect("the replaced process hears of it, too");
    server.access(&[("close_reason", "policy_lost")]).await;

    // Both end: the replaced one by itself, the other when it is told to.
    quit(&server).await;
    assert_eq!(server.process.exit(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_ends_with_its_job_or_when_it_is_told_and_is_waited_for_at_the_start() {
    let (mut mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let web = id("/web");
    mesh.workload(&web).await;
    let mut job = Command::new("cat").stdin(Stdio::piped()).spawn().expect("a job");
    let beside = mesh.proxy(&web).await.inbound("http://", app.address);
    let beside = beside.with("--exit-with-pid", job.id());
    let told = mesh.proxy(&web).await.inbound("http://", app.address).with("--allow-quit", "true");
    mesh.kill_control().await;
    let mut beside = beside.start_unready().await;
    let wait = |limit: &str| {
        let health = beside.admin.to_string();
        Client::at(&binaries().proxy).args([
            "wait",
            "--health",
            &health,
            "--timeout",
            limit,
            "--",
            "echo",
            "started",
        ])
    };
    let gave_up = wait("100ms").run().await;
    assert_eq!(gave_up.code(), 1);
    assert!(gave_up.stderr.contains("identity: no SVID yet"), "it says what is missing: {}", gave_up.stderr);
    let waiting = wait("60s").start();
    mesh.restart_control().await;
    assert_eq!(waiting.finish().await.succeeded().stdout, "started\n", "the app runs in its place");
    beside.become_ready().await;
    drop(job.stdin.take());
    job.wait().expect("it ends");
    assert_eq!(beside.process.exit(PATIENCE).await.code(), Some(0), "and so does its proxy");

    let mut told = told.start().await;
    quit(&told).await;
    assert_eq!(told.process.exit(PATIENCE).await.code(), Some(0));
    let not_allowed = mesh.proxy(&web).await.inbound("http://", app.address).start().await;
    assert_eq!(ask_to_quit(&not_allowed).await, "403");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_proxy_says_so_and_serves_who_has_not_heard() {
    let (mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, web) = (id("/frontend"), id("/web"));
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    mesh.workload(&frontend).await;
    mesh.workload(&web).await;
    let server = mesh.proxy(&web).await.inbound("http://", app.address).start().await;
    let caller = mesh.proxy(&frontend).await.outbound("http://", &format!("{web}@{}", server.inbound()));
    let mut caller = caller.with("--drain-grace", "3s").start().await;
    let first = curl_get(caller.outbound(), "/").await;
    assert!(!first.stdout.to_lowercase().contains("connection: close"), "{}", first.stdout);

    caller.process.terminate();
    caller
        .process
        .wait_for_log("it leaves", |event| {
            is_message(event, "leaving: told to all who ask, and still accepting")
        })
        .await;
    assert_eq!(caller.readyz().await.status, 503);
    let late = curl().args(["--include", &format!("http://{}/", caller.outbound())]).run().await.succeeded();
    assert!(late.stdout.starts_with("HTTP/1.1 200"), "{}", late.stdout);
    assert!(late.stdout.to_lowercase().contains("connection: close"), "it is told: {}", late.stdout);
    assert_eq!(caller.process.exit(PATIENCE).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_restarts_while_control_is_down_and_serves_by_what_was_sealed_until_its_svid_ends() {
    let (mut mesh, app) = (Mesh::start().await, RequestApp::start().await);
    let (frontend, intruder, web) = (id("/frontend"), id("/intruder"), id("/web"));
    for workload in [&frontend, &intruder] {
        mesh.workload(workload).await;
    }
    mesh.short_lived_workload(&web, "30s").await;
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let (keys, inbound) = (tempfile::tempdir().unwrap(), free_address());
    let (key, sealed) = (state_key(&keys), keys.path().join("state"));
    let server = mesh.proxy(&web).await.with("--inbound", format!("{inbound}=http://{}", app.address));
    let server = server.with("--state-file", sealed.display()).with("--state-key", key.display());
    let mut server = server.start().await;
    let peer = format!("{web}@{inbound}");
    let caller = mesh.proxy(&frontend).await.outbound("http://", &peer).start().await;
    let stranger = mesh.proxy(&intruder).await.outbound("http://", &peer).start().await;
    assert_eq!((status(&caller).await, status(&stranger).await), ("200".into(), "403".into()));
    eventually("it is sealed", PATIENCE, async || match sealed.exists() {
        true => Ok(()),
        false => Err("no file yet".to_owned()),
    })
    .await;

    // The ticket is spent: with control there, it goes on as who it was. Killed whenever, also while it writes.
    for _ in 0..3 {
        server.process.kill().await;
        server.restart().await;
    }
    let instances = mesh.identities().await.iter().filter(|row| row["spiffe_id"] == web.as_str()).count();
    assert_eq!(instances, 1, "it is the same instance");

    mesh.kill_control().await;
    server.process.kill().await;
    server.restart().await;
    assert_eq!(server.metrics().await.count("signet_state_restored", &[]), 1);
    let ready = server.readyz().await;
    assert!(ready.body.contains("control has not answered"), "{}", ready.body);
    assert_eq!((status(&caller).await, status(&stranger).await), ("200".into(), "403".into()));

    // Changed by a bit, it is refused; put back, it is good until the SVID in it ends.
    server.process.kill().await;
    let good = std::fs::read(&sealed).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&sealed, bad).unwrap();
    let mut refused = server.start_again();
    let said =
        refused.wait_for_log("it refuses the copy", |event| is_message(event, "the sealed copy is not used"));
    let said = said.await.to_string();
    assert!(said.contains(&sealed.display().to_string()) && said.contains("does not open"), "{said}");
    refused.kill().await;
    std::fs::write(&sealed, good).unwrap();
    server.restart().await;
    eventually("its SVID ends", PATIENCE * 2, async || match server.readyz().await {
        ready if ready.status == 503 && ready.body.contains("the SVID has ended") => Ok(()),
        ready => Err(ready.body),
    })
    .await;
    // A certificate is good to the end of the second that it names.
    eventually("nothing is served beyond its end", PATIENCE, async || match status(&caller).await {
        status if status == "200" => Err(status),
        _ => Ok(()),
    })
    .await;
}

/// With nothing to write to, the proxy serves and says so; the copy from before is whole; with room it is the newest.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_sealed_copy_costs_its_age_and_nothing_else() {
    let (mut mesh, app, disk) = (Mesh::start().await, RequestApp::start().await, SmallDisk::of_megabytes(1));
    let (frontend, late, web) = (id("/frontend"), id("/late"), id("/web"));
    for workload in [&frontend, &late, &web] {
        mesh.workload(workload).await;
    }
    mesh.policy(&allow("web", &web, &[&frontend])).await;
    let (keys, inbound) = (tempfile::tempdir().unwrap(), free_address());
    let key = state_key(&keys);
    let sealed = disk.path().join("state");
    let server = mesh.proxy(&web).await.with("--inbound", format!("{inbound}=http://{}", app.address));
    let server = server.with("--state-file", sealed.display()).with("--state-key", key.display());
    let mut server = server.start().await;
    let peer = format!("{web}@{inbound}");
    let caller = mesh.proxy(&frontend).await.outbound("http://", &peer).start().await;
    let newcomer = mesh.proxy(&late).await.outbound("http://", &peer).start().await;
    let statuses = async || (status(&caller).await, status(&newcomer).await);
    let written = async |proxy: &Proxy, result: &str, least: u64| {
        eventually(&format!("{least} {result} writes"), PATIENCE, async || {
            match proxy.metrics().await.count("signet_state_writes_total", &[("result", result)]) {
                count if count >= least => Ok(count),
                count => Err(count.to_string()),
            }
        })
        .await
    };
    let _ = written(&server, "success", 1).await;
    eventually("it holds what control said", PATIENCE, async || match statuses().await {
        (old, new) if old == "200" && new == "403" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let before = std::fs::read(&sealed).unwrap();

    disk.fill();
    mesh.policy(&allow("web", &web, &[&frontend, &late])).await;
    let _ = written(&server, "failed", 1).await;
    let said = |event: &serde_json::Value| {
        signet_tests::logs::field(event, "message").starts_with("cannot keep the sealed copy")
    };
    let said = server.process.wait_for_log("it says so", said).await.to_string();
    assert!(said.contains(&sealed.display().to_string()), "which file: {said}");
    assert_eq!(statuses().await, ("200".into(), "200".into()), "it serves, by the new policy");
    assert_eq!(std::fs::read(&sealed).unwrap(), before, "the copy from before is as it was");
    assert!(!disk.path().join("state.new").exists(), "nothing half written is left");

    // That copy is good for a start, by what was known then.
    mesh.kill_control().await;
    server.process.kill().await;
    server.restart().await;
    assert_eq!(server.metrics().await.count("signet_state_restored", &[]), 1);
    assert_eq!(statuses().await, ("200".into(), "403".into()));

    // Control tells the rest, which finds room in the end.
    mesh.restart_control().await;
    eventually("control's word counts again", PATIENCE, async || match statuses().await {
        (old, new) if old == "200" && new == "200" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let _ = written(&server, "failed", 1).await;
    disk.free();
    let _ = written(&server, "success", 1).await;
    server
        .process
        .wait_for_log("it says so", |event| is_message(event, "the sealed copy is kept again, as of now"))
        .await;
    assert_ne!(std::fs::read(&sealed).unwrap(), before, "it is the newest now");
    mesh.kill_control().await;
    server.process.kill().await;
    server.restart().await;
    assert_eq!(statuses().await, ("200".into(), "200".into()));
}

/// A file with a key for sealed copies.
fn state_key(directory: &tempfile::TempDir) -> std::path::PathBuf {
    let key = directory.path().join("state.key");
    std::fs::write(&key, noise(32)).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    key
}

/// The status of an answer to the app beside a proxy.
async fn status(proxy: &Proxy) -> String {
    let answer = curl_get(proxy.outbound(), "/").await.stdout;
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn upgradable(builder: signet_tests::proxy::ProxyBuilder) -> signet_tests::proxy::ProxyBuilder {
    builder.with("--upgrade-socket", "upgrade.sock").with("--drain-grace", "1s")
}

/// The status of the answer.
async fn ask_to_quit(proxy: &Proxy) -> String {
    let admin = proxy.process.wait_for_log("the admin listener", |event| {
        is_message(event, "listening") && signet_tests::logs::field(event, "direction") == "admin"
    });
    let url = format!("http://{}/quit", signet_tests::logs::field(&admin.await, "address"));
    let asked =
        curl().args(["--request", "POST", "--header", "signet-admin: yes", "--write-out", "%{http_code}"]);
    asked.args(["--output", "/dev/null", &url]).run().await.stdout
}

async fn quit(proxy: &Proxy) {
    eventually("it is told to quit", PATIENCE, async || match ask_to_quit(proxy).await {
        status if status == "200" => Ok(()),
        status => Err(status),
    })
    .await;
}
