//! Joining the way a proxy does, but from the test, so that many can try at once and control's answer is
//! seen.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::join_all;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use signet_proto::spiffe::sha256;
use signet_proto::ticket::JoinTicket;
use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::{
    AttestRequest, ChallengeRequest, IssuedSvid, JoinTokenProof, RenewRequest, attest_request,
};
use tokio::sync::Barrier;
use tonic::Status;
use tonic::transport::Channel;

use crate::tls::{anonymous_channel, channel_showing, identified_channel};

const VERSION: &str = "signet-tests";

/// A caller that is connected to control and has its request ready.
#[derive(Debug)]
pub struct Joiner {
    client: IdentityClient<Channel>,
    request: AttestRequest,
    key: KeyPair,
}

/// Who has joined.
#[derive(Debug)]
pub struct Joined {
    /// The newest SVID.
    pub svid: IssuedSvid,
    key: KeyPair,
}

impl Joiner {
    /// Connects to control, with the secret of `ticket` and a key of its own.
    ///
    /// # Errors
    /// When control cannot be reached.
    ///
    /// # Panics
    /// When `ticket` is not a join ticket.
    pub async fn connect(control: SocketAddr, ticket: &str) -> Result<Self, tonic::transport::Error> {
        Self::connect_with(control, Self::secret_of(ticket)).await
    }

    /// The secret of a ticket.
    ///
    /// # Panics
    /// When `ticket` is not a join ticket.
    #[must_use]
    pub fn secret_of(ticket: &str) -> Vec<u8> {
        let ticket = JoinTicket::from_str(ticket).expect("control made it");
        ticket.secret.as_ref().expect("a ticket of `signet token create` has one").to_vec()
    }

    /// As [`Joiner::connect`], with any bytes as the secret.
    ///
    /// # Errors
    /// When control cannot be reached.
    ///
    /// # Panics
    /// Never on a sane machine.
    pub async fn connect_with(control: SocketAddr, secret: Vec<u8>) -> Result<Self, tonic::transport::Error> {
        let client = IdentityClient::new(anonymous_channel(control).await?);
        let key = KeyPair::generate().expect("keys are generated");
        let request = AttestRequest {
            proof: Some(attest_request::Proof::JoinToken(JoinTokenProof { secret })),
            csr: request_for(&key),
            version: VERSION.to_owned(),
            ..AttestRequest::default()
        };
        Ok(Self { client, request, key })
    }

    /// Replaces the certificate request by any bytes.
    #[must_use]
    pub fn with_csr(mut self, csr: Vec<u8>) -> Self {
        self.request.csr = csr;
        self
    }

    /// Asks for the SVID.
    ///
    /// # Errors
    /// What control answered.
    ///
    /// # Panics
    /// When control answers without an SVID.
    pub async fn join(self) -> Result<IssuedSvid, Status> {
        Ok(self.become_instance().await?.svid)
    }

    /// As [`Joiner::join`], to go on as that instance.
    ///
    /// # Errors
    /// What control answered.
    ///
    /// # Panics
    /// As [`Joiner::join`].
    pub async fn become_instance(mut self) -> Result<Joined, Status> {
        let answer = self.client.attest(self.request).await?.into_inner();
        Ok(Joined { svid: answer.svid.expect("an answer holds the SVID"), key: self.key })
    }
}

impl Joined {
    /// Gets the next SVID, with another key, on a connection of its own.
    ///
    /// # Errors
    /// What control answered; that it cannot be reached is `UNAVAILABLE`.
    ///
    /// # Panics
    /// When control answers without an SVID.
    pub async fn renew(&mut self, control: SocketAddr) -> Result<(), Status> {
        let chain = self.svid.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("our own key");
        let channel = identified_channel(control, chain, key).await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let next = KeyPair::generate().expect("keys are generated");
        let request =
            RenewRequest { csr: request_for(&next), version: VERSION.to_owned(), ..RenewRequest::default() };
        let answer = IdentityClient::new(channel).renew(request).await?.into_inner();
        *self = Self { svid: answer.svid.expect("an answer holds the SVID"), key: next };
        Ok(())
    }
}

/// Somebody who sends any proof straight, with a key and a signing request of their own.
#[derive(Debug, Clone)]
pub struct Stranger {
    client: IdentityClient<Channel>,
    csr: Vec<u8>,
}

impl Stranger {
    /// Connects to control as nobody.
    ///
    /// # Errors
    /// When control cannot be reached.
    ///
    /// # Panics
    /// Never on a sane machine.
    pub async fn connect(control: SocketAddr) -> Result<Self, tonic::transport::Error> {
        let client = IdentityClient::new(anonymous_channel(control).await?);
        Ok(Self { client, csr: request_for(&KeyPair::generate().expect("keys are generated")) })
    }

    /// Connects to control with a chain and the key of `joined`, whether or not they belong together.
    ///
    /// # Errors
    /// When control cannot be reached, or does not take the chain.
    ///
    /// # Panics
    /// Never on a sane machine.
    pub async fn connect_as(
        control: SocketAddr,
        chain: Vec<CertificateDer<'static>>,
        joined: &Joined,
    ) -> Result<Self, tonic::transport::Error> {
        let key = PrivateKeyDer::try_from(joined.key.serialize_der()).expect("our own key");
        let client = IdentityClient::new(channel_showing(control, chain, key).await?);
        Ok(Self { client, csr: request_for(&KeyPair::generate().expect("keys are generated")) })
    }

    /// The same connection, with another key to be signed.
    ///
    /// # Panics
    /// Never on a sane machine.
    #[must_use]
    pub fn with_another_key(self) -> Self {
        Self { csr: request_for(&KeyPair::generate().expect("keys are generated")), ..self }
    }

    /// The signing request that goes with each proof.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// A challenge of this attestor for the signing request.
    ///
    /// # Errors
    /// What control answered.
    pub async fn challenge(&self, attestor: &str) -> Result<Vec<u8>, Status> {
        let csr_sha256 = sha256(&self.csr).to_vec();
        let request = ChallengeRequest { attestor: attestor.to_owned(), csr_sha256 };
        Ok(self.client.clone().challenge(request).await?.into_inner().challenge)
    }

    /// Sends a proof.
    ///
    /// # Errors
    /// What control answered.
    ///
    /// # Panics
    /// When control answers without an SVID.
    pub async fn prove(&self, proof: attest_request::Proof) -> Result<IssuedSvid, Status> {
        let request = AttestRequest {
            proof: Some(proof),
            csr: self.csr.clone(),
            version: VERSION.to_owned(),
            ..AttestRequest::default()
        };
        let answer = self.client.clone().attest(request).await?.into_inner();
        Ok(answer.svid.expect("an answer holds the SVID"))
    }
}

/// Redeems one ticket as many callers, each of whom is connected to one of `controls` and has its request
/// ready before the first one is sent: every answer.
///
/// # Panics
/// When a control does not accept connections.
pub async fn redeem_at_once(
    controls: &[SocketAddr],
    ticket: &str,
    callers: usize,
) -> Vec<Result<IssuedSvid, Status>> {
    let start = Arc::new(Barrier::new(callers));
    let callers = controls.iter().cycle().take(callers).map(|control| {
        let (ticket, start, control) = (ticket.to_owned(), Arc::clone(&start), *control);
        tokio::spawn(async move {
            let joiner = Joiner::connect(control, &ticket).await.expect("control accepts the connection");
            start.wait().await;
            joiner.join().await
        })
    });
    join_all(callers).await.into_iter().map(|answer| answer.expect("a caller")).collect()
}

fn request_for(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).expect("a request is signed").der().to_vec()
}
