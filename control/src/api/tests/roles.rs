//! What operators with a part of the rights can do, and what they hear when they cannot.

use signet_proto::verbs::Verb;
use tonic_prost::ProstCodec;

use super::*;
use crate::roles::{Needs, Reach, Role, needs};

const SHOP: &str = "spiffe://mesh.local/shop/*";

fn binding(role: v1::Role, subject: &str, scope: &str) -> Option<v1::RoleBinding> {
    Some(v1::RoleBinding { subject: subject.into(), role: role.into(), scope: scope.into() })
}

fn id(name: &str) -> String {
    format!("spiffe://mesh.local/{name}")
}

impl Mesh {
    async fn grant(&mut self, role: v1::Role, name: &str, scope: &str) {
        let request = v1::GrantRoleRequest { binding: binding(role, &id(name), scope) };
        self.operator.grant_role(request).await.unwrap();
    }

    async fn withdraw(&mut self, role: v1::Role, name: &str, scope: &str) {
        let request = v1::WithdrawRoleRequest { binding: binding(role, &id(name), scope) };
        self.operator.withdraw_role(request).await.unwrap();
    }

    /// With workloads in the shop and beside it, a policy for each, and someone with a role on the shop.
    async fn with_shop(role: v1::Role) -> (Self, Proxy, AdminClient<Channel>) {
        let mut mesh = Self::start().await;
        for name in ["shop/cart", "shop/till", "bank/vault"] {
            mesh.workload(name).await;
        }
        mesh.apply(&policy("cart", "shop/cart")).await;
        mesh.apply(&policy("vault", "bank/vault")).await;
        mesh.grant(role, "operator", SHOP).await;
        let proxy = mesh.proxy("operator").await;
        let client = AdminClient::new(proxy.channel.clone());
        (mesh, proxy, client)
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> String {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    status.message().to_owned()
}

fn revoke(what: What) -> v1::RevokeRequest {
    v1::RevokeRequest { what: Some(what), reason: "test".into() }
}

fn document(yaml: &str) -> v1::ApplyPolicyRequest {
    v1::ApplyPolicyRequest { yaml: yaml.into(), file: "test.yaml".into() }
}

#[tokio::test]
async fn operator_of_a_subtree_works_in_it_and_is_told_what_is_missing_beside_it() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    let create = |name: &str| v1::CreateWorkloadRequest {
        spiffe_id: id(name),
        owner: "team".into(),
        purpose: "test".into(),
        ..v1::CreateWorkloadRequest::default()
    };
    let token = |name: &str| v1::CreateTokenRequest { spiffe_id: id(name), ttl: None };
    let suspend = |name: &str| v1::SetWorkloadStatusRequest {
        spiffe_id: id(name),
        status: v1::WorkloadStatus::Suspended.into(),
        reason: String::new(),
    };
    client.create_workload(create("shop/new")).await.unwrap();
    client.create_token(token("shop/new")).await.unwrap();
    client.set_workload_status(suspend("shop/new")).await.unwrap();
    let events = v1::ListAuditRequest { limit: 1, subject: id("shop/new") };
    let events = mesh.operator.list_audit(events).await.unwrap().into_inner().events;
    assert_eq!(events[0].actor, id("operator"), "the audit names who did it");

    let message = refused(client.create_workload(create("bank/new")).await);
    assert_eq!(
        message,
        "CreateWorkload takes the role operator on `spiffe://mesh.local/bank/new`; \
         `spiffe://mesh.local/operator` has operator on `spiffe://mesh.local/shop/*`. An admin gives it: \
         `signet role grant operator spiffe://mesh.local/operator --on 'spiffe://mesh.local/bank/new'`"
    );
    refused(client.create_token(token("bank/vault")).await);
    refused(client.set_workload_status(suspend("bank/vault")).await);
    refused(client.create_workload(create("shop")).await);
    refused(client.create_workload(create("shopping/cart")).await);
    refused(client.status(v1::StatusRequest {}).await);
    refused(client.get_bundle(v1::GetBundleRequest {}).await);
    refused(client.rotate_intermediate(v1::RotateIntermediateRequest::default()).await);
}

#[tokio::test]
async fn revocation_belongs_to_the_identity_of_what_is_revoked() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    let (cart, vault) = (mesh.proxy("shop/cart").await, mesh.proxy("bank/vault").await);
    let identities = v1::ListIdentitiesRequest { spiffe_id: id("bank/vault"), all: false };
    let held = mesh.operator.list_identities(identities).await.unwrap().into_inner().identities;
    let serial = held[0].serial.clone();
    let told = refused(client.revoke(revoke(What::Instance(vault.instance.clone()))).await);
    assert!(told.contains("--on 'spiffe://mesh.local/bank/vault'"), "{told}");
    refused(client.revoke(revoke(What::Serial(serial))).await);
    refused(client.revoke(revoke(What::SpiffeId(id("bank/vault")))).await);
    vault.renew().await.unwrap();
    let unknown = client.revoke(revoke(What::Instance("0".repeat(31) + "1"))).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    client.revoke(revoke(What::Instance(cart.instance.clone()))).await.unwrap();
    client.revoke(revoke(What::SpiffeId(id("shop/cart")))).await.unwrap();
}

