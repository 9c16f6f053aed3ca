//! An intermediate for each replica, and one for those that have none.

use super::model::{Activation, Phase, Replacement};
use super::*;
use crate::ca::{Authority, CaError, Lives, SealPlace, Step};

both_engines!(
    replica_signs_with_its_own_and_whoever_leads_does_not_replace_it_twice,
    intermediate_with_which_nobody_signs_retires,
    with_another_root_every_replica_signs_below_it,
    compromised_intermediate_is_one_of_several,
    shared_intermediate_of_the_version_before_goes_on,
);

fn of(replica: &str, name: &str) -> AuthorityRecord {
    AuthorityRecord { replica: replica.into(), ..authority(name, AuthorityKind::Intermediate) }
}

fn first(replica: &str, name: &str) -> Vec<Replacement> {
    vec![Replacement { new: of(replica, name), replaces: None }]
}

/// Those that sign, each with its replica.
async fn signing(store: &Store) -> Vec<(String, String)> {
    let known = store.authorities().await.unwrap().into_iter();
    let signing = known.filter(|one| one.kind == AuthorityKind::Intermediate && one.phase == Phase::Active);
    signing.map(|one| (one.replica, one.id)).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(replica, id)| ((*replica).to_owned(), (*id).to_owned())).collect()
}

/// As its heartbeat does.
async fn runs(store: &Store, replica: &'static str) {
    let row = "INSERT INTO replica (id, version, started_at_ms, seen_at_ms, rotates, jwt) VALUES (?1, '0', 1, 1, 1, 1)";
    sql(store, row, replica).await;
}

async fn sql(store: &Store, statement: &'static str, value: &'static str) {
    let written = store.write(move |change| {
        change.operational();
        change.sql.post(statement, sql::values![value])
    });
    written.await.unwrap();
}

/// Two replicas, each with its own.
async fn two(fixture: &Fixture) {
    for (replica, name) in [("one", "ca of one"), ("two", "ca of two")] {
        runs(&fixture.store, replica).await;
        fixture.store.replace_intermediates(first(replica, name), operator()).await.unwrap();
    }
}

async fn replica_signs_with_its_own_and_whoever_leads_does_not_replace_it_twice(fixture: Fixture) {
    let unknown = fixture.store.replace_intermediates(first("one", "early"), operator()).await;
    assert_eq!(refusal(unknown), Refusal::RotatedMeanwhile, "nobody would find out that it is gone");
    two(&fixture).await;
    let again = fixture.store.replace_intermediates(first("one", "again"), operator()).await;
    assert_eq!(refusal(again), Refusal::RotatedMeanwhile, "it has one");
    let other = Replacement { new: of("two", "second"), replaces: Some("ca of one".into()) };
    let other = fixture.store.replace_intermediates(vec![other], operator()).await;
    assert_eq!(refusal(other), Refusal::RotatedMeanwhile, "nobody replaces what is another's");

    let next = Replacement { new: of("one", "next of one"), replaces: Some("ca of one".into()) };
    fixture.store.replace_intermediates(vec![next.clone()], operator()).await.unwrap();
    let late = fixture.store.replace_intermediates(vec![next], operator()).await;
    assert_eq!(refusal(late), Refusal::RotatedMeanwhile);
    let fixture = fixture.reopen();
    let expected = pairs(&[("", "ca"), ("two", "ca of two"), ("one", "next of one")]);
    assert_eq!(signing(&fixture.store).await, expected);
    let of_each = [("one", "third of one", "next of one"), ("two", "stale", "not this one")];
    let of_each = of_each
        .map(|(replica, id, before)| Replacement { new: of(replica, id), replaces: Some(before.into()) });
    let half = fixture.store.replace_intermediates(of_each.into(), operator()).await;
    assert_eq!(refusal(half), Refusal::RotatedMeanwhile);
    assert_eq!(signing(&fixture.store).await, expected, "all of them or none");
    fixture.verified_events().await;
}

