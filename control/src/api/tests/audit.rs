//! The audit as operators see it: pushed, signed, copied, and each call by its name.

use super::*;
use crate::audit::{
    Action, Annotation, AuditKey, Checkpoint, Line, RequestId, Start, newest_checkpoint, verify,
};

impl Mesh {
    async fn tail(&mut self, after_sequence: u64, follow: bool) -> Streaming<v1::TailAuditResponse> {
        let request = v1::TailAuditRequest { after_sequence, follow };
        self.operator.tail_audit(request).await.unwrap().into_inner()
    }

    async fn checkpoints(&mut self) -> Vec<Checkpoint> {
        let request = v1::ListCheckpointsRequest { after_sequence: 0 };
        let lines = self.operator.list_checkpoints(request).await.unwrap().into_inner().checkpoints;
        let checkpoint = |line: &String| match Line::parse(line) {
            Ok(Line::Checkpoint(checkpoint)) => checkpoint,
            other => panic!("{other:?}"),
        };
        lines.iter().map(checkpoint).collect()
    }

    /// The first checkpoint is made within a second or two.
    async fn checkpoint(&mut self) -> Checkpoint {
        for _ in 0..200 {
            if let Some(newest) = self.checkpoints().await.pop() {
                return newest;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no checkpoint");
    }

    async fn audit_key(&mut self) -> AuditKey {
        let key = self.operator.get_audit_key(v1::GetAuditKeyRequest {}).await.unwrap().into_inner();
        AuditKey::from_pem(key.pem.as_bytes()).unwrap()
    }
}

async fn next(stream: &mut Streaming<v1::TailAuditResponse>) -> Vec<v1::AuditEvent> {
    let message = tokio::time::timeout(Duration::from_secs(5), stream.message()).await.unwrap();
    message.unwrap().map(|message| message.events).unwrap_or_default()
}

#[tokio::test]
async fn events_are_pushed_in_order_as_they_are_committed() {
    let mut mesh = Mesh::start().await;
    let past = next(&mut mesh.tail(0, false).await).await;
    assert_eq!(past.first().unwrap().sequence, 1);
    let newest = past.last().unwrap().sequence;
    let mut tail = mesh.tail(newest, true).await;
    for name in ["a", "b", "c"] {
        mesh.workload(name).await;
        let [event] = next(&mut tail).await.try_into().unwrap();
        assert_eq!(event.subject, format!("spiffe://mesh.local/{name}"));
    }
    let mut ended = mesh.tail(newest + 3, false).await;
    assert!(ended.message().await.unwrap().is_none(), "there is nothing more");
}

fn viewer(id: &str) -> v1::RoleBinding {
    v1::RoleBinding { subject: id.to_owned(), role: v1::Role::Viewer.into(), scope: "everything".into() }
}

#[tokio::test]
async fn whoever_may_not_operate_any_more_hears_nothing_more() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    let id = orders.id.to_string();
    mesh.operator.grant_role(v1::GrantRoleRequest { binding: Some(viewer(&id)) }).await.unwrap();
    let mut remote = AdminClient::new(orders.channel.clone());
    let request = v1::TailAuditRequest { after_sequence: 0, follow: true };
    let mut tail = remote.tail_audit(request).await.unwrap().into_inner();
    assert!(!next(&mut tail).await.is_empty());
    mesh.operator.withdraw_role(v1::WithdrawRoleRequest { binding: Some(viewer(&id)) }).await.unwrap();
    mesh.workload("secret").await;
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(5), tail.message()).await.unwrap() {
            Ok(Some(message)) => {
                assert!(message.events.iter().all(|event| !event.subject.ends_with("/secret")));
            }
            Ok(None) => panic!("ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn only_so_many_follow_at_the_same_time() {
    let mut mesh = Mesh::start().await;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(mesh.tail(0, true).await);
    }
    let request = v1::TailAuditRequest { after_sequence: 0, follow: true };
    let refused = mesh.operator.tail_audit(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(held);
    let freed = async { while mesh.operator.tail_audit(request).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(5), freed).await.unwrap();
}

#[tokio::test]
async fn checkpoints_are_signed_and_their_key_stays() {
    let mut mesh = Mesh::start().await;
    let made = mesh.checkpoint().await;
    let key = mesh.audit_key().await;
    made.verify(&key).unwrap();
    assert_eq!(newest_checkpoint(mesh.directory.path(), []).unwrap(), Some(made.clone()));
    let mut mesh = mesh.restart().await;
    assert_eq!(mesh.audit_key().await, key);
    assert_eq!(mesh.checkpoints().await.first(), Some(&made));
}

#[tokio::test]
async fn copy_in_a_file_is_whole_and_can_be_verified_alone() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copies").join("audit.jsonl");
    std::fs::create_dir(copy.parent().unwrap()).unwrap();
    let sink = format!("file:{}", copy.display());
    let service =
        start_with(directory.path(), &["--audit-sink", &sink, "--audit-checkpoint-every", "1s"]).await;
    let operator = operator(directory.path()).await;
    let mut mesh = Mesh { directory, service, operator };
    for name in ["orders", "payments"] {
        mesh.workload(name).await;
    }
    let newest = next(&mut mesh.tail(0, false).await).await.last().unwrap().sequence;
    let key = mesh.audit_key().await;
    let verified = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let text = std::fs::read_to_string(&copy).unwrap_or_default();
            let (mut events, mut checkpoints) = (Vec::new(), Vec::new());
            for line in text.lines().map_while(|line| Line::parse(line).ok()) {
                match line {
                    Line::Event(event) => events.push(event),
                    Line::Checkpoint(checkpoint) => checkpoints.push(checkpoint),
                }
            }
            let report = verify(events, checkpoints, &key, Start::Genesis);
            assert!(report.is_intact(), "{report}");
            if report.covered_to >= newest {
                return report;
            }
        }
    };
    let report = tokio::time::timeout(Duration::from_secs(10), verified).await.unwrap();
    assert!(report.is_whole() && report.checkpoints > 0, "{report}");
}

