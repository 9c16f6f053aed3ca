//! Scenarios and properties of plans. `applied` is what a store makes of one.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::registry::document::{File, policy_yaml, workload_yaml};
use crate::registry::testing::{declarations, declared};
use crate::store::model::Policy;

fn label(text: &str) -> OwnerLabel {
    text.parse().unwrap()
}

fn set(workloads: &[Declaration], policies: &[&str]) -> DocumentSet {
    let workloads = workloads.iter().map(|declaration| workload_yaml(declaration).unwrap());
    let policies = policies.iter().map(|name| policy(name, "[]"));
    read(&workloads.chain(policies).collect::<Vec<_>>().join("---\n"))
}

fn read(yaml: &str) -> DocumentSet {
    DocumentSet::read(&[File { name: "mesh.yaml".into(), yaml: yaml.into() }]).unwrap()
}

fn policy(name: &str, rules: &str) -> String {
    format!("kind: Policy\nname: {name}\ntarget: spiffe://td/{name}\nrules: {rules}\n")
}

/// What a store holds after a plan.
fn applied(before: &Documents, plan: &Plan) -> Documents {
    let mut workloads: BTreeMap<Name, Registered> =
        before.workloads.iter().map(|old| (old.declaration.name.clone(), old.clone())).collect();
    let mut policies: BTreeMap<String, ManagedPolicy> =
        before.policies.iter().map(|old| (old.policy.name.clone(), old.clone())).collect();
    let mut mesh = before.mesh.clone();
    let mut services: BTreeMap<String, ManagedService> =
        before.services.iter().map(|old| (old.service.id.to_string(), old.clone())).collect();
    for change in plan.writes() {
        match &change.write {
            Write::Nothing => {}
            Write::Workload(declaration) => {
                let held = workloads
                    .get(&declaration.name)
                    .is_some_and(|old| old.held && declaration.status == WorkloadStatus::Suspended);
                let registered = Registered {
                    declaration: (**declaration).clone(),
                    template: None,
                    managed_by: Some(plan.label.clone()),
                    held,
                    created_at: SystemTime::UNIX_EPOCH,
                    revision: 1,
                };
                workloads.insert(declaration.name.clone(), registered);
            }
            Write::Retire(name) => {
                workloads.get_mut(name).unwrap().declaration.status = WorkloadStatus::Retired;
            }
            Write::Policy(new) => {
                let NewPolicy { name, target, document } = new.clone();
                let (applied_at, applied_by) = (SystemTime::UNIX_EPOCH, String::new());
                let policy = Policy { name: name.clone(), target, document, applied_at, applied_by };
                policies.insert(name, ManagedPolicy { policy, managed_by: Some(plan.label.clone()) });
            }
            Write::Delete(_) => {
                policies.remove(&change.name);
            }
            Write::Service(new) => {
                let managed = ManagedService { service: new.clone(), managed_by: Some(plan.label.clone()) };
                services.insert(change.name.clone(), managed);
            }
            Write::DeleteService => {
                services.remove(&change.name);
            }
            Write::Mesh(document) => {
                mesh = document.clone().map(|document| ManagedMesh {
                    document,
                    applied_at: SystemTime::UNIX_EPOCH,
                    applied_by: String::new(),
                    revision: before.changed + 1,
                    managed_by: Some(plan.label.clone()),
                });
            }
        }
    }
    Documents {
        workloads: workloads.into_values().collect(),
        policies: policies.into_values().collect(),
        mesh,
        services: services.into_values().collect(),
        changed: before.changed + 1,
    }
}

fn mesh(workloads: &[&str], policies: &[&str], owner: &str) -> Documents {
    let workloads: Vec<_> = workloads.iter().map(|name| declared(name)).collect();
    let empty = Documents::default();
    let plan = plan(&empty, &set(&workloads, policies), &label(owner), PlanOptions::default());
    applied(&empty, &plan)
}

fn actions(plan: &Plan) -> Vec<(&str, Action)> {
    plan.changes.iter().map(|change| (change.name.as_str(), change.action)).collect()
}

const A: &str = "spiffe://td/a";
const B: &str = "spiffe://td/b";
const C: &str = "spiffe://td/c";

