//! The whole matrix, written down a second time; what holds for every set of bindings; the README's table.

use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;
use signet_proto::spiffe::SpiffeId;
use signet_proto::verbs::Verb;

use super::*;

/// For each call and role: may someone with the role on a subtree, on one of it, on one beside it, on nothing
/// named; then with the role on everything, on one, on nothing named.
const MATRIX: &str = "
    call                     viewer  operator  approver  admin
    Identity.Attest          +++ ++  +++ ++    +++ ++    +++ ++
    Identity.Challenge       +++ ++  +++ ++    +++ ++    +++ ++
    Identity.Renew           --- --  --- --    --- --    --- --
    Identity.IssueToken      --- --  --- --    --- --    --- --
    Mesh.Watch               --- --  --- --    --- --    --- --
    Mesh.Leave               --- --  --- --    --- --    --- --
    Report.Report            --- --  --- --    --- --    --- --
    Report.ReportSightings   --- --  --- --    --- --    --- --
    Admin.Status             --- ++  --- ++    --- ++    --- ++
    Admin.CreateWorkload     --- --  +-- +-    --- --    +-- +-
    Admin.ListWorkloads      +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.SetWorkloadStatus  --- --  +-- +-    --- --    +-- +-
    Admin.Apply              --- --  +-- +-    --- --    +-- +-
    Admin.Export             +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.CreateToken        --- --  +-- +-    --- --    +-- +-
    Admin.GetIntroduction    --- ++  --- ++    --- ++    --- ++
    Admin.ApplyPolicy        --- --  +-- +-    --- --    +-- +-
    Admin.GetMesh            +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.DeleteMesh         --- --  --- ++    --- --    --- ++
    Admin.ListPolicies       +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.DeletePolicy       --- --  +-- +-    --- --    +-- +-
    Admin.Explain            +-- +-  +-- +-    +-- +-    +-- +-
    Admin.ListIdentities     +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.ListCertificates   +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.ListInstances      +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.ListOutsiders      +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.ListConnections    +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.FollowInventory    +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.Revoke             --- --  +-- +-    --- --    +-- +-
    Admin.AwaitApplied       +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.Rotate             --- --  +-- +-    --- --    +-- +-
    Admin.AwaitRotated       +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.ListAudit          +-- +-  +-- +-    +-- +-    +-- +-
    Admin.TailAudit          --- ++  --- ++    --- ++    --- ++
    Admin.ListCheckpoints    --- ++  --- ++    --- ++    --- ++
    Admin.GetAuditKey        --- ++  --- ++    --- ++    --- ++
    Admin.RotateIntermediate --- --  --- --    --- --    --- ++
    Admin.ListAuthorities    --- ++  --- ++    --- ++    --- ++
    Admin.PrepareAuthority   --- --  --- --    --- --    --- ++
    Admin.ActivateAuthority  --- --  --- --    --- --    --- ++
    Admin.RetireAuthority    --- --  --- --    --- --    --- ++
    Admin.CompromisedAuthority --- --  --- --    --- --    --- ++
    Admin.RequestAuthority   --- --  --- --    --- --    --- ++
    Admin.InstallAuthority   --- --  --- --    --- --    --- ++
    Admin.CreateFederation   --- --  --- --    --- --    --- ++
    Admin.ListFederations    --- ++  --- ++    --- ++    --- ++
    Admin.DeleteFederation   --- --  --- --    --- --    --- ++
    Admin.RefreshFederation  --- --  --- --    --- --    --- ++
    Admin.GetBundle          --- ++  --- ++    --- ++    --- ++
    Admin.GrantRole          --- --  --- --    --- --    +-- +-
    Admin.WithdrawRole       --- --  --- --    --- --    +-- +-
    Admin.ListRoles          +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.ListRequests       +-+ ++  +-+ ++    +-+ ++    +-+ ++
    Admin.ApproveRequest     --- --  --- --    +-- +-    +-- +-
    Admin.DenyRequest        --- --  --- --    +-- +-    +-- +-
    Admin.RequireApproval    --- --  --- --    --- --    +-- +-
    Admin.Freeze             --- --  +-- +-    --- --    +-- +-
    Admin.Unfreeze           --- --  +-- +-    --- --    +-- +-
    Admin.ListRestrictions   +-+ ++  +-+ ++    +-+ ++    +-+ ++
";

fn scope(text: &str) -> Scope {
    text.parse().unwrap()
}

