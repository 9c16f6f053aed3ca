//! Joining the way a proxy does, but from the test, so that many can try at once and control's answer is seen.

use std::net::SocketAddr;
use std::str::FromStr;

use rcgen::{CertificateParams, KeyPair};
use signet_proto::ticket::JoinTicket;
use signet_proto::v1::identity_client::IdentityClient;
use signet_proto::v1::{AttestRequest, IssuedSvid, JoinTokenProof, attest_request};
use tonic::Status;
use tonic::transport::Channel;

use crate::tls::anonymous_channel;

/// A caller that is connected to control and has its request ready.
#[derive(Debug)]
pub struct Joiner {
    client: IdentityClient<Channel>,
    request: AttestRequest,
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
        let ticket = JoinTicket::from_str(ticket).expect("control made it");
        let secret = ticket.secret.as_ref().expect("a ticket of `signet token create` has one");
        Self::connect_with(control, secret.to_vec()).await
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
        let csr = CertificateParams::default().serialize_request(&key).expect("a request is signed");
        let request = AttestRequest {
            proof: Some(attest_request::Proof::JoinToken(JoinTokenProof { secret })),
            csr: csr.der().to_vec(),
            version: "signet-tests".to_owned(),
            spiffe_id: String::new(),
        };
        Ok(Self { client, request })
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
    pub async fn join(mut self) -> Result<IssuedSvid, Status> {
        let answer = self.client.attest(self.request).await?.into_inner();
        Ok(answer.svid.expect("an answer holds the SVID"))
    }
}
