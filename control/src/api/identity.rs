//! Attest, Renew, and tokens for what cannot do mutual TLS.

use std::time::Duration;

use signet_proto::v1::attest_request::Proof;
use signet_proto::v1::identity_server::Identity;
use signet_proto::v1::{
    AttestRequest, AttestResponse, Bundle, ChallengeRequest, ChallengeResponse, IssueTokenRequest,
    IssueTokenResponse, IssuedSvid, RenewRequest, RenewResponse,
};
use tonic::{Extensions, Request, Response, Status};

use super::Rooms;
use super::caller::{caller, request_id};
use super::status::ToStatus;
use crate::attest::{AttestError, Attested};
use crate::issue::{IssueError, Issued};
use crate::store::model::{Actor, Evidence};
use crate::{attest, issue, time};

#[tonic::async_trait]
impl Identity for Rooms {
    async fn challenge(
        &self,
        request: Request<ChallengeRequest>,
    ) -> Result<Response<ChallengeResponse>, Status> {
        caller(request.extensions())?;
        let name = request_id(request.extensions());
        let ChallengeRequest { attestor, csr_sha256 } = request.into_inner();
        let challenge =
            self.attestors.challenge(&attestor, &csr_sha256).map_err(|error| error.to_stranger(name))?;
        Ok(Response::new(ChallengeResponse { challenge }))
    }

    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<AttestResponse>, Status> {
        let address = caller(request.extensions())?.address;
        let name = request_id(request.extensions());
        let asks = Actor::anonymous(address).in_call(name);
        let (_, extensions, asked) = request.into_parts();
        let AttestRequest { proof, csr, version, spiffe_id, ttl_seconds } = asked;
        let ttl = life(ttl_seconds);
        let attested = match &proof {
            None => return Err(AttestError::NoProof.to_status()),
            Some(Proof::Svid(_)) => self.successor(&extensions).await?,
            Some(proof) => match self.attestors.verify(proof, &csr, &spiffe_id, &asks).await {
                Ok(attested) => attested,
                Err(error) => {
                    if let Some(disbelief) = error.disbelief() {
                        self.gate.refusals().disbelieved(disbelief, address, name).await;
                    }
                    return Err(error.to_stranger(name));
                }
            },
        };
        let (evidence, id) = (attested.evidence.clone(), attested.id.clone());
        let issued = match self.issuer.attest(attested, &csr, ttl, &version, address, name).await {
            Ok(issued) => issued,
            Err(error) => {
                // Lost against another redeem, or a suspension, that committed first: the same answer as for
                // a token that was never good.
                return Err(match issue::refusal(&error) {
                    Some(refusal) if refusal.is_about_standing() => {
                        if let Evidence::Proven(_) | Evidence::Svid { .. } = &evidence {
                            self.gate.refusals().stands_not(&id, address, refusal, name).await;
                        }
                        attest::refused(&self.store, &evidence, refusal.as_str(), &asks)
                            .await
                            .to_stranger(name)
                    }
                    _ => {
                        let status = error.to_stranger(name);
                        // That it is held is in the audit, once, and is no refusal.
                        if !matches!(error, IssueError::Held(_)) {
                            self.gate.refusals().attested(&id, address, &status, name).await;
                        }
                        status
                    }
                });
            }
        };
        tracing::info!(id = %issued.id, instance = %issued.instance, %address, "instance attested");
        Ok(Response::new(AttestResponse { svid: Some(message(&issued)), bundles: self.bundles() }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let member = self.gate.member(request.extensions()).await?;
        let RenewRequest { csr, version, ttl_seconds } = request.into_inner();
        let ttl = life(ttl_seconds);
        let issued = self.issuer.renew(&member.identity, &csr, ttl, &version, member.request_id).await.map_err(|error| {
            tracing::warn!(id = %member.identity.id, instance = %member.instance, %error, "renewal refused");
            error.to_status()
        })?;
        tracing::debug!(id = %issued.id, instance = %issued.instance, "instance renewed");
        Ok(Response::new(RenewResponse { svid: Some(message(&issued)), bundles: self.bundles() }))
    }

    async fn issue_token(
        &self,
        request: Request<IssueTokenRequest>,
    ) -> Result<Response<IssueTokenResponse>, Status> {
        let member = self.gate.member(request.extensions()).await?;
        let IssueTokenRequest { audience, ttl_seconds } = request.into_inner();
        let ttl = life(ttl_seconds);
        let issued = self.issuer.jwt(&member.identity, audience, ttl, member.request_id).await;
        let issued = issued.map_err(|error| {
            tracing::warn!(id = %member.identity.id, instance = %member.instance, %error, "token refused");
            error.to_status()
        })?;
        tracing::debug!(id = %member.identity.id, instance = %member.instance, "token issued");
        let expires_at = Some(time::to_proto(issued.expires_at));
        Ok(Response::new(IssueTokenResponse { token: issued.token, expires_at }))
    }
}

impl Rooms {
    /// What to believe from now on: whoever joins again keeps its connections to federated trust domains.
    fn bundles(&self) -> Vec<Bundle> {
        let own = Bundle::from(&*self.authority.bundle());
        let state = self.state.borrow();
        let federated = state.bundles.federated(self.authority.trust_domain()).cloned();
        std::iter::once(own).chain(federated).collect()
    }

    /// A new instance of the identity whose SVID authenticates the connection.
    async fn successor(&self, extensions: &Extensions) -> Result<Attested, Status> {
        let member = self.gate.member(extensions).await?;
        let id = member.identity.id.clone();
        let workload = self.store.workload(id.clone()).await.map_err(|error| error.to_status())?;
        let handles = member.identity.handles.iter();
        let presented = handles.map(|handle| (handle.issuer_sha256, handle.serial.clone())).collect();
        let evidence = Evidence::Svid { instance: member.instance, presented };
        Ok(Attested { id, terms: workload.terms(), again: None, evidence })
    }
}

fn life(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

fn message(issued: &Issued) -> IssuedSvid {
    let record = &issued.leaf.issuance;
    IssuedSvid {
        spiffe_id: issued.id.to_string(),
        chain: issued.chain(),
        not_before: Some(time::to_proto(record.not_before)),
        not_after: Some(time::to_proto(record.not_after)),
        instance: issued.instance.to_string(),
    }
}
