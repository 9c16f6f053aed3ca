//! What proxies report is counted once, bounded, and pruned when it is silent.

use super::*;
use crate::inventory::{Cause, Increment, Link, Outsider, Refused, Sightings, Spoken, Way};
use crate::store::{Counted, EdgeBounds, OutsiderQuery, Page};

both_engines!(
    report_is_counted_once_however_often_it_comes,
    counts_of_an_identitys_instances_add_up_and_each_end_has_its_own,
    edges_are_bounded_and_what_is_dropped_is_said,
    silent_edges_are_pruned_and_make_room,
    addresses_without_identity_are_counted_listed_and_pruned,
    certificate_is_seen_by_whoever_has_its_issuer_and_serial,
);

const BOUNDS: EdgeBounds = EdgeBounds { of_identity: 100, in_all: 100 };

fn sightings(run: u8, number: u64, increments: Vec<Increment>) -> Sightings {
    Sightings {
        run: [run; 16],
        number,
        increments,
        outsiders: Vec::new(),
        certificates: Vec::new(),
        overflow: 0,
    }
}

/// So many connections, of which as many more were denied.
fn calls(source: &str, destination: &str, connections: u64) -> Increment {
    Increment {
        link: Link { destination: id(destination), source: id(source), port: 8080 },
        protocol: Some(Spoken::Http1),
        first_at: time::now() - HOUR,
        last_at: time::now(),
        connections,
        requests: 2 * connections,
        bytes_in: 10 * connections,
        bytes_out: 20 * connections,
        causes: vec![cause(Refused::Denied, "no_rule", connections)],
    }
}

fn cause(refused: Refused, reason: &str, count: u64) -> Cause {
    let last_at_ms = time::to_millis(time::now());
    Cause { refused, policy: String::new(), rule: String::new(), reason: reason.into(), count, last_at_ms }
}

impl Fixture {
    async fn count(&self, instance: InstanceId, name: &str, sightings: Sightings) -> Counted {
        self.store.count_sightings(instance, id(name), sightings, BOUNDS).await.unwrap()
    }

    async fn edge(&self, source: &str, destination: &str) -> Option<crate::inventory::Edge> {
        let (source, destination) = (id(source), id(destination));
        self.store
            .read(move |sql| {
                let query = format!(
                    "SELECT {} FROM edge WHERE source = ?1 AND destination = ?2",
                    super::super::sightings::COLUMNS
                );
                let values = sql::values![source.as_str(), destination.as_str()];
                sql.find(&query, values, |row| super::super::sightings::read(row, 0))
            })
            .await
            .unwrap()
    }
}

async fn report_is_counted_once_however_often_it_comes(fixture: Fixture) {
    let (instance, _) = fixture.instance("orders", 1, HOUR).await;
    let events = fixture.verified_events().await;
    let first = sightings(1, 1, vec![calls("web", "orders", 3)]);
    assert_eq!(fixture.count(instance, "orders", first.clone()).await, Counted::Now { dropped: 0 });
    assert_eq!(fixture.count(instance, "orders", first.clone()).await, Counted::Before);
    let fixture = fixture.reopen();
    assert_eq!(
        fixture.count(instance, "orders", first.clone()).await,
        Counted::Before,
        "after a restart, too"
    );
    let edge = fixture.edge("web", "orders").await.unwrap();
    assert_eq!((edge.connections, edge.requests, edge.bytes_in, edge.bytes_out), (3, 6, 30, 60));
    assert_eq!((edge.denied, edge.unreached, edge.protocol), (3, 0, Some(Spoken::Http1)));
    let second = sightings(1, 2, vec![calls("web", "orders", 1)]);
    assert_eq!(fixture.count(instance, "orders", second).await, Counted::Now { dropped: 0 });
    assert_eq!(fixture.count(instance, "orders", first).await, Counted::Before);
    // A new process begins again with its numbers; reports of the one before are known for a while.
    for run in 2..=4 {
        let report = sightings(run, 1, vec![calls("web", "orders", 1)]);
        assert_eq!(fixture.count(instance, "orders", report).await, Counted::Now { dropped: 0 });
    }
    assert_eq!(fixture.count(instance, "orders", sightings(1, 2, Vec::new())).await, Counted::Before);
    assert_eq!(fixture.edge("web", "orders").await.unwrap().connections, 7);
    assert_eq!(fixture.verified_events().await, events, "no audit event tells of it");
}

