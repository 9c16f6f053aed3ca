use std::sync::Arc;

use super::super::signer::Signer;
use super::*;
use crate::ca::profile::Draft;
use crate::ca::{JwtKeys, KeyCurve, SealKey};
use crate::store::model::AuthorityRecord;
use crate::time;

const LIVES: Lives = Lives {
    root: Duration::from_secs(400 * 24 * 3600),
    intermediate: Duration::from_secs(30 * 24 * 3600),
    jwt_key: Duration::from_secs(7 * 24 * 3600),
    jwt: Duration::from_secs(300),
};

/// A root with its intermediate, and other authorities beside them.
struct World {
    known: Vec<KnownAuthority>,
    intermediate: Arc<Signer>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let seal = SealKey::load(&directory.path().join("seal.key"), true).unwrap();
        let domain = "mesh.local".parse().unwrap();
        let draft = |kind| Draft::sealed(kind, KeyCurve::P384, &seal).unwrap();
        let (root, record) = Signer::new_root(draft(AuthorityKind::Root), &domain, LIVES.root).unwrap();
        let below = draft(AuthorityKind::Intermediate);
        let (intermediate, below) =
            Signer::new_intermediate("", below, &domain, &root, LIVES.intermediate, None).unwrap();
        let known = [record, below].iter().map(|record| known(record, Phase::Active)).collect();
        Self { known, intermediate: Arc::new(intermediate) }
    }

    fn with(mut self, kind: AuthorityKind, phase: Phase, phase_at: SystemTime) -> Self {
        let active = self.known.iter().find(|one| one.kind == kind).unwrap().clone();
        self.known.push(KnownAuthority { id: phase.to_string(), phase, phase_at, ..active });
        self
    }

    /// An intermediate with which that replica signs.
    fn of(mut self, replica: &str) -> Self {
        let active = self.known[1].clone();
        self.known.push(KnownAuthority { id: replica.to_owned(), replica: replica.to_owned(), ..active });
        self
    }

    /// In words, for the only replica.
    fn due(&self, now: SystemTime) -> Vec<String> {
        self.due_at("", Some(&[]), now)
    }

    /// For one of several.
    fn due_at(&self, signs_as: &str, leads: Option<&[&str]>, now: SystemTime) -> Vec<String> {
        let leads = leads.map(|known| known.iter().map(ToString::to_string).collect::<Vec<_>>());
        let seat = Seat { signs_as, leads: leads.as_deref() };
        let domain = "mesh.local".parse().unwrap();
        let hierarchy =
            Hierarchy::new(&domain, self.known.clone(), Arc::clone(&self.intermediate), JwtKeys::default())
                .unwrap();
        let word = |step: Step| match step {
            Step::ReplaceIntermediate(replica) => format!("replace {replica}").trim_end().to_owned(),
            Step::Stop(one) => format!("stop {}", one.id),
            Step::PrepareRoot => "prepare".to_owned(),
            Step::Activate(one) => format!("activate {}", one.id),
            Step::ActivateAnyway(one) => format!("activate {} anyway", one.id),
            Step::Distrust(one) => format!("distrust {} {}", one.kind, one.id),
            Step::Remove(one) => format!("remove {} {}", one.kind, one.id),
        };
        due(&hierarchy, LIVES, seat, now).into_iter().map(word).collect()
    }
}

fn known(record: &AuthorityRecord, phase: Phase) -> KnownAuthority {
    let AuthorityRecord { id, kind, replica, issuer, subject, certificate, not_before, not_after, key: _ } =
        record.clone();
    KnownAuthority {
        phase,
        phase_at: time::now(),
        cross_certificate: None,
        announced: 1,
        distrusted_at: None,
        has_key: true,
        id,
        kind,
        replica,
        issuer,
        subject,
        certificate,
        not_before,
        not_after,
    }
}

#[test]
fn nothing_is_due_at_first_then_the_intermediate_then_the_root() {
    let (world, now) = (World::new(), time::now());
    assert!(world.due(now).is_empty());
    assert!(world.due(now + DAY * 14).is_empty());
    assert_eq!(world.due(now + DAY * 16), ["replace"]);
    assert_eq!(world.due(now + DAY * 299), ["replace"]);
    assert_eq!(world.due(now + DAY * 301), ["replace", "prepare"]);
}

#[test]
fn each_replica_makes_and_replaces_its_own_intermediate_whoever_leads() {
    let now = time::now();
    let world = World::new().of("a");
    assert!(world.due_at("a", None, now).is_empty());
    assert_eq!(world.due_at("a", None, now + DAY * 16), ["replace a"]);
    assert_eq!(world.due_at("b", None, now), ["replace b"], "it has none");
    assert_eq!(world.due_at("b", Some(&["a", "b"]), now), ["replace b"], "and needs the other meanwhile");
    let mut elsewhere = World::new();
    elsewhere.known[0].has_key = false;
    assert!(elsewhere.due_at("b", Some(&["b"]), now).is_empty(), "somebody brings one for all");
}