#[test]
fn new_documents_are_created_with_all_they_say() {
    let wanted = set(&[declared(A)], &["p"]);
    let plan = plan(&Documents::default(), &wanted, &label("shop"), PlanOptions::default());
    assert_eq!(actions(&plan), [(A, Action::Created), ("p", Action::Created)]);
    let fields: Vec<_> = plan.changes[0].fields.iter().map(|field| (&*field.field, &*field.after)).collect();
    assert_eq!(fields, [("owner.team", "team"), ("purpose", "test"), ("status", "active")]);
    assert_eq!(plan.changes[1].place.as_ref().unwrap().1, 7);
    assert!(plan.refused.is_empty() && plan.warnings.is_empty() && !plan.is_unchanged());
}

#[test]
fn changes_are_told_field_by_field() {
    let before = mesh(&[A], &["p"], "shop");
    let changed = Declaration {
        environment: Some("test".into()),
        selectors: ["prod:a:x, y", "prod:b:z"].map(|text| text.parse().unwrap()).into(),
        ..declared(A)
    };
    let rules = "[{ name: r, allow: { ports: [80] } }]";
    let wanted = read(&format!("{}---\n{}", workload_yaml(&changed).unwrap(), policy("p", rules)));
    let planned = plan(&before, &wanted, &label("shop"), PlanOptions::default());
    let told: Vec<_> = planned
        .changes
        .iter()
        .flat_map(|change| &change.fields)
        .map(|field| (&*field.field, &*field.before, &*field.after))
        .collect();
    assert_eq!(
        told,
        [
            ("environment", "", "test"),
            ("selectors", "", "[\"prod:a:x, y\",\"prod:b:z\"]"),
            ("rules.r", "", "{\"allow\":{\"ports\":[80]}}"),
        ]
    );
    let after = applied(&before, &planned);
    assert!(plan(&after, &wanted, &label("shop"), PlanOptions::default()).is_unchanged());
}

#[test]
fn what_another_label_manages_is_a_conflict_until_it_is_taken_over() {
    let before = mesh(&[A], &["p"], "shop");
    let wanted = set(&[declared(A)], &["p"]);
    let refused = plan(&before, &wanted, &label("infra"), PlanOptions::default());
    assert_eq!(actions(&refused), [(A, Action::Conflict), ("p", Action::Conflict)]);
    let told = refused.refused[0].to_string();
    assert!(told.starts_with("mesh.yaml:1: `spiffe://td/a` is managed by `shop`, not by `infra`"), "{told}");
    let options = PlanOptions { take_over: true, ..PlanOptions::default() };
    let moved = plan(&before, &wanted, &label("infra"), options);
    assert!(moved.refused.is_empty());
    let field = &moved.changes[0].fields;
    assert_eq!(
        field.as_slice(),
        [FieldChange { field: "managed_by".into(), before: "shop".into(), after: "infra".into() }]
    );
    let after = applied(&before, &moved);
    assert_eq!(after.workloads[0].managed_by, Some(label("infra")));
}

