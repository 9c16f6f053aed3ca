//! Roots and intermediates, one after another: each step is there or not, whenever a process ends.

use super::model::{Activation, KnownAuthority, Phase};
use super::*;

both_engines!(
    root_signs_only_what_every_proxy_can_believe,
    authority_stays_as_long_as_anything_live_chains_to_it,
    one_rotation_at_a_time,
    step_is_taken_or_not_and_the_next_one_follows_after_any_restart,
    what_a_removed_authority_signed_is_not_given_out,
    bundle_and_its_sequence_go_forward,
    authorities_of_the_version_before_go_on,
    compromised_authority_is_replaced_at_once_and_listed_when_its_time_is_over,
    compromised_root_is_no_retired_one,
    keys_in_tokens_are_destroyed_when_nobody_needs_them,
);

fn root(name: &str) -> AuthorityRecord {
    authority(name, AuthorityKind::Root)
}

/// An intermediate below that root.
fn below(root: &str, name: &str) -> AuthorityRecord {
    AuthorityRecord { issuer: Some(root.into()), ..authority(name, AuthorityKind::Intermediate) }
}

/// The root `next`, with its first intermediate, in the place of `root`.
fn activation(unacknowledged: bool) -> Activation {
    let first = (Some(vec![9]), model::Below::New(vec![below("next", "next ca")]));
    let (id, replaces, listings) = ("next".into(), Some("root".into()), vec![listing("next", 42)]);
    Activation { id, replaces, listings, root: Some(first), unacknowledged }
}

