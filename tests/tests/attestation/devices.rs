//! Devices that prove themselves by the key of a certificate of their factory's CA, all of it made by
//! openssl.

use std::collections::BTreeSet;

use signet_tests::apps::RequestApp;
use signet_tests::client::curl_get;
use signet_tests::devices::{Certified, DeviceAuthority, RSA_2048};
use signet_tests::mesh::{Mesh, allow, id};
use signet_tests::proxy::ProxyBuilder;

use crate::{NOT_SENT, mesh_with, refusal, registration};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_becomes_the_workload_that_its_certificate_is_registered_for() {
    let (factory, app) = (DeviceAuthority::new().await, RequestApp::start().await);
    let mesh = believes(&factory).await;
    let (drill, press, frontend) = (id("/drill"), id("/press"), id("/frontend"));
    let registered = [
        registration(&drill, &["devices:subject-cn:drill-7", "devices:subject-o:Factory"]),
        registration(&press, &["devices:subject-cn:press-1"]),
    ];
    mesh.apply(&registered.join("---\n")).await;
    mesh.workload(&frontend).await;
    mesh.policy(&allow("drill", &drill, &[&frontend])).await;
    let introduction = mesh.introduction().await;

    let elliptic = factory.device("drill", "/O=Factory/CN=drill-7", Certified::default()).await;
    let rsa = factory
        .device("press", "/O=Factory/CN=press-1", Certified { key: RSA_2048, ..Certified::default() })
        .await;
    let server = ProxyBuilder::attesting(&introduction, &elliptic.proof("devices"));
    let _server = server.inbound("http://", app.address).start().await;
    let other = ProxyBuilder::attesting(&introduction, &rsa.proof("devices"));
    let _other = other.inbound("http://", app.address).start().await;
    let caller = mesh.proxy(&frontend).await.outbound("http://", &drill).start().await;

    let answer = curl_get(caller.outbound(), "/").await;
    assert!(answer.stdout.starts_with("HTTP/1.1 200"), "{}", answer.stdout);
    let listed: BTreeSet<String> =
        mesh.identities().await.iter().map(|row| row["spiffe_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, BTreeSet::from([drill, press, frontend]));
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_prove_nothing_get_the_same_answer() {
    const OVER: &[&str] = &["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"];
    const FOR_SERVERS: &str = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
        extendedKeyUsage=serverAuth\n";
    const AUTHORITY: &str =
        "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,digitalSignature\n";
    const UNKNOWN_CRITICAL: &str = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
        extendedKeyUsage=clientAuth\n1.2.3.4.5=critical,ASN1:UTF8String:unheard of\n";
    const SHORT: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
    let (factory, stranger) = (DeviceAuthority::new().await, DeviceAuthority::new().await);
    let mesh = believes(&factory).await;
    mesh.apply(&registration(&id("/drill"), &["devices:subject-cn:drill-7"])).await;
    let introduction = mesh.introduction().await;
    let subject = "/O=Factory/CN=drill-7";
    let with = |extensions| Certified { extensions, ..Certified::default() };

    // The only one that is good; the others differ from it in one thing each.
    let good = factory.device("good", subject, Certified::default()).await;
    let app = RequestApp::start().await;
    let proxy = ProxyBuilder::attesting(&introduction, &good.proof("devices"));
    drop(proxy.inbound("http://", app.address).start().await);

    let bad = [
        ("of another factory of the same name", stranger.device("good", subject, Certified::default()).await),
        ("for another device", factory.device("other", "/O=Factory/CN=drill-8", Certified::default()).await),
        (
            "ended long ago",
            factory.device("old", subject, Certified { validity: OVER, ..Certified::default() }).await,
        ),
        ("for servers", factory.device("server", subject, with(FOR_SERVERS)).await),
        ("of an authority", factory.device("authority", subject, with(AUTHORITY)).await),
        ("with an extension nobody knows", factory.device("critical", subject, with(UNKNOWN_CRITICAL)).await),
        (
            "with a short key",
            factory.device("short", subject, Certified { key: SHORT, ..Certified::default() }).await,
        ),
        ("signed by a device", factory.device_below("good", "below", subject).await),
    ];
    let mut answers = BTreeSet::new();
    for (what, device) in &bad {
        let answer = refusal(&introduction, &device.proof("devices")).await;
        println!("{what}: {answer}");
        answers.insert(answer);
    }

    // An RSA key of 1024 bits is not even sent.
    assert!(answers.remove(NOT_SENT), "{answers:#?}");
    assert_eq!(answers.len(), 1, "one answer to all: {answers:#?}");
    assert_eq!(mesh.identities().await.len(), 1, "nothing was issued");
    mesh.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_the_key_of_another_device_is_not_even_sent() {
    let factory = DeviceAuthority::new().await;
    let mesh = believes(&factory).await;
    mesh.apply(&registration(&id("/drill"), &["devices:subject-cn:drill-7"])).await;
    let device = factory.device("drill", "/O=Factory/CN=drill-7", Certified::default()).await;
    let thief = factory.device("thief", "/O=Factory/CN=thief", Certified::default()).await;

    let stolen = device.with_key_of(&thief).proof("devices");
    let answer = refusal(&mesh.introduction().await, &stolen).await;

    assert_eq!(answer, NOT_SENT, "the proxy says which files do not belong together");
    assert!(mesh.identities().await.is_empty(), "nothing was issued");
}

/// A mesh that believes the CA of that factory, by the attestor's name `devices`.
async fn believes(factory: &DeviceAuthority) -> Mesh {
    mesh_with(&format!("[attestors.devices]\nkind = \"x509\"\nca-file = \"{}\"\n", factory.root().display()))
        .await
}
