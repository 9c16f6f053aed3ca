//! A ticket is good once, however many redeem it at the same moment.

use std::collections::BTreeMap;

use signet_tests::attest::redeem_at_once;
use signet_tests::load::is_sound;
use signet_tests::mesh::{Mesh, Store, id};
use signet_tests::on_both_engines;

on_both_engines!(of_100_concurrent_redeems_of_one_ticket_one_wins);

async fn of_100_concurrent_redeems_of_one_ticket_one_wins(store: Store) {
    let mesh = Mesh::on(store).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let ticket = mesh.ticket(&worker).await;

    let answers = redeem_at_once(&[mesh.grpc], &ticket, 100).await;

    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
    for status in lost.into_iter().filter_map(Result::err) {
        *refusals.entry(format!("{:?}: {}", status.code(), status.message())).or_default() += 1;
    }
    println!("{} won; refused: {refusals:?}", won.len());
    assert_eq!(won.len(), 1, "one wins: {refusals:?}");
    assert!(
        refusals
            .keys()
            .all(|refusal| refusal.starts_with("PermissionDenied") || refusal.starts_with("Unauthenticated")),
        "the others are refused for what they are, not for an accident: {refusals:?}"
    );
    let svid = won.into_iter().next().unwrap().unwrap();
    assert_eq!(svid.spiffe_id, worker);
    let listed = mesh.identities().await;
    assert_eq!(listed.len(), 1, "one instance, one SVID: {listed:?}");
    assert_eq!(listed[0]["instance"], svid.instance.as_str());
    is_sound(&mesh).await;
}
