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