#[tokio::test]
async fn policy_belongs_to_whom_it_protects_and_a_name_does_not_carry_over() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    client.apply_policy(document(&policy("till", "shop/till"))).await.unwrap();
    client.apply_policy(document(&policy("all-of-shop", "shop/*"))).await.unwrap();
    refused(client.apply_policy(document(&policy("mine", "bank/vault"))).await);
    refused(client.apply_policy(document(&policy("wide", "*"))).await);
    let mixed = format!("{}---\n{}", policy("till", "shop/cart"), policy("mine", "bank/vault"));
    refused(client.apply_policy(document(&mixed)).await);
    let told = refused(client.apply_policy(document(&policy("vault", "shop/till"))).await);
    assert!(told.contains("bank/vault"), "a document is not taken away by its name: {told}");
    refused(client.delete_policy(v1::DeletePolicyRequest { name: "vault".into() }).await);
    client.delete_policy(v1::DeletePolicyRequest { name: "cart".into() }).await.unwrap();
    let kept = mesh.operator.list_policies(v1::ListPoliciesRequest {}).await.unwrap().into_inner().policies;
    let kept: Vec<_> = kept.iter().map(|policy| &*policy.name).collect();
    assert_eq!(kept, ["all-of-shop", "till", "vault"]);
}

#[tokio::test]
async fn lists_show_what_the_scopes_contain_and_nothing_else() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Viewer).await;
    let (_cart, vault) = (mesh.proxy("shop/cart").await, mesh.proxy("bank/vault").await);
    mesh.grant(v1::Role::Viewer, "orders", "everything").await;
    mesh.grant(v1::Role::Operator, "orders", "spiffe://mesh.local/shop/cart").await;

    let workloads = client.list_workloads(v1::ListWorkloadsRequest {}).await.unwrap().into_inner().workloads;
    let names: Vec<_> = workloads.iter().map(|workload| &*workload.spiffe_id).collect();
    assert_eq!(names, [id("shop/cart"), id("shop/till")]);
    let policies = client.list_policies(v1::ListPoliciesRequest {}).await.unwrap().into_inner().policies;
    assert_eq!(policies.iter().map(|policy| &*policy.name).collect::<Vec<_>>(), ["cart"]);
    let all = v1::ListIdentitiesRequest { spiffe_id: String::new(), all: true };
    let identities = client.list_identities(all).await.unwrap().into_inner().identities;
    assert_eq!(identities.len(), 1);
    assert_eq!(identities[0].spiffe_id, id("shop/cart"));
    let certificates = client.list_certificates(v1::ListCertificatesRequest::default()).await.unwrap();
    let seen: Vec<_> =
        certificates.into_inner().certificates.into_iter().map(|seen| seen.spiffe_id).collect();
    assert_eq!(seen, [id("shop/cart")]);
    let instances = client.list_instances(v1::ListInstancesRequest::default()).await.unwrap();
    assert_eq!(instances.into_inner().instances.len(), 1);
    let hidden = v1::ListInstancesRequest { id: id("bank/vault"), ..v1::ListInstancesRequest::default() };
    refused(client.list_instances(hidden).await);
    // A connection is for whoever may see either end.
    for (number, peers) in [(1, ["shop/cart", "bank/teller"]), (2, ["shop/till", "bank/vault"])] {
        let callers =
            peers.map(|peer| v1::Caller { peer: id(peer), connections: 1, ..v1::Caller::default() });
        let (run, callers) = (vec![1; 16], callers.to_vec());
        let report = v1::ReportSightingsRequest { run, number, callers, ..Default::default() };
        ReportClient::new(vault.channel.clone()).report_sightings(report).await.unwrap();
    }
    let connections = client.list_connections(v1::ListConnectionsRequest::default()).await.unwrap();
    let mut seen: Vec<_> = connections.into_inner().connections.into_iter().map(|seen| seen.source).collect();
    seen.sort();
    assert_eq!(seen, [id("shop/cart"), id("shop/till")]);
    let roles = client.list_roles(v1::ListRolesRequest {}).await.unwrap().into_inner().roles;
    let roles: Vec<_> = roles
        .into_iter()
        .map(|granted| {
            let v1::RoleBinding { subject, scope, .. } = granted.binding.unwrap();
            assert_eq!(granted.granted_by, "unix:uid=0");
            (subject, scope)
        })
        .collect();
    assert_eq!(
        roles,
        [(id("operator"), SHOP.to_owned()), (id("orders"), id("shop/cart"))],
        "one's own, and those on what one sees"
    );

    let of = |name: &str| v1::ListIdentitiesRequest { spiffe_id: id(name), all: false };
    client.list_identities(of("shop/cart")).await.unwrap();
    refused(client.list_identities(of("bank/vault")).await);
    refused(client.list_identities(of("bank/nothing")).await);
    let audit = |subject: &str| v1::ListAuditRequest { limit: 10, subject: subject.into() };
    assert!(!client.list_audit(audit(&id("shop/cart"))).await.unwrap().into_inner().events.is_empty());
    for beyond in [id("bank/vault"), String::new(), "vault".to_owned(), "cart".to_owned()] {
        refused(client.list_audit(audit(&beyond)).await);
    }
    let explain = |destination: &str| v1::ExplainRequest {
        source: id("bank/vault"),
        destination: id(destination),
        port: 80,
        ..v1::ExplainRequest::default()
    };
    client.explain(explain("shop/cart")).await.unwrap();
    refused(client.explain(explain("bank/vault")).await);
}

