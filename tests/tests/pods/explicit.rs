//! Without rules: the app calls its proxy, which is told whom that means.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use signet_tests::apps::Nginx;
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::place::Place;
use signet_tests::pods::Family;

use crate::captured::{MUTUAL_TLS, Pods, assert_from_frontend, page, text};

#[tokio::test(flavor = "multi_thread")]
async fn control_tells_proxies_in_other_pods_where_their_peers_are() {
    for family in [Family::V4, Family::V6, Family::Dual] {
        let pods = Pods::new(family);
        let nginx = Nginx::start_at(Place::Pod(&pods.app)).await;
        let mesh = Mesh::start_in(pods.network.hub()).await;
        let (frontend, web) = (id("/frontend"), id("/web"));
        mesh.workload(&frontend).await;
        mesh.workload(&web).await;
        mesh.policy(&allow("web", &web, &[&frontend])).await;
        // The app listens where nobody but its proxy reaches it.
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, nginx.address.port()));
        let server = mesh.proxy(&web).await.in_pod(&pods.app);
        let server = server.with("--inbound", format!("{MUTUAL_TLS}={loopback}")).start().await;
        let entry = match family {
            Family::V6 => SocketAddr::from((Ipv6Addr::LOCALHOST, 7001)),
            Family::V4 | Family::Dual => SocketAddr::from((Ipv4Addr::LOCALHOST, 7001)),
        };
        let caller = mesh.proxy(&frontend).await.in_pod(&pods.caller);
        let caller = caller.with("--outbound", format!("{entry}={web}")).start().await;

        assert_from_frontend(&page(&pods.caller, entry, "/identity").await.unwrap());
        caller.access(&[("direction", "outbound"), ("status", "200")]).await;
        let line = server.access(&[("direction", "inbound"), ("verdict", "allow")]).await;
        assert_eq!(text(&line, "source"), frontend, "{family:?}: {line}");
    }
}