fn ada() -> Subject {
    "spiffe://td/people/ada".parse().unwrap()
}

fn binding(role: Role, on: &str) -> Binding {
    Binding { subject: ada(), role, scope: scope(on) }
}

fn name(verb: Verb) -> String {
    format!("{}.{}", verb.service(), verb.method())
}

#[test]
fn every_call_of_the_definition_takes_what_the_matrix_says() {
    let expected: BTreeMap<&str, Vec<&str>> = MATRIX
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter(|(call, _)| *call != "call")
        .map(|(call, cells)| (call, cells.split_whitespace().collect()))
        .collect();
    let (inside, beside) = (scope("spiffe://td/a/x"), scope("spiffe://td/b/x"));
    let mut found = BTreeMap::new();
    for &verb in Verb::ALL {
        let mut cells = Vec::new();
        for role in Role::ALL {
            let may = |on: &str, targets: &[Option<&Scope>]| -> String {
                let bindings = [binding(role, on)];
                let may = targets.iter().map(|target| permits(&ada(), &bindings, verb, *target).is_ok());
                may.map(|may| if may { '+' } else { '-' }).collect()
            };
            cells.push(may("spiffe://td/a/*", &[Some(&inside), Some(&beside), None]));
            cells.push(may("everything", &[Some(&inside), None]));
        }
        found.insert(name(verb), cells);
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (call, cells) in found {
        assert_eq!(cells, expected[&*call], "{call}");
    }
}

#[test]
fn without_a_role_nothing_is_permitted_but_to_prove_oneself() {
    for &verb in Verb::ALL {
        for target in [None, Some(&Scope::Everything), Some(&scope("spiffe://td/people/ada"))] {
            let permitted = permits(&ada(), &[], verb, target).is_ok();
            assert_eq!(permitted, matches!(verb, Verb::IdentityAttest | Verb::IdentityChallenge), "{verb:?}");
        }
        assert_eq!(
            may_try(&ada(), &[], verb).is_ok(),
            matches!(verb, Verb::IdentityAttest | Verb::IdentityChallenge),
            "{verb:?}"
        );
    }
}

#[test]
fn refusal_says_what_is_missing_what_there_is_and_what_helps() {
    let bindings = [binding(Role::Operator, "spiffe://td/a/*"), binding(Role::Viewer, "everything")];
    let on = |target: &str| permits(&ada(), &bindings, Verb::AdminRevoke, Some(&scope(target))).unwrap_err();
    assert_eq!(
        on("spiffe://td/b/x").to_string(),
        "Revoke takes the role operator on `spiffe://td/b/x`; `spiffe://td/people/ada` has operator on \
         `spiffe://td/a/*`, viewer on everything. An admin gives it: \
         `signet role grant operator spiffe://td/people/ada --on 'spiffe://td/b/x'`"
    );
    let nobody = Subject::Unix(1000);
    let refused = permits(&nobody, &bindings, Verb::AdminStatus, None).unwrap_err().to_string();
    assert!(refused.contains("the role viewer on everything; `unix:uid=1000` has none"), "{refused}");
    assert!(refused.ends_with("`signet role grant viewer unix:uid=1000`"), "{refused}");
    let refused = may_try(&nobody, &[], Verb::AdminApplyPolicy).unwrap_err().to_string();
    assert!(refused.ends_with("`signet role grant operator unix:uid=1000 --on SCOPE`"), "{refused}");
    let many: Vec<_> = (0..9).map(|n| binding(Role::Viewer, &format!("spiffe://td/t{n}/*"))).collect();
    let refused = permits(&ada(), &many, Verb::AdminStatus, None).unwrap_err().to_string();
    assert!(refused.contains("`spiffe://td/t3/*` and 5 more."), "{refused}");
}

#[test]
fn nobody_becomes_someone_who_may_do_more() {
    let id: SpiffeId = "spiffe://td/people/root".parse().unwrap();
    let held = |role, on: &str| [Binding { subject: Subject::Identity(id.clone()), role, scope: scope(on) }];
    let become_of = |role, on: &str, held: &[Binding]| {
        let operator =
            Operator::new(ada(), vec![binding(role, on)], Verb::AdminCreateToken, Judged::default());
        operator.on(&Scope::identity(&id)).and_then(|_| operator.may_become(&id, held)).is_ok()
    };
    assert!(become_of(Role::Operator, "spiffe://td/people/*", &[]));
    assert!(become_of(Role::Operator, "everything", &held(Role::Viewer, "everything")));
    assert!(become_of(Role::Operator, "spiffe://td/*", &held(Role::Operator, "spiffe://td/a/*")));
    assert!(!become_of(Role::Operator, "everything", &held(Role::Admin, "spiffe://td/a")));
    assert!(!become_of(Role::Operator, "everything", &held(Role::Approver, "spiffe://td/a")));
    assert!(!become_of(Role::Operator, "spiffe://td/people/*", &held(Role::Viewer, "spiffe://td/a")));
    assert!(!become_of(Role::Operator, "spiffe://td/a/*", &[]), "out of scope all the same");
    assert!(become_of(Role::Admin, "everything", &held(Role::Admin, "everything")));
}

#[test]
fn actor_comes_only_from_a_judged_target_and_every_target_counts() {
    let judged = Judged::default();
    let bindings = vec![binding(Role::Operator, "spiffe://td/a/*")];
    let operator = Operator::new(ada(), bindings, Verb::AdminApplyPolicy, judged.clone());
    let (inside, beside) = (scope("spiffe://td/a/x"), scope("spiffe://td/b/x"));
    operator.on_all(&[]).unwrap_err();
    operator.on_all(&[inside.clone(), beside]).unwrap_err();
    operator.on_everything().unwrap_err();
    assert!(!judged.is_set());
    assert_eq!(operator.on(&inside).unwrap().as_str(), "spiffe://td/people/ada");
    assert!(judged.is_set());
    assert!(matches!(operator.sight(), Err(Refused::Untold("ApplyPolicy"))), "it is no list");
}

#[test]
fn lists_show_what_a_scope_covers_and_everyone_their_own_roles() {
    let bindings = vec![binding(Role::Viewer, "spiffe://td/a/*")];
    let sight = Operator::new(ada(), bindings, Verb::AdminListRoles, Judged::default()).sight().unwrap();
    assert!(sight.sees_identity(&"spiffe://td/a/x".parse().unwrap()));
    assert!(!sight.sees_identity(&"spiffe://td/a".parse().unwrap()));
    assert!(sight.sees(&scope("spiffe://td/a/x/*")) && !sight.sees(&scope("spiffe://td/*")));
    assert!(!sight.sees(&Scope::Everything));
    let of = |subject, on: &str| Binding { subject, role: Role::Viewer, scope: scope(on) };
    assert!(sight.sees_binding(&of(ada(), "everything")));
    assert!(sight.sees_binding(&of(Subject::Unix(1), "spiffe://td/a/x")));
    assert!(!sight.sees_binding(&of(Subject::Unix(1), "everything")));
}

/// The table of the README, made from the code. `UPDATE_README=1` writes it.
#[test]
fn readme_shows_the_matrix_as_it_is() {
    const BEGIN: &str = "<!-- roles: made from the code -->\n";
    const END: &str = "<!-- roles: end -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (shown, after) = rest.split_once(END).unwrap();
    let table = table();
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(shown, table, "set UPDATE_README=1 to write it");
    }
}