#[tokio::test]
async fn whoever_waits_counts_all_proxies_and_sees_the_names_of_their_own() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    let (cart, vault) = (mesh.proxy("shop/cart").await, mesh.proxy("bank/vault").await);
    let (mut one, mut other) = (cart.watch(1, &[]).await, vault.watch(2, &[]).await);
    next(&mut one).await;
    next(&mut other).await;
    let revoked = client.revoke(revoke(What::SpiffeId(id("shop/till")))).await.unwrap().into_inner();
    let told = next(&mut one).await;
    next(&mut other).await;
    cart.report(told.position, 0).await.unwrap();
    let wait = v1::AwaitAppliedRequest {
        revision: revoked.revision,
        timeout: Some(crate::time::duration_to_proto(Duration::from_millis(100))),
    };
    let applied = client.await_applied(wait).await.unwrap().into_inner();
    assert!(!applied.complete, "it concerns both, and one has not said so");
    let mut seen: Vec<_> = applied.proxies.iter().map(|proxy| (&*proxy.spiffe_id, proxy.applied)).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("", false), (&*id("shop/cart"), true)]);
    assert!(applied.proxies.iter().all(|proxy| proxy.instance.is_empty() == proxy.spiffe_id.is_empty()));
}

#[tokio::test]
async fn nobody_grants_more_than_they_hold_or_becomes_who_holds_more() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    let grant = |role, subject: &str, scope: &str| v1::GrantRoleRequest {
        binding: binding(role, &id(subject), scope),
    };
    refused(client.grant_role(grant(v1::Role::Viewer, "orders", SHOP)).await);

    mesh.grant(v1::Role::Admin, "operator", SHOP).await;
    let told = refused(client.grant_role(grant(v1::Role::Viewer, "orders", SHOP)).await);
    assert!(told.contains("the role admin on `spiffe://mesh.local/orders`"), "it would hold more: {told}");
    mesh.grant(v1::Role::Admin, "operator", "spiffe://mesh.local/orders").await;
    client.grant_role(grant(v1::Role::Admin, "orders", "spiffe://mesh.local/shop/cart")).await.unwrap();
    client.grant_role(grant(v1::Role::Approver, "shop/till", SHOP)).await.unwrap();
    for beyond in
        ["everything", "spiffe://mesh.local/*", "spiffe://mesh.local/shop", "spiffe://mesh.local/bank/*"]
    {
        let told = refused(client.grant_role(grant(v1::Role::Viewer, "operator", beyond)).await);
        assert!(told.contains("takes the role admin on"), "{told}");
    }
    mesh.grant(v1::Role::Viewer, "orders", "everything").await;
    let withdraw =
        |role, scope: &str| v1::WithdrawRoleRequest { binding: binding(role, &id("orders"), scope) };
    refused(client.withdraw_role(withdraw(v1::Role::Viewer, "everything")).await);
    let none = client.withdraw_role(withdraw(v1::Role::Viewer, SHOP)).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    client.withdraw_role(withdraw(v1::Role::Admin, "spiffe://mesh.local/shop/cart")).await.unwrap();

    let token = |name: &str| v1::CreateTokenRequest { spiffe_id: id(name), ttl: None };
    client.create_token(token("shop/till")).await.unwrap();
    mesh.grant(v1::Role::Viewer, "shop/till", "everything").await;
    let told = refused(client.create_token(token("shop/till")).await);
    assert!(told.contains("has the role viewer on everything"), "{told}");
}

