//! Endpoints that prove themselves or do not, and documents that are a bundle or something else.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::api::OwnIdentity;
use crate::attest::oidc::testing::{Answer, Issuer as Server};
use crate::ca::{Lives, SealPlace};
use crate::issue::{IssueSettings, Issuer, JwtSettings, KeyAlgorithms};
use crate::registry::TtlBounds;

const DAY: Duration = Duration::from_secs(86_400);
const OTHER: &str = "other.example";

/// A mesh: what is known of others there, and what it shows of itself.
struct Mesh {
    _directory: TempDir,
    federations: Federations,
    authority: Arc<Authority>,
    own: OwnIdentity,
}

async fn mesh(domain: &str) -> Mesh {
    let directory = tempfile::tempdir().unwrap();
    let domain: TrustDomain = domain.parse().unwrap();
    let store = Store::open(directory.path(), &domain).unwrap();
    let seal = SealPlace::File(directory.path().join("seal.key"));
    let lives = Lives::with_intermediate(30 * DAY);
    let authority = Arc::new(Authority::open(store.clone(), domain, &seal, lives).await.unwrap());
    let ttl = TtlBounds { min: Duration::from_secs(1), default: DAY, max: DAY };
    let jwt = JwtSettings { ttl: Duration::from_secs(300), issuer: None };
    let settings = IssueSettings { ttl, keys: KeyAlgorithms::default(), request_ttl: DAY, jwt };
    let issuer = Issuer::new(Arc::clone(&authority), store.clone(), settings);
    let own = OwnIdentity::new(issuer, DAY).await.unwrap();
    let federations = Federations::new(store, Arc::clone(&authority));
    Mesh { _directory: directory, federations, authority, own }
}

impl Mesh {
    async fn known(&self) -> Federation {
        self.federations.list().await.unwrap().swap_remove(0)
    }

    async fn refresh(&self) -> Result<Mutation, FederationError> {
        self.federations.refresh(OTHER.parse().unwrap(), actor()).await
    }

    /// Why nothing came.
    async fn refused(&self) -> &'static str {
        match self.refresh().await {
            Err(FederationError::Pull { error, .. }) => error.reason(),
            other => panic!("{other:?}"),
        }
    }
}

fn actor() -> Actor {
    Actor::unix(0)
}

/// A web server for `localhost`, and who vouches for it.
fn web() -> (TlsAcceptor, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (Arc::new(config).into(), certificate.pem())
}

fn asked(server: &Server, endpoint_id: Option<&str>, web_authorities: &str, bundle: &str) -> Asked {
    Asked {
        trust_domain: OTHER.parse().unwrap(),
        url: format!("{}/bundle", server.url),
        endpoint_id: endpoint_id.map(|id| id.parse().unwrap()),
        web_authorities: web_authorities.to_owned(),
        bundle: bundle.to_owned(),
    }
}

/// A bundle of other.example, or of another one, with as many roots and that sequence.
fn bundle(domain: &str, roots: usize, sequence: u64) -> TrustBundle {
    let root = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let name = format!("spiffe://{domain}").try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(name)];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    };
    let roots = (0..roots).map(|_| root()).collect();
    TrustBundle::new(domain.parse().unwrap(), roots, sequence).unwrap()
}

fn answer(text: String) -> Answer {
    Answer { body: text, ..Answer::json(&Value::Null) }
}

