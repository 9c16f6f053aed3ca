//! A replica that is cut off from PostgreSQL, as by a broken switch: packets vanish, nobody says that a
//! connection is over.

use std::net::{Ipv4Addr, SocketAddr};

use signet_tests::apps::Nginx;
use signet_tests::client::curl;
use signet_tests::control::Control;
use signet_tests::load::is_sound;
use signet_tests::mesh::{Mesh, Store, allow, id};
use signet_tests::place::Place;
use signet_tests::pods::{APP_USER, Family, Network, Pod};
use signet_tests::postgres::Database;
use signet_tests::proxy::ProxyBuilder;
use signet_tests::report::measured;
use signet_tests::{PATIENCE, eventually};
use tokio::time::Instant;

const MUTUAL_TLS: u16 = 15443;
const ENTRY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7001);

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_cut_off_from_the_database_refuses_changes_keeps_its_proxies_and_catches_up() {
    let network = Network::new(Family::V4);
    let [database, left, right, caller, app] =
        ["database", "left", "right", "caller", "app"].map(|name| network.pod(name));
    let nginx = Nginx::start_at(Place::Pod(&app)).await;
    let mesh = Mesh::on(Store::Postgres)
        .with_database(Database::start_in(&database).await)
        .in_pods(&[left.clone(), right])
        .start()
        .await;
    let (cut, whole) = (&mesh.replicas[0], &mesh.replicas[1]);
    let (frontend, web) = (id("/frontend"), id("/web"));
    whole.workload(&frontend).await;
    whole.workload(&web).await;
    whole.policy(&allow("web", &web, &[&frontend])).await;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, nginx.address.port()));
    let server = ProxyBuilder::joining(&cut.ticket_to(&web, cut).await).in_pod(&app);
    let server = server.with("--inbound", format!("{MUTUAL_TLS}={loopback}")).start().await;
    let frontends = ProxyBuilder::joining(&cut.ticket_to(&frontend, cut).await).in_pod(&caller);
    let frontends = frontends.with("--outbound", format!("{ENTRY}={web}")).start().await;
    assert_eq!(status(&caller).await, "200");

    silence(&left, &database).await;
    refuses_changes(cut).await;
    assert_eq!(status(&caller).await, "200", "proxies go by what they know");
    // The operator there hears that not everybody could be told, or that everybody was.
    let nobody = whole.policy_file(&allow("web", &web, &[&id("/nobody")])).display().to_string();
    let applied = whole.signet(&["policy", "apply", "-f", &nobody]).await;
    assert!([0, 1].contains(&applied.code()), "{}", applied.all());
    for proxy in [&server, &frontends] {
        assert_eq!(
            proxy.readyz().await.status,
            200,
            "a replica without its database is not a proxy without policy"
        );
    }
    let meanwhile = status(&caller).await;
    assert!(["200", "403"].contains(&meanwhile.as_str()), "no app meets an error: {meanwhile}");

    left.run("nft", &["delete", "table", "inet", "silence"]).await;
    let healed = Instant::now();
    eventually("what was missed is in force", PATIENCE, async || match status(&caller).await.as_str() {
        "403" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    measured("from the end of the partition until its proxies caught up, ms", healed.elapsed().as_millis());
    eventually("changes are taken there again", PATIENCE, async || {
        let created = cut.create_workload(&id("/healed")).run().await;
        if created.code() == 0 { Ok(()) } else { Err(created.all()) }
    })
    .await;
    cut.policy(&allow("web", &web, &[&frontend])).await;
    assert_eq!(status(&caller).await, "200");
    is_sound(&mesh).await;
}

/// Every packet between the two vanishes, of connections that are open too.
async fn silence(replica: &Pod, database: &Pod) {
    let address = database.ip();
    let rules = format!(
        "table inet silence {{\n\
         chain out {{ type filter hook output priority 0; ip daddr {address} drop; }}\n\
         chain in {{ type filter hook input priority 0; ip saddr {address} drop; }}\n}}\n"
    );
    let _ = signet_tests::client::Client::new("nft")
        .args(["-f", "-"])
        .input(rules)
        .in_pod(replica, 0)
        .run()
        .await
        .succeeded();
}

/// It says so in time, rather than keep an operator waiting for a packet that will not come.
async fn refuses_changes(replica: &Control) {
    let asked = Instant::now();
    let refused = replica.create_workload(&id("/cut-off")).limit(PATIENCE).run().await;
    assert!([1, 3].contains(&refused.code()), "{}", refused.all());
    assert!(!refused.stderr.trim().is_empty(), "it says why");
    measured("a change at the replica that is cut off was refused after, ms", asked.elapsed().as_millis());
}

/// What the app beside the caller gets.
async fn status(caller: &Pod) -> String {
    let url = format!("http://{ENTRY}/identity");
    let get = curl().args(["--output", "/dev/null", "--write-out", "%{http_code}", &url]);
    get.in_pod(caller, APP_USER).run().await.stdout
}
