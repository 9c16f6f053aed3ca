//! Whose something is that several could want: DNS names, and the labels of those who apply documents.
//!
//! Both belong to whoever has them first. A DNS name goes to a further workload only by who may change those that have
//! it, too; a name with variables is every name that they can fill, and wildcards there are none. A label is used by
//! those who may change all that carries it, so that nobody makes another team's pruning fail, or is pruned by it; only
//! the label of those who do not say is everybody's.

use std::collections::{BTreeMap, HashMap};

use super::declaration::{Declaration, Name};
use super::dns::DnsName;
use super::label::OwnerLabel;
use super::plan::{Plan, Write};
use crate::roles::{Permission, Scope};
use crate::store::Refusal;
use crate::store::model::{Documents, Registered, WorkloadStatus};

/// Whether whoever applies a plan may use its label, and give the DNS names in it.
///
/// # Errors
/// The first that is somebody else's.
pub(crate) fn require_own(
    current: &Documents,
    plan: &Plan,
    permission: &impl Permission,
) -> Result<(), Refusal> {
    require_own_label(current, &plan.label, permission)?;
    let declared = plan.writes().filter_map(|planned| match &planned.write {
        Write::Workload(declaration) => Some(&**declaration),
        _ => None,
    });
    require_own_names(&current.workloads, declared, permission)
}

/// Whether whoever declares these may give the DNS names in them that were not there before.
///
/// # Errors
/// The first that another workload has.
pub(crate) fn require_own_names<'d>(
    current: &[Registered],
    declared: impl IntoIterator<Item = &'d Declaration>,
    permission: &impl Permission,
) -> Result<(), Refusal> {
    let mut giving = declared.into_iter().filter(|declared| !declared.dns.is_empty()).peekable();
    if giving.peek().is_none() {
        return Ok(());
    }
    let alive = current.iter().map(|registered| &registered.declaration);
    let given = Given::of(alive.filter(|declaration| declaration.status != WorkloadStatus::Retired));
    for declared in giving {
        for name in declared.dns.iter().filter(|name| !given.has(&declared.name, name)) {
            let others: Vec<Scope> = given.overlapping(name, &declared.name).map(Name::scope).collect();
            if !others.is_empty() && permission.on_all(&others).is_err() {
                let workload = declared.name.to_string();
                return Err(Refusal::DnsNameTaken { name: name.to_string(), workload });
            }
        }
    }
    Ok(())
}

fn require_own_label(
    current: &Documents,
    label: &OwnerLabel,
    permission: &impl Permission,
) -> Result<(), Refusal> {
    if *label == OwnerLabel::unnamed() {
        return Ok(());
    }
    let carries = |managed_by: Option<&OwnerLabel>| managed_by == Some(label);
    let workloads = current.workloads.iter().filter(|registered| {
        carries(registered.managed_by.as_ref()) && registered.declaration.status != WorkloadStatus::Retired
    });
    let policies = current.policies.iter().filter(|managed| carries(managed.managed_by.as_ref()));
    let services = current.services.iter().filter(|managed| carries(managed.managed_by.as_ref()));
    let mesh = current.mesh.iter().filter(|managed| carries(managed.managed_by.as_ref()));
    let scopes: Vec<Scope> = workloads
        .map(|registered| registered.declaration.name.scope())
        .chain(policies.map(|managed| Scope::of_target(&managed.policy.target)))
        .chain(services.map(|managed| Scope::of_target(managed.service.id.as_str())))
        .chain(mesh.map(|_| Scope::Everything))
        .collect();
    if scopes.is_empty() || permission.on_all(&scopes).is_ok() {
        Ok(())
    } else {
        Err(Refusal::LabelOfOthers(label.to_string()))
    }
}

/// The DNS names that workloads have.
struct Given<'w> {
    exact: HashMap<String, Vec<&'w Name>>,
    /// Those with variables: few, as they are of templates.
    wide: Vec<(&'w DnsName, &'w Name)>,
    names: BTreeMap<&'w Name, &'w Declaration>,
}

impl<'w> Given<'w> {
    fn of(declarations: impl Iterator<Item = &'w Declaration>) -> Self {
        let mut given = Self { exact: HashMap::new(), wide: Vec::new(), names: BTreeMap::new() };
        for declaration in declarations.filter(|declaration| !declaration.dns.is_empty()) {
            given.names.insert(&declaration.name, declaration);
            for name in &declaration.dns {
                if name.variables().next().is_some() {
                    given.wide.push((name, &declaration.name));
                } else {
                    given.exact.entry(name.to_string()).or_default().push(&declaration.name);
                }
            }
        }
        given
    }

    fn has(&self, workload: &Name, name: &DnsName) -> bool {
        self.names.get(workload).is_some_and(|declaration| declaration.dns.contains(name))
    }

    /// The other workloads that have a name which this one can be.
    fn overlapping(&self, name: &DnsName, of: &Name) -> impl Iterator<Item = &'w Name> {
        let wide = self.wide.iter().filter(|(other, _)| other.overlaps(name)).map(|(_, workload)| *workload);
        let exact: Vec<&'w Name> = if name.variables().next().is_none() {
            self.exact.get(&name.to_string()).cloned().unwrap_or_default()
        } else {
            let declarations = self.names.values();
            let overlaps =
                |declaration: &&&'w Declaration| declaration.dns.iter().any(|other| other.overlaps(name));
            declarations.filter(overlaps).map(|declaration| &declaration.name).collect()
        };
        wide.chain(exact).filter(move |workload| *workload != of)
    }
}