#[test]
fn intermediate_with_which_nobody_signs_retires() {
    let now = time::now();
    let world = World::new().of("a").of("b");
    let shared = world.known[1].id.clone();
    assert!(world.due_at("a", None, now).is_empty(), "the leader's business");
    assert_eq!(world.due_at("a", Some(&["a", "b"]), now), [format!("stop {shared}")]);
    assert!(world.due_at("a", Some(&["a", "b", "older"]), now).is_empty(), "one replica has none of its own");
    let late = now + DAY * 16;
    assert_eq!(world.due_at("a", Some(&["a", "b", "older"]), late), ["replace a", "replace"]);
    assert_eq!(world.due_at("a", Some(&["a", "older"]), now), ["stop b"], "it is gone");
    assert!(world.due_at("a", Some(&["b", "older"]), now).is_empty(), "nobody stops its own");
}

#[test]
fn prepared_root_signs_when_its_time_has_come_and_it_was_announced() {
    let now = time::now();
    let late = now + DAY * 301;
    let world = World::new().with(AuthorityKind::Root, Phase::Prepared, late);
    assert_eq!(world.due(late), ["replace"], "who fetches the bundle has not been here yet");
    assert_eq!(world.due(late + DAY), ["replace", "activate prepared"]);
    let by_hand = World::new().with(AuthorityKind::Root, Phase::Prepared, now);
    assert!(by_hand.due(now + DAY * 10).is_empty(), "what people prepared early they activate");
}

#[test]
fn what_retires_is_looked_at_and_of_two_roots_no_third_is_made() {
    let late = time::now() + DAY * 301;
    let world = World::new().with(AuthorityKind::Root, Phase::Retiring, late);
    assert_eq!(world.due(late), ["replace"]);
    assert_eq!(world.due(late + DAY), ["replace", "remove root retiring"]);
    let now = time::now();
    let world = World::new().with(AuthorityKind::Intermediate, Phase::Retiring, now);
    assert_eq!(world.due(now), ["remove intermediate retiring"]);
}

#[test]
fn intermediate_of_a_clock_that_was_ahead_is_replaced_if_that_helps() {
    let mut world = World::new();
    let before = time::now() - DAY;
    assert!(world.due(before).is_empty(), "no intermediate starts before its root");
    world.known[0].not_before = before - DAY;
    assert_eq!(world.due(before), ["replace"]);
}

#[test]
fn compromised_root_is_replaced_as_soon_as_all_know_the_next_one_or_time_runs_out() {
    let now = time::now();
    let ends = now + Duration::from_secs(60);
    let mut world = World::new().with(AuthorityKind::Root, Phase::Prepared, now);
    world.known[0].distrusted_at = Some(ends);
    assert_eq!(world.due(now), ["activate prepared"]);
    assert_eq!(world.due(ends - RENEWING), ["activate prepared anyway"]);
}

#[test]
fn what_is_compromised_is_distrusted_on_time_and_not_before() {
    let now = time::now();
    let ends = now + Duration::from_secs(60);
    for kind in [AuthorityKind::Root, AuthorityKind::Intermediate] {
        let mut world = World::new().with(kind, Phase::Retiring, now);
        world.known[2].distrusted_at = Some(ends);
        let distrust = format!("distrust {kind} retiring");
        assert!(!world.due(ends - Duration::from_secs(1)).contains(&distrust));
        assert!(world.due(ends).contains(&distrust));
    }
}

#[test]
fn trust_ends_before_all_else() {
    let late = time::now() + DAY * 301;
    let mut world = World::new().with(AuthorityKind::Intermediate, Phase::Retiring, late);
    world.known[2].distrusted_at = Some(late);
    assert_eq!(world.due(late), ["distrust intermediate retiring", "replace"]);
}

#[test]
fn root_that_a_clock_made_that_was_ahead_is_taken_back() {
    let late = time::now() + DAY * 301;
    let mut world = World::new().with(AuthorityKind::Root, Phase::Prepared, late);
    world.known[2].not_before = late + DAY * 3;
    assert_eq!(world.due(late + DAY * 2), ["replace", "remove root prepared"]);
    assert_eq!(world.due(late + DAY * 3), ["replace", "activate prepared"]);
    world.known[2].has_key = false;
    assert_eq!(world.due(late + DAY * 2), ["replace"], "somebody brought it, and meant it");
}

#[test]
fn compromised_root_is_named_to_nobody_once_another_one_signs() {
    let (now, domain) = (time::now(), "mesh.local".parse().unwrap());
    let mut world = World::new().with(AuthorityKind::Root, Phase::Retiring, now);
    world.known[0].cross_certificate = Some(world.known[0].certificate.clone());
    world.known[2].certificate = World::new().known[0].certificate.clone();
    let hierarchy = |known: &[KnownAuthority]| {
        Hierarchy::new(&domain, known.to_vec(), Arc::clone(&world.intermediate), JwtKeys::default()).unwrap()
    };
    let [active, retiring] = [0, 2].map(|one| crate::sha256(&world.known[one].certificate));
    let named = |hierarchy: &Hierarchy| (hierarchy.shown().sha256(), hierarchy.others().collect::<Vec<_>>());
    assert_eq!(named(&hierarchy(&world.known)), (retiring, vec![active]));
    let mut known = world.known.clone();
    known[2].distrusted_at = Some(now);
    assert_eq!(named(&hierarchy(&known)), (active, vec![]));
}
