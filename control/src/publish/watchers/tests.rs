use std::collections::BTreeSet;

use super::*;
use crate::time;

fn watcher(name: &str) -> NewWatcher {
    let lease = Lease {
        spiffe_id: format!("spiffe://mesh.local/{name}").parse().unwrap(),
        instance: InstanceId::random().unwrap(),
        address: "10.0.0.1".parse().unwrap(),
        listeners: vec![],
        locality: None,
    };
    NewWatcher { version: "1".into(), schema: Schema::NEWEST, lease, upstreams: Vec::new(), claim: 1 }
}

fn at() -> SystemTime {
    time::from_millis(1_000)
}

fn digest(number: u8) -> StateDigest {
    let section = [number; 32];
    StateDigest {
        bundles: section,
        policies: section,
        revocations: section,
        services: section,
        mesh: section,
        traffic: section,
    }
}

/// Streams, with the state that they would be told.
#[derive(Default)]
struct Mesh {
    watchers: Watchers,
    generation: std::cell::Cell<u64>,
    revision: std::cell::Cell<u64>,
}

struct Stream {
    instance: InstanceId,
    number: u64,
    bell: Arc<Bell>,
}

impl Mesh {
    fn open(&self, new: &NewWatcher) -> Stream {
        let Opened { stream, bell } = self.watchers.open(new, at());
        Stream { instance: new.lease.instance, number: stream, bell }
    }

    /// A new one, which has everything.
    fn settled(&self, name: &str) -> Stream {
        let stream = self.open(&watcher(name));
        let position = self.send(&stream);
        self.acknowledge(&stream, position, 0);
        stream
    }

    fn publish(&self, target: Option<&str>) -> u64 {
        let concerned = match target {
            None => Concerned::Everyone,
            Some(target) => Concerned::Those {
                named: vec![format!("spiffe://mesh.local/{target}").parse().unwrap()],
                callers_of: BTreeSet::new(),
            },
        };
        self.publish_to(&concerned)
    }

    fn publish_to(&self, concerned: &Concerned) -> u64 {
        let before = self.revision.replace(self.revision.get() + 1);
        let replace = || self.generation.set(self.generation.get() + 1);
        self.watchers.publish(before, self.revision.get(), concerned, replace);
        self.revision.get()
    }

    fn send(&self, stream: &Stream) -> u64 {
        self.watchers.sent(&stream.instance, stream.number, self.generation.get(), digest(1))
    }

    fn acknowledge(&self, stream: &Stream, position: u64, closed: u64) -> Option<Mismatch> {
        let report = Acknowledgement { position, closed, at: at(), state: None };
        self.watchers.acknowledged(&stream.instance, report)
    }
}

#[test]
fn a_revision_is_applied_when_all_concerned_acknowledged_it() {
    let mesh = Mesh::default();
    let (one, other) = (mesh.settled("a"), mesh.settled("b"));
    let revision = mesh.publish(Some("a"));
    assert!(one.bell.take().state);
    assert!(other.bell.take().is_nothing(), "whom it does not concern is not woken");
    assert!(!mesh.watchers.is_applied(revision));
    let position = mesh.send(&one);
    assert!(!mesh.watchers.is_applied(revision));
    mesh.acknowledge(&other, position, 0);
    assert!(!mesh.watchers.is_applied(revision), "a position of another stream proves nothing");
    mesh.acknowledge(&one, position, 3);
    assert!(mesh.watchers.is_applied(revision));
    let progress = mesh.watchers.progress(revision);
    assert_eq!(progress.len(), 1, "only the one that was sent something");
    assert_eq!((progress[0].closed, progress[0].acknowledged_at), (3, Some(at())));
}

