//! What operators do. Each verb: who asks, whether they may on what it is about, the room that does it, the answer.

mod applied;
mod audit;
mod authorities;
mod federation;
mod inventory;
mod messages;
mod policy;
mod registry;
mod requests;
mod restrictions;
mod roles;
mod rotation;

use signet_proto::v1::admin_server::Admin;
use signet_proto::v1::{self, MutationResponse};
use tonic::{Extensions, Request, Response, Status};

use super::Rooms;
use super::status::ToStatus;
use crate::publish::WatcherInfo;
use crate::registry::text as registry_text;
use crate::roles::{Permission, Scope, Sight};
use crate::store::model::{Actor, ElsewhereStanding, WorkloadStatus};
use crate::{revoke, time};

/// Events in one answer; who wants all of them follows [`audit`].
const MAX_EVENTS: u32 = 200_000;
const USUAL_EVENTS: u32 = 100;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for Rooms {
    type TailAuditStream = audit::Events;
    type FollowInventoryStream = inventory::Changes;

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        self.on_everything(request.extensions()).await?;
        let counts = self.store.counts(time::now()).await.map_err(|error| error.to_status())?;
        let elsewhere = self.store.standings_elsewhere().await.map_err(|error| error.to_status())?;
        let revision = self.store.committed().borrow().revision;
        let pending_requests = self.store.count_pending().await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::StatusResponse {
            pending_requests,
            frozen: restrictions::frozen(self).await?,
            trust_domain: self.authority.trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision,
            workloads: counts.workloads,
            live_svids: counts.live_svids,
            connected_proxies: (self.watchers.count() + elsewhere.len()) as u64,
            root: Some(messages::authority(&self.authority.root())?),
            intermediate: Some(messages::authority(self.authority.intermediate().certified())?),
            started_at: Some(time::to_proto(self.started_at)),
            replica: self.store.signs_as().to_owned(),
            warnings: self.health.warnings(time::now()),
        }))
    }

    async fn create_workload(&self, request: Request<v1::CreateWorkloadRequest>) -> Answer<v1::Workload> {
        let operator = self.gate.operator(request.extensions()).await?;
        let declaration = registry::declaration(&request.into_inner()).map_err(|error| error.to_status())?;
        let created = self.registry.create(declaration, operator).await.map_err(|error| error.to_status())?;
        Ok(Response::new(registry::workload(created)))
    }

    async fn list_workloads(
        &self,
        request: Request<v1::ListWorkloadsRequest>,
    ) -> Answer<v1::ListWorkloadsResponse> {
        let sight = self.sight(request.extensions()).await?;
        let workloads = self.registry.list().await.map_err(|error| error.to_status())?;
        let seen = workloads.into_iter().filter(|workload| sight.sees(&workload.declaration.name.scope()));
        let workloads = seen.map(registry::workload).collect();
        Ok(Response::new(v1::ListWorkloadsResponse { workloads }))
    }

    async fn set_workload_status(
        &self,
        request: Request<v1::SetWorkloadStatusRequest>,
    ) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let request = request.into_inner();
        let name = self.registry.parse_name(&request.spiffe_id).map_err(|error| error.to_status())?;
        let actor = operator.on(&name.scope()).map_err(|refused| refused.to_status())?;
        let status = match request.status() {
            v1::WorkloadStatus::Active => WorkloadStatus::Active,
            v1::WorkloadStatus::Suspended => WorkloadStatus::Suspended,
            v1::WorkloadStatus::Retired => WorkloadStatus::Retired,
            v1::WorkloadStatus::Unspecified => {
                return Err(Status::invalid_argument("status: expected active, suspended or retired"));
            }
        };
        let mutation = self
            .registry
            .set_status(name, status, &request.reason, actor)
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(messages::mutation(mutation)))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Answer<v1::CreateTokenResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let v1::CreateTokenRequest { spiffe_id, ttl } = request.into_inner();
        let id = self.registry.parse(&spiffe_id).map_err(|error| error.to_status())?;
        let ttl = messages::duration("ttl", ttl.as_ref())?;
        let (ticket, expires_at) =
            self.tokens.create(id, ttl, operator).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::CreateTokenResponse {
            ticket: ticket.to_string(),
            expires_at: Some(time::to_proto(expires_at)),
        }))
    }

    async fn get_introduction(
        &self,
        request: Request<v1::GetIntroductionRequest>,
    ) -> Answer<v1::GetIntroductionResponse> {
        self.on_everything(request.extensions()).await?;
        let introduction = self.tokens.introduction().to_string();
        Ok(Response::new(v1::GetIntroductionResponse { introduction }))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Answer<v1::ApplyPolicyResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let v1::ApplyPolicyRequest { yaml, file } = request.into_inner();
        let application = registry::policies_alone(&file, yaml);
        let applied = self.registry.apply(application, operator).await.map_err(|error| error.to_status())?;
        let warnings = policy::warnings_of(self, &applied).await?;
        let changes = applied.plan.changes.iter().map(|change| v1::PolicyChange {
            name: change.name.clone(),
            change: change.action.as_str().to_owned(),
        });
        Ok(Response::new(v1::ApplyPolicyResponse {
            revision: applied.revision,
            committed_at: applied.committed_at(),
            changes: changes.collect(),
            warnings,
        }))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let application = registry::application(request.into_inner())?;
        let applied = self.registry.apply(application, operator).await.map_err(|error| error.to_status())?;
        let warnings = policy::warnings_of(self, &applied).await?;
        let mut answer = registry::applied(applied);
        answer.warnings.extend(warnings);
        Ok(Response::new(answer))
    }

    async fn export(&self, request: Request<v1::ExportRequest>) -> Answer<v1::ExportResponse> {
        let sight = self.sight(request.extensions()).await?;
        let (parts, label) = registry::export(&request.into_inner())?;
        let yaml = self.registry.export(parts, label, sight).await.map_err(|error| error.to_status())?;
        Ok(Response::new(v1::ExportResponse { yaml }))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Answer<v1::ListPoliciesResponse> {
        let sight = self.sight(request.extensions()).await?;
        let policies = self.policies.list().await.map_err(|error| error.to_status())?;
        let seen = policies.into_iter().filter(|policy| sight.sees(&Scope::of_target(&policy.target)));
        let policies = seen.map(messages::policy).collect();
        Ok(Response::new(v1::ListPoliciesResponse { policies }))
    }

    async fn delete_policy(&self, request: Request<v1::DeletePolicyRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let name = request.into_inner().name;
        let mutation = self.policies.delete(name, operator).await.map_err(|error| error.to_status())?;
        Ok(Response::new(messages::mutation(mutation)))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        policy::explain(self, &operator, &request.into_inner()).map(Response::new)
    }

    async fn get_mesh(&self, request: Request<v1::GetMeshRequest>) -> Answer<v1::GetMeshResponse> {
        let sight = self.sight(request.extensions()).await?;
        let settings = self.store.mesh_settings().await.map_err(|error| error.to_status())?;
        let ports = self.store.plaintext_ports().await.map_err(|error| error.to_status())?;
        let seen = ports.into_iter().filter(|found| sight.sees_identity(&found.workload));
        Ok(Response::new(v1::GetMeshResponse {
            plaintext: seen.map(|found| messages::plaintext_port(&found)).collect(),
            ..settings.map(messages::mesh).unwrap_or_default()
        }))
    }

    async fn delete_mesh(&self, request: Request<v1::DeleteMeshRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let mutation = self.store.delete_mesh_settings(operator).await.map_err(|error| error.to_status())?;
        Ok(Response::new(messages::mutation(mutation)))
    }

    async fn list_identities(
        &self,
        request: Request<v1::ListIdentitiesRequest>,
    ) -> Answer<v1::ListIdentitiesResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let v1::ListIdentitiesRequest { spiffe_id, all } = request.into_inner();
        let id = match spiffe_id.as_str() {
            "" => None,
            id => Some(self.registry.parse(id).map_err(|error| error.to_status())?),
        };
        if let Some(id) = id.clone() {
            operator.on(&Scope::identity(&id)).map_err(|refused| refused.to_status())?;
            self.store.workload(id).await.map_err(|error| error.to_status())?;
        }
        let sight = operator.sight().map_err(|refused| refused.to_status())?;
        let identities =
            self.store.identities(id, all, time::now()).await.map_err(|error| error.to_status())?;
        let mut connected = self.watchers.connected();
        for ElsewhereStanding { instance, address, version, .. } in
            self.store.standings_elsewhere().await.map_err(|error| error.to_status())?
        {
            connected.entry(instance).or_insert(WatcherInfo { address, version });
        }
        let identities = identities
            .into_iter()
            .filter(|identity| sight.sees_identity(&identity.spiffe_id))
            .map(|identity| {
                let watcher = connected.get(&identity.instance);
                messages::identity(identity, watcher)
            })
            .collect();
        Ok(Response::new(v1::ListIdentitiesResponse { identities }))
    }

    async fn list_certificates(
        &self,
        request: Request<v1::ListCertificatesRequest>,
    ) -> Answer<v1::ListCertificatesResponse> {
        let (_, extensions, request) = request.into_parts();
        inventory::certificates(self, &extensions, request).await.map(Response::new)
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Answer<v1::ListInstancesResponse> {
        let (_, extensions, request) = request.into_parts();
        inventory::instances(self, &extensions, request).await.map(Response::new)
    }

    async fn list_connections(
        &self,
        request: Request<v1::ListConnectionsRequest>,
    ) -> Answer<v1::ListConnectionsResponse> {
        let (_, extensions, request) = request.into_parts();
        inventory::connections(self, &extensions, request).await.map(Response::new)
    }

    async fn list_outsiders(
        &self,
        request: Request<v1::ListOutsidersRequest>,
    ) -> Answer<v1::ListOutsidersResponse> {
        let (_, extensions, request) = request.into_parts();
        inventory::outsiders(self, &extensions, request).await.map(Response::new)
    }

    async fn follow_inventory(
        &self,
        request: Request<v1::FollowInventoryRequest>,
    ) -> Answer<Self::FollowInventoryStream> {
        inventory::follow(self, &request).await.map(Response::new)
    }

    async fn revoke(&self, request: Request<v1::RevokeRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let v1::RevokeRequest { what, reason } = request.into_inner();
        let mutation = revoke::revoke(&self.store, &self.registry, what, &reason, operator)
            .await
            .map_err(|error| error.to_status())?;
        Ok(Response::new(messages::mutation(mutation)))
    }

    async fn await_applied(
        &self,
        request: Request<v1::AwaitAppliedRequest>,
    ) -> Answer<v1::AwaitAppliedResponse> {
        let sight = self.sight(request.extensions()).await?;
        applied::wait(self, request.into_inner(), &sight).await.map(Response::new)
    }

    async fn rotate(&self, request: Request<v1::RotateRequest>) -> Answer<v1::RotateResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        rotation::order(self, request.into_inner(), operator).await.map(Response::new)
    }

    async fn await_rotated(
        &self,
        request: Request<v1::AwaitRotatedRequest>,
    ) -> Answer<v1::AwaitRotatedResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        rotation::wait(self, request.into_inner(), operator).await.map(Response::new)
    }

    async fn list_audit(&self, request: Request<v1::ListAuditRequest>) -> Answer<v1::ListAuditResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let v1::ListAuditRequest { limit, subject } = request.into_inner();
        // What happened to an identity is for those who may see it; all the rest is about the mesh.
        let about = subject.parse().map_or(Scope::Everything, |id| Scope::identity(&id));
        operator.on(&about).map_err(|refused| refused.to_status())?;
        let limit = if limit == 0 { USUAL_EVENTS } else { limit.min(MAX_EVENTS) };
        let subject = (!subject.is_empty()).then_some(subject);
        let events = self.store.newest_events(limit, subject).await.map_err(|error| error.to_status())?;
        let events = events.into_iter().map(messages::event).collect();
        Ok(Response::new(v1::ListAuditResponse { events }))
    }

    async fn tail_audit(&self, request: Request<v1::TailAuditRequest>) -> Answer<Self::TailAuditStream> {
        self.on_everything(request.extensions()).await?;
        audit::tail(self, request).map(Response::new)
    }

    async fn list_checkpoints(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Answer<v1::ListCheckpointsResponse> {
        self.on_everything(request.extensions()).await?;
        audit::checkpoints(self, request.into_inner().after_sequence).await.map(Response::new)
    }

    async fn get_audit_key(
        &self,
        request: Request<v1::GetAuditKeyRequest>,
    ) -> Answer<v1::GetAuditKeyResponse> {
        self.on_everything(request.extensions()).await?;
        let (pem, id) = (self.audit_key.to_pem(), self.audit_key.id());
        Ok(Response::new(v1::GetAuditKeyResponse { pem, id }))
    }

    async fn rotate_intermediate(
        &self,
        request: Request<v1::RotateIntermediateRequest>,
    ) -> Answer<v1::RotateIntermediateResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        authorities::rotate(self, request.into_inner(), actor).await.map(Response::new)
    }

    async fn list_authorities(
        &self,
        request: Request<v1::ListAuthoritiesRequest>,
    ) -> Answer<v1::ListAuthoritiesResponse> {
        self.on_everything(request.extensions()).await?;
        authorities::list(self).await.map(Response::new)
    }

    async fn prepare_authority(
        &self,
        request: Request<v1::PrepareAuthorityRequest>,
    ) -> Answer<v1::AuthorityResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        authorities::prepare(self, request.into_inner(), actor).await.map(Response::new)
    }

    async fn activate_authority(
        &self,
        request: Request<v1::ActivateAuthorityRequest>,
    ) -> Answer<v1::AuthorityResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        authorities::activate(self, request.into_inner(), actor).await.map(Response::new)
    }

    async fn request_authority(
        &self,
        request: Request<v1::RequestAuthorityRequest>,
    ) -> Answer<v1::RequestAuthorityResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        authorities::request(self, request.into_inner(), actor).await.map(Response::new)
    }

    async fn install_authority(
        &self,
        request: Request<v1::InstallAuthorityRequest>,
    ) -> Answer<v1::AuthorityResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        authorities::install(self, request.into_inner(), actor).await.map(Response::new)
    }

    async fn retire_authority(
        &self,
        request: Request<v1::RetireAuthorityRequest>,
    ) -> Answer<v1::AuthorityResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        authorities::retire(self, request.into_inner(), actor).await.map(Response::new)
    }

    async fn compromised_authority(
        &self,
        request: Request<v1::CompromisedAuthorityRequest>,
    ) -> Answer<v1::AuthorityResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        authorities::compromised(self, request.into_inner(), actor).await.map(Response::new)
    }

    async fn get_bundle(&self, request: Request<v1::GetBundleRequest>) -> Answer<v1::Bundle> {
        self.on_everything(request.extensions()).await?;
        Ok(Response::new(v1::Bundle::from(&*self.authority.bundle())))
    }

    async fn create_federation(
        &self,
        request: Request<v1::CreateFederationRequest>,
    ) -> Answer<MutationResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        let created = federation::create(self, request.into_inner(), actor).await?;
        Ok(Response::new(messages::mutation(created)))
    }

    async fn list_federations(
        &self,
        request: Request<v1::ListFederationsRequest>,
    ) -> Answer<v1::ListFederationsResponse> {
        self.on_everything(request.extensions()).await?;
        federation::list(self).await.map(Response::new)
    }

    async fn delete_federation(
        &self,
        request: Request<v1::DeleteFederationRequest>,
    ) -> Answer<MutationResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        let deleted = federation::delete(self, request.into_inner(), actor).await?;
        Ok(Response::new(messages::mutation(deleted)))
    }

    async fn refresh_federation(
        &self,
        request: Request<v1::RefreshFederationRequest>,
    ) -> Answer<MutationResponse> {
        let actor = self.on_everything(request.extensions()).await?;
        let refreshed = federation::refresh(self, request.into_inner(), actor).await?;
        Ok(Response::new(messages::mutation(refreshed)))
    }

    async fn grant_role(&self, request: Request<v1::GrantRoleRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let granted = roles::grant(self, operator, request.into_inner().binding).await?;
        Ok(Response::new(messages::mutation(granted)))
    }

    async fn withdraw_role(&self, request: Request<v1::WithdrawRoleRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let withdrawn = roles::withdraw(self, operator, request.into_inner().binding).await?;
        Ok(Response::new(messages::mutation(withdrawn)))
    }

    async fn list_roles(&self, request: Request<v1::ListRolesRequest>) -> Answer<v1::ListRolesResponse> {
        let sight = self.sight(request.extensions()).await?;
        roles::list(self, sight).await.map(Response::new)
    }

    async fn list_requests(
        &self,
        request: Request<v1::ListRequestsRequest>,
    ) -> Answer<v1::ListRequestsResponse> {
        let sight = self.sight(request.extensions()).await?;
        requests::list(self, request.into_inner(), &sight).await.map(Response::new)
    }

    async fn approve_request(&self, request: Request<v1::ApproveRequestRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let approved = requests::approve(self, request.into_inner(), operator).await?;
        Ok(Response::new(messages::mutation(approved)))
    }

    async fn deny_request(&self, request: Request<v1::DenyRequestRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let denied = requests::deny(self, request.into_inner(), operator).await?;
        Ok(Response::new(messages::mutation(denied)))
    }

    async fn require_approval(
        &self,
        request: Request<v1::RequireApprovalRequest>,
    ) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let required = restrictions::require_approval(self, request.into_inner(), operator).await?;
        Ok(Response::new(messages::mutation(required)))
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let frozen = restrictions::freeze(self, request.into_inner(), operator).await?;
        Ok(Response::new(messages::mutation(frozen)))
    }

    async fn unfreeze(&self, request: Request<v1::UnfreezeRequest>) -> Answer<MutationResponse> {
        let operator = self.gate.operator(request.extensions()).await?;
        let unfrozen = restrictions::unfreeze(self, request.into_inner(), operator).await?;
        Ok(Response::new(messages::mutation(unfrozen)))
    }

    async fn list_restrictions(
        &self,
        request: Request<v1::ListRestrictionsRequest>,
    ) -> Answer<v1::ListRestrictionsResponse> {
        let sight = self.sight(request.extensions()).await?;
        restrictions::list(self, &sight).await.map(Response::new)
    }
}

/// Why something is done, for the audit.
fn reason(text: &str) -> Result<String, Status> {
    registry_text("reason", text).map_err(|error| error.to_status())
}

/// Nothing has a default: a scope that was forgotten must not mean everything.
fn scope(rooms: &Rooms, text: &str) -> Result<Scope, Status> {
    let scope: Scope = text.parse().map_err(|error| Status::invalid_argument(format!("scope: {error}")))?;
    let domain = rooms.authority.trust_domain();
    match scope.trust_domain().filter(|other| *other != domain) {
        None => Ok(scope),
        Some(other) => Err(Status::invalid_argument(format!(
            "scope: expected identities of this trust domain, `{domain}`; found `{other}`"
        ))),
    }
}

impl Rooms {
    /// The actor of a call about the mesh as a whole.
    pub(super) async fn on_everything(&self, extensions: &Extensions) -> Result<Actor, Status> {
        let operator = self.gate.operator(extensions).await?;
        operator.on_everything().map_err(|refused| refused.to_status())
    }

    /// What the caller of a list may see.
    async fn sight(&self, extensions: &Extensions) -> Result<Sight, Status> {
        let operator = self.gate.operator(extensions).await?;
        operator.sight().map_err(|refused| refused.to_status())
    }
}