fn table() -> String {
    let mut text = String::from(
        "| call | viewer | operator | approver | admin | on |\n| --- | :-: | :-: | :-: | :-: | --- |\n",
    );
    for &verb in Verb::ALL {
        let (least, on) = match needs(verb) {
            Needs::Stranger => (None, "whoever has proven nothing yet"),
            Needs::Member => (None, "an attested instance, for itself"),
            Needs::Role(role, Reach::Named) => (Some(role), "what it names"),
            Needs::Role(role, Reach::Visible) => (Some(role), "shows what the scopes contain"),
            Needs::Role(role, Reach::Mesh) => (Some(role), "everything"),
        };
        let cells: Vec<_> = Role::ALL
            .into_iter()
            .map(|role| if least.is_some_and(|least| role.includes(least)) { "yes" } else { "" })
            .collect();
        writeln!(text, "| `{}` | {} | {on} |", name(verb), cells.join(" | ")).unwrap();
    }
    text
}

fn any_scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        Just(Scope::Everything),
        "spiffe://td(/[ab]){0,2}/\\*".prop_map(|text| scope(&text)),
        "spiffe://td(/[ab]){1,3}".prop_map(|text| scope(&text)),
    ]
}

fn any_role() -> impl Strategy<Value = Role> {
    proptest::sample::select(&Role::ALL[..])
}

fn any_bindings() -> impl Strategy<Value = Vec<Binding>> {
    let one = (any_role(), any_scope()).prop_map(|(role, scope)| Binding { subject: ada(), role, scope });
    proptest::collection::vec(one, 0..5)
}

