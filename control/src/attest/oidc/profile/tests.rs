use serde_json::json;

use super::*;

fn proven(profile: Profile, added: &[(&str, &str)], claims: &Value) -> Result<Vec<String>, &'static str> {
    let added: Vec<_> =
        added.iter().map(|(key, path)| ((*key).to_owned(), ClaimPath::parse(path).unwrap())).collect();
    selectors("ci", profile, &added, claims)
        .map(|selectors| selectors.iter().map(ToString::to_string).collect())
        .map_err(|error| error.reason())
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn kubernetes() {
    let claims = json!({ "sub": "system:serviceaccount:shop:orders", "kubernetes.io": {
        "namespace": "shop", "node": { "name": "n1", "uid": "u3" }, "pod": { "name": "orders-0", "uid": "u2" },
        "serviceaccount": { "name": "orders", "uid": "u1" }, "warnafter": 1_700_000_000 } });
    assert_eq!(
        proven(Profile::Kubernetes, &[], &claims).unwrap(),
        [
            "ci",
            "ci:namespace:shop",
            "ci:node:n1",
            "ci:node_uid:u3",
            "ci:pod:orders-0",
            "ci:pod_uid:u2",
            "ci:serviceaccount:orders",
            "ci:serviceaccount_uid:u1",
        ]
    );
    assert_eq!(proven(Profile::Kubernetes, &[], &json!({ "sub": "x" })), Err("claim_missing"));
    let flat = json!({ "kubernetes": { "io": { "namespace": "shop" } }, "namespace": "shop" });
    assert_eq!(proven(Profile::Kubernetes, &[], &flat), Err("claim_missing"));
}

#[test]
fn github_and_gitlab() {
    let claims = json!({ "repository": "shop/orders", "repository_id": "74", "repository_owner": "shop",
        "ref": "refs/heads/main", "workflow": "deploy", "event_name": "push", "runner_environment": "github-hosted",
        "job_workflow_ref": "shop/ci/.github/workflows/deploy.yml@refs/heads/main", "head_ref": "" });
    let selectors = proven(Profile::GitHub, &[], &claims).unwrap();
    assert_eq!(selectors.len(), 9);
    assert!(selectors.contains(&"ci:repository:shop/orders".to_owned()));
    assert!(!selectors.iter().any(|selector| selector.starts_with("ci:environment")));
    let with = json!({ "environment": "prod", "repository": "a/b", "repository_id": 74, "repository_owner": "a",
        "ref": "r" });
    let selectors = proven(Profile::GitHub, &[], &with).unwrap();
    assert!(selectors.contains(&"ci:environment:prod".to_owned()));
    assert!(selectors.contains(&"ci:repository_id:74".to_owned()));
    assert_eq!(proven(Profile::GitHub, &[], &without(with, "repository")), Err("claim_missing"));

    let claims = json!({ "project_path": "shop/orders", "namespace_path": "shop", "ref": "main", "ref_type": "branch",
        "ref_protected": "true", "pipeline_source": "push", "environment": null });
    let selectors = proven(Profile::GitLab, &[], &claims).unwrap();
    assert_eq!(selectors.len(), 7);
    assert!(selectors.contains(&"ci:ref_protected:true".to_owned()));
}

#[test]
fn google_and_azure() {
    let instance = json!({ "project_id": "shop", "project_number": 739_419_398_126_u64, "zone": "europe-west1-b",
        "instance_name": "orders-1" });
    let claims = json!({ "sub": "11", "email": "orders@shop.example", "email_verified": true,
        "google": { "compute_engine": instance } });
    let selectors = proven(Profile::Google, &[], &claims).unwrap();
    assert_eq!(selectors.len(), 7);
    assert!(selectors.contains(&"ci:project_number:739419398126".to_owned()));
    let mailed = |verified: Value| {
        let mut claims = claims.clone();
        claims["email_verified"] = verified;
        proven(Profile::Google, &[], &claims).unwrap().contains(&"ci:email:orders@shop.example".to_owned())
    };
    assert!(mailed(json!(true)) && mailed(json!("true")));
    for unverified in [json!(false), json!("false"), json!(null), json!(1), json!([true])] {
        assert!(!mailed(unverified));
    }

    let mirid = "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/virtualMachines/orders";
    let claims = json!({ "tid": "t", "oid": "o", "azp": "a", "xms_mirid": mirid });
    let selectors = proven(Profile::Azure, &[], &claims).unwrap();
    assert_eq!(selectors.len(), 5);
    assert!(selectors.contains(&"ci:appid:a".to_owned()));
    assert!(selectors.contains(&format!("ci:xms_mirid:{mirid}")));
}

#[test]
fn operators_add_claims_by_name_and_by_pointer() {
    let claims = json!({ "a.b": "dotted", "a": { "b": "nested" }, "x/y": { "~z": 7 }, "groups": ["one", "two"],
        "flag": true, "nothing": null, "empty": "" });
    let added = [
        ("dotted", "a.b"),
        ("nested", "/a/b"),
        ("odd", "/x~1y/~0z"),
        ("group", "groups"),
        ("flag", "flag"),
        ("nothing", "nothing"),
        ("empty", "empty"),
        ("absent", "/absent/0"),
    ];
    assert_eq!(
        proven(Profile::Generic, &added, &claims).unwrap(),
        [
            "ci",
            "ci:dotted:dotted",
            "ci:flag:true",
            "ci:group:one",
            "ci:group:two",
            "ci:nested:nested",
            "ci:odd:7"
        ]
    );
}

#[test]
fn a_value_that_cannot_be_a_selector_refuses_the_token() {
    for value in [
        json!("a\nb"),
        json!("a\u{0}"),
        json!("a\u{7f}"),
        json!("a".repeat(257)),
        json!(1.5),
        json!({ "a": 1 }),
        json!([["nested"]]),
        json!([""]),
        json!([null]),
        json!(vec!["a"; 65]),
        Value::Array((0..64).map(Value::from).collect()),
    ] {
        let claims = json!({ "claim": value });
        assert_eq!(proven(Profile::Generic, &[("key", "claim")], &claims), Err("claim_unusable"), "{value}");
    }
    let listed = json!({ "tid": ["t"], "oid": "o" });
    assert_eq!(proven(Profile::Azure, &[], &listed), Err("claim_unusable"), "only one is known there");
    let odd = json!({ "claim": "spiffe://a b:ü" });
    assert_eq!(proven(Profile::Generic, &[("key", "claim")], &odd).unwrap()[1], "ci:key:spiffe://a b:ü");
}

#[test]
fn paths_of_claims_are_names_or_pointers() {
    for wrong in ["", "/a~", "/a~2", "a\nb", &"a".repeat(257)] {
        assert_eq!(ClaimPath::parse(wrong), Err(ClaimPathError), "{wrong}");
    }
    assert_eq!(ClaimPath::parse("a~2"), Ok(ClaimPath::Name("a~2".to_owned())));
}
