//! What control says of policy: the golden table over the admin API, and what an older proxy is sent.

#[path = "../../../../proto/golden/table.rs"]
mod table;

use self::table::Case;
use super::*;

impl Mesh {
    async fn apply_all(&mut self, yaml: String) -> v1::ApplyPolicyResponse {
        let request = v1::ApplyPolicyRequest { yaml, file: "policy.yaml".into() };
        self.operator.apply_policy(request).await.unwrap().into_inner()
    }
}

#[tokio::test]
async fn control_says_what_the_golden_table_says() {
    let mut mesh = Mesh::start().await;
    let (documents, cases) = table::read();
    mesh.apply_all(documents).await;
    let file = v1::apply_request::File { name: "mesh.yaml".into(), yaml: table::settings().to_json() };
    let settings = v1::ApplyRequest { files: vec![file], ..v1::ApplyRequest::default() };
    let revision = mesh.operator.apply(settings).await.unwrap().into_inner().revision;
    mesh.applied(revision, Duration::from_secs(5)).await;
    for case in &cases {
        let request = v1::ExplainRequest {
            source: case.source.clone(),
            destination: case.destination.clone(),
            port: case.port.parse().unwrap(),
            method: case.method.clone(),
            path: case.path.clone(),
            host: case.host.clone(),
            headers: case.headers.clone(),
            address: case.address.clone(),
        };
        let answer = mesh.operator.explain(request).await.unwrap().into_inner();
        let decided = answer.decisions.iter().find(|decision| decision.direction == case.direction);
        let v1::ExplainDecision { allowed, reason, policy, rule, explanation, .. } = decided.unwrap();
        assert_eq!(Case::found(*allowed, reason, policy, rule, explanation), case.expected(), "{case:#?}");
        assert_eq!(answer.allowed, answer.decisions.iter().all(|decision| decision.allowed));
        assert_eq!(answer.explanation.lines().count(), answer.decisions.len());
    }
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_by_its_field() {
    let mut mesh = Mesh::start().await;
    let asked = |change: fn(&mut v1::ExplainRequest)| {
        let mut request = v1::ExplainRequest {
            source: "spiffe://mesh.local/a".into(),
            destination: "spiffe://mesh.local/b".into(),
            port: 80,
            ..v1::ExplainRequest::default()
        };
        change(&mut request);
        request
    };
    for (request, field) in [
        (asked(|request| request.source = "a".into()), "source: "),
        (asked(|request| request.port = 65_536), "port: "),
        (asked(|request| request.method = "GET".into()), "method and path "),
        (asked(|request| request.host = "a".into()), "host "),
        (asked(|request| request.address = "10.0.0.0/8".into()), "address: "),
    ] {
        let status = mesh.operator.explain(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
}

#[tokio::test]
async fn a_proxy_that_reads_less_is_sent_less_and_named() {
    let mut mesh = Mesh::start().await;
    let (old, new) = (mesh.proxy("orders").await, mesh.proxy("orders").await);
    let mut older = old.watch(1, &[]).await;
    let request = v1::WatchRequest { policy_schema: 2, ..v1::WatchRequest::default() };
    let mut newer = MeshClient::new(new.channel.clone()).watch(request).await.unwrap().into_inner();
    for stream in [&mut older, &mut newer] {
        next(stream).await;
    }
    let documents = "kind: Policy\nname: mine\ntarget: spiffe://mesh.local/orders\nrules:\n\
        \x20 - { name: old, allow: { ports: [80] } }\n\
        \x20 - { name: new, allow: { cidrs: [10.0.0.0/8] } }\n\
        ---\nkind: Policy\nname: calls\nsource: spiffe://mesh.local/orders\nrules: []\n";
    let applied = mesh.apply_all(documents.into()).await;
    let warned: Vec<bool> = ["`mine`", "`calls`"]
        .map(|name| {
            applied.warnings.iter().any(|line| line.contains(name) && line.contains("mesh.local/orders"))
        })
        .into();
    assert_eq!(warned, [true, true], "{:?}", applied.warnings);
    let sent = next(&mut older).await.policies.unwrap().documents;
    let narrowed = r#"{"kind":"Policy","name":"mine","target":"spiffe://mesh.local/orders","rules":[{"name":"old","allow":{"ports":[80]}}]}"#;
    assert_eq!(sent, [narrowed]);
    assert_eq!(next(&mut newer).await.policies.unwrap().documents.len(), 2);
    drop(older);
    let gone = Instant::now() + Duration::from_secs(5);
    while mesh.operator.status(v1::StatusRequest {}).await.unwrap().into_inner().connected_proxies > 1 {
        assert!(Instant::now() < gone);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = mesh.apply_all(documents.replace("[80]", "[81]")).await;
    assert_eq!(again.warnings, Vec::<String>::new(), "nobody reads less any more");
}
