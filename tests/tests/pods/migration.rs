//! Plaintext from outside to a captured app: taken while the mesh is permissive for it, shown, and cut when it is not.

use signet_tests::apps::Nginx;
use signet_tests::client::Client;
use signet_tests::mesh::{id, rows};
use signet_tests::place::Place;
use signet_tests::pods::Family;
use signet_tests::{PATIENCE, eventually};

use crate::captured::{Inside, Pods, assert_from_frontend, assert_no_answer, page};

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_from_outside_reaches_the_app_until_the_mesh_is_strict() {
    let pods = Pods::new(Family::V4);
    let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
    let captured = pods.captured(&[nginx.address]).await;
    let (app, port) = (nginx.address, nginx.address.port());
    assert_no_answer(&page(&pods.outside, app, "/identity").await, "a mesh is strict");

    let web = id("/web");
    let open = format!("kind: Mesh\nmode: strict\npermissive: [{{ target: {web}, ports: [{port}] }}]\n");
    captured.mesh.apply(&open).await;
    let plain = page(&pods.outside, app, "/identity").await.expect("it is let in");
    assert!(!plain.contains("spiffe://"), "nobody proved anything: {plain}");
    assert_from_frontend(&page(&pods.caller, app, "/identity").await.expect("mutual TLS as before"));

    // A connection that stays open, and who it is from.
    let script = format!(
        "exec 3<>/dev/tcp/{}/{port}; printf 'GET /identity HTTP/1.1\\r\\nHost: pods.test\\r\\n\\r\\n' >&3; cat <&3",
        app.ip()
    );
    let held = Client::new("bash").args(["-c", &script]).inside(&pods.outside).start();
    let outside = pods.outside.ip().to_string();
    eventually("the caller is listed", PATIENCE, async || {
        let found = rows(captured.mesh.json(&["connections", "--plaintext", "--destination", &web]).await);
        let row = found.iter().find(|row| row["address"] == outside.as_str());
        if row.is_some_and(|row| row["connections"] == 2) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;

    captured.mesh.apply("kind: Mesh\nmode: strict\n").await;
    assert!(held.finish().await.stdout.starts_with("HTTP/1.1 200"), "answered, and cut then");
    captured.server.access(&[("direction", "inbound"), ("close_reason", "plaintext_refused")]).await;
    assert_no_answer(&page(&pods.outside, app, "/identity").await, "strict again");
    assert_from_frontend(&page(&pods.caller, app, "/identity").await.expect("mutual TLS goes on"));
}