fn lease(instance: InstanceId) -> model::Lease {
    model::Lease {
        instance,
        spiffe_id: id("orders"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        listeners: vec![listener(1)],
        locality: None,
    }
}

async fn phases(store: &Store) -> Vec<(String, Phase)> {
    store.authorities().await.unwrap().into_iter().map(|known| (known.id, known.phase)).collect()
}

async fn known(store: &Store, id: &str) -> KnownAuthority {
    store.authorities().await.unwrap().into_iter().find(|known| known.id == id).unwrap()
}

/// Everything that hangs on the first root ends.
async fn end_all(fixture: &Fixture) {
    fixture
        .store
        .write(|change| {
            change.operational();
            change.sql.post("UPDATE certificate SET not_after_ms = 1", &[])?;
            change.sql.post("UPDATE join_token SET expires_at_ms = 1", &[])
        })
        .await
        .unwrap();
}

async fn root_signs_only_what_every_proxy_can_believe(fixture: Fixture) {
    let (knows, _) = fixture.instance("orders", 1, HOUR).await;
    let (absent, _) = fixture.instance("payments", 2, HOUR).await;
    let (operator_only, _) = fixture.instance("orders", 3, HOUR).await;
    fixture.watch(lease(knows)).await;
    fixture.store.watched(absent).await.unwrap();
    let announced = fixture.store.prepare_authority(root("next"), operator()).await.unwrap().commit.revision;
    assert_eq!(known(&fixture.store, "next").await.announced, announced);

    let missing = fixture.store.unacknowledged(announced, time::now()).await.unwrap();
    assert_eq!(missing.count, 2, "who never opened a stream goes by nothing: {missing}");
    assert!(missing.some[0].connected && !missing.some[1].connected, "{missing}");
    assert!(!missing.to_string().contains(&operator_only.to_string()));
    let refused = refusal(fixture.store.activate_authority(activation(false), operator()).await);
    let Refusal::NotAcknowledged { count: 2, missing, .. } = refused else { panic!("{refused}") };
    assert!(missing.contains(&knows.to_string()) && missing.contains("not connected"), "{missing}");
    assert_eq!(known(&fixture.store, "root").await.phase, Phase::Active, "nothing was changed");

    fixture.acknowledge(lease(knows), announced).await;
    fixture.acknowledge(model::Lease { spiffe_id: id("payments"), ..lease(absent) }, announced - 1).await;
    let missing = fixture.store.unacknowledged(announced, time::now()).await.unwrap();
    assert_eq!(missing.count, 1, "an older revision is no acknowledgement");
    assert_eq!(missing.some[0].instance, absent);
    fixture.acknowledge(model::Lease { spiffe_id: id("payments"), ..lease(absent) }, announced + 1).await;
    fixture.store.activate_authority(activation(false), operator()).await.unwrap();
    let expected = [
        ("root", Phase::Retiring),
        ("next", Phase::Active),
        ("ca", Phase::Retiring),
        ("next ca", Phase::Active),
    ];
    assert_eq!(phases(&fixture.store).await, expected.map(|(id, phase)| (id.to_owned(), phase)));
    for kept in ["root", "ca"] {
        let key = fixture.store.kept_key(kept.into()).await.unwrap();
        assert_eq!(key, Some(model::KeptKey::Sealed(vec![2])), "{kept} signs revocation lists");
    }
    assert_eq!(known(&fixture.store, "next").await.cross_certificate, Some(vec![9]));
    fixture.verified_events().await;
}

async fn authority_stays_as_long_as_anything_live_chains_to_it(fixture: Fixture) {
    let (instance, _) = fixture.instance("orders", 1, HOUR).await;
    fixture.token("payments", 2).await;
    fixture.store.prepare_authority(root("next"), operator()).await.unwrap();
    fixture.store.activate_authority(activation(true), operator()).await.unwrap();
    for name in ["root", "ca"] {
        let retiring = known(&fixture.store, name).await;
        assert!(fixture.store.is_chained(retiring.clone(), time::now()).await.unwrap());
        let chained = fixture.store.chained(retiring, time::now()).await.unwrap();
        assert_eq!((chained.certificates, chained.some), (1, vec![id("orders").to_string()]), "{name}");
        let refused = refusal(fixture.store.retire_authority(name.into(), operator()).await);
        assert!(refused.to_string().contains("spiffe://mesh.local/orders"), "{refused}");
    }
    fixture
        .store
        .revoke(model::RevocationTarget::Instance(instance), "lost".into(), operator())
        .await
        .unwrap();
    let refused = refusal(fixture.store.retire_authority("ca".into(), operator()).await);
    assert!(refused.to_string().contains("spiffe://mesh.local/orders"), "its list names it: {refused}");
    let refused = refusal(fixture.store.retire_authority("root".into(), operator()).await);
    assert!(refused.to_string().contains("unspent join tickets"), "{refused}");
    assert!(!refused.to_string().contains("spiffe://mesh.local/orders"), "{refused}");
    end_all(&fixture).await;
    fixture.store.retire_authority("ca".into(), operator()).await.unwrap();
    let removed = fixture.store.retire_authority("root".into(), operator()).await.unwrap();
    let bundle = fixture.store.mesh_since(None).await.unwrap().bundle.unwrap();
    assert_eq!((bundle.authorities.len(), bundle.retired.len()), (1, 1));
    assert_eq!(bundle.sequence, removed.commit.revision);
    let wrong = refusal(fixture.store.retire_authority("next".into(), operator()).await);
    assert!(matches!(wrong, Refusal::AuthorityPhase { phase: Phase::Active, .. }), "{wrong}");
}

async fn one_rotation_at_a_time(fixture: Fixture) {
    fixture.store.prepare_authority(root("next"), operator()).await.unwrap();
    let second = refusal(fixture.store.prepare_authority(root("third"), operator()).await);
    assert!(matches!(second, Refusal::RotationUnderWay { phase: Phase::Prepared, .. }), "{second}");
    let (one, two) = tokio::join!(
        fixture.store.activate_authority(activation(false), operator()),
        fixture.store.activate_authority(activation(false), operator())
    );
    let refused: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
    let [StoreError::Refused(Refusal::AuthorityPhase { .. })] = refused.as_slice() else {
        panic!("{refused:?}")
    };
    let second = refusal(fixture.store.prepare_authority(root("third"), operator()).await);
    assert!(matches!(second, Refusal::RotationUnderWay { phase: Phase::Retiring, .. }), "{second}");
    // Intermediates do not wait for each other: they travel in the chain.
    fixture.store.prepare_authority(below("next", "other ca"), operator()).await.unwrap();
    let stale = refusal(fixture.store.prepare_authority(below("root", "late ca"), operator()).await);
    assert!(matches!(stale, Refusal::RotationUnderWay { .. }), "{stale}");
}

async fn step_is_taken_or_not_and_the_next_one_follows_after_any_restart(fixture: Fixture) {
    fixture.instance("orders", 1, HOUR).await;
    let mut fixture = fixture.reopen();
    fixture.store.prepare_authority(root("given up"), operator()).await.unwrap();
    fixture = fixture.reopen();
    fixture.store.retire_authority("given up".into(), operator()).await.unwrap();
    fixture = fixture.reopen();
    fixture.store.prepare_authority(root("next"), operator()).await.unwrap();
    fixture = fixture.reopen();
    assert_eq!(known(&fixture.store, "next").await.phase, Phase::Prepared);
    assert_eq!(fixture.store.kept_key("next".into()).await.unwrap(), Some(model::KeptKey::Sealed(vec![2])));
    fixture.store.activate_authority(activation(false), operator()).await.unwrap();
    fixture = fixture.reopen();
    assert_eq!(known(&fixture.store, "root").await.phase, Phase::Retiring);
    assert_eq!(fixture.store.kept_key("root".into()).await.unwrap(), Some(model::KeptKey::Sealed(vec![2])));
    refusal(fixture.store.retire_authority("root".into(), operator()).await);
    end_all(&fixture).await;
    for name in ["root", "ca"] {
        fixture.store.retire_authority(name.into(), operator()).await.unwrap();
        fixture = fixture.reopen();
        assert_eq!(fixture.store.kept_key(name.into()).await.unwrap(), None, "{name}");
    }
    let expected = [
        ("root", Phase::Removed),
        ("next", Phase::Active),
        ("ca", Phase::Removed),
        ("next ca", Phase::Active),
    ];
    assert_eq!(phases(&fixture.store).await, expected.map(|(id, phase)| (id.to_owned(), phase)));
    fixture.verified_events().await;
}

async fn what_a_removed_authority_signed_is_not_given_out(fixture: Fixture) {
    let (instance, first) = fixture.instance("orders", 1, HOUR).await;
    fixture.store.prepare_authority(root("next"), operator()).await.unwrap();
    fixture.store.activate_authority(activation(false), operator()).await.unwrap();
    let late = issuance("orders", time::now() + HOUR);
    fixture.store.record_renewal(late.clone(), renewal(instance, &first)).await.unwrap();
    end_all(&fixture).await;
    fixture.store.retire_authority("ca".into(), operator()).await.unwrap();
    let later = issuance("orders", time::now() + HOUR);
    let refused = fixture.store.record_renewal(later.clone(), renewal(instance, &late)).await;
    assert_eq!(refusal(refused), Refusal::SignerRemoved);
    assert_eq!(refusal(fixture.store.record_own(later.clone()).await), Refusal::SignerRemoved);
    let now = Issuance { authority: "next ca".into(), ..later };
    fixture.store.record_renewal(now, renewal(instance, &late)).await.unwrap();
}

async fn bundle_and_its_sequence_go_forward(fixture: Fixture) {
    let read = async || fixture.store.mesh_since(None).await.unwrap().bundle.unwrap();
    let mut sequences = vec![read().await.sequence];
    fixture.store.prepare_authority(root("given up"), operator()).await.unwrap();
    sequences.push(read().await.sequence);
    fixture.store.retire_authority("given up".into(), operator()).await.unwrap();
    let after = read().await;
    assert!(after.retired.is_empty(), "it never vouched for anybody");
    sequences.push(after.sequence);
    fixture.store.prepare_authority(root("next"), operator()).await.unwrap();
    let both = read().await;
    assert_eq!(both.authorities.len(), 2);
    sequences.push(both.sequence);
    fixture.store.activate_authority(activation(false), operator()).await.unwrap();
    assert_eq!(read().await, both, "who signs is no part of the bundle");
    assert!(sequences.is_sorted_by(|before, after| before < after), "{sequences:?}");
}

async fn authorities_of_the_version_before_go_on(fixture: Fixture) {
    let byte = if matches!(fixture.location, Location::Directory(_)) { "x'01'" } else { "'\\x01'" };
    let rows = format!(
        "INSERT INTO authority (id, kind, active, subject, certificate, sealed_key, not_before_ms, not_after_ms,
                                created_at_ms)
         VALUES ('r', 'root', 1, 'r', {byte}, {byte}, 1, 9999999999999, 1),
                ('old', 'intermediate', 0, 'old', {byte}, NULL, 1, 9999999999999, 2),
                ('new', 'intermediate', 1, 'new', {byte}, {byte}, 1, 9999999999999, 3)"
    );
    let (fixture, steps) = fixture.brought_up_from(15, &[&rows]).await;
    assert_eq!(steps.first().unwrap().name, "authorities one after another");
    let all = fixture.store.authorities().await.unwrap();
    let seen: Vec<_> = all.iter().map(|one| (&*one.id, one.phase, one.issuer.as_deref())).collect();
    let expected =
        [("r", Phase::Active, None), ("old", Phase::Retiring, Some("r")), ("new", Phase::Active, Some("r"))];
    assert_eq!(seen, expected);
    fixture.store.retire_authority("old".into(), operator()).await.unwrap();
    fixture.store.prepare_authority(root("next"), operator()).await.unwrap();
}