#[tokio::test]
async fn web_server_is_believed_by_its_name_and_its_documents_as_far_as_they_are_good() {
    let (mesh, (acceptor, pem)) = (mesh("mesh.local").await, web());
    let server = Server::start_tls(&Value::Null, acceptor).await;
    let told = bundle(OTHER, 1, 7);
    server.answer("/bundle", answer(told.to_jwks()));

    let (_, stranger) = web();
    mesh.federations.create(asked(&server, None, &stranger, ""), actor()).await.unwrap();
    assert_eq!(mesh.refused().await, "tls", "somebody else vouches for it");
    mesh.federations.delete(OTHER.parse().unwrap(), actor()).await.unwrap();

    mesh.federations.create(asked(&server, None, &pem, ""), actor()).await.unwrap();
    assert_eq!(standing(&mesh.known().await, time::now()), Federated::Awaited);
    mesh.federations.look(false).await.unwrap();
    assert_eq!(mesh.known().await.bundle, None, "only the leader fetches by itself");
    mesh.federations.look(true).await.unwrap();
    let known = mesh.known().await;
    assert_eq!((known.bundle.as_ref(), known.sequence, known.failures), (Some(&told), 7, 0));
    assert!(known.due > time::now() + Duration::from_secs(200), "by the hint: {:?}", known.due);
    assert!(mesh.refresh().await.unwrap().effects[0].ends_with("as before"));

    let good = told.to_jwks();
    let twice = good.replacen("{", r#"{"spiffe_sequence":9,"#, 1);
    for (wrong, reason) in [
        (answer(bundle("third.example", 1, 8).to_jwks()), "bundle"),
        (answer(twice), "bundle"),
        (answer("[]".to_owned()), "bundle"),
        (answer(format!("{good}{}", " ".repeat(300_000))), "body"),
        (answer(bundle(OTHER, 1, 6).to_jwks()), "went_back"),
        (Answer::status(302).with("location", "/elsewhere"), "redirect"),
        (Answer::status(500), "status"),
        (answer(good.clone()).with("content-type", "text/html"), "content_type"),
    ] {
        server.answer("/bundle", wrong);
        assert_eq!(mesh.refused().await, reason);
    }
    assert_eq!(server.count("/elsewhere"), 0);
    let known = mesh.known().await;
    assert_eq!((known.bundle.as_ref(), known.failures), (Some(&told), 8), "the one before stays");
    assert!(known.error.is_some());

    // By an operator's word it may go back.
    let older = bundle(OTHER, 2, 3);
    mesh.federations.replace(OTHER.parse().unwrap(), &older.to_pem(), actor()).await.unwrap();
    server.answer("/bundle", answer(older.to_jwks()));
    mesh.refresh().await.unwrap();
    assert_eq!(mesh.known().await.bundle, Some(older));

    server.answer("/bundle", Answer::json(&json!({ "keys": [], "spiffe_sequence": 9 })));
    assert_eq!(mesh.refused().await, "distrusts");
    let known = mesh.known().await;
    assert_eq!((&known.bundle, standing(&known, time::now())), (&None, Federated::Distrusted));
    mesh.federations.look(false).await.unwrap();
    assert!(mesh.federations.warnings()[0].contains("nobody of federated `other.example`"));
}

#[tokio::test]
async fn endpoint_with_an_svid_is_believed_by_the_bundle_that_was_given_first() {
    let (mesh, other) = (mesh("mesh.local").await, mesh(OTHER).await);
    let server = Server::start_tls(&Value::Null, TlsAcceptor::from(other.own.public_config())).await;
    let told = other.authority.bundle();
    server.answer("/bundle", answer(told.to_jwks()));
    let control = Some("spiffe://other.example/signet/control");

    let refused = mesh.federations.create(asked(&server, control, "", ""), actor()).await;
    assert!(matches!(refused, Err(FederationError::NoBundle)), "{refused:?}");
    let jwks = told.to_jwks();
    for (id, bundle, reason) in [
        (control, bundle(OTHER, 1, 1).to_jwks(), "tls"),
        (Some("spiffe://other.example/impostor"), jwks.clone(), "tls"),
        (Some("spiffe://third.example/control"), jwks.clone(), "no_trust"),
        (Some("spiffe://mesh.local/signet/control"), jwks.clone(), "tls"),
    ] {
        mesh.federations.create(asked(&server, id, "", &bundle), actor()).await.unwrap();
        assert_eq!(mesh.refused().await, reason, "{id:?}");
        mesh.federations.delete(OTHER.parse().unwrap(), actor()).await.unwrap();
    }
    mesh.federations.create(asked(&server, control, "", &jwks), actor()).await.unwrap();
    mesh.refresh().await.unwrap();
    assert_eq!(mesh.known().await.bundle.as_ref(), Some(&*told));
    let twice = mesh.federations.create(asked(&server, control, "", &jwks), actor()).await;
    assert!(matches!(twice, Err(FederationError::Store(StoreError::Exists { .. }))), "{twice:?}");
}

#[tokio::test]
async fn endpoints_that_cannot_be_asked_are_not_registered() {
    let mesh = mesh("mesh.local").await;
    let create = async |domain: &str, url: &str, id: Option<&str>, pem: &str, bundle: &str| {
        let asked = Asked {
            trust_domain: domain.parse().unwrap(),
            url: url.to_owned(),
            endpoint_id: id.map(|id| id.parse().unwrap()),
            web_authorities: pem.to_owned(),
            bundle: bundle.to_owned(),
        };
        mesh.federations.create(asked, actor()).await.unwrap_err().to_string()
    };
    let url = "https://other.example/bundle";
    assert!(create("mesh.local", url, None, "", "").await.contains("trust domain of this mesh"));
    for wrong in
        ["http://other.example/", "http://127.0.0.1/", "other.example", "https://a@b/", "https://x/#a"]
    {
        assert!(create(OTHER, wrong, None, "", "").await.starts_with("url: expected"), "{wrong}");
    }
    assert!(create(OTHER, url, None, "no PEM", "").await.starts_with("authorities of the web"));
    let id = Some("spiffe://other.example/a");
    assert!(create(OTHER, url, id, "x", "").await.contains("https_web"));
    let third = bundle("third.example", 1, 1);
    for wrong in ["{}", "text", &third.to_jwks(), &third.to_pem()] {
        assert!(create(OTHER, url, None, "", wrong).await.starts_with("bundle: "), "{wrong}");
    }
    assert_eq!(mesh.federations.list().await.unwrap(), []);
}