#[tokio::test]
async fn every_answer_names_its_call() {
    let mut mesh = Mesh::start().await;
    let name = |value: Option<&tonic::metadata::MetadataValue<_>>| {
        RequestId::parse(value.expect("no x-request-id").to_str().unwrap()).unwrap()
    };
    let answer = mesh.operator.status(v1::StatusRequest {}).await.unwrap();
    let first = name(answer.metadata().get("x-request-id"));
    let missing = v1::DeletePolicyRequest { name: "none".into() };
    let refused = mesh.operator.delete_policy(missing).await.unwrap_err();
    assert_ne!(name(refused.metadata().get("x-request-id")), first);
    let orders = mesh.proxy("orders").await;
    let denied = AdminClient::new(orders.channel.clone()).status(v1::StatusRequest {}).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    name(denied.metadata().get("x-request-id"));
}

impl Mesh {
    async fn newest(&mut self, subject: &str) -> (String, String, Annotation) {
        let request = v1::ListAuditRequest { limit: 1, subject: subject.into() };
        let event = self.operator.list_audit(request).await.unwrap().into_inner().events.remove(0);
        (event.actor, event.action, Annotation::of(&event.detail))
    }
}

#[tokio::test]
async fn audit_names_the_call_of_what_was_done_and_of_what_was_refused() {
    let mut mesh = Mesh::start().await;
    let id = "spiffe://mesh.local/orders";
    let name = |metadata: &tonic::metadata::MetadataMap| {
        RequestId::parse(metadata.get("x-request-id").unwrap().to_str().unwrap())
    };
    let token = v1::CreateTokenRequest { spiffe_id: id.into(), ttl: None };
    let made = mesh.operator.create_token(token).await.unwrap();
    assert_eq!(mesh.newest(id).await.2.request_id, name(made.metadata()));

    let ticket: JoinTicket = made.into_inner().ticket.parse().unwrap();
    let pinned = pinned_client_config(ticket.root_sha256, control(), &[ALPN_H2]).unwrap();
    let mut stranger = IdentityClient::new(dial(&ticket.control[0], pinned).await.unwrap());
    let proof =
        || Some(Proof::JoinToken(v1::JoinTokenProof { secret: ticket.secret.clone().unwrap().to_vec() }));
    let attest = |csr: Vec<u8>| v1::AttestRequest {
        proof: proof(),
        csr,
        version: "test".into(),
        ..v1::AttestRequest::default()
    };
    let refused = stranger.attest(attest(vec![1, 2, 3])).await.unwrap_err();
    let (actor, action, said) = mesh.newest(id).await;
    assert_eq!((&*actor, &*action), ("anonymous@127.0.0.1", Action::SvidRefused.as_str()));
    assert_eq!(said, Annotation::request(name(refused.metadata())).because(refused.message()));

    let key = WorkloadKey::generate().unwrap();
    let issued = stranger.attest(attest(key.csr(None).unwrap())).await.unwrap();
    assert_eq!(mesh.newest(id).await.1, Action::SvidIssued.as_str());
    assert_eq!(mesh.newest(id).await.2.request_id, name(issued.metadata()));
    let other = WorkloadKey::generate().unwrap();
    let refused = stranger.attest(attest(other.csr(None).unwrap())).await.unwrap_err();
    assert_eq!(mesh.newest(id).await.1, Action::TokenRefused.as_str());
    assert_eq!(mesh.newest(id).await.2.request_id, name(refused.metadata()));

    let proxy = mesh.proxy("payments").await;
    let mut client = AdminClient::new(proxy.channel.clone());
    for _ in 0..15 {
        let refused = client.status(v1::StatusRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    let (actor, action, said) = mesh.newest("Admin/Status").await;
    assert_eq!((&*actor, &*action), (&*proxy.id.to_string(), Action::CallRefused.as_str()));
    assert!(said.request_id.is_some() && said.reason.unwrap().contains("takes the role viewer"));
    let request = v1::ListAuditRequest { limit: 100, subject: "Admin/Status".into() };
    let recorded = mesh.operator.list_audit(request).await.unwrap().into_inner().events.len();
    assert_eq!(recorded, 10, "nobody fills the audit by asking");
}