#[tokio::test]
async fn no_root_is_made_while_a_control_runs_that_would_keep_it_to_itself() {
    let fixture = Fixture::new(Engine::Postgres).await;
    let older = "INSERT INTO replica (id, version, started_at_ms, seen_at_ms) VALUES ('older', '0', 1, 1)";
    fixture
        .store
        .write(move |change| {
            change.operational();
            change.sql.post(older, &[])
        })
        .await
        .unwrap();
    let refused = refusal(fixture.store.prepare_authority(root("next"), operator()).await);
    assert_eq!(refused, Refusal::OlderReplica("older".into()));
    fixture.store.prepare_authority(below("root", "next"), operator()).await.unwrap();
    fixture.store.forget_replicas(time::now()).await.unwrap();
    fixture.store.prepare_authority(root("next root"), operator()).await.unwrap();
}

fn compromise(id: &str, successor: Option<AuthorityRecord>, within: Duration) -> model::Compromise {
    model::Compromise { id: id.into(), successor, within, reason: "stolen".into() }
}

fn listing(id: &str, seed: u8) -> model::Listing {
    model::Listing {
        id: id.into(),
        issuer_sha256: [seed; 32],
        serial: vec![seed],
        spki_sha256: [seed + 100; 32],
    }
}

async fn compromised_authority_is_replaced_at_once_and_listed_when_its_time_is_over(fixture: Fixture) {
    fixture.instance("orders", 1, HOUR).await;
    let bundle = async || fixture.store.mesh_since(None).await.unwrap().bundle.unwrap();
    assert!(bundle().await.superseded.is_empty());
    let begun = compromise("ca", Some(below("root", "next ca")), HOUR);
    let told = fixture.store.compromise_authority(begun.clone(), operator()).await.unwrap();
    assert_eq!(known(&fixture.store, "next ca").await.phase, Phase::Active);
    let during = bundle().await;
    assert_eq!((during.superseded, during.sequence), (vec![ISSUER], told.commit.revision));
    assert_eq!(fixture.store.kept_key("ca".into()).await.unwrap(), None, "nothing is to be signed with it");
    let later = refusal(fixture.store.compromise_authority(begun.clone(), operator()).await);
    assert_eq!(later, Refusal::AlreadyCompromised("ca".into()));
    let sooner = model::Compromise { within: Duration::ZERO, successor: None, ..begun };
    fixture.store.compromise_authority(sooner, operator()).await.unwrap();
    let kept = refusal(fixture.store.retire_authority("ca".into(), operator()).await);
    assert_eq!(kept, Refusal::AlreadyCompromised("ca".into()), "it would not be listed then");

    fixture.store.distrust_authority("ca".into(), vec![listing("ca", 7)], operator()).await.unwrap();
    let read = fixture.store.mesh_since(None).await.unwrap();
    assert!(read.bundle.unwrap().superseded.is_empty(), "whoever has not renewed cannot any more");
    let listed = read.revocations.unwrap();
    assert_eq!((listed.certificates, listed.keys), (vec![([7; 32], vec![7])], vec![[107; 32]]));
    assert_eq!(known(&fixture.store, "ca").await.phase, Phase::Removed);
    fixture.store.prune_revocations(time::now() + HOUR, time::now(), 9).await.unwrap();
    let listed = fixture.store.mesh_since(None).await.unwrap().revocations.unwrap();
    assert_eq!(listed.certificates.len(), 1, "as long as its key could sign");
    fixture.verified_events().await;
}