async fn intermediate_with_which_nobody_signs_retires(fixture: Fixture) {
    let stop = async |id: &str| fixture.store.stop_intermediate(id.into(), operator()).await;
    runs(&fixture.store, "older").await;
    two(&fixture).await;
    assert_eq!(refusal(stop("ca").await), Refusal::RotatedMeanwhile, "one replica has nothing else");
    assert_eq!(refusal(stop("ca of one").await), Refusal::RotatedMeanwhile, "it runs");
    sql(&fixture.store, "DELETE FROM replica WHERE id = ?1", "older").await;
    let shared = stop("ca").await;
    if fixture.store.is_shared() {
        shared.unwrap();
        assert_eq!(signing(&fixture.store).await, pairs(&[("one", "ca of one"), ("two", "ca of two")]));
    } else {
        assert_eq!(refusal(shared), Refusal::RotatedMeanwhile, "the embedded store signs with it");
    }
    assert_eq!(fixture.store.replicas().await.unwrap(), ["one", "two"]);

    fixture.store.forget_replicas(time::now()).await.unwrap();
    stop("ca of two").await.unwrap();
    let again = refusal(stop("ca of two").await);
    assert!(matches!(again, Refusal::AuthorityPhase { phase: Phase::Retiring, .. }), "{again}");
    let kept = fixture.store.kept_key("ca of two".into()).await.unwrap();
    assert_eq!(kept, Some(model::KeptKey::Sealed(vec![2])), "it signs revocation lists");
    fixture.store.retire_authority("ca of two".into(), operator()).await.unwrap();
    assert_eq!(fixture.store.kept_key("ca of two".into()).await.unwrap(), None);
    runs(&fixture.store, "two").await;
    fixture.store.replace_intermediates(first("two", "back"), operator()).await.unwrap();
    fixture.verified_events().await;
}

/// The root `next` in the place of `root`, with first intermediates for these.
fn activation(replicas: &[&str]) -> Activation {
    let below = |replica: &&str| AuthorityRecord {
        issuer: Some("next".into()),
        ..of(replica, &format!("next of {replica}"))
    };
    Activation {
        id: "next".into(),
        replaces: Some("root".into()),
        listings: Vec::new(),
        root: Some((None, model::Below::New(replicas.iter().map(below).collect()))),
        unacknowledged: false,
    }
}

async fn with_another_root_every_replica_signs_below_it(fixture: Fixture) {
    two(&fixture).await;
    fixture.store.prepare_authority(authority("next", AuthorityKind::Root), operator()).await.unwrap();
    for stale in [&["", "one"][..], &["", "one", "two", "three"]] {
        let refused = fixture.store.activate_authority(activation(stale), operator()).await;
        assert_eq!(refusal(refused), Refusal::RotatedMeanwhile, "a replica came or went: {stale:?}");
    }
    let fixture = fixture.reopen();
    fixture.store.activate_authority(activation(&["", "one", "two"]), operator()).await.unwrap();
    let mut expected = pairs(&[("", "next of "), ("one", "next of one"), ("two", "next of two")]);
    expected.sort();
    let mut found = signing(&fixture.store).await;
    found.sort();
    assert_eq!(found, expected);
    let stale = Replacement { new: of("one", "below the old one"), replaces: Some("next of one".into()) };
    let stale = fixture.store.replace_intermediates(vec![stale], operator()).await;
    assert_eq!(refusal(stale), Refusal::RotatedMeanwhile, "no more begins below the root that retires");
    fixture.verified_events().await;
}

async fn compromised_intermediate_is_one_of_several(fixture: Fixture) {
    two(&fixture).await;
    let compromise = model::Compromise {
        id: "ca of two".into(),
        successor: Some(of("two", "next of two")),
        within: HOUR,
        reason: "stolen".into(),
    };
    fixture.store.compromise_authority(compromise, operator()).await.unwrap();
    let expected = pairs(&[("", "ca"), ("one", "ca of one"), ("two", "next of two")]);
    assert_eq!(signing(&fixture.store).await, expected);
    assert_eq!(fixture.store.kept_key("ca of two".into()).await.unwrap(), None);
    assert!(fixture.store.kept_key("ca of one".into()).await.unwrap().is_some());
    let listing = model::Listing {
        id: "ca of two".into(),
        issuer_sha256: [9; 32],
        serial: vec![9],
        spki_sha256: [8; 32],
    };
    fixture.store.distrust_authority("ca of two".into(), vec![listing], operator()).await.unwrap();
    let listed = fixture.store.mesh_since(None).await.unwrap().revocations.unwrap();
    assert_eq!(listed.certificates, [([9; 32], vec![9])]);
    assert_eq!(signing(&fixture.store).await, expected);
}