#[test]
fn services_are_compared_owned_and_pruned() {
    let (shop, infra) = (label("shop"), label("infra"));
    let service =
        |rate: u32| read(&format!("kind: Service\nid: spiffe://td/a\nrate: {{ requests: {rate} }}\n"));
    let created = plan(&Documents::default(), &service(1), &shop, PlanOptions::default());
    assert_eq!(actions(&created), [("spiffe://td/a", Action::Created)]);
    assert_eq!(created.touched(&Documents::default()), [Scope::of_target("spiffe://td/a")]);
    let before = applied(&Documents::default(), &created);
    assert!(plan(&before, &service(1), &shop, PlanOptions::default()).is_unchanged());
    let raised = plan(&before, &service(2), &shop, PlanOptions::default());
    let told: Vec<_> = raised.changes[0].fields.iter().map(|field| (&*field.field, &*field.after)).collect();
    assert_eq!(told, [("rate", r#"{"burst":2,"per":"1s","requests":2}"#)]);
    assert_eq!(actions(&plan(&before, &service(2), &infra, PRUNE)), [("spiffe://td/a", Action::Conflict)]);
    let all = PlanOptions { prune_all: true, ..PRUNE };
    let pruned = plan(&before, &read(""), &shop, all);
    assert_eq!(actions(&pruned), [("spiffe://td/a", Action::Deleted)]);
    assert_eq!(applied(&before, &pruned).services, []);
}

#[test]
fn the_mesh_has_one_document_which_is_compared_owned_and_pruned() {
    let (shop, infra) = (label("shop"), label("infra"));
    let strict = read("kind: Mesh\nmode: strict\n");
    let open = read(
        "kind: Mesh\nmode: strict\npermissive: [{ target: spiffe://td/a, ports: [80] }]\nunknownDestinations: refuse\n",
    );
    let created = plan(&Documents::default(), &strict, &infra, PlanOptions::default());
    assert_eq!(actions(&created), [("mesh", Action::Created)]);
    let before = applied(&Documents::default(), &created);
    assert!(plan(&before, &strict, &infra, PlanOptions::default()).is_unchanged());
    let opened = plan(&before, &open, &infra, PlanOptions::default());
    let told: Vec<_> = opened.changes[0].fields.iter().map(|field| (&*field.field, &*field.after)).collect();
    assert_eq!(
        told,
        [("permissive", r#"[{"target":"spiffe://td/a","ports":[80]}]"#), ("unknownDestinations", "refuse")]
    );
    assert_eq!(opened.touched(&before), [Scope::Everything]);
    let foreign = plan(&before, &open, &shop, PRUNE);
    assert_eq!(actions(&foreign), [("mesh", Action::Conflict)]);
    assert!(plan(&before, &read(""), &shop, PRUNE).changes.is_empty(), "another label's");
    let pruned = plan(&before, &read(""), &infra, PRUNE);
    assert_eq!(actions(&pruned), [("mesh", Action::Deleted)]);
    assert_eq!(applied(&before, &pruned).mesh, None);
}

#[test]
fn what_nobody_manages_is_adopted() {
    let mut before = mesh(&[A], &[], "shop");
    before.workloads[0].managed_by = None;
    let adopted = plan(&before, &set(&[declared(A)], &[]), &label("shop"), PlanOptions::default());
    assert_eq!(actions(&adopted), [(A, Action::Updated)]);
    assert!(adopted.refused.is_empty());
}

const PRUNE: PlanOptions = PlanOptions { prune: true, prune_all: false, take_over: false };

#[test]
fn pruning_retires_workloads_and_deletes_policies_of_the_same_label_only() {
    let mut before = mesh(&[A, B, C], &["p", "q"], "shop");
    before.workloads[2].managed_by = Some(label("infra"));
    let wanted = set(&[declared(A)], &["p"]);
    let kept = plan(&before, &wanted, &label("shop"), PlanOptions::default());
    assert_eq!(actions(&kept), [(A, Action::Unchanged), ("p", Action::Unchanged)]);
    let pruned = plan(&before, &wanted, &label("shop"), PRUNE);
    assert_eq!(
        actions(&pruned),
        [(A, Action::Unchanged), (B, Action::Retired), ("p", Action::Unchanged), ("q", Action::Deleted)]
    );
    assert!(pruned.refused.is_empty(), "{:?}", pruned.refused);
    assert!(pruned.warnings[0].contains("`spiffe://td/b` is retired for good"), "{:?}", pruned.warnings);
    let after = applied(&before, &pruned);
    assert!(
        plan(&after, &wanted, &label("shop"), PRUNE).is_unchanged(),
        "what has ended is not pruned again"
    );
}

#[test]
fn more_than_half_of_either_kind_is_not_pruned_unless_asked_for_twice() {
    let before = mesh(&[A, B, C], &["p"], "shop");
    let refused = plan(&before, &set(&[declared(A)], &["p"]), &label("shop"), PRUNE);
    assert_eq!(
        refused.refused.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["2 of 3 workloads that `shop` manages are not in the set, more than half: is it complete? \
          If so, add `--prune-all`"]
    );
    let no_policies =
        plan(&before, &set(&[declared(A), declared(B), declared(C)], &[]), &label("shop"), PRUNE);
    assert!(matches!(no_policies.refused.as_slice(), [Refused::PruneTooMuch { what: "policies", .. }]));
    let all = PlanOptions { prune_all: true, ..PRUNE };
    let agreed = plan(&before, &set(&[], &[]), &label("shop"), all);
    assert!(agreed.refused.is_empty());
    assert_eq!(agreed.writes().count(), 4);
}

#[test]
fn a_retired_workload_does_not_come_back() {
    let mut before = mesh(&[A], &[], "shop");
    before.workloads[0].declaration.status = WorkloadStatus::Retired;
    let back = plan(&before, &set(&[declared(A)], &[]), &label("shop"), PlanOptions::default());
    assert_eq!(actions(&back), [(A, Action::Conflict)]);
    assert!(back.refused[0].to_string().contains("retired for good"));
    let still = Declaration { status: WorkloadStatus::Retired, ..declared(A) };
    assert!(plan(&before, &set(&[still], &[]), &label("shop"), PlanOptions::default()).is_unchanged());
}

#[test]
fn a_suspension_by_hand_is_not_lifted_by_a_document() {
    let mut before = mesh(&[A], &[], "shop");
    before.workloads[0].declaration.status = WorkloadStatus::Suspended;
    before.workloads[0].held = true;
    let kept = plan(&before, &set(&[declared(A)], &[]), &label("shop"), PlanOptions::default());
    assert!(kept.is_unchanged());
    assert!(kept.warnings[0].contains("stays suspended"), "{:?}", kept.warnings);
    let other = Declaration { purpose: "else".into(), ..declared(A) };
    let changed = plan(&before, &set(&[other], &[]), &label("shop"), PlanOptions::default());
    assert_eq!(applied(&before, &changed).workloads[0].declaration.status, WorkloadStatus::Suspended);
    before.workloads[0].held = false;
    let lifted = plan(&before, &set(&[declared(A)], &[]), &label("shop"), PlanOptions::default());
    assert_eq!(applied(&before, &lifted).workloads[0].declaration.status, WorkloadStatus::Active);
}

#[test]
fn the_order_of_rules_is_a_change_that_is_told() {
    let rules = |a, b| policy("p", &format!("[{{ name: {a}, allow: {{}} }}, {{ name: {b}, allow: {{}} }}]"));
    let first = plan(&Documents::default(), &read(&rules("x", "y")), &label("s"), PlanOptions::default());
    let before = applied(&Documents::default(), &first);
    let turned = plan(&before, &read(&rules("y", "x")), &label("s"), PlanOptions::default());
    assert_eq!(turned.changes[0].fields[0].field, "rules");
}

/// Any documents, with names of their own.
fn meshes() -> impl Strategy<Value = (Vec<Declaration>, Vec<&'static str>)> {
    let workloads = prop::collection::vec(declarations(), 0..6).prop_map(|list| {
        let own: BTreeMap<Name, Declaration> =
            list.into_iter().map(|declaration| (declaration.name.clone(), declaration)).collect();
        own.into_values().collect()
    });
    (workloads, prop::sample::subsequence(vec!["p", "q", "r"], 0..3))
}

/// As `export` writes them.
fn exported(documents: &Documents) -> String {
    let alive = |old: &&Registered| old.declaration.status != WorkloadStatus::Retired;
    let workloads =
        documents.workloads.iter().filter(alive).map(|old| workload_yaml(&old.declaration).unwrap());
    let policies =
        documents.policies.iter().map(|old| policy_yaml(&parse_json(&old.policy.document).unwrap()).unwrap());
    workloads.chain(policies).collect::<Vec<_>>().join("---\n")
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing_the_second_time(
        (first, p) in meshes(), (second, q) in meshes(), prune: bool,
    ) {
        let options = PlanOptions { prune, prune_all: true, take_over: true };
        let shop = label("shop");
        let empty = Documents::default();
        let before = applied(&empty, &plan(&empty, &set(&first, &p), &shop, options));
        let wanted = set(&second, &q);
        let planned = plan(&before, &wanted, &shop, options);
        prop_assume!(planned.refused.is_empty());
        let again = plan(&applied(&before, &planned), &wanted, &shop, options);
        prop_assert!(again.is_unchanged(), "{:?}", again);
    }

    #[test]
    fn applying_an_export_changes_nothing((workloads, policies) in meshes(), prune: bool) {
        let shop = label("shop");
        let empty = Documents::default();
        let mesh = applied(&empty, &plan(&empty, &set(&workloads, &policies), &shop, PlanOptions::default()));
        let options = PlanOptions { prune, ..PlanOptions::default() };
        let again = plan(&mesh, &read(&exported(&mesh)), &shop, options);
        prop_assert!(again.is_unchanged() && again.refused.is_empty(), "{:?}", again);
    }

    #[test]
    fn nothing_of_another_label_is_written((first, p) in meshes(), (second, q) in meshes()) {
        let empty = Documents::default();
        let all = PlanOptions { prune: true, prune_all: true, take_over: false };
        let before = applied(&empty, &plan(&empty, &set(&first, &p), &label("shop"), all));
        let planned = plan(&before, &set(&second, &q), &label("infra"), all);
        let foreign = |name: &str| {
            before.workloads.iter().any(|old| old.declaration.name.as_str() == name)
                || before.policies.iter().any(|old| old.policy.name == name)
        };
        for change in planned.writes() {
            prop_assert!(!foreign(&change.name), "{:?}", change);
        }
    }
}
