//! A control for tests, over real sockets and TLS: it answers as it is told, and remembers what it was asked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream;
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use signet_proto::handshake::{ALPN_H2, ClientAuth, Revocations, Svid, Trust, WorkloadKey, server_config};
use signet_proto::spiffe::{InstanceId, JwtAuthorities, TrustBundle, sha256};
use signet_proto::v1;
use signet_proto::v1::identity_server::{Identity, IdentityServer};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::identity::{Joining, Proof};
use crate::testing::{DOMAIN, TestAuthority, bundle};

/// What it says next; afterwards it issues.
pub(crate) type Script = VecDeque<Status>;

#[derive(Clone)]
pub(crate) struct Control(Arc<Inner>);

struct Inner {
    authority: TestAuthority,
    address: String,
    id: String,
    tokens: EcdsaKeyPair,
    state: Mutex<State>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) attested: Vec<v1::AttestRequest>,
    pub(crate) challenged: Vec<v1::ChallengeRequest>,
    pub(crate) renewed: usize,
    /// Audiences of tokens.
    pub(crate) issued: Vec<Vec<String>>,
    pub(crate) to_attest: Script,
    pub(crate) to_renew: Script,
    /// Of the SVIDs that it gives.
    pub(crate) life: Duration,
    /// What signs them instead of the root.
    pub(crate) intermediate: Option<TestAuthority>,
    /// Renewals are answered when this says so.
    pub(crate) hold_renewals: Option<Arc<Notify>>,
    pub(crate) to_issue: Script,
}

impl Control {
    /// Gives SVIDs of this life for `/orders`.
    pub(crate) async fn start(life: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = Self(Arc::new(Inner {
            authority: TestAuthority::new(),
            address: listener.local_addr().unwrap().to_string(),
            id: format!("spiffe://{DOMAIN}/orders"),
            tokens: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            state: Mutex::new(State { life, ..State::default() }),
        }));
        control.serve(listener);
        control
    }

    pub(crate) fn joining(&self, proof: Proof) -> Joining {
        Joining {
            control: vec![self.0.address.clone()],
            trust_domain: DOMAIN.parse().unwrap(),
            pins: sha256(&self.0.authority.root).into(),
            proof,
            spiffe_id: None,
            ttl_seconds: 0,
        }
    }

    pub(crate) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.state.lock())
    }

    /// One that its root signs.
    pub(crate) fn intermediate(&self) -> TestAuthority {
        self.0.authority.intermediate()
    }

    fn bundle(&self) -> TrustBundle {
        let point = self.0.tokens.public_key().as_ref();
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": "key",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]) });
        bundle([&self.0.authority]).with_jwt(JwtAuthorities::new([key]).unwrap())
    }

    fn token(&self, audience: &[String]) -> String {
        let ends = signet_proto::clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
            + self.state(|state| state.life);
        let claims = json!({ "sub": self.0.id, "aud": audience, "exp": ends.as_secs() });
        let parts = [json!({ "alg": "ES256", "kid": "key", "typ": "JWT" }), claims];
        let signed = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.0.tokens.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn leaf(&self, key: &impl PublicKeyData, id: &str, life: Duration) -> CertificateDer<'static> {
        leaf_of(&self.0.authority, key, id, life)
    }

    fn issue(&self, csr: &[u8]) -> v1::IssuedSvid {
        let (_, request) = X509CertificationRequest::from_der(csr).unwrap();
        let point = request.certification_request_info.subject_pki.subject_public_key.data.to_vec();
        let chain = self.state(|state| match &state.intermediate {
            Some(authority) => {
                let leaf = leaf_of(authority, &Point(point), &self.0.id, state.life);
                vec![leaf.to_vec(), authority.root.to_vec()]
            }
            None => vec![self.leaf(&Point(point), &self.0.id, state.life).to_vec()],
        });
        v1::IssuedSvid { spiffe_id: self.0.id.clone(), chain, ..Default::default() }
    }

    fn serve(&self, listener: TcpListener) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let leaf = self.leaf(&key, &format!("spiffe://{DOMAIN}/signet/control"), Duration::from_secs(3600));
        let signing_key = WorkloadKey::signing_key_from_pem(key.serialize_pem().as_bytes()).unwrap();
        let svid = Svid::new(vec![leaf, self.0.authority.root.clone()], signing_key).unwrap();
        let trust = Arc::new(Trust::new([self.bundle()], Revocations::default()));
        let config = server_config(&svid, trust, ClientAuth::Optional, &[ALPN_H2]).unwrap();
        let incoming = stream::unfold((listener, TlsAcceptor::from(config)), async |(listener, acceptor)| {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                if let Ok(mut tls) = acceptor.accept(socket).await {
                    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
                    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut ours).await });
                    return Some((Ok::<_, std::io::Error>(theirs), (listener, acceptor)));
                }
            }
        });
        let service = IdentityServer::new(self.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    }
}

#[tonic::async_trait]
impl Identity for Control {
    async fn challenge(
        &self,
        request: Request<v1::ChallengeRequest>,
    ) -> Result<Response<v1::ChallengeResponse>, Status> {
        self.state(|state| state.challenged.push(request.into_inner()));
        Ok(Response::new(v1::ChallengeResponse { challenge: b"sign this".to_vec() }))
    }

    async fn attest(
        &self,
        request: Request<v1::AttestRequest>,
    ) -> Result<Response<v1::AttestResponse>, Status> {
        let request = request.into_inner();
        let csr = request.csr.clone();
        let said = self.state(|state| {
            state.attested.push(request);
            state.to_attest.pop_front()
        });
        match said {
            Some(status) => Err(status),
            None => {
                let bundles = vec![v1::Bundle::from(&self.bundle())];
                Ok(Response::new(v1::AttestResponse { svid: Some(self.issue(&csr)), bundles }))
            }
        }
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let (said, hold) = self.state(|state| {
            state.renewed += 1;
            (state.to_renew.pop_front(), state.hold_renewals.clone())
        });
        if let Some(hold) = hold {
            hold.notified().await;
        }
        match said {
            Some(status) => Err(status),
            None => {
                let svid = Some(self.issue(&request.into_inner().csr));
                Ok(Response::new(v1::RenewResponse { svid, bundles: Vec::new() }))
            }
        }
    }

    async fn issue_token(
        &self,
        request: Request<v1::IssueTokenRequest>,
    ) -> Result<Response<v1::IssueTokenResponse>, Status> {
        let audience = request.into_inner().audience;
        let token = self.token(&audience);
        let said = self.state(|state| {
            state.issued.push(audience);
            state.to_issue.pop_front()
        });
        match said {
            Some(status) => Err(status),
            None => Ok(Response::new(v1::IssueTokenResponse { token, expires_at: None })),
        }
    }
}

fn leaf_of(
    authority: &TestAuthority,
    key: &impl PublicKeyData,
    id: &str,
    life: Duration,
) -> CertificateDer<'static> {
    authority.leaf(key, id, InstanceId::random().unwrap(), life.try_into().unwrap())
}

/// The key of a signing request.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}
