//! Roles as they are stored, and what becomes of the one role there was before.

use super::*;
use crate::roles::{Binding, MAX_PER_SUBJECT, Permission, Refused, Role, Scope, Subject};

both_engines!(
    roles_are_kept_each_for_itself_until_they_are_withdrawn,
    subject_has_a_bounded_number_of_roles,
    policy_that_is_not_permitted_is_neither_replaced_nor_deleted,
    role_that_was_withdrawn_before_the_commit_does_not_count,
    ticket_is_made_by_who_may_become_its_identity_in_the_commit,
    admins_of_before_are_admins_on_everything,
);

fn binding(subject: &str, role: Role, scope: &str) -> Binding {
    Binding { subject: subject.parse().unwrap(), role, scope: scope.parse().unwrap() }
}

async fn roles_are_kept_each_for_itself_until_they_are_withdrawn(fixture: Fixture) {
    let ada = binding("unix:uid=1000", Role::Viewer, "everything");
    let shop = binding("unix:uid=1000", Role::Operator, "spiffe://mesh.local/shop/*");
    let other = binding("spiffe://mesh.local/people/eve", Role::Admin, "spiffe://mesh.local/shop/cart");
    for one in [&ada, &shop, &other] {
        fixture.store.grant_role(one.clone(), operator()).await.unwrap();
    }
    let again = fixture.store.grant_role(shop.clone(), operator()).await.unwrap();
    assert!(again.effects[0].ends_with("already: nothing changed"), "{again:?}");
    assert_eq!(fixture.store.roles_of(Subject::Unix(1000)).await.unwrap(), [ada.clone(), shop.clone()]);
    assert_eq!(fixture.store.roles_of(Subject::Unix(1)).await.unwrap(), []);
    let all = fixture.store.roles().await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|granted| granted.granted_by == operator().as_str()));

    fixture.store.withdraw_role(ada.clone(), operator()).await.unwrap();
    assert_eq!(fixture.store.roles_of(Subject::Unix(1000)).await.unwrap(), [shop]);
    let gone = fixture.store.withdraw_role(ada, operator()).await;
    assert!(matches!(gone, Err(StoreError::NotFound { what: "role", .. })), "{gone:?}");
    let events = fixture.store.newest_events(10, Some("unix:uid=1000".into())).await.unwrap();
    let actions: Vec<_> = events.iter().map(|event| &*event.action).collect();
    assert_eq!(actions, ["role.granted", "role.granted", "role.withdrawn"]);
}

async fn subject_has_a_bounded_number_of_roles(fixture: Fixture) {
    let one = |number: usize| {
        binding("unix:uid=1000", Role::Viewer, &format!("spiffe://mesh.local/shop/t{number}"))
    };
    for number in 0..MAX_PER_SUBJECT {
        fixture.store.grant_role(one(number), operator()).await.unwrap();
    }
    let refused = fixture.store.grant_role(one(MAX_PER_SUBJECT), operator()).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::TooManyRoles))), "{refused:?}");
    fixture.store.grant_role(one(0), operator()).await.unwrap();
    let other = binding("unix:uid=1001", Role::Viewer, "everything");
    fixture.store.grant_role(other, operator()).await.unwrap();
}

/// Reaches one scope only.
struct Only(Scope);

impl Permission for Only {
    fn on_all(&self, targets: &[Scope]) -> Result<Actor, Refused> {
        let permitted = !targets.is_empty() && targets.iter().all(|target| self.0.covers(target));
        if permitted { Ok(operator()) } else { Err(Refused::Untold("test")) }
    }

    fn may_become(&self, _: &SpiffeId, _: &[Binding]) -> Result<(), Refused> {
        Err(Refused::Untold("test"))
    }
}