#[test]
fn a_service_concerns_itself_and_its_callers_and_wakes_nobody_else() {
    let mesh = Mesh::default();
    let calling = |name: &str, upstream: &str| NewWatcher {
        upstreams: vec![format!("spiffe://mesh.local/{upstream}").parse().unwrap()],
        ..watcher(name)
    };
    let open = |new: &NewWatcher| {
        let stream = mesh.open(new);
        mesh.acknowledge(&stream, mesh.send(&stream), 0);
        stream
    };
    let moved = calling("moved", "shop/web");
    let [web, caller, broad, other, old] = [
        &watcher("shop/web"),
        &calling("caller", "shop/web"),
        &calling("broad", "shop/*"),
        &calling("other", "shop/db"),
        &moved,
    ]
    .map(open);
    // The same instance, which calls somebody else from now on.
    let moved =
        open(&NewWatcher { upstreams: vec!["spiffe://mesh.local/shop/db".parse().unwrap()], ..moved });

    let mut concerned = Concerned::nobody();
    concerned.add_service(&"spiffe://mesh.local/shop/web".parse().unwrap());
    let revision = mesh.publish_to(&concerned);
    for stream in [&web, &caller, &broad] {
        assert!(stream.bell.take().state, "it is told");
    }
    for stream in [&other, &moved] {
        assert!(stream.bell.take().is_nothing(), "it is left alone");
    }
    assert!(old.bell.take().ended.is_some());
    for stream in [&web, &caller] {
        mesh.acknowledge(stream, mesh.send(stream), 0);
    }
    assert!(!mesh.watchers.is_applied(revision), "one caller has not said so yet");
    mesh.watchers.close(&broad.instance, broad.number);
    assert!(mesh.watchers.is_applied(revision), "and who is gone is not waited for");
}

#[test]
fn who_is_concerned_but_sees_no_difference_is_not_waited_for() {
    let mesh = Mesh::default();
    let stream = mesh.settled("a");
    let revision = mesh.publish(Some("*"));
    mesh.watchers.unconcerned(&stream.instance, stream.number, mesh.generation.get());
    assert!(mesh.watchers.is_applied(revision));
    assert!(mesh.watchers.progress(revision).is_empty());
}

#[test]
fn one_message_for_several_revisions_counts_for_each() {
    let mesh = Mesh::default();
    let stream = mesh.settled("a");
    let revisions = [mesh.publish(Some("a")), mesh.publish(Some("b")), mesh.publish(None)];
    let position = mesh.send(&stream);
    assert_eq!(revisions.map(|revision| mesh.watchers.is_applied(revision)), [false, true, false]);
    mesh.acknowledge(&stream, position, 0);
    assert!(revisions.iter().all(|revision| mesh.watchers.is_applied(*revision)));
}

#[test]
fn message_on_its_way_is_no_answer_to_what_came_after_it() {
    let mesh = Mesh::default();
    let stream = mesh.settled("a");
    let first = mesh.publish(None);
    let position = mesh.send(&stream);
    let second = mesh.publish(None);
    mesh.acknowledge(&stream, position, 0);
    assert!(mesh.watchers.is_applied(first) && !mesh.watchers.is_applied(second));
    let position = mesh.send(&stream);
    mesh.acknowledge(&stream, position, 0);
    assert!(mesh.watchers.is_applied(second));
}

#[test]
fn reconnected_instance_supersedes_its_old_stream_and_owes_all_it_may_not_have_heard() {
    let mesh = Mesh::default();
    let new = watcher("a");
    let old = mesh.open(&new);
    let revision = mesh.publish(Some("b"));
    assert!(mesh.watchers.is_applied(revision), "it does not concern it");
    let stream = mesh.open(&new);
    assert_eq!(old.bell.take().ended, Some(Ended::Superseded));
    assert!(!mesh.watchers.is_applied(revision), "nobody knows what it has");
    mesh.watchers.close(&new.lease.instance, old.number);
    assert_eq!(mesh.watchers.count(), 1);
    mesh.publish(Some("a"));
    assert!(stream.bell.take().state, "it is found by who it is");
    mesh.watchers.close(&new.lease.instance, stream.number);
    assert_eq!(mesh.watchers.count(), 0);
    assert!(mesh.watchers.is_applied(revision), "nobody is waited for who is gone");
}

#[test]
fn nobody_connected_means_nobody_to_wait_for() {
    let mesh = Mesh::default();
    let revision = mesh.publish(None);
    assert!(mesh.watchers.is_applied(revision));
    assert!(mesh.watchers.progress(revision).is_empty());
}

