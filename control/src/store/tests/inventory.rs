//! Lists in pages: whatever the page size and order, every row once.

use signet_proto::policy::Pattern;

use super::*;
use crate::inventory::{Increment, Link, Sightings};
use crate::store::model::{IssuedCertificate, RevocationTarget};

both_engines!(
    every_certificate_is_on_one_page_in_both_orders_and_directions,
    certificates_are_narrowed_by_subtree_end_and_serial,
    page_of_which_nothing_is_taken_says_where_to_go_on,
    instance_shows_how_it_was_proven_where_it_is_and_how_it_stands,
    connections_are_found_from_either_end_and_by_what_was_refused,
);

fn page(limit: usize) -> Page {
    Page { descending: false, after: None, limit }
}

fn certificates(order: CertificateOrder, page: Page) -> CertificateQuery {
    CertificateQuery { order, of: None, ending_after: None, ending_before: None, serial: None, page }
}

impl Fixture {
    /// All pages, together.
    async fn all_certificates(&self, query: CertificateQuery) -> Vec<IssuedCertificate> {
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let page = Page { after, ..query.page.clone() };
            let listed =
                self.store.certificates(CertificateQuery { page, ..query.clone() }, Some).await.unwrap();
            assert!(listed.rows.len() <= query.page.limit);
            rows.extend(listed.rows);
            match listed.next {
                // As it travels.
                Some(next) => after = Some(query.order.place(&next.to_string()).unwrap()),
                None => return rows,
            }
        }
    }

    async fn all_instances(&self, of: Option<&str>) -> Vec<model::AttestedInstance> {
        let of = of.map(|of| of.parse::<Pattern>().unwrap());
        self.store.instances(InstanceQuery { of, page: page(10) }, Some).await.unwrap().rows
    }
}

async fn every_certificate_is_on_one_page_in_both_orders_and_directions(fixture: Fixture) {
    let (end, mut issued) = (time::now() + HOUR, Vec::new());
    for secret in 0..5 {
        // Some end at the same moment.
        let name = if secret % 2 == 0 { "orders" } else { "payments" };
        let (instance, first) = fixture.instance(name, secret, HOUR).await;
        let next = issuance(name, end);
        fixture.store.record_renewal(next.clone(), renewal(instance, &first)).await.unwrap();
        issued.extend([first.serial, next.serial]);
    }
    issued.sort();
    for order in [CertificateOrder::End, CertificateOrder::Identity] {
        for limit in [1, 3, 10, 100] {
            let up = fixture.all_certificates(certificates(order, page(limit))).await;
            let down = certificates(order, Page { descending: true, ..page(limit) });
            let mut down = fixture.all_certificates(down).await;
            down.reverse();
            assert_eq!(up, down, "{order:?} {limit}");
            let mut serials: Vec<_> = up.iter().map(|certificate| certificate.serial.clone()).collect();
            serials.sort();
            assert_eq!(serials, issued, "{order:?} {limit}");
            assert!(match order {
                CertificateOrder::End => up.is_sorted_by_key(|certificate| certificate.not_after),
                CertificateOrder::Identity =>
                    up.is_sorted_by_key(|row| (row.spiffe_id.clone(), row.not_after)),
            });
            assert_eq!(up.iter().filter(|certificate| certificate.is_newest).count(), 5);
        }
    }
}

async fn certificates_are_narrowed_by_subtree_end_and_serial(fixture: Fixture) {
    fixture.workload("shop/cart").await;
    fixture.workload("shopping").await;
    for (secret, name, ttl) in [(1, "shop/cart", HOUR), (2, "shopping", HOUR * 3), (3, "orders", HOUR * 3)] {
        fixture.instance(name, secret, ttl).await;
    }
    let names = async |query| {
        let found = fixture.all_certificates(query).await;
        found.into_iter().map(|found| found.spiffe_id.path().to_owned()).collect::<Vec<_>>()
    };
    for order in [CertificateOrder::End, CertificateOrder::Identity] {
        let all = certificates(order, page(1));
        let of = |pattern: &str| CertificateQuery { of: Some(pattern.parse().unwrap()), ..all.clone() };
        assert_eq!(names(of("spiffe://mesh.local/shop/*")).await, ["/shop/cart"], "whole segments");
        assert_eq!(names(of("spiffe://mesh.local/shopping")).await, ["/shopping"]);
        assert_eq!(names(of("spiffe://mesh.local/*")).await.len(), 3);
        assert_eq!(names(of("spiffe://other/*")).await.len(), 0);
        let soon = CertificateQuery { ending_before: Some(time::now() + HOUR * 2), ..all.clone() };
        assert_eq!(names(soon).await, ["/shop/cart"]);
        let late = CertificateQuery { ending_after: Some(time::now() + HOUR * 2), ..all.clone() };
        assert_eq!(names(late).await.len(), 2);
        let serial = fixture.all_certificates(all.clone()).await[0].serial.clone();
        assert_eq!(names(CertificateQuery { serial: Some(serial), ..all.clone() }).await.len(), 1);
        assert_eq!(names(CertificateQuery { serial: Some(vec![1]), ..all }).await.len(), 0);
    }
}