#[tokio::test]
async fn grant_that_says_too_little_or_names_nobody_is_refused() {
    let mut mesh = Mesh::start().await;
    let viewer = v1::Role::Viewer;
    for (asked, code, expected) in [
        (None, Code::InvalidArgument, "binding"),
        (binding(v1::Role::Unspecified, &id("orders"), "everything"), Code::InvalidArgument, "role"),
        (binding(viewer, "", "everything"), Code::InvalidArgument, "subject"),
        (binding(viewer, &id("orders"), ""), Code::InvalidArgument, "scope"),
        (binding(viewer, &id("orders"), "*"), Code::InvalidArgument, "scope"),
        (binding(viewer, &id("orders"), "spiffe://other.local/*"), Code::InvalidArgument, "mesh.local"),
        (binding(viewer, &id("ordres"), "everything"), Code::NotFound, "ordres"),
        (binding(viewer, "spiffe://other.local/x", "everything"), Code::InvalidArgument, "trust domain"),
        (binding(viewer, &id("signet/control"), "everything"), Code::InvalidArgument, "reserved"),
    ] {
        let status = mesh.operator.grant_role(v1::GrantRoleRequest { binding: asked }).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(expected), "{status}");
    }
}

#[tokio::test]
async fn withdrawn_role_counts_from_the_next_call_on_an_open_connection() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    let list = || v1::ListWorkloadsRequest {};
    client.list_workloads(list()).await.unwrap();
    mesh.grant(v1::Role::Viewer, "operator", "everything").await;
    client.status(v1::StatusRequest {}).await.unwrap();
    mesh.withdraw(v1::Role::Viewer, "operator", "everything").await;
    refused(client.status(v1::StatusRequest {}).await);
    client.list_workloads(list()).await.unwrap();
    mesh.withdraw(v1::Role::Operator, "operator", SHOP).await;
    let told = refused(client.list_workloads(list()).await);
    assert!(told.contains("has none"), "{told}");
}

