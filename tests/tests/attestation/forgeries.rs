//! Tokens that nobody may believe, each of them good but for one thing: all are refused with the same answer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use signet_proto::v1::attest_request::Proof;
use signet_proto::v1::{IssuedSvid, JwtProof};
use signet_tests::apps::RequestApp;
use signet_tests::attest::Stranger;
use signet_tests::client::file;
use signet_tests::mesh::{Mesh, id};
use signet_tests::oidc::Provider;
use signet_tests::proxy::ProxyBuilder;
use signet_tests::report::measured;
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::{believes, mesh_with, refusal, registration};

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
    let (name, token) = minted.accepted.first_key_value().expect("some are good");
    let proxy = ProxyBuilder::attesting(&introduction, &proof(&mesh, name, token));
    drop(proxy.inbound("http://", app.address).start().await);
    for (name, token) in minted.accepted.iter().skip(1) {
        answer(&Stranger::connect(mesh.grpc).await.expect("control is up"), token)
            .await
            .unwrap_or_else(|status| panic!("{name}: {status}"));
    }
    let fetches = provider.fetches();

    let stranger = Stranger::connect(mesh.grpc).await.expect("control is up");
    let good = minted.accepted.get("good").expect("one is");
    let mut forged = minted.refused.clone();
    let large = forged.remove("larger_than_any").expect("one is");
    let large = answer(&stranger, &large).await.expect_err("it is too large to be read");
    assert_eq!(large.code(), Code::OutOfRange, "{large}");
    let mut answers = BTreeMap::new();
    for (name, token) in forged.into_iter().chain(written_otherwise(good)) {
        let refused = match answer(&stranger, &token).await {
            Ok(svid) => panic!("{name}: an SVID: {svid:?}"),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        answers.insert(name, refused);
    }
    let different: BTreeSet<&str> = answers.values().map(String::as_str).collect();
    assert_eq!(different.len(), 1, "one answer to all: {answers:#?}");
    let (name, token) = minted.refused.first_key_value().expect("some are forged");
    refusal(&introduction, &proof(&mesh, name, token)).await;

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
    let provider = Provider::start().await;
    let mesh = mesh_with(&believes(&provider)).await;
    mesh.apply(&registration(&id("/web"), &["ci:repository:shop/web"])).await;
    let minted = provider.mint(&json!({"repository": "shop/web"}), "http://127.0.0.1:1/").await;
    let good = minted.accepted.get("good").expect("one is");
    let stranger = Stranger::connect(mesh.grpc).await.expect("control is up");

    let mut answers = BTreeSet::new();
    for place in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[place] = if changed[place] == b'B' { b'C' } else { b'B' };
        let changed = String::from_utf8(changed).expect("ASCII");
        let status = answer(&stranger, &changed).await.expect_err("it was changed");
        answers.insert(format!("{:?}: {}", status.code(), status.message()));
    }

    assert_eq!(answers.len(), 1, "one answer to all: {answers:?}");
    assert!(mesh.identities().await.is_empty(), "nothing was issued");
    answer(&stranger, good).await.expect("control goes on");
}

/// A good token in other forms, each of which somebody takes for the same.
fn written_otherwise(good: &str) -> Vec<(String, String)> {
    let (signed, signature) = good.rsplit_once('.').expect("a token");
    let (header, claims) = signed.split_once('.').expect("a token");
    let swapped = good.replace('-', "+").replace('_', "/");
    let forms = [
        ("a space before", format!(" {good}")),
        ("a space after", format!("{good} ")),
        ("a line's end after", format!("{good}\n")),
        ("a line's end in it", format!("{header}.\n{claims}.{signature}")),
        ("a zero after", format!("{good}\0")),
        ("a byte order mark", format!("\u{feff}{good}")),
        ("a hidden character", format!("{header}.{claims}\u{200b}.{signature}")),
        ("padding", format!("{header}.{claims}.{signature}=")),
        ("padding everywhere", format!("{header}==.{claims}==.{signature}==")),
        ("a dot before", format!(".{good}")),
        ("a dot after", format!("{good}.")),
        ("a fourth part", format!("{good}.{signature}")),
        ("as a header has it", format!("Bearer {good}")),
        ("twice", format!("{good}{good}")),
        ("two with a comma", format!("{good},{good}")),
        ("PEM", format!("-----BEGIN JWT-----\n{good}\n-----END JWT-----\n")),
        ("in quotes", format!("\"{good}\"")),
        (
            "JSON",
            format!("{{\"protected\":\"{header}\",\"payload\":\"{claims}\",\"signature\":\"{signature}\"}}"),
        ),
        ("percent-encoded", good.replace('.', "%2E")),
        ("in capitals", good.to_uppercase()),
        ("the usual base64", if swapped == good { format!("{good}+") } else { swapped }),
        ("without claims", format!("{header}..{signature}")),
        ("without a signature", format!("{signed}.")),
        ("parts in another order", format!("{claims}.{header}.{signature}")),
        ("nothing", String::new()),
    ];
    forms.map(|(name, token)| (name.to_owned(), token)).into()
}

async fn answer(stranger: &Stranger, token: &str) -> Result<IssuedSvid, Status> {
    let proof = JwtProof { attestor: "ci".to_owned(), token: token.to_owned() };
    stranger.prove(Proof::Jwt(proof)).await
}

fn proof(mesh: &Mesh, name: &str, token: &str) -> String {
    format!("jwt=ci:{}", file(mesh.directory(), &format!("{name}.jwt"), token).display())
}