async fn page_of_which_nothing_is_taken_says_where_to_go_on(fixture: Fixture) {
    // More rows than one call looks at.
    let insert = |sql: &Sql<'_>| {
        for number in 0..2001_u32 {
            sql.post(
                "INSERT INTO certificate (serial, issuer_sha256, spki_sha256, authority, spiffe_id, not_before_ms,
                                          not_after_ms, issued_at_ms) VALUES (?1, ?2, ?2, 'ca', ?3, 0, 5, 0)",
                sql::values![number.to_be_bytes().as_slice(), &ISSUER, "spiffe://mesh.local/orders"],
            )?;
        }
        Ok(())
    };
    fixture
        .store
        .write(move |change| {
            change.operational();
            insert(&change.sql)
        })
        .await
        .unwrap();
    let query = certificates(CertificateOrder::End, page(10));
    let passed_over = |_| None::<()>;
    let first = fixture.store.certificates(query.clone(), passed_over).await.unwrap();
    assert_eq!(first.rows, []);
    let page = Page { after: first.next, ..page(10) };
    assert!(page.after.is_some());
    let last = fixture.store.certificates(CertificateQuery { page, ..query }, Some).await.unwrap();
    assert_eq!((last.rows.len(), last.next), (1, None));
}

async fn instance_shows_how_it_was_proven_where_it_is_and_how_it_stands(fixture: Fixture) {
    let (lost, _) = fixture.instance("orders", 1, Duration::from_secs(1)).await;
    let (live, svid) = fixture.instance("orders", 2, HOUR).await;
    let lease = model::Lease {
        instance: live,
        spiffe_id: id("orders"),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)),
        listeners: vec![listener(1)],
        locality: None,
    };
    fixture.watch(lease).await;
    let seen = time::now() + HOUR;
    fixture.store.certificates_seen(vec![((svid.issuer_sha256, svid.serial), seen)]).await.unwrap();
    fixture.store.lapse_instances(time::now() + Duration::from_secs(2), 10).await.unwrap();
    let found = fixture.all_instances(Some("spiffe://mesh.local/orders")).await;
    let of = |instance| found.iter().find(|found| found.instance == instance).unwrap();
    let watched = of(live);
    assert_eq!((&*watched.address, &*watched.proof, &*watched.status), ("10.0.0.7", "join_token", "active"));
    assert_eq!(watched.replica.as_deref(), Some(fixture.store.replica()));
    assert_eq!(watched.last_seen, seen, "by whatever shows it");
    let silent = of(lost);
    assert_eq!((&*silent.address, &*silent.status), ("127.0.0.1", "lapsed"), "from where it attested");
    assert_eq!((silent.replica.clone(), silent.last_seen), (None, silent.attested_at));
    let certificates = fixture.all_certificates(certificates(CertificateOrder::End, page(10))).await;
    assert_eq!(certificates.iter().filter(|certificate| certificate.instance_lapsed).count(), 1);
    assert_eq!(fixture.all_instances(Some("spiffe://mesh.local/payments")).await, []);
    fixture.store.revoke(RevocationTarget::Instance(live), String::new(), operator()).await.unwrap();
    assert_eq!(fixture.all_instances(None).await.iter().filter(|found| found.status == "revoked").count(), 1);
}

async fn connections_are_found_from_either_end_and_by_what_was_refused(fixture: Fixture) {
    let (orders, _) = fixture.instance("orders", 1, HOUR).await;
    let now = time::now();
    let increments = ["web", "batch", "cron"].into_iter().zip(1_u64..).map(|(source, age)| Increment {
        link: Link { destination: id("orders"), source: id(source), port: 80 },
        protocol: None,
        first_at: now - HOUR,
        last_at: now - Duration::from_secs(age),
        connections: 1,
        requests: 0,
        bytes_in: 0,
        bytes_out: 0,
        causes: match source {
            "batch" => vec![crate::inventory::Cause {
                refused: crate::inventory::Refused::Denied,
                policy: "orders".into(),
                rule: String::new(),
                reason: "no_rule".into(),
                count: 1,
                last_at_ms: time::to_millis(now),
            }],
            _ => Vec::new(),
        },
    });
    let sightings = Sightings {
        run: [1; 16],
        number: 1,
        increments: increments.collect(),
        outsiders: Vec::new(),
        certificates: Vec::new(),
        overflow: 0,
    };
    let bounds = EdgeBounds { of_identity: 10, in_all: 10 };
    fixture.store.count_sightings(orders, id("orders"), sightings, bounds).await.unwrap();
    let list = async |order, source: Option<&str>, descending| {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = Page { descending, after, limit: 1 };
            let source = source.map(|source| source.parse().unwrap());
            let query = ConnectionQuery { order, source, destination: None, since: None, page };
            let take = |edge: crate::inventory::Edge| Some(edge.link.source.path().to_owned());
            let listed = fixture.store.connections(query, take).await.unwrap();
            found.extend(listed.rows);
            match listed.next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    };
    assert_eq!(list(ConnectionOrder::Last, None, true).await, ["/web", "/batch", "/cron"]);
    assert_eq!(list(ConnectionOrder::Destination, None, false).await, ["/batch", "/cron", "/web"]);
    assert_eq!(list(ConnectionOrder::Refused, None, true).await, ["/batch"]);
    assert_eq!(list(ConnectionOrder::Source, Some("spiffe://mesh.local/cron"), false).await, ["/cron"]);
    assert_eq!(list(ConnectionOrder::Last, Some("spiffe://mesh.local/web"), true).await, ["/web"]);
}
