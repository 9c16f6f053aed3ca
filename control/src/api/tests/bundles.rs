//! What anybody can read over HTTPS: the trust bundle, by a certificate of files and by control's own SVID.

use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A GET, and the whole answer.
async fn get(at: std::net::SocketAddr, tls: Arc<ClientConfig>, path: &str) -> std::io::Result<String> {
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(tls).connect(name, stream).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn web(certificate: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    Arc::new(tls.with_root_certificates(roots).with_no_client_auth())
}

#[tokio::test]
async fn bundle_is_told_to_anybody_who_verifies_either_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (chain, secret) = (file("tls.crt", certificate.pem()), file("tls.key", key.serialize_pem()));
    let anywhere = "127.0.0.1:0";
    let more = [
        ["--https-listen", anywhere].as_slice(),
        &["--https-certificate", &chain, "--https-key", &secret, "--federation-listen", anywhere],
    ]
    .concat();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let service = start_with(&data, &more).await;
    let [(_, https), (_, federation)] = service.public[..] else { panic!("two listeners") };

    let answer = get(https, web(certificate.der()), "/bundle").await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    let domain = || "mesh.local".parse().unwrap();
    let (bundle, hint) = TrustBundle::from_jwks_with_hint(domain(), body).unwrap();
    assert!(bundle.sequence() > 0 && hint.is_some(), "{body}");

    // Only who knows the bundle believes the SVID, and only as control's.
    let trust = Arc::new(Trust::new([bundle], Revocations::default()));
    let spiffe = |id| client_config(None, Arc::clone(&trust), id, &[]).unwrap();
    let other = get(federation, spiffe(control()), "/bundle").await.unwrap();
    assert!(other.ends_with(body), "{other}");
    assert!(get(federation, spiffe("spiffe://mesh.local/orders".parse().unwrap()), "/bundle").await.is_err());
    assert!(get(federation, web(certificate.der()), "/bundle").await.is_err());
    let elsewhere = get(federation, spiffe(control()), "/metrics").await.unwrap();
    assert!(elsewhere.starts_with("HTTP/1.1 404"), "only what anybody may know: {elsewhere}");
    service.stop().await;
}

#[tokio::test]
async fn federated_identities_are_told_to_proxies_and_are_nobody_at_controls_doors() {
    let (mut mesh, directory) = (Mesh::start().await, tempfile::tempdir().unwrap());
    let service = start_with(directory.path(), &["--trust-domain", "other.example"]).await;
    let mut admin = operator(directory.path()).await;
    let id = "spiffe://other.example/shop";
    let workload = v1::CreateWorkloadRequest {
        spiffe_id: id.into(),
        owner: "team".into(),
        purpose: "test".into(),
        ..v1::CreateWorkloadRequest::default()
    };
    admin.create_workload(workload).await.unwrap();
    let message = admin.get_bundle(v1::GetBundleRequest {}).await.unwrap().into_inner();
    let bundle = TrustBundle::try_from(&message).unwrap();
    let token = v1::CreateTokenRequest { spiffe_id: id.into(), ttl: None };
    let ticket: JoinTicket = admin.create_token(token).await.unwrap().into_inner().ticket.parse().unwrap();

    // Before it is federated.
    let policy = |name: &str| {
        format!(
            "{{kind: Policy, name: {name}, target: spiffe://mesh.local/orders, rules: [{{name: r, allow: {{from: [\"{id}\"]}}}}]}}"
        )
    };
    let apply = |yaml: String| v1::ApplyPolicyRequest { yaml, file: "test.yaml".into() };
    let warned = mesh.operator.apply_policy(apply(policy("p"))).await.unwrap().into_inner().warnings;
    assert!(warned[0].contains("signet federation create other.example"), "{warned:?}");
    let question = |source: &str, destination: &str| v1::ExplainRequest {
        source: source.into(),
        destination: destination.into(),
        port: 80,
        ..v1::ExplainRequest::default()
    };
    let orders = "spiffe://mesh.local/orders";
    let explained = mesh.operator.explain(question(id, orders)).await.unwrap().into_inner();
    assert!(
        !explained.allowed && explained.explanation.contains("signet federation create"),
        "{explained:?}"
    );
    let open =
        "{kind: Policy, name: open, target: spiffe://mesh.local/payments, rules: [{name: r, allow: {}}]}";
    mesh.operator.apply_policy(apply(open.into())).await.unwrap();

    let orders_proxy = mesh.proxy("orders").await;
    let mut stream = orders_proxy.watch(15443, &[]).await;
    assert_eq!(next(&mut stream).await.bundles.unwrap().bundles.len(), 1);
    let create = v1::CreateFederationRequest {
        trust_domain: "other.example".into(),
        url: "https://127.0.0.1:1/bundle".into(),
        endpoint_spiffe_id: "spiffe://other.example/signet/control".into(),
        bundle: bundle.to_jwks(),
        ..v1::CreateFederationRequest::default()
    };
    let created = mesh.operator.create_federation(create).await.unwrap().into_inner();
    assert!(created.effects.iter().any(|line| line.ends_with("policy open")), "{created:?}");
    let told = next(&mut stream).await.bundles.unwrap().bundles;
    assert_eq!(told.iter().find(|one| one.trust_domain == "other.example"), Some(&message));
    assert!(mesh.operator.apply_policy(apply(policy("q"))).await.unwrap().into_inner().warnings.is_empty());
    assert!(mesh.operator.explain(question(id, orders)).await.unwrap().into_inner().allowed);
    let outward = mesh.operator.explain(question(orders, id)).await.unwrap().into_inner();
    assert!(outward.allowed && outward.explanation.contains("is decided there"), "{outward:?}");

    // Its SVIDs open nothing here, and control shows it nothing but itself.
    let control_of_other: SpiffeId = "spiffe://other.example/signet/control".parse().unwrap();
    let pinned = pinned_client_config(ticket.root_sha256, control_of_other, &[ALPN_H2]).unwrap();
    let channel = dial(&ticket.control[0], pinned).await.unwrap();
    let key = WorkloadKey::generate().unwrap();
    let request = v1::AttestRequest {
        proof: Some(proof(&ticket)),
        csr: key.csr(None).unwrap(),
        version: "test".into(),
        ..v1::AttestRequest::default()
    };
    let issued = IdentityClient::new(channel).attest(request).await.unwrap().into_inner().svid.unwrap();
    let foreign = svid(&issued, &key);
    let config =
        client_config(Some(&foreign), Arc::clone(&orders_proxy.trust), control(), &[ALPN_H2]).unwrap();
    let refused = match dial(&mesh.service.grpc.to_string(), config).await {
        Err(_) => true,
        Ok(channel) => AdminClient::new(channel).status(v1::StatusRequest {}).await.is_err(),
    };
    assert!(refused, "an SVID of a federated trust domain is not one of ours");

    let delete = v1::DeleteFederationRequest { trust_domain: "spiffe://other.example".into() };
    mesh.operator.delete_federation(delete).await.unwrap();
    // The policy that was applied meanwhile comes first.
    let left = loop {
        if let Some(left) = next(&mut stream).await.bundles {
            break left;
        }
    };
    assert_eq!(left.bundles.len(), 1);
    service.stop().await;
}
