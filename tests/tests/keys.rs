//! Where the keys of the authorities are, and what becomes of them there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::os::unix::fs::PermissionsExt;

use linux_keyutils::{KeyRing, KeyRingIdentifier};
use signet_tests::client::{Finished, file};
use signet_tests::mesh::Mesh;

#[tokio::test(flavor = "multi_thread")]
async fn seal_key_moves_from_a_file_to_a_passphrase_and_into_the_kernel() {
    let mut mesh = Mesh::start().await;
    let before = mesh.json(&["ca", "status"]).await;
    let passphrase = file(mesh.directory(), "passphrase", "correct horse battery staple\n");
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).expect("our own file");
    let passphrase = format!("passphrase:{}", passphrase.display());
    let told = |finished: Finished, expected: &str| {
        assert!(finished.all().contains(expected), "{expected}: {}", finished.all());
    };
    let running = mesh.upkeep(&["reseal", "--to", &passphrase]).run().await;
    assert_ne!(running.code(), 0, "control runs: {}", running.all());

    mesh.kill_control().await;
    let expected = format!("run control with --seal-key {passphrase}");
    told(mesh.upkeep(&["reseal", "--to", &passphrase]).run().await.succeeded(), &expected);
    told(mesh.upkeep(&["reseal", "--to", &passphrase]).run().await.succeeded(), "already");
    let old = mesh.attempt().run().await;
    assert_ne!(old.code(), 0);
    told(old, "does not open: wrong seal key");
    mesh.options(&["--seal-key", &passphrase]);
    mesh.restart_control().await;
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();

    let name = format!("signet-test-{}", std::process::id());
    let ring = KeyRing::from_special_id(KeyRingIdentifier::Session, false).expect("a keyring");
    let key = ring.add_key(&name, &[7; 32][..]).expect("a key");
    let place = format!("keyring:{name}");
    mesh.kill_control().await;
    let moved = mesh.upkeep(&["reseal", "--seal-key", &passphrase, "--to", &place]).run().await;
    told(moved.succeeded(), &place);
    mesh.options(&["--seal-key", &place]);
    mesh.restart_control().await;
    key.invalidate().expect("our own key");
    let after = mesh.json(&["ca", "status"]).await;
    assert_eq!(before["root"]["sha256"], after["root"]["sha256"]);
    let _ = mesh.signet(&["ca", "rotate-intermediate"]).await.succeeded();
    let events = mesh.events().await;
    assert_eq!(events.iter().filter(|event| event["action"] == "keys.resealed").count(), 2);
    mesh.verify_audit().await;
}