async fn compromised_root_is_no_retired_one(fixture: Fixture) {
    fixture.instance("orders", 1, HOUR).await;
    let begun = compromise("root", Some(root("next")), HOUR);
    fixture.store.compromise_authority(begun, operator()).await.unwrap();
    let bundle = async || fixture.store.mesh_since(None).await.unwrap().bundle.unwrap();
    let before = bundle().await;
    assert_eq!((before.authorities.len(), before.superseded.len()), (2, 0), "there is nothing better yet");
    fixture.store.activate_authority(activation(false), operator()).await.unwrap();
    let during = bundle().await;
    assert_eq!(during.superseded, [ISSUER]);
    assert_eq!(fixture.store.kept_key("root".into()).await.unwrap(), None);
    assert!(during.sequence > before.sequence, "proxies are told");
    let all = vec![listing("root", 7), listing("ca", 8)];
    fixture.token("orders", 9).await;
    let ended = fixture.store.distrust_authority("root".into(), all, operator()).await.unwrap();
    assert!(ended.effects.iter().any(|effect| effect.starts_with("1 unused join token")), "{ended:?}");
    let after = bundle().await;
    assert_eq!((after.authorities.len(), after.retired.len(), after.superseded.len()), (1, 0, 0));
    assert!(after.sequence > during.sequence);
    let expected = [
        ("root", Phase::Removed),
        ("next", Phase::Active),
        ("ca", Phase::Removed),
        ("next ca", Phase::Active),
    ];
    assert_eq!(phases(&fixture.store).await, expected.map(|(id, phase)| (id.to_owned(), phase)));
    let late = fixture.store.record_own(issuance("orders", time::now() + HOUR)).await;
    assert_eq!(refusal(late), Refusal::SignerRemoved);
}