async fn counts_of_an_identitys_instances_add_up_and_each_end_has_its_own(fixture: Fixture) {
    let (one, _) = fixture.instance("orders", 1, HOUR).await;
    let (other, _) = fixture.instance("orders", 2, HOUR).await;
    let (caller, _) = fixture.instance("payments", 3, HOUR).await;
    for instance in [one, other] {
        let twice = vec![calls("payments", "orders", 2), calls("payments", "orders", 3)];
        fixture.count(instance, "orders", sightings(1, 1, twice)).await;
    }
    let unreached = Increment {
        protocol: None,
        connections: 0,
        requests: 0,
        bytes_in: 0,
        bytes_out: 0,
        causes: vec![cause(Refused::Unreached, "connect", 4)],
        ..calls("payments", "orders", 0)
    };
    fixture.count(caller, "payments", sightings(1, 1, vec![unreached])).await;
    let edge = fixture.edge("payments", "orders").await.unwrap();
    assert_eq!((edge.connections, edge.denied, edge.unreached), (10, 10, 4));
    assert_eq!(edge.protocol, Some(Spoken::Http1), "who was not reached spoke nothing");
    let causes: Vec<_> = edge.causes.iter().map(|cause| (&*cause.reason, cause.count)).collect();
    assert!(causes.contains(&("no_rule", 10)) && causes.contains(&("connect", 4)), "{causes:?}");
    assert_eq!(fixture.store.edges_kept().await.unwrap(), 1);
}

async fn edges_are_bounded_and_what_is_dropped_is_said(fixture: Fixture) {
    let (orders, _) = fixture.instance("orders", 1, HOUR).await;
    let (payments, _) = fixture.instance("payments", 2, HOUR).await;
    let bounds = EdgeBounds { of_identity: 3, in_all: 5 };
    let report = |number, name: &str, peers: std::ops::Range<u8>| {
        let increments = peers.map(|peer| calls(&format!("peer-{peer}"), name, 1)).collect();
        sightings(1, number, increments)
    };
    let store = fixture.store.clone();
    let count = async |instance, name: &str, sightings| {
        store.count_sightings(instance, id(name), sightings, bounds).await.unwrap()
    };
    assert_eq!(count(orders, "orders", report(1, "orders", 0..2)).await, Counted::Now { dropped: 0 });
    assert_eq!(count(orders, "orders", report(2, "orders", 0..5)).await, Counted::Now { dropped: 2 });
    assert_eq!(
        count(orders, "orders", report(3, "orders", 0..3)).await,
        Counted::Now { dropped: 0 },
        "known ones"
    );
    assert_eq!(count(payments, "payments", report(1, "payments", 0..4)).await, Counted::Now { dropped: 2 });
    assert_eq!(fixture.store.edges_kept().await.unwrap(), 5);
    assert_eq!(fixture.edge("peer-0", "orders").await.unwrap().connections, 3);
    assert_eq!(fixture.edge("peer-4", "orders").await, None);
}

async fn silent_edges_are_pruned_and_make_room(fixture: Fixture) {
    let (orders, _) = fixture.instance("orders", 1, HOUR).await;
    let mut increments: Vec<_> = (0..5).map(|peer| calls(&format!("peer-{peer}"), "orders", 1)).collect();
    for old in &mut increments[..3] {
        old.last_at = time::now() - HOUR;
    }
    fixture.count(orders, "orders", sightings(1, 1, increments)).await;
    let before = time::now() - HOUR / 2;
    assert_eq!(fixture.store.prune_edges(before, 2).await.unwrap(), 2, "in small batches");
    assert_eq!(fixture.store.prune_edges(before, 2).await.unwrap(), 1);
    assert_eq!(fixture.store.prune_edges(before, 2).await.unwrap(), 0);
    assert_eq!(fixture.store.edges_kept().await.unwrap(), 2);
    assert!(fixture.edge("peer-4", "orders").await.is_some());
}

