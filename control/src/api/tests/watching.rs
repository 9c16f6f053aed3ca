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
    let endpoint = &message.service_changes.unwrap().changes[0].added[0];
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
    assert_eq!(next(&mut witness).await.services.unwrap().services[0].endpoints.len(), 1);
    mesh.revoke(What::Instance(orders.instance.clone())).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), victim.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    let mut told = (false, false);
    while told != (true, true) {
        let message = next(&mut witness).await;
        if let Some(revocations) = message.revocations {
            told.0 = revocations.instances.iter().any(|revoked| revoked.instance == orders.instance);
        }
        if let Some(changes) = message.service_changes {
            told.1 = changes.changes[0].removed == [orders.instance.as_str()];
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
        proxy.report(first.position, 0).await.unwrap();
    }
    let revision = mesh.apply(&policy("mine", "orders")).await;
    let told = next(&mut one).await;
    let waiting = mesh.applied(revision, Duration::from_millis(100)).await;
    assert!(!waiting.complete);
    orders.report(told.position, 7).await.unwrap();
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
    let told = next(&mut other).await;
    payments.report(told.position, 0).await.unwrap();
    assert!(mesh.applied(revision, Duration::from_secs(5)).await.complete, "it does not concern orders");

    let revision = mesh.revoke(What::Instance(orders.instance.clone())).await.revision;
    let told = next(&mut other).await;
    payments.report(told.position, 0).await.unwrap();
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
    let gone = next(&mut stream).await.service_changes.unwrap();
    assert_eq!(gone.changes[0].removed, [payments.instance.as_str()]);
    let revision = mesh.apply(&policy("mine", "payments")).await;
    assert_eq!(next(&mut leaving).await.revision, revision, "it drains, and hears of changes meanwhile");
    let _back = payments.watch(15444, &[]).await;
    assert_eq!(next(&mut stream).await.service_changes.unwrap().changes[0].added.len(), 1);
}

#[tokio::test]
async fn proxy_that_comes_back_is_sent_only_what_changed_meanwhile() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    mesh.apply(&policy("mine", "orders")).await;
    let first = next(&mut orders.watch(1, &["payments"]).await).await;
    let request = |have: Option<v1::StateDigest>| v1::WatchRequest {
        upstreams: vec!["spiffe://mesh.local/payments".into()],
        have,
        ..v1::WatchRequest::default()
    };
    let mut mesh = mesh.restart().await;
    let address = mesh.service.grpc.to_string();
    let orders = Proxy { channel: connect(&address, &orders.svid, &orders.trust).await, ..orders };
    let again = next(&mut orders.watch_with(request(first.state.clone())).await).await;
    assert!(again.policies.is_none() && again.bundles.is_none());
    assert!(again.revocations.is_none() && again.services.is_none());
    assert_eq!(again.state, first.state);
    mesh.apply(&policy("more", "orders")).await;
    let changed = next(&mut orders.watch_with(request(again.state.clone())).await).await;
    assert_eq!(changed.policies.unwrap().documents.len(), 2);
    assert!(changed.bundles.is_none() && changed.services.is_none());
    let unknown = v1::StateDigest { form: 99, ..changed.state.unwrap() };
    let whole = next(&mut orders.watch_with(request(Some(unknown))).await).await;
    assert!(whole.bundles.is_some() && whole.policies.is_some() && whole.services.is_some());
}

#[tokio::test]
async fn proxy_that_lost_something_is_sent_everything_again() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    let mut stream = orders.watch(1, &[]).await;
    let first = next(&mut stream).await;
    mesh.apply(&policy("mine", "orders")).await;
    let lost = next(&mut stream).await;
    assert!(lost.policies.is_some() && lost.bundles.is_none());
    let report = v1::ReportRequest {
        position: lost.position,
        // It did not take in the documents.
        state: first.state,
        ..v1::ReportRequest::default()
    };
    ReportClient::new(orders.channel.clone()).report(report).await.unwrap();
    let whole = next(&mut stream).await;
    assert_eq!(whole.policies.unwrap().documents.len(), 1);
    assert!(whole.bundles.is_some() && whole.revocations.is_some() && whole.services.is_some());
    assert_eq!(whole.state, lost.state);
}

#[tokio::test]
async fn proxy_that_follows_everybody_is_told_of_those_it_may_not_call_too() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    let mut stream = orders.watch(1, &["*"]).await;
    let known = next(&mut stream).await.services.unwrap().services.len();
    let _listening = payments.watch(15444, &[]).await;
    let changes = next(&mut stream).await.service_changes.unwrap();
    assert_eq!((known, changes.changes.len()), (1, 1), "first itself, then who came");
    assert_eq!(changes.changes[0].spiffe_id, "spiffe://mesh.local/payments");
    assert_eq!(changes.changes[0].added[0].port, 15444);
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