async fn policy_that_is_not_permitted_is_neither_replaced_nor_deleted(fixture: Fixture) {
    let only = |scope: &str| Only(scope.parse().unwrap());
    let payments =
        |document: &str| NewPolicy { target: "spiffe://mesh.local/payments".into(), ..policy("p", document) };
    let apply = |document, permission| fixture.store.apply_policies(vec![document], permission, |_| Ok(()));
    apply(policy("p", "1"), only("spiffe://mesh.local/orders")).await.unwrap();
    let refused = apply(payments("2"), only("spiffe://mesh.local/payments")).await;
    assert!(
        matches!(refused, Err(StoreError::NotPermitted(_))),
        "it replaces what protects orders: {refused:?}"
    );
    // Others in the same batch are committed all the same.
    let (refused, other) = tokio::join!(
        fixture.store.delete_policy("p".into(), only("spiffe://mesh.local/payments")),
        fixture.store.apply_policies(vec![policy("q", "1")], operator(), |_| Ok(())),
    );
    assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{refused:?}");
    other.unwrap();
    let kept: Vec<_> = fixture.store.policies().await.unwrap();
    let kept: Vec<_> = kept.iter().map(|policy| (&*policy.name, &*policy.document)).collect();
    assert_eq!(kept, [("p", "1"), ("q", "1")]);
    fixture.store.delete_policy("p".into(), only("spiffe://mesh.local/orders")).await.unwrap();
    fixture.verified_events().await;
}

async fn role_that_was_withdrawn_before_the_commit_does_not_count(fixture: Fixture) {
    let ada = "spiffe://mesh.local/people/ada".parse().unwrap();
    let role = binding("spiffe://mesh.local/people/ada", Role::Admin, "everything");
    let other = binding("spiffe://mesh.local/people/ada", Role::Viewer, "spiffe://mesh.local/shop/*");
    let judged = Actor::identity(&ada).by_roles([role.clone()]);
    let gift = binding("unix:uid=1000", Role::Viewer, "everything");
    let refused = fixture.store.grant_role(gift.clone(), judged.clone()).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::RolesChanged))), "{refused:?}");
    assert_eq!(fixture.store.roles().await.unwrap(), [], "and nothing was changed");

    for held in [&role, &other] {
        fixture.store.grant_role(held.clone(), operator()).await.unwrap();
    }
    fixture.store.grant_role(gift.clone(), judged.clone()).await.unwrap();
    fixture.store.withdraw_role(other, judged.clone()).await.unwrap();
    // Also in one batch: the order of the commits decides.
    let (withdrawn, refused) = tokio::join!(
        fixture.store.withdraw_role(role.clone(), judged.clone()),
        fixture.store.withdraw_role(gift.clone(), judged),
    );
    withdrawn.unwrap();
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::RolesChanged))), "{refused:?}");
    assert_eq!(fixture.store.roles_of(Subject::Unix(1000)).await.unwrap(), [gift]);
    fixture.verified_events().await;
}

async fn ticket_is_made_by_who_may_become_its_identity_in_the_commit(fixture: Fixture) {
    let token = || NewToken {
        secret_sha256: [7; 32],
        spiffe_id: id("orders"),
        expires_at: time::now() + Duration::from_secs(60),
    };
    for scope in ["spiffe://mesh.local/payments", "spiffe://mesh.local/orders"] {
        let refused = fixture.store.create_token(token(), Only(scope.parse().unwrap())).await;
        assert!(matches!(refused, Err(StoreError::NotPermitted(_))), "{scope}: {refused:?}");
    }
    fixture.store.create_token(token(), operator()).await.unwrap();
}

async fn admins_of_before_are_admins_on_everything(fixture: Fixture) {
    let ada = "INSERT INTO admin (spiffe_id, granted_at_ms, granted_by)
               VALUES ('spiffe://mesh.local/people/ada', 7, 'unix:uid=0')";
    let (fixture, steps) = fixture.brought_up_from(2, &[ada]).await;
    assert_eq!(steps.first().map(|step| step.version), Some(3));
    let [ada] = &fixture.store.roles().await.unwrap()[..] else { panic!("one role") };
    assert_eq!(ada.binding, binding("spiffe://mesh.local/people/ada", Role::Admin, "everything"));
    assert_eq!((ada.granted_at, &*ada.granted_by), (time::from_millis(7), "unix:uid=0"));

    let admins = async |fixture: &Fixture| -> i64 {
        fixture.store.read(|sql| sql.one("SELECT count(*) FROM admin", &[])).await.unwrap()
    };
    assert_eq!(admins(&fixture).await, 1, "the version before still reads it");
    fixture.store.withdraw_role(ada.binding.clone(), operator()).await.unwrap();
    assert_eq!(admins(&fixture).await, 0, "and hears of a withdrawal");
}
