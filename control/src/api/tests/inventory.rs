//! What proxies report, and who is shown it.

use super::*;

fn id(name: &str) -> String {
    format!("spiffe://mesh.local/{name}")
}

fn called_by(peers: &[&str], number: u64) -> v1::ReportSightingsRequest {
    let caller = |peer: &&str| v1::Caller {
        peer: id(peer),
        port: 8080,
        connections: 1,
        denials: vec![v1::Denial { reason: "no_rule".into(), count: 2, ..v1::Denial::default() }],
        ..v1::Caller::default()
    };
    let callers = peers.iter().map(caller).collect();
    v1::ReportSightingsRequest { run: vec![1; 16], number, callers, ..v1::ReportSightingsRequest::default() }
}

impl Proxy {
    async fn sees(&self, report: v1::ReportSightingsRequest) -> Result<(), tonic::Status> {
        ReportClient::new(self.channel.clone()).report_sightings(report).await.map(drop)
    }
}

#[tokio::test]
async fn proxy_speaks_only_of_itself_and_nonsense_is_refused_whole() {
    let mut mesh = Mesh::start().await;
    let (orders, payments) = (mesh.proxy("orders").await, mesh.proxy("payments").await);
    orders.sees(called_by(&["web", "batch"], 1)).await.unwrap();
    orders.sees(called_by(&["web", "batch"], 1)).await.unwrap();
    let mut odd = called_by(&["intruder"], 1);
    odd.callers[0].denials[0].policy = "\u{1b}[2J".into();
    assert_eq!(payments.sees(odd).await.unwrap_err().code(), Code::InvalidArgument);
    let huge = called_by(&["a"; 257], 1);
    assert_eq!(payments.sees(huge).await.unwrap_err().code(), Code::InvalidArgument);
    let mut list =
        async |request| mesh.operator.list_connections(request).await.unwrap().into_inner().connections;
    let all = list(v1::ListConnectionsRequest::default()).await;
    let told: Vec<_> = all.iter().map(|edge| (&*edge.destination, edge.connections, edge.denied)).collect();
    assert_eq!(told, [(&*id("orders"), 1, 2); 2], "a repeated report is not counted again");
    let to =
        v1::ListConnectionsRequest { destination: id("payments"), ..v1::ListConnectionsRequest::default() };
    assert_eq!(list(to).await, []);
    let page = Some(v1::Page { order: "refused".into(), descending: true, limit: 1, ..v1::Page::default() });
    let from = v1::ListConnectionsRequest { page, id: id("web"), ..v1::ListConnectionsRequest::default() };
    assert_eq!(list(from).await[0].refusals[0].reason, "no_rule");
}

#[tokio::test]
async fn page_that_is_none_of_the_list_is_refused_with_what_was_expected() {
    let mut mesh = Mesh::start().await;
    for (page, told) in [
        (v1::Page { order: "owner".into(), ..v1::Page::default() }, "expires, id"),
        (v1::Page { after: "x".into(), ..v1::Page::default() }, "next"),
    ] {
        let request =
            v1::ListCertificatesRequest { page: Some(page), ..v1::ListCertificatesRequest::default() };
        let refused = mesh.operator.list_certificates(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(told), "{}", refused.message());
    }
    let status = vec!["good".to_owned()];
    let request = v1::ListInstancesRequest { status, ..v1::ListInstancesRequest::default() };
    let refused = mesh.operator.list_instances(request).await.unwrap_err();
    assert!(refused.message().contains("active, departed"), "{}", refused.message());
}

#[tokio::test]
async fn certificate_says_who_holds_it_when_it_was_seen_and_what_revokes_it() {
    let mut mesh = Mesh::start().await;
    let orders = mesh.proxy("orders").await;
    let mut followed = mesh
        .operator
        .follow_inventory(v1::FollowInventoryRequest { follow: true })
        .await
        .unwrap()
        .into_inner();
    followed.message().await.unwrap().expect("how it is now");
    orders.renew().await.unwrap();
    followed.message().await.unwrap().expect("something changed");
    let request = v1::ListCertificatesRequest { id: id("orders"), ..v1::ListCertificatesRequest::default() };
    let mut statuses = Vec::new();
    for _ in 0..200 {
        let listed = mesh.operator.list_certificates(request.clone()).await.unwrap().into_inner();
        statuses = listed
            .certificates
            .iter()
            .map(|found| (found.status.clone(), found.last_seen.is_some(), found.instance == orders.instance))
            .collect();
        // The one that it renewed with was shown to control.
        if statuses.iter().any(|(_, seen, _)| *seen) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    statuses.sort();
    assert_eq!(statuses, [("superseded".into(), true, true), ("valid".to_owned(), false, true)]);
    mesh.revoke(What::Instance(orders.instance.clone())).await;
    let mut revoked = Vec::new();
    for _ in 0..200 {
        let listed = mesh.operator.list_certificates(request.clone()).await.unwrap().into_inner();
        revoked = listed.certificates.into_iter().map(|found| (found.status, found.revoked_by)).collect();
        if revoked.iter().all(|(status, _)| status == "revoked") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        revoked,
        [("revoked".to_owned(), "instance".to_owned()), ("revoked".into(), "instance".into())]
    );
}