async fn shared_intermediate_of_the_version_before_goes_on(fixture: Fixture) {
    let byte = if matches!(fixture.location, Location::Directory(_)) { "x'01'" } else { "'\\x01'" };
    let rows = format!(
        "INSERT INTO authority (id, kind, active, subject, certificate, sealed_key, not_before_ms, not_after_ms,
                                created_at_ms, issuer)
         VALUES ('root', 'root', 1, 'r', {byte}, {byte}, 1, 9999999999999, 1, NULL),
                ('ca', 'intermediate', 1, 'ca', {byte}, {byte}, 1, 9999999999999, 3, 'root')"
    );
    let (fixture, steps) = fixture.brought_up_from(23, &[&rows]).await;
    assert_eq!(steps.first().unwrap().name, "an intermediate for each replica");
    assert_eq!(signing(&fixture.store).await, pairs(&[("", "ca")]));
    two(&fixture).await;
    assert_eq!(signing(&fixture.store).await.len(), 3);
    // What a program of that version does: it knows of one intermediate, and replaces all there are.
    let retired = "UPDATE authority SET active = 0, phase = 'retiring' WHERE kind = ?1 AND active = 1";
    sql(&fixture.store, retired, "intermediate").await;
    let first_again = fixture.store.replace_intermediates(first("one", "again"), operator()).await;
    first_again.unwrap();
    assert_eq!(signing(&fixture.store).await, pairs(&[("one", "again")]));
}

#[tokio::test]
async fn replica_that_was_taken_for_gone_makes_another_one() {
    let domain: TrustDomain = "mesh.local".parse().unwrap();
    let (location, directory) = (server::database().await, tempfile::tempdir().unwrap());
    let open = async |name: &str| {
        let store = Store::open_as(location.clone(), &domain, name).unwrap();
        store.heartbeat(time::now()).await.unwrap();
        let seal = SealPlace::File(directory.path().join("seal.key"));
        let lives = Lives::with_intermediate(HOUR * 720);
        let authority = Authority::open(store.clone(), domain.clone(), &seal, lives).await.unwrap();
        authority.revive(time::now()).await.unwrap();
        (store, authority)
    };
    let signs_with = |authority: &Authority| authority.intermediate().certified().id().to_owned();
    let ((store, one), (there, two)) = (open("one").await, open("two").await);
    one.refresh().await.unwrap();
    let (first, before) = (signs_with(&one), signs_with(&two));
    assert_ne!(first, before);
    let (due, all) =
        (|one: &Authority, running: &[String]| one.due(Some(running), time::now()), ["one", "two"]);
    assert!(due(&one, &all.map(String::from)).is_empty());

    sql(&store, "DELETE FROM replica WHERE id = ?1", "two").await;
    let steps = due(&one, &store.replicas().await.unwrap());
    let [Step::Stop(gone)] = steps.as_slice() else { panic!("{steps:?}") };
    assert_eq!(gone.id, before);
    one.stop_intermediate(gone, operator()).await.unwrap();
    two.refresh().await.unwrap();
    assert_eq!(signs_with(&two), before, "what it signed is believed, and there is nothing else");
    assert_eq!(two.due(None, time::now()), [Step::ReplaceIntermediate("two".into())]);
    let unknown = two.replace_intermediates(&["two"], operator()).await.unwrap_err();
    assert!(matches!(unknown, CaError::Store(StoreError::Refused(Refusal::RotatedMeanwhile))), "{unknown}");
    assert!(!there.heartbeat(time::now()).await.unwrap(), "what it holds is to be written down anew");
    two.replace_intermediates(&["two"], operator()).await.unwrap();
    assert!(![&first, &before].contains(&&signs_with(&two)));

    let (next, _) = one.prepare(AuthorityKind::Root, operator()).await.unwrap();
    let prepared = one.named("root", &[Phase::Prepared]).await.unwrap();
    one.activate(&prepared, false, operator()).await.unwrap();
    two.refresh().await.unwrap();
    for (authority, replica) in [(&one, "one"), (&two, "two")] {
        let own = authority.named_of("intermediate", Some(replica), &[Phase::Active]).await.unwrap();
        assert_eq!((own.issuer.as_ref(), own.id), (Some(&next), signs_with(authority)), "{replica}");
    }
    let several = two.named("intermediate", &[Phase::Active]).await.unwrap_err().to_string();
    assert!(["of replica one", "of replica two"].iter().all(|of| several.contains(of)), "{several}");
    assert_eq!(two.replica_named("one").await.unwrap_err().to_string().split(':').next(), Some("replica"));
}
