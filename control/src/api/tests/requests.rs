//! Who may decide about a new instance, and what it hears meanwhile.

use super::*;

/// A workload that waits for people, and the key and ticket of an instance of it.
struct Waiting {
    ticket: JoinTicket,
    channel: Channel,
    key: WorkloadKey,
    csr: Vec<u8>,
}

impl Waiting {
    async fn new(mesh: &mut Mesh, name: &str) -> Self {
        let request = v1::CreateWorkloadRequest {
            spiffe_id: format!("spiffe://mesh.local/{name}"),
            owner: "team".into(),
            purpose: "test".into(),
            approval: v1::WorkloadApproval::One.into(),
            ..v1::CreateWorkloadRequest::default()
        };
        mesh.operator.create_workload(request).await.unwrap();
        let ticket = mesh.ticket(name).await;
        let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
        let channel = dial(&ticket.control[0], pinned).await.unwrap();
        let key = WorkloadKey::generate().unwrap();
        Self { csr: key.csr(None).unwrap(), ticket, channel, key }
    }

    async fn ask(&self) -> Result<v1::AttestResponse, tonic::Status> {
        let request = v1::AttestRequest {
            proof: Some(proof(&self.ticket)),
            csr: self.csr.clone(),
            version: "test".into(),
            ..v1::AttestRequest::default()
        };
        IdentityClient::new(self.channel.clone()).attest(request).await.map(tonic::Response::into_inner)
    }
}

impl Mesh {
    async fn held(&mut self, id: &str) -> Vec<v1::HeldRequest> {
        let request = v1::ListRequestsRequest { id: id.into(), ..v1::ListRequestsRequest::default() };
        self.operator.list_requests(request).await.unwrap().into_inner().requests
    }

    /// Someone with a role on the vault.
    async fn person(&mut self, name: &str, role: v1::Role) -> AdminClient<Channel> {
        self.workload(name).await;
        let binding = v1::RoleBinding {
            subject: format!("spiffe://mesh.local/{name}"),
            role: role.into(),
            scope: "spiffe://mesh.local/vault/*".into(),
        };
        self.operator.grant_role(v1::GrantRoleRequest { binding: Some(binding) }).await.unwrap();
        AdminClient::new(self.proxy(name).await.channel)
    }
}

fn approve(request: &v1::HeldRequest) -> v1::ApproveRequestRequest {
    let csr_sha256 = request.csr_sha256.clone();
    v1::ApproveRequestRequest { id: request.id.clone(), csr_sha256, reason: String::new() }
}

#[tokio::test]
async fn instance_waits_until_an_approver_of_its_identity_agrees_to_its_signing_request() {
    let mut mesh = Mesh::start().await;
    let waiting = Waiting::new(&mut mesh, "vault/main").await;
    let held = waiting.ask().await.unwrap_err();
    assert_eq!(held.code(), Code::FailedPrecondition);
    let request = mesh.held("").await.remove(0);
    assert!(
        held.message().starts_with(&format!("request {} waits for approval, 0 of 1 so far", request.id)),
        "{held}"
    );
    assert_eq!(request.csr_sha256, crate::sha256(&waiting.csr));

    let mut operator = mesh.person("op", v1::Role::Operator).await;
    let told = operator.approve_request(approve(&request)).await.unwrap_err();
    assert_eq!(told.code(), Code::PermissionDenied);
    assert!(told.message().contains("takes the role approver"), "{told}");
    let root = mesh.operator.approve_request(approve(&request)).await.unwrap_err();
    assert_eq!(root.code(), Code::FailedPrecondition, "it made the ticket: {root}");
    let mut ada = mesh.person("ada", v1::Role::Approver).await;
    let unseen = v1::ApproveRequestRequest { csr_sha256: vec![7; 32], ..approve(&request) };
    assert_eq!(ada.approve_request(unseen).await.unwrap_err().code(), Code::FailedPrecondition);
    let blind = v1::ApproveRequestRequest { csr_sha256: Vec::new(), ..approve(&request) };
    assert_eq!(ada.approve_request(blind).await.unwrap_err().code(), Code::InvalidArgument);
    ada.approve_request(approve(&request)).await.unwrap();

    let other = Waiting::new(&mut mesh, "elsewhere").await;
    other.ask().await.unwrap_err();
    let seen = ada.list_requests(v1::ListRequestsRequest::default()).await.unwrap().into_inner().requests;
    assert_eq!(seen.len(), 1, "of its own scope");
    let elsewhere = mesh.held("").await.into_iter().find(|held| held.spiffe_id.ends_with("/elsewhere"));
    let beyond = ada.approve_request(approve(&elsewhere.unwrap())).await.unwrap_err();
    assert_eq!(beyond.code(), Code::PermissionDenied);

    let issued = waiting.ask().await.unwrap().svid.unwrap();
    svid(&issued, &waiting.key);
    let again = waiting.ask().await.unwrap().svid.unwrap();
    assert_eq!(again.instance, issued.instance, "its answer was lost: no second approval");
    assert_eq!(mesh.held(&request.id).await[0].state(), v1::RequestState::Used);
}

#[tokio::test]
async fn who_is_denied_is_told_why_and_who_is_frozen_waits() {
    let mut mesh = Mesh::start().await;
    let mut ada = mesh.person("ada", v1::Role::Approver).await;
    let waiting = Waiting::new(&mut mesh, "vault/main").await;
    waiting.ask().await.unwrap_err();
    let request = mesh.held("").await.remove(0);
    let deny = |reason: &str| v1::DenyRequestRequest { id: request.id.clone(), reason: reason.into() };
    assert_eq!(ada.deny_request(deny("")).await.unwrap_err().code(), Code::InvalidArgument);
    ada.deny_request(deny("nobody here started it")).await.unwrap();
    let denied = waiting.ask().await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().ends_with("denied for good: nobody here started it"), "{denied}");

    let freeze = v1::FreezeRequest {
        scope: "spiffe://mesh.local/vault/*".into(),
        renewals: false,
        reason: "incident".into(),
    };
    assert_eq!(ada.freeze(freeze.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    let mut operator = mesh.person("op", v1::Role::Operator).await;
    let everything = v1::FreezeRequest { scope: "everything".into(), ..freeze.clone() };
    assert_eq!(operator.freeze(everything).await.unwrap_err().code(), Code::PermissionDenied);
    operator.freeze(freeze.clone()).await.unwrap();
    mesh.workload("vault/spare").await;
    let ticket = mesh.ticket("vault/spare").await;
    let frozen = Proxy::join(&ticket).await.map(drop).unwrap_err();
    assert_eq!(frozen.code(), Code::FailedPrecondition);
    assert!(frozen.message().ends_with("on spiffe://mesh.local/vault/*: incident"), "{frozen}");
    let status = mesh.operator.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.frozen.len(), 1);
    let unfreeze = v1::UnfreezeRequest { scope: freeze.scope, reason: "over".into() };
    operator.unfreeze(unfreeze).await.unwrap();
    Proxy::join(&ticket).await.unwrap();
}
