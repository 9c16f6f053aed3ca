//! `kill -9` of control while workloads join and renew and an operator changes policy: whatever was answered
//! is there afterwards, and the store is sound.

use signet_tests::faults::Faults;
use signet_tests::load::{Load, NO_QUOTA, is_sound};
use signet_tests::mesh::{Mesh, Store, id};
use signet_tests::on_both_engines;
use signet_tests::report::measured;

on_both_engines!(killed_at_any_point_control_keeps_all_that_it_answered);

async fn killed_at_any_point_control_keeps_all_that_it_answered(store: Store) {
    let mut mesh = Mesh::on(store).options(&NO_QUOTA).start().await;
    let worker = id("/worker");
    mesh.workload(&worker).await;
    let mut faults = Faults::begin();
    let load = Load::start(&mesh.replicas, &worker);

    while faults.another() {
        load.answered(faults.below(100)).await;
        mesh.kill_control().await;
        mesh.restart_control().await;
        is_sound(&mesh).await;
    }
    load.answered(50).await;

    let book = load.finish().await;
    book.is_kept_by(&mesh).await;
    measured(&format!("{store:?}, control killed {} times, nothing lost", faults.count()), book);
}
