//! A service that is split between two identities, request by request and connection by connection.

use std::time::Duration;

use signet_tests::apps::TcpEcho;
use signet_tests::client::Client;
use signet_tests::logs::{field, is_access};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::report::{hey_without_failures, measured};
use signet_tests::sockets::{EchoConnection, send_and_read};
use signet_tests::{PATIENCE, eventually};

use super::worker::Worker;

fn split(virtual_id: &str, legs: [(&str, u32); 2]) -> String {
    let leg = |(to, weight): (&str, u32)| format!("  - {{ to: {to}, weight: {weight} }}\n");
    format!("kind: Service\nid: {virtual_id}\nsplit:\n{}", legs.map(leg).concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_part_of_ten_thousand_requests_within_two_percent() {
    let mesh = Mesh::start().await;
    let (frontend, stable, canary) = (id("/frontend"), id("/web"), id("/web-canary"));
    for workload in [&frontend, &stable, &canary] {
        mesh.workload(workload).await;
    }
    mesh.policy(&format!(
        "{}---\n{}",
        allow("web", &stable, &[&frontend]),
        allow("canary", &canary, &[&frontend])
    ))
    .await;
    let (old, new) = (Worker::start("stable").await, Worker::start("canary").await);
    let beside =
        async |id: &str, app: &Worker| mesh.proxy(id).await.inbound("http://", app.address).start().await;
    let (_old_proxy, new_proxy) = (beside(&stable, &old).await, beside(&canary, &new).await);
    let caller = mesh.proxy(&frontend).await.outbound("http://", &stable).start().await;
    let url = format!("http://{}/", caller.outbound());
    let hey = |count: &str| Client::new("hey").args(["-n", count, "-c", "20", &url]);
    assert_eq!(hey_without_failures(hey("100").run().await), 100);
    assert_eq!(new.requests(), 0, "nobody asked for a split yet");

    // Whoever is called by the name of the stable one gets the split, and learns of the canary for it.
    mesh.apply(&split(&stable, [(&stable, 90), (&canary, 10)])).await;
    eventually("the canary is called", PATIENCE, async || {
        let _ = Client::new("curl").args(["--silent", &url]).run().await;
        if new.requests() > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let before = (old.requests(), new.requests());
    assert_eq!(hey_without_failures(hey("10000").run().await), 10_000);
    let (to_old, to_new) = (old.requests() - before.0, new.requests() - before.1);
    measured("requests of 10,000 to a canary of 10 %", to_new);
    assert_eq!(to_old + to_new, 10_000);
    assert!((800..=1200).contains(&to_new), "{to_new} of 10,000");
    let line = caller.access(&[("destination", &canary)]).await;
    assert_eq!(field(&line, "status"), "200", "{line}");

    // The callee's policy decides as ever, whoever sent the request there.
    mesh.policy(&format!("kind: Policy\nname: canary\ntarget: {canary}\nrules: []\n")).await;
    mesh.apply(&split(&stable, [(&stable, 0), (&canary, 1)])).await;
    eventually("the canary refuses", PATIENCE, async || {
        let finished = Client::new("curl").args(["--silent", "--include", &url]).run().await;
        if finished.stdout.starts_with("HTTP/1.1 403") { Ok(()) } else { Err(finished.stdout) }
    })
    .await;
    drop(new_proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_other_protocols_are_split_too_also_by_a_name_that_is_nobodys() {
    let mesh = Mesh::start().await;
    let (frontend, one, other, name) = (id("/frontend"), id("/one"), id("/other"), id("/both"));
    for workload in [&frontend, &one, &other] {
        mesh.workload(workload).await;
    }
    mesh.policy(&format!(
        "{}---\n{}",
        allow("one", &one, &[&frontend]),
        allow("other", &other, &[&frontend])
    ))
    .await;
    mesh.apply(&split(&name, [(&one, 3), (&other, 1)])).await;
    let (first, second) = (TcpEcho::start().await, TcpEcho::start().await);
    let _one = mesh.proxy(&one).await.inbound("tcp://", first.address).start().await;
    let _other = mesh.proxy(&other).await.inbound("tcp://", second.address).start().await;
    let caller = mesh.proxy(&frontend).await.outbound("tcp://", &name).start().await;
    eventually("both are known", PATIENCE, async || {
        for _ in 0..4 {
            let (_, answer) = send_and_read(caller.outbound(), b"ready?", Duration::from_millis(300)).await;
            if answer != b"ready?" {
                return Err("not all are".to_owned());
            }
        }
        Ok(())
    })
    .await;
    let mark = caller.process.logs().mark();
    for _ in 0..40 {
        EchoConnection::open(caller.outbound()).await.ping().await.expect("it is echoed");
    }
    let of = async |id: &str| {
        let what = [("destination", id)];
        caller.process.wait_for_logs(mark, 10, "its connections", |event| is_access(event, &what)).await.len()
    };
    assert!(of(&one).await >= 10 && of(&other).await >= 10);
}