#[cfg(test)]
mod tests {
    use signet_proto::spiffe::SpiffeId;

    use super::super::testing::declared;
    use super::*;
    use crate::roles::{Binding, Refused};
    use crate::store::model::{Actor, ManagedPolicy, Policy};
    use crate::time;

    /// Reaches one scope only.
    struct Only(Scope);

    impl Permission for Only {
        fn on_all(&self, targets: &[Scope]) -> Result<Actor, Refused> {
            let reached = targets.iter().all(|target| self.0.covers(target));
            if reached { Ok(Actor::control()) } else { Err(Refused::Untold("test")) }
        }

        fn may_become(&self, _: &SpiffeId, _: &[Binding]) -> Result<(), Refused> {
            Ok(())
        }
    }

    fn only(scope: &str) -> Only {
        Only(scope.parse().unwrap())
    }

    fn workload(id: &str, dns: &[&str]) -> Declaration {
        let dns = dns.iter().map(|name| name.parse().unwrap()).collect();
        Declaration { name: id.parse().unwrap(), dns, ..declared("spiffe://td/w") }
    }

    fn registered(declaration: Declaration, managed_by: Option<&str>) -> Registered {
        let managed_by = managed_by.map(|label| label.parse().unwrap());
        Registered {
            declaration,
            template: None,
            managed_by,
            held: false,
            created_at: time::now(),
            revision: 1,
        }
    }

    fn cluster() -> Declaration {
        workload("spiffe://td/ns/{namespace}/sa/{account}", &["{account}.{namespace}.svc"])
    }

    #[test]
    fn a_dns_name_is_of_whoever_has_it_first() {
        let current = [
            registered(workload("spiffe://td/shop/pay", &["pay.example", "pay.shop.svc"]), None),
            registered(cluster(), None),
        ];
        let ask = |declared: Declaration, scope: &str| {
            require_own_names(&current, [&declared], &only(scope)).map_err(|error| error.as_str())
        };
        let taken = Err("dns_name_taken");
        let eve = |names: &[&str]| workload("spiffe://td/eve/x", names);
        assert_eq!(ask(eve(&["eve.example"]), "spiffe://td/eve/*"), Ok(()));
        assert_eq!(ask(eve(&["eve.example", "pay.example"]), "spiffe://td/eve/*"), taken);
        assert_eq!(ask(eve(&["other.shop.svc"]), "spiffe://td/eve/*"), taken, "the template gives it");
        assert_eq!(ask(eve(&["a.shop.svc.example"]), "spiffe://td/eve/*"), Ok(()));
        assert_eq!(ask(eve(&["pay.example"]), "spiffe://td/*"), Ok(()), "who may change both");
        let wide = |names: &[&str]| workload("spiffe://td/eve/{account}/{namespace}", names);
        assert_eq!(ask(wide(&["{account}.example"]), "spiffe://td/eve/*"), taken, "it can be pay.example");
        assert_eq!(ask(wide(&["{account}.{namespace}.svc"]), "spiffe://td/eve/*"), taken);
        assert_eq!(ask(wide(&["{account}.{namespace}.eve"]), "spiffe://td/eve/*"), Ok(()));
        let same = workload("spiffe://td/shop/pay", &["pay.example", "pay.shop.svc"]);
        assert_eq!(ask(same, "spiffe://td/shop/*"), Ok(()), "what it has it keeps");
    }

    #[test]
    fn a_retired_workload_has_no_names() {
        let mut retired = workload("spiffe://td/shop/pay", &["pay.example"]);
        retired.status = WorkloadStatus::Retired;
        let declared = workload("spiffe://td/eve/x", &["pay.example"]);
        let current = [registered(retired, None)];
        require_own_names(&current, [&declared], &only("spiffe://td/eve/*")).unwrap();
    }

    #[test]
    fn a_label_is_of_those_who_may_change_all_that_carries_it() {
        let policy = |label: &str| ManagedPolicy {
            policy: Policy {
                name: "p".into(),
                target: "spiffe://td/bank/*".into(),
                document: "{}".into(),
                applied_at: time::now(),
                applied_by: "test".into(),
            },
            managed_by: Some(label.parse().unwrap()),
        };
        let current = Documents {
            workloads: vec![
                registered(workload("spiffe://td/shop/pay", &[]), Some("shop-repo")),
                registered(workload("spiffe://td/bank/vault", &[]), Some("default")),
            ],
            policies: vec![policy("bank-repo")],
            mesh: None,
            services: Vec::new(),
            changed: 1,
        };
        let ask = |label: &str, scope: &str| {
            require_own_label(&current, &label.parse().unwrap(), &only(scope)).is_ok()
        };
        assert!(ask("shop-repo", "spiffe://td/shop/*") && !ask("shop-repo", "spiffe://td/bank/*"));
        assert!(ask("bank-repo", "spiffe://td/bank/*") && !ask("bank-repo", "spiffe://td/bank/vault"));
        assert!(ask("new", "spiffe://td/bank/*"), "nobody's yet");
        assert!(ask("default", "spiffe://td/shop/*"), "everybody's");
    }
}