#[test]
fn memory_per_stream_is_bounded_and_nothing_is_taken_for_acknowledged() {
    let mesh = Mesh::default();
    let stream = mesh.settled("a");
    let revisions: Vec<_> = (1..100)
        .map(|number| {
            let revision = mesh.publish(if number % 3 == 0 { Some("b") } else { None });
            mesh.send(&stream);
            revision
        })
        .collect();
    assert_eq!(mesh.watchers.table.lock().streams[&stream.instance].entries.len(), REMEMBERED);
    assert!(!mesh.watchers.is_applied(revisions[0]) && !mesh.watchers.is_applied(revisions[97]));
    let position = mesh.send(&stream);
    mesh.acknowledge(&stream, position, 0);
    assert!(revisions.iter().all(|revision| mesh.watchers.is_applied(*revision)));
    assert!(mesh.watchers.table.lock().book.find(revisions[0]).is_some_and(|change| change.open == 0));
}

#[test]
fn another_history_begins_anew_whatever_its_revisions_are() {
    let mesh = Mesh::default();
    let stream = mesh.settled("a");
    mesh.revision.set(100);
    let position = mesh.send(&stream);
    mesh.watchers.start_over(90, || mesh.generation.set(mesh.generation.get() + 1));
    assert!(stream.bell.take().state);
    assert!(!mesh.watchers.is_applied(90));
    mesh.acknowledge(&stream, position, 0);
    assert!(!mesh.watchers.is_applied(90), "what it said of the history before does not count");
    let position = mesh.send(&stream);
    mesh.acknowledge(&stream, position, 0);
    assert!(mesh.watchers.is_applied(90));
    let standing = mesh.watchers.take_unwritten(10).pop().unwrap().1.unwrap();
    assert_eq!(standing.in_force, 90);
}

#[test]
fn proxy_that_has_something_else_is_sent_everything_once_in_a_while() {
    let mesh = Mesh::default();
    let stream = mesh.settled("a");
    let report = |position, state| {
        mesh.watchers.acknowledged(
            &stream.instance,
            Acknowledgement { position, closed: 0, at: at(), state: Some(state) },
        )
    };
    let older = mesh.send(&stream);
    let newest = mesh.send(&stream);
    assert_eq!(report(newest, digest(1)), None);
    assert_eq!(report(older, digest(2)), None, "more was sent since: it says nothing");
    let lost = StateDigest { services: [9; 32], ..digest(1) };
    assert_eq!(report(newest, lost), Some(Mismatch { sections: vec!["services"], first: true }));
    assert!(stream.bell.take().whole);
    assert_eq!(report(newest, lost), Some(Mismatch { sections: vec!["services"], first: false }));
    assert!(stream.bell.take().is_nothing(), "not without end");
}

mod model {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Publish(Option<usize>),
        Look(usize),
        Send(usize),
        Acknowledge(usize),
        Reopen(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            proptest::option::of(0..3_usize).prop_map(Step::Publish),
            (0..3_usize).prop_map(Step::Look),
            (0..3_usize).prop_map(Step::Send),
            (0..3_usize).prop_map(Step::Acknowledge),
            (0..3_usize).prop_map(Step::Reopen),
        ]
    }

    proptest! {
        /// The counts of the book are those that a look at every stream finds.
        #[test]
        fn counts_are_those_of_a_look_at_everybody(steps in proptest::collection::vec(step(), 0..120)) {
            let mesh = Mesh::default();
            let news = ["a", "b", "c"].map(watcher);
            let mut streams = news.each_ref().map(|new| mesh.open(new));
            let mut sent = [0_u64; 3];
            let mut revisions = Vec::new();
            for step in steps {
                match step {
                    Step::Publish(whom) => {
                        revisions.push(mesh.publish(whom.map(|at| ["a", "b", "c"][at])));
                    }
                    Step::Look(at) => mesh.watchers.unconcerned(
                        &streams[at].instance, streams[at].number, mesh.generation.get(),
                    ),
                    Step::Send(at) => sent[at] = mesh.send(&streams[at]),
                    Step::Acknowledge(at) => drop(mesh.acknowledge(&streams[at], sent[at], 0)),
                    Step::Reopen(at) => streams[at] = mesh.open(&news[at]),
                }
                let table = mesh.watchers.table.lock();
                for change in revisions.iter().filter_map(|revision| table.book.find(*revision)) {
                    let open = table.streams.values().filter(|watcher| {
                        let covers = |entry: &&Entry| entry.covers(change.generation);
                        let mut entries = watcher.entries.iter().filter(covers);
                        entries.any(|entry| entry.acknowledged_at.is_none())
                    });
                    prop_assert_eq!(change.open, open.count());
                }
            }
        }
    }
}
