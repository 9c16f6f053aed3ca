//! Pods with IPv4, with IPv6, and with both.

use std::net::SocketAddr;

use signet_tests::apps::{Nginx, Postgres};
use signet_tests::client::psql;
use signet_tests::mesh::id;
use signet_tests::place::Place;
use signet_tests::pods::Family;

use crate::captured::{Inside, Pods, assert_from_frontend, assert_no_answer, page, text};

#[tokio::test(flavor = "multi_thread")]
async fn ipv4_only() {
    curl_and_psql(Family::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_only() {
    curl_and_psql(Family::V6).await;
}

/// The app is called by both of its addresses. Control knows the one that it joined from; the other is in the
/// caller's routes.
#[tokio::test(flavor = "multi_thread")]
async fn dual_stack_by_either_address() {
    curl_and_psql(Family::Dual).await;
}

async fn curl_and_psql(family: Family) {
    let pods = Pods::new(family);
    let place = Place::Pod(&pods.app);
    let (nginx, postgres) = (Nginx::start_at(place).await, Postgres::start_at(place).await);
    let apps = [nginx.address, postgres.address];
    let mut called = vec![apps];
    let mut routes = Vec::new();
    if family == Family::Dual {
        let other = apps.map(|app| SocketAddr::new(pods.app.ipv6().into(), app.port()));
        routes.extend(other.map(|app| format!("{app}={}:{}", id("/web"), app.port())));
        called.push(other);
    }
    let options: Vec<_> = routes.iter().map(|route| ("--route", route.as_str())).collect();
    let captured = pods.proxies(&apps, &options).await;
    pods.install_both(apps.len()).await;

    for [web, db] in called {
        assert_from_frontend(&page(&pods.caller, web, "/identity").await.unwrap());
        let rows = psql(db, "select 6 * 7").inside(&pods.caller).run().await.succeeded();
        assert_eq!(rows.stdout.trim(), "42", "{db}");
        for app in [web, db] {
            let line = captured.caller.access(&[("requested", &app.to_string())]).await;
            assert_eq!(text(&line, "destination"), id("/web"), "{line}");
        }
        // And without a certificate nobody gets in, whichever address is called.
        assert_no_answer(&page(&pods.outside, web, "/identity").await, &web.to_string());
    }
}
