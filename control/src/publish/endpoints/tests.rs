use super::super::bell::Moved;
use super::*;
use crate::store::model::Listener;

fn id() -> SpiffeId {
    "spiffe://mesh.local/payments".parse().unwrap()
}

fn lease(port: u16) -> Lease {
    Lease {
        instance: InstanceId::random().unwrap(),
        spiffe_id: id(),
        address: "10.0.0.7".parse().unwrap(),
        listeners: vec![Listener { port, app_port: 8080 }],
        locality: None,
    }
}

/// A stream, and what its proxy is told.
struct Stream {
    following: Following,
    bell: Arc<Bell>,
}

impl Stream {
    fn open(endpoints: &Endpoints, upstream: &str) -> Self {
        let bell = Arc::new(Bell::default());
        let mut following = endpoints.follow(1, &bell, &[upstream.parse().unwrap()]);
        following.refresh(Moved::All);
        Self { following, bell }
    }

    fn moved(&mut self) -> Option<v1::ServiceChanges> {
        let moved = self.bell.take().services;
        self.following.refresh(moved)
    }

    fn ports(&mut self) -> Vec<u32> {
        self.moved();
        let services = self.following.whole().services;
        let mut ports: Vec<_> =
            services.iter().flat_map(|service| &service.endpoints).map(|endpoint| endpoint.port).collect();
        ports.sort_unstable();
        ports
    }
}

fn follow(endpoints: &Endpoints) -> Stream {
    Stream::open(endpoints, "spiffe://mesh.local/payments")
}

fn sweep(endpoints: &Endpoints, now: Instant) -> Vec<InstanceId> {
    endpoints.sweep(endpoints.due(now), now)
}

#[tokio::test]
async fn endpoint_comes_with_its_stream_and_stays_for_a_grace() {
    let (endpoints, now) = (Endpoints::default(), Instant::now());
    let mut stream = follow(&endpoints);
    assert!(stream.ports().is_empty());
    let lease = lease(15443);
    endpoints.hold(1, &lease);
    stream.bell.rung().await;
    assert_eq!(stream.ports(), [15443]);
    endpoints.release(1, lease.instance, now);
    assert!(sweep(&endpoints, now + GRACE - Duration::from_secs(1)).is_empty());
    assert_eq!(sweep(&endpoints, now + GRACE), [lease.instance]);
    stream.bell.rung().await;
    assert!(stream.ports().is_empty());
}

#[test]
fn reconnected_stream_keeps_its_endpoint_without_a_gap() {
    let (endpoints, now) = (Endpoints::default(), Instant::now());
    let lease = lease(1);
    endpoints.hold(1, &lease);
    let mut stream = follow(&endpoints);
    endpoints.hold(2, &lease);
    endpoints.release(1, lease.instance, now);
    assert!(sweep(&endpoints, now + GRACE * 10).is_empty(), "the newer stream holds it");
    assert!(stream.moved().is_none(), "and nobody was told anything");
}

#[test]
fn restart_keeps_endpoints_until_proxies_had_time_to_come_back() {
    let now = Instant::now();
    let (one, other) = (lease(1), lease(2));
    let endpoints = Endpoints::restore(vec![(one.clone(), false), (other.clone(), false)], now);
    let mut stream = follow(&endpoints);
    assert_eq!(stream.ports(), [1, 2]);
    endpoints.hold(7, &one);
    assert_eq!(sweep(&endpoints, now + START_GRACE), [other.instance]);
    assert_eq!(stream.ports(), [1]);
}

#[test]
fn endpoint_of_another_replica_is_its_own_to_take_out() {
    let (endpoints, now) = (Endpoints::default(), Instant::now());
    let mut stream = follow(&endpoints);
    let (here, there) = (lease(1), lease(2));
    endpoints.hold(7, &here);
    endpoints.put_elsewhere(there.instance, Some(there.clone()));
    assert_eq!(stream.ports(), [1, 2]);
    assert!(sweep(&endpoints, now + START_GRACE * 10).is_empty());
    endpoints.put_elsewhere(here.instance, Some(Lease { listeners: Vec::new(), ..here.clone() }));
    endpoints.put_elsewhere(here.instance, None);
    assert_eq!(stream.ports(), [1, 2], "our own stream counts for more");
    endpoints.replace_elsewhere(Vec::new());
    assert_eq!(stream.ports(), [1]);
    endpoints.put_elsewhere(there.instance, Some(there.clone()));
    endpoints.hold(8, &there);
    endpoints.release(8, there.instance, now);
    assert_eq!(sweep(&endpoints, now + GRACE), [there.instance], "it came here, and went");
}

#[test]
fn endpoint_that_moved_to_another_replica_is_there_all_the_time() {
    let (endpoints, now) = (Endpoints::default(), Instant::now());
    let moving = lease(1);
    endpoints.hold(7, &moving);
    let mut stream = follow(&endpoints);
    let instance = moving.instance;
    endpoints.release(7, instance, now);
    let due = endpoints.due(now + GRACE);
    endpoints.put_elsewhere(instance, Some(moving));
    assert!(endpoints.sweep(due, now + GRACE).is_empty());
    assert!(stream.moved().is_none(), "a caller does not see that it moved");
}

#[test]
fn who_could_not_come_is_waited_for_longer() {
    let (endpoints, now) = (Endpoints::default(), Instant::now());
    let lease = lease(1);
    endpoints.hold(7, &lease);
    endpoints.release(7, lease.instance, now);
    endpoints.wait_longer(now + GRACE);
    assert!(endpoints.due(now + GRACE).is_empty());
    assert_eq!(sweep(&endpoints, now + GRACE + START_GRACE), [lease.instance]);
}

#[test]
fn revoked_instance_loses_its_endpoint_at_once_and_alone() {
    let endpoints = Endpoints::default();
    let (one, other) = (lease(1), lease(2));
    endpoints.hold(1, &one);
    endpoints.hold(2, &other);
    let mut stream = follow(&endpoints);
    let added = Added { instances: vec![one.instance], ..Added::default() };
    assert_eq!(endpoints.drop_added(&added), [one.instance]);
    assert_eq!(stream.ports(), [2]);
    let added = Added { identities: vec![id()], ..Added::default() };
    assert_eq!(endpoints.drop_added(&added), [other.instance]);
    assert!(stream.ports().is_empty());
}

#[test]
fn subtree_brings_those_below_as_they_come_and_go() {
    let endpoints = Endpoints::default();
    let mut all = Stream::open(&endpoints, "spiffe://mesh.local/*");
    let none = Stream::open(&endpoints, "spiffe://mesh.local/other/*");
    let lease = lease(15443);
    endpoints.hold(1, &lease);
    assert_eq!(all.ports(), [15443]);
    assert!(none.bell.take().is_nothing(), "nobody else is woken");
    endpoints.remove(lease.instance);
    assert!(all.ports().is_empty());
}

#[test]
fn nothing_is_left_of_streams_and_instances_that_are_gone() {
    let endpoints = Endpoints::default();
    let streams = [follow(&endpoints), Stream::open(&endpoints, "spiffe://mesh.local/*")];
    let lease = lease(1);
    endpoints.hold(1, &lease);
    endpoints.release(1, lease.instance, Instant::now());
    endpoints.remove(lease.instance);
    drop(streams);
    let table = endpoints.table.lock();
    assert!(table.services.is_empty() && table.instances.is_empty());
    assert!(table.waiting.is_empty() && table.around.is_empty());
}