fn any_verb() -> impl Strategy<Value = Verb> {
    proptest::sample::select(Verb::ALL)
}

fn changes_something(verb: Verb) -> bool {
    ["Create", "Set", "Apply", "Delete", "Revoke", "Rotate", "Grant", "Withdraw"]
        .iter()
        .any(|word| verb.method().starts_with(word))
}

proptest! {
    #[test]
    fn wider_bindings_and_more_of_them_never_take_a_right_away(
        bindings in any_bindings(), other in (any_role(), any_scope()), at in any::<prop::sample::Index>(),
        verb in any_verb(), target in proptest::option::of(any_scope()),
    ) {
        let (role, scope) = other;
        let other = Binding { subject: ada(), role, scope };
        let mut more = bindings.clone();
        more.push(other.clone());
        let mut wider = bindings.clone();
        if !wider.is_empty() {
            let at = at.index(wider.len());
            if other.includes(&wider[at]) {
                wider[at] = other;
            }
        }
        if permits(&ada(), &bindings, verb, target.as_ref()).is_ok() {
            prop_assert!(permits(&ada(), &more, verb, target.as_ref()).is_ok());
            prop_assert!(permits(&ada(), &wider, verb, target.as_ref()).is_ok());
        }
    }

    #[test]
    fn without_a_scope_that_covers_the_target_nothing_is_permitted(
        bindings in any_bindings(), verb in any_verb(), target in any_scope(),
    ) {
        let covered = bindings.iter().any(|binding| binding.scope.covers(&target));
        if permits(&ada(), &bindings, verb, Some(&target)).is_ok() {
            prop_assert!(covered || matches!(verb, Verb::IdentityAttest | Verb::IdentityChallenge));
        }
    }

    #[test]
    fn right_is_held_by_one_binding_as_a_whole(
        bindings in any_bindings(), verb in any_verb(), target in proptest::option::of(any_scope()),
    ) {
        let alone = bindings
            .iter()
            .any(|binding| permits(&ada(), std::slice::from_ref(binding), verb, target.as_ref()).is_ok());
        let together = permits(&ada(), &bindings, verb, target.as_ref()).is_ok();
        prop_assert_eq!(together, alone || matches!(verb, Verb::IdentityAttest | Verb::IdentityChallenge));
    }

    #[test]
    fn approvers_and_viewers_change_nothing(
        scopes in proptest::collection::vec((any::<bool>(), any_scope()), 0..5), verb in any_verb(),
        target in proptest::option::of(any_scope()),
    ) {
        let bindings: Vec<_> = scopes
            .into_iter()
            .map(|(approver, scope)| {
                let role = if approver { Role::Approver } else { Role::Viewer };
                Binding { subject: ada(), role, scope }
            })
            .collect();
        if changes_something(verb) {
            prop_assert!(permits(&ada(), &bindings, verb, target.as_ref()).is_err());
            prop_assert!(may_try(&ada(), &bindings, verb).is_err());
        }
    }

    #[test]
    fn bindings_of_others_do_not_count(
        bindings in any_bindings(), verb in any_verb(), target in any_scope(),
    ) {
        let other: Subject = "spiffe://td/people/adah".parse().unwrap();
        let permitted = permits(&other, &bindings, verb, Some(&target)).is_ok();
        prop_assert_eq!(permitted, matches!(verb, Verb::IdentityAttest | Verb::IdentityChallenge));
    }

    #[test]
    fn whoever_is_permitted_gets_through_the_door(
        bindings in any_bindings(), verb in any_verb(), target in proptest::option::of(any_scope()),
    ) {
        if permits(&ada(), &bindings, verb, target.as_ref()).is_ok() {
            prop_assert!(may_try(&ada(), &bindings, verb).is_ok());
        }
    }

    #[test]
    fn what_a_refusal_asks_for_is_what_helps(
        bindings in any_bindings(), verb in any_verb(), target in any_scope(),
    ) {
        if let Err(Refused::Missing(missing)) = permits(&ada(), &bindings, verb, Some(&target)) {
            let on = missing.argument.trim().trim_start_matches("--on ").trim_matches('\'');
            let on = if on.is_empty() { "everything" } else { on };
            let mut helped = bindings;
            helped.push(binding(missing.needed, on));
            prop_assert!(permits(&ada(), &helped, verb, Some(&target)).is_ok());
        }
    }
}
