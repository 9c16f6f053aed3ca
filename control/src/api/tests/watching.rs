//! What is pushed to proxies, and what they say to it.

use super::*;

#[tokio::test]
async fn proxy_joins_renews_and_is_pushed_what_concerns_it() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    assert_eq!(orders.id.path(), "/orders");
    let renewed = orders.renew().await.unwrap();
    renewed.check(&orders.trust, crate::time::now()).unwrap();
    assert_eq!(renewed.profile().instance, orders.svid.profile().instance);

    let mut stream = orders.watch(15443, &["payments"]).await;
    let first = next(&mut stream).await;
    assert!(first.bundles.is_some() && first.policies.is_some() && first.revocations.is_some());
    assert!(first.services.unwrap().services[0].endpoints.is_empty());

    let started = Instant::now();
    let revision = mesh.apply(&policy("mine", "orders")).await;
    let message = next(&mut stream).await;
    let took = started.elapsed();
    assert_eq!(message.revision, revision);
    assert_eq!(message.policies.unwrap().documents.len(), 1);
    assert!(message.bundles.is_none() && message.revocations.is_none() && message.services.is_none());
    assert!(took < Duration::from_millis(500), "pushed after {took:?}");

    mesh.apply(&policy("other", "payments")).await;
    let payments = mesh.proxy("payments").await;
    let mut other = payments.watch(15444, &[]).await;
    next(&mut other).await;
    let message = next(&mut stream).await;
    assert!(message.policies.is_none(), "another's policy is not sent");
    let endpoint = &message.services.unwrap().services[0].endpoints[0];
    assert_eq!((endpoint.address.as_str(), endpoint.port, endpoint.app_port), ("127.0.0.1", 15444, 8080));
    assert_eq!(endpoint.instance, payments.instance);
}

#[tokio::test]
async fn revoked_instance_loses_its_stream_and_its_calls_and_others_are_told() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut victim = orders.watch(1, &[]).await;
    let mut witness = payments.watch(2, &["orders"]).await;
    next(&mut victim).await;
    while next(&mut witness).await.services.is_none_or(|services| services.services[0].endpoints.is_empty()) {
    }
    mesh.revoke(What::Instance(orders.instance.clone())).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), victim.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    let mut told = (false, false);
    while told != (true, true) {
        let message = next(&mut witness).await;
        if let Some(revocations) = message.revocations {
            told.0 = revocations.instances.iter().any(|revoked| revoked.instance == orders.instance);
        }
        if let Some(services) = message.services {
            told.1 = services.services[0].endpoints.is_empty();
        }
    }
    assert_eq!(orders.renew().await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(orders.report(1, 0).await.unwrap_err().code(), Code::PermissionDenied);
    payments.renew().await.unwrap();
}

#[tokio::test]
async fn operator_waits_until_everyone_concerned_has_a_change_in_force() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let (mut one, mut other) = (orders.watch(1, &[]).await, payments.watch(2, &[]).await);
    for (proxy, stream) in [(&orders, &mut one), (&payments, &mut other)] {
        let first = next(stream).await;
        proxy.report(first.revision, 0).await.unwrap();
    }
    let revision = mesh.apply(&policy("mine", "orders")).await;
    next(&mut one).await;
    let waiting = mesh.applied(revision, Duration::from_millis(100)).await;
    assert!(!waiting.complete);
    orders.report(revision, 7).await.unwrap();
    let applied = mesh.applied(revision, Duration::from_secs(5)).await;
    assert!(applied.complete);
    assert_eq!(applied.proxies.len(), 1, "only the one it concerns");
    assert_eq!(applied.proxies[0].closed_connections, 7);
    assert!(applied.proxies[0].after.is_some());
    let binding = Some(v1::RoleBinding {
        subject: "spiffe://mesh.local/operator".into(),
        role: v1::Role::Admin.into(),
        scope: "everything".into(),
    });
    let unseen = mesh.operator.grant_role(v1::GrantRoleRequest { binding });
    let unseen = unseen.await.unwrap().into_inner().revision;
    assert!(mesh.applied(unseen, Duration::from_secs(5)).await.complete);
}