#[tokio::test]
async fn revoked_operator_is_refused_whatever_roles_it_has() {
    let (mut mesh, proxy, mut client) = Mesh::with_shop(v1::Role::Admin).await;
    mesh.grant(v1::Role::Admin, "operator", "everything").await;
    client.status(v1::StatusRequest {}).await.unwrap();
    mesh.revoke(What::Instance(proxy.instance.clone())).await;
    let told = async {
        loop {
            if let Err(status) = client.status(v1::StatusRequest {}).await {
                return status;
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(5), told).await.unwrap();
    assert_eq!(told.code(), Code::PermissionDenied);
    assert!(told.message().contains("revoked_instance"), "{told}");
}

/// Every call of the definition, with an empty message, by someone with each of the roles on everything: refused
/// exactly when the role is too little, and never answered without having been judged.
#[tokio::test]
async fn every_call_asks_for_its_role_at_the_door() {
    let mut mesh = Mesh::start().await;
    let proxy = mesh.proxy("operator").await;
    let roles = [
        (Role::Viewer, v1::Role::Viewer),
        (Role::Operator, v1::Role::Operator),
        (Role::Approver, v1::Role::Approver),
        (Role::Admin, v1::Role::Admin),
    ];
    for scope in ["everything", SHOP] {
        for (role, granted) in roles {
            mesh.grant(granted, "operator", scope).await;
            for &verb in Verb::ALL {
                let Needs::Role(least, reach) = needs(verb) else { continue };
                let mut client = tonic::client::Grpc::new(proxy.channel.clone());
                client.ready().await.unwrap();
                let path = tonic::codegen::http::uri::PathAndQuery::from_static(verb.path());
                let answer =
                    client.unary(tonic::Request::new(()), path, ProstCodec::<(), ()>::default()).await;
                let code = answer.map_or_else(|status| status.code(), |_| Code::Ok);
                assert_ne!(code, Code::Internal, "{verb:?} by {role}");
                let everything = scope == "everything";
                let door = role.includes(least) && (everything || reach != Reach::Mesh);
                // An empty message names nothing: of the calls that may name nothing, that is everything.
                let judged = everything || verb != Verb::AdminListAudit;
                assert_eq!(
                    code != Code::PermissionDenied,
                    door && judged,
                    "{verb:?} by {role} on {scope}: {code}"
                );
            }
            mesh.withdraw(granted, "operator", scope).await;
        }
    }
}

fn apply(yaml: &str) -> v1::ApplyRequest {
    let file = v1::apply_request::File { name: "mesh.yaml".into(), yaml: yaml.into() };
    v1::ApplyRequest { files: vec![file], ..v1::ApplyRequest::default() }
}

fn declared(name: &str, selectors: &str) -> String {
    format!("kind: Workload\nid: {}\nowner: {{ team: t }}\npurpose: p\nselectors: [{selectors}]\n", id(name))
}

#[tokio::test]
async fn documents_are_applied_by_whoever_may_change_all_that_they_are_about() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    let both = format!("{}---\n{}", declared("shop/a", ""), declared("bank/a", ""));
    refused(client.apply(apply(&both)).await);
    refused(client.apply(v1::ApplyRequest { dry_run: true, ..apply(&both) }).await);
    let template = |name: &str| declared(name, "prod");
    client.apply(apply(&template("shop/ns/{namespace}"))).await.unwrap();
    refused(client.apply(apply(&template("{area}/{namespace}"))).await);
    let mixed = format!("{}---\n{}", declared("shop/a", ""), policy("vault", "shop/till"));
    let told = refused(client.apply(apply(&mixed)).await);
    assert!(told.contains("bank/vault"), "a document is not taken away by its name: {told}");

    mesh.operator
        .apply(apply(&format!("{}---\n{}", declared("shop/b", ""), declared("bank/b", ""))))
        .await
        .unwrap();
    let prune = v1::ApplyRequest { prune: true, prune_all: true, ..apply(&declared("shop/b", "")) };
    let told = refused(client.apply(prune.clone()).await);
    assert!(told.contains("bank/b"), "nothing beside it is pruned: {told}");
    let exported = client.export(v1::ExportRequest::default()).await.unwrap().into_inner().yaml;
    assert!(exported.contains("shop/b") && !exported.contains("bank/"), "{exported}");
    let listed = client.list_workloads(v1::ListWorkloadsRequest {}).await.unwrap().into_inner().workloads;
    assert!(listed.iter().all(|workload| workload.spiffe_id.contains("/shop/")), "{listed:?}");
}

#[tokio::test]
async fn nobody_says_what_proves_to_be_someone_who_may_do_more() {
    let (mut mesh, _proxy, mut client) = Mesh::with_shop(v1::Role::Operator).await;
    mesh.grant(v1::Role::Admin, "shop/till", "everything").await;
    client.apply(apply(&declared("shop/till", ""))).await.unwrap();
    for name in ["shop/till", "shop/{account}"] {
        let told = refused(client.apply(apply(&declared(name, "prod"))).await);
        assert!(told.contains("what proves to be it"), "{told}");
    }
    let by_hand = v1::CreateWorkloadRequest {
        spiffe_id: id("shop/{account}"),
        owner: "team".into(),
        purpose: "test".into(),
        selectors: vec!["prod".into()],
        ..v1::CreateWorkloadRequest::default()
    };
    refused(client.create_workload(by_hand).await);
    client.apply(apply(&declared("shop/ns/{account}", "prod"))).await.unwrap();
    mesh.operator.apply(apply(&declared("shop/{account}", "prod"))).await.unwrap();
}
