//! Tokens that nobody may believe, each of them good but for one thing: all are refused with the same answer.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde_json::json;
use signet_tests::apps::RequestApp;
use signet_tests::client::file;
use signet_tests::mesh::{Mesh, id};
use signet_tests::oidc::Provider;
use signet_tests::proxy::ProxyBuilder;
use signet_tests::report::measured;
use tokio::net::TcpListener;

use crate::{NOT_SENT, believes, mesh_with, refusal, registration};

const AT_ONCE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn every_forged_token_gets_the_same_answer() {
    let provider = Provider::start().await;
    let mesh = mesh_with(&believes(&provider)).await;
    mesh.apply(&registration(&id("/web"), &["ci:repository:shop/web"])).await;
    let trap = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/keys", trap.local_addr().expect("it is bound"));
    let minted = provider.mint(&json!({"repository": "shop/web"}), &url).await;
    let introduction = mesh.introduction().await;

    // What is refused below is refused for what its name says: the same tools make tokens that are believed.
    let app = RequestApp::start().await;
    for (name, token) in &minted.accepted {
        let proxy = ProxyBuilder::attesting(&introduction, &proof(&mesh, name, token));
        drop(proxy.inbound("http://", app.address).start().await);
    }
    let fetches = provider.fetches();

    let answers: BTreeMap<String, String> = stream::iter(&minted.refused)
        .map(|(name, token)| {
            let (proof, introduction) = (proof(&mesh, name, token), &introduction);
            async move { (name.clone(), refusal(introduction, &proof).await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;

    let mut different: BTreeSet<&str> = answers.values().map(String::as_str).collect();
    // What is no token at all is not even sent.
    different.remove(NOT_SENT);
    assert_eq!(different.len(), 1, "one answer to all: {answers:#?}");
    assert_eq!(mesh.identities().await.len(), minted.accepted.len(), "nothing was issued");
    let fetched = tokio::time::timeout(std::time::Duration::ZERO, trap.accept()).await;
    assert!(fetched.is_err(), "nobody follows a URL in a token");
    let more = provider.fetches() - fetches;
    assert!(more <= 2, "strangers do not make control ask the provider {more} times");
    mesh.verify_audit().await;
    measured("forged tokens, one answer to all", answers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_changed_anywhere_is_refused() {
    const PLACES: usize = 24;
    let provider = Provider::start().await;
    let mesh = mesh_with(&believes(&provider)).await;
    mesh.apply(&registration(&id("/web"), &["ci:repository:shop/web"])).await;
    let good =
        provider.mint(&json!({"repository": "shop/web"}), "http://127.0.0.1:1/").await.accepted["good"]
            .clone();
    let introduction = mesh.introduction().await;

    let places = (0..PLACES).map(|place| place * (good.len() - 1) / (PLACES - 1));
    let answers: Vec<String> = stream::iter(places)
        .map(|place| {
            let mut changed = good.clone().into_bytes();
            changed[place] = if changed[place] == b'B' { b'C' } else { b'B' };
            let changed = String::from_utf8(changed).expect("ASCII");
            let (proof, introduction) = (proof(&mesh, &format!("changed-{place}"), &changed), &introduction);
            async move { refusal(introduction, &proof).await }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;

    let different: BTreeSet<&String> = answers.iter().collect();
    assert_eq!((answers.len(), different.len()), (PLACES, 1), "one answer to all: {different:?}");
    assert!(mesh.identities().await.is_empty(), "nothing was issued");
}

fn proof(mesh: &Mesh, name: &str, token: &str) -> String {
    format!("jwt=ci:{}", file(mesh.directory(), &format!("{name}.jwt"), token).display())
}