async fn addresses_without_identity_are_counted_listed_and_pruned(fixture: Fixture) {
    let (instance, _) = fixture.instance("orders", 1, HOUR).await;
    let seen = |way, address: [u8; 4], port, age: Duration| Outsider {
        workload: id("orders"),
        way,
        address: address.into(),
        port,
        protocol: None,
        first_at: time::now() - HOUR,
        last_at: time::now() - age,
        connections: 2,
        requests: 0,
        bytes_in: 3,
        bytes_out: 4,
        denied: 1,
    };
    let minute = Duration::from_secs(60);
    let report = |number, outsiders| Sightings { outsiders, ..sightings(1, number, Vec::new()) };
    let first = vec![
        seen(Way::Plaintext, [10, 0, 0, 1], 80, HOUR),
        seen(Way::Plaintext, [10, 0, 0, 2], 80, minute),
        seen(Way::Plaintext, [10, 0, 0, 2], 81, 2 * minute),
        seen(Way::Passthrough, [192, 0, 2, 1], 443, minute),
    ];
    assert_eq!(fixture.count(instance, "orders", report(1, first)).await, Counted::Now { dropped: 0 });
    let again = vec![seen(Way::Plaintext, [10, 0, 0, 2], 80, Duration::ZERO)];
    fixture.count(instance, "orders", report(2, again)).await;

    let ports = fixture.store.plaintext_ports().await.unwrap();
    let ports: Vec<_> = ports.iter().map(|found| (found.port, found.callers)).collect();
    assert_eq!(ports, [(80, 2), (81, 1)], "the last one first");
    let list = async |way, since| {
        let page = Page { descending: true, after: None, limit: 10 };
        let query =
            OutsiderQuery { way, workload: Some(id("orders").as_str().parse().unwrap()), since, page };
        fixture.store.outsiders(query, Some).await.unwrap().rows
    };
    let all = list(Way::Plaintext, None).await;
    let told: Vec<_> =
        all.iter().map(|found| (found.address.to_string(), found.port, found.connections)).collect();
    assert_eq!(
        told,
        [("10.0.0.2".into(), 80, 4), ("10.0.0.2".into(), 81, 2), ("10.0.0.1".to_owned(), 80, 2)]
    );
    assert_eq!((all[0].bytes_in, all[0].bytes_out, all[0].denied), (6, 8, 2));
    assert_eq!(list(Way::Plaintext, Some(time::now() - HOUR / 2)).await.len(), 2);
    assert_eq!(list(Way::Passthrough, None).await[0].address.to_string(), "192.0.2.1");

    let before = time::now() - HOUR / 2;
    assert_eq!(fixture.store.prune_outsiders(before, 5).await.unwrap(), 1);
    assert_eq!(fixture.store.prune_outsiders(before, 5).await.unwrap(), 0);
    assert_eq!(list(Way::Plaintext, None).await.len(), 2);

    let many = (0..1100_u32).map(|host| {
        let [_, _, high, low] = host.to_be_bytes();
        seen(Way::Plaintext, [10, 1, high, low], 80, Duration::ZERO)
    });
    let dropped = fixture.count(instance, "orders", report(3, many.collect())).await;
    assert_eq!(dropped, Counted::Now { dropped: 1100 - (1024 - 2) }, "bounded");
}

async fn certificate_is_seen_by_whoever_has_its_issuer_and_serial(fixture: Fixture) {
    let (instance, issued) = fixture.instance("orders", 1, HOUR).await;
    let seen = async || {
        let serial = issued.serial.clone();
        let query = "SELECT seen_at_ms FROM certificate WHERE serial = ?1";
        let find = move |sql: &Sql<'_>| sql.find(query, sql::values![&serial], |row| row.get(0));
        let found: Option<Option<SystemTime>> = fixture.store.read(find).await.unwrap();
        found.flatten()
    };
    assert_eq!(seen().await, None);
    let name = (issued.issuer_sha256, issued.serial.clone());
    let at = time::now();
    let mut report = sightings(1, 1, Vec::new());
    report.certificates =
        vec![(name.clone(), at), (([9; 32], issued.serial.clone()), at + HOUR), ((ISSUER, vec![1]), at)];
    fixture.count(instance, "orders", report).await;
    assert_eq!(seen().await, Some(at), "another issuer's certificate of the same serial is another");
    fixture.store.certificates_seen(vec![(name.clone(), at - HOUR)]).await.unwrap();
    assert_eq!(seen().await, Some(at), "the newest use counts");
    fixture.store.certificates_seen(vec![(name, at + HOUR)]).await.unwrap();
    assert_eq!(seen().await, Some(at + HOUR));
}
