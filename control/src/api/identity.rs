//! Attest and Renew.

use signet_proto::v1::identity_server::Identity;
use signet_proto::v1::{
    AttestRequest, AttestResponse, Bundle, ChallengeRequest, ChallengeResponse, IssuedSvid, RenewRequest,
    RenewResponse,
};
use tonic::{Request, Response, Status};

use super::Rooms;
use super::caller::{caller, request_id};
use super::status::ToStatus;
use crate::issue::Issued;
use crate::{attest, issue, time};

#[tonic::async_trait]
impl Identity for Rooms {
    async fn challenge(
        &self,
        request: Request<ChallengeRequest>,
    ) -> Result<Response<ChallengeResponse>, Status> {
        caller(request.extensions())?;
        Err(attest::AttestError::NoAttestor.to_status())
    }

    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<AttestResponse>, Status> {
        let address = caller(request.extensions())?.address;
        let name = request_id(request.extensions());
        let AttestRequest { proof, csr, version, spiffe_id: _ } = request.into_inner();
        let attested =
            attest::verify(&self.store, proof.as_ref(), address).await.map_err(|error| error.to_status())?;
        let (evidence, id) = (attested.evidence, attested.workload.spiffe_id.clone());
        let issued = match self.issuer.attest(attested, &csr, &version, address).await {
            Ok(issued) => issued,
            Err(error) => {
                // Lost against another redeem, or a suspension, that committed first: the same answer as for
                // a token that was never good.
                return Err(match issue::refusal(&error) {
                    Some(refusal) if refusal.is_about_standing() => {
                        attest::refused(&self.store, evidence, refusal.as_str(), address).await.to_status()
                    }
                    _ => {
                        let status = error.to_status();
                        if let Some(name) = name {
                            self.gate.refusals().attested(&id, address, &status, name).await;
                        }
                        status
                    }
                });
            }
        };
        tracing::info!(id = %issued.id, instance = %issued.instance, %address, "instance attested");
        Ok(Response::new(AttestResponse {
            svid: Some(message(&issued)),
            bundles: vec![Bundle::from(&**self.authority.bundle())],
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let member = self.gate.member(request.extensions()).await?;
        let RenewRequest { csr, version } = request.into_inner();
        let issued = self.issuer.renew(&member.identity, &csr, &version).await.map_err(|error| {
            tracing::warn!(id = %member.identity.id, instance = %member.instance, %error, "renewal refused");
            error.to_status()
        })?;
        tracing::debug!(id = %issued.id, instance = %issued.instance, "instance renewed");
        Ok(Response::new(RenewResponse { svid: Some(message(&issued)) }))
    }
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