async fn keys_in_tokens_are_destroyed_when_nobody_needs_them(fixture: Fixture) {
    let key = |name: &str| model::KeptKey::Token(name.into());
    let ended = async || fixture.store.ended_token_keys(time::now()).await.unwrap();
    let intend = async |name: &str, due| fixture.store.intend_token_key(name.into(), due).await.unwrap();
    let with = |id: &str, name: &str| AuthorityRecord { key: key(name), ..root(id) };
    let unknown = refusal(fixture.store.prepare_authority(with("next", "one"), operator()).await);
    assert_eq!(unknown, Refusal::RotatedMeanwhile, "nobody would destroy it after a kill");
    intend("late", time::now() - HOUR).await;
    let late = refusal(fixture.store.prepare_authority(with("next", "late"), operator()).await);
    assert_eq!(late, Refusal::RotatedMeanwhile, "it may be destroyed at this moment");
    assert_eq!(ended().await, ["late"]);
    fixture.store.forget_token_key("late".into()).await.unwrap();

    intend("one", time::now() + HOUR).await;
    fixture.store.prepare_authority(with("next", "one"), operator()).await.unwrap();
    assert!(ended().await.is_empty());
    assert_eq!(fixture.store.kept_key("next".into()).await.unwrap(), Some(key("one")));
    fixture.store.retire_authority("next".into(), operator()).await.unwrap();
    assert_eq!(ended().await, ["one"], "taken back");
    fixture.store.forget_token_key("one".into()).await.unwrap();

    intend("two", time::now() + HOUR).await;
    let below = AuthorityRecord { key: key("two"), ..below("root", "second ca") };
    fixture.store.replace_intermediates(in_place_of("ca", below), operator()).await.unwrap();
    let third = compromise("second ca", None, HOUR);
    fixture.store.compromise_authority(third, operator()).await.unwrap();
    assert!(ended().await.is_empty(), "it signs still");
    let replacement = self::below("root", "third ca");
    let replacement = in_place_of("second ca", replacement);
    fixture.store.replace_intermediates(replacement, operator()).await.unwrap();
    assert_eq!(ended().await, ["two"], "compromised, and another one signs");
    assert_eq!(fixture.store.kept_key("second ca".into()).await.unwrap(), None);
    fixture.verified_events().await;
}
