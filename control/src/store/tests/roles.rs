//! Roles as they are stored, and what becomes of the one role there was before.

use super::*;
use crate::roles::{Binding, MAX_PER_SUBJECT, Role, Subject};
use crate::store::engine;

fn binding(subject: &str, role: Role, scope: &str) -> Binding {
    Binding { subject: subject.parse().unwrap(), role, scope: scope.parse().unwrap() }
}

#[tokio::test]
async fn roles_are_kept_each_for_itself_until_they_are_withdrawn() {
    let fixture = Fixture::new().await;
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

#[tokio::test]
async fn subject_has_a_bounded_number_of_roles() {
    let fixture = Fixture::new().await;
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

#[test]
fn admins_of_before_are_admins_on_everything() {
    let mut connection = rusqlite::Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../migrations/0001_ground.sql")).unwrap();
    connection
        .execute("INSERT INTO admin VALUES ('spiffe://mesh.local/people/ada', 7, 'unix:uid=0')", [])
        .unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    connection.pragma_update(None, "application_id", 0x5347_4e54).unwrap();
    engine::migrate(&mut connection).unwrap();
    let row: (String, String, String, i64, String) = connection
        .query_row("SELECT subject, role, scope, granted_at_ms, granted_by FROM role_binding", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .unwrap();
    let expected = ("spiffe://mesh.local/people/ada", "admin", "everything", 7, "unix:uid=0");
    assert_eq!((&*row.0, &*row.1, &*row.2, row.3, &*row.4), expected);
    let left: i64 = connection.query_row("SELECT count(*) FROM admin", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1, "the version before still reads it");
}