#[tokio::test]
async fn proxy_that_is_not_connected_is_named_when_a_change_concerns_it() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let _operator = mesh.proxy("operator").await;
    let mut stream = orders.watch(1, &[]).await;
    next(&mut stream).await;
    drop(stream);
    let mut other = payments.watch(2, &[]).await;
    next(&mut other).await;
    let until = Instant::now() + Duration::from_secs(5);
    let connected = async |mesh: &mut Mesh| {
        mesh.operator.status(v1::StatusRequest {}).await.unwrap().into_inner().connected_proxies
    };
    while connected(&mut mesh).await > 1 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let revision = mesh.apply(&policy("mine", "orders")).await;
    let applied = mesh.applied(revision, Duration::from_secs(5)).await;
    assert!(!applied.complete);
    let [absent] = &applied.proxies[..] else { panic!("{applied:?}") };
    assert_eq!(absent.instance, orders.instance);
    assert!(!absent.applied && !absent.connected);

    let revision = mesh.apply(&policy("other", "payments")).await;
    next(&mut other).await;
    payments.report(revision, 0).await.unwrap();
    assert!(mesh.applied(revision, Duration::from_secs(5)).await.complete, "it does not concern orders");

    let revision = mesh.revoke(What::Instance(orders.instance.clone())).await.revision;
    next(&mut other).await;
    payments.report(revision, 0).await.unwrap();
    let applied = mesh.applied(revision, Duration::from_secs(5)).await;
    assert!(applied.complete, "what is revoked, and who never watched, is not asked: {applied:?}");
}

#[tokio::test]
async fn policy_that_cannot_be_read_stops_neither_revocations_nor_the_start() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let broken = crate::store::model::NewPolicy {
        name: "broken".into(),
        target: "spiffe://mesh.local/orders".into(),
        document: "{}".into(),
    };
    let control = crate::store::model::Actor::control();
    mesh.service.store.apply_policies(vec![broken], control, |_| Ok(())).await.unwrap();
    let mut mesh = mesh.restart().await;
    let address = mesh.service.grpc.to_string();
    let orders = Proxy { channel: connect(&address, &orders.svid, &orders.trust).await, ..orders };
    let mut stream = orders.watch(1, &[]).await;
    assert_eq!(next(&mut stream).await.policies.unwrap().documents, ["{}"], "the proxy denies");
    mesh.revoke(What::Instance(payments.instance.clone())).await;
    assert_eq!(next(&mut stream).await.revocations.unwrap().instances.len(), 1);
    mesh.apply(&policy("mine", "orders")).await;
    assert_eq!(next(&mut stream).await.policies.unwrap().documents.len(), 2);
}

#[tokio::test]
async fn departed_proxy_loses_its_endpoints_at_once_but_not_its_stream() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut leaving = payments.watch(15444, &[]).await;
    next(&mut leaving).await;
    let mut stream = orders.watch(1, &["payments"]).await;
    assert_eq!(next(&mut stream).await.services.unwrap().services[0].endpoints.len(), 1);
    let leave = || MeshClient::new(payments.channel.clone());
    leave().leave(v1::LeaveRequest {}).await.unwrap();
    assert!(next(&mut stream).await.services.unwrap().services[0].endpoints.is_empty());
    let revision = mesh.apply(&policy("mine", "payments")).await;
    assert_eq!(next(&mut leaving).await.revision, revision, "it drains, and hears of changes meanwhile");
    let _back = payments.watch(15444, &[]).await;
    assert_eq!(next(&mut stream).await.services.unwrap().services[0].endpoints.len(), 1);
}

#[tokio::test]
async fn proxy_that_a_wrong_clock_lapsed_is_back_with_its_next_call() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut witness = payments.watch(2, &["orders"]).await;
    let mut victim = orders.watch(1, &[]).await;
    next(&mut victim).await;
    next(&mut witness).await;
    let ahead = crate::time::now() + Duration::from_secs(4000);
    assert_eq!(mesh.service.store.lapse_instances(ahead, 10).await.unwrap().len(), 2);
    let ended = tokio::time::timeout(Duration::from_secs(5), victim.message()).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::PermissionDenied);
    let mut stream = orders.watch(1, &[]).await;
    assert!(
        !next(&mut stream).await.revocations.unwrap().instances.iter().any(|i| i.instance == orders.instance)
    );
    payments.renew().await.unwrap();
    let mut witness = payments.watch(2, &["orders"]).await;
    let first = next(&mut witness).await;
    assert!(first.revocations.unwrap().instances.is_empty());
    assert_eq!(first.services.unwrap().services[0].endpoints.len(), 1, "and so is its endpoint");
}
