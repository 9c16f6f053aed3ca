//! Invariants 4 and 5: whatever changes and whoever comes, no open connection lacks its right, and none that has it
//! was told to close.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;
use std::thread;

use jiff::SignedDuration;
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use signet_proto::handshake::{PeerIdentity, Revocations, Svid, WorkloadKey};
use signet_proto::policy::{PolicySet, parse_yaml};
use signet_proto::spiffe::InstanceId;
use signet_proto::v1;

use super::*;
use crate::mesh::Mesh;
use crate::testing::{DOMAIN, TestAuthority, bundle};

const PEERS: usize = 4;
const PORT: u16 = 8080;
const HOUR: SignedDuration = SignedDuration::from_hours(1);

static AUTHORITIES: LazyLock<[TestAuthority; 2]> =
    LazyLock::new(|| [TestAuthority::new(), TestAuthority::new()]);
static SELF: LazyLock<Arc<Svid>> = LazyLock::new(|| own(HOUR));
static ENDED: LazyLock<Arc<Svid>> = LazyLock::new(|| own(-HOUR));
/// Each of an authority of its own turn: `n` of `n % 2`.
static CALLERS: LazyLock<Vec<Arc<PeerIdentity>>> = LazyLock::new(|| {
    let caller = |number: usize| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (id, instance) = (name(&format!("caller-{number}")), InstanceId::random().unwrap());
        let leaf = AUTHORITIES[number % 2].leaf(&key, &id, instance, HOUR);
        Arc::new(PeerIdentity::from_verified(Some(&[leaf])).unwrap())
    };
    (0..PEERS).map(caller).collect()
});

fn own(life: SignedDuration) -> Arc<Svid> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let leaf = AUTHORITIES[0].leaf(&key, &name("app"), InstanceId::random().unwrap(), life);
    let key = WorkloadKey::signing_key_from_pem(key.serialize_pem().as_bytes()).unwrap();
    Arc::new(Svid::new(vec![leaf], key).unwrap())
}

fn name(path: &str) -> String {
    format!("spiffe://{DOMAIN}/{path}")
}

/// What becomes of an authority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Second {
    #[default]
    Believed,
    /// Who is there may stay.
    Retired,
    Gone,
}

/// What the mesh says, and by itself who has a right to what.
#[derive(Debug, Clone, Default)]
struct World {
    /// May send bytes and requests.
    all: BTreeSet<usize>,
    /// May send `GET` requests.
    reads: BTreeSet<usize>,
    identities: BTreeSet<usize>,
    instances: BTreeSet<usize>,
    lapsed: BTreeSet<usize>,
    serials: BTreeSet<usize>,
    keys: BTreeSet<usize>,
    /// How the second authority is in the bundle; the first, which is ours, always is.
    second: Second,
    /// Our own SVID was not renewed in time.
    we_ended: bool,
}

impl World {
    fn permits(&self, caller: usize, carried: Carried) -> bool {
        let revoked = [&self.identities, &self.instances, &self.lapsed, &self.serials, &self.keys];
        let believed = revoked.iter().all(|set| !set.contains(&caller))
            && (self.second != Second::Gone || caller.is_multiple_of(2))
            && !self.we_ended;
        let reads = self.reads.contains(&caller) && matches!(carried, Carried::Nothing | Carried::Get);
        believed && (self.all.contains(&caller) || reads)
    }

    fn policy(&self) -> PolicySet {
        let from = |set: &BTreeSet<usize>| {
            let callers: Vec<_> = set.iter().map(|caller| name(&format!("caller-{caller}"))).collect();
            if callers.is_empty() { name("nobody") } else { callers.join(", ") }
        };
        let text = format!(
            "kind: Policy\nname: app\ntarget: {}\nrules:\n  - name: all\n    allow: {{ from: [{}] }}\n  \
             - name: reads\n    allow:\n      from: [{}]\n      http: {{ methods: [GET] }}\n",
            name("app"),
            from(&self.all),
            from(&self.reads),
        );
        PolicySet::compile(parse_yaml("app.yaml", &text).unwrap()).unwrap()
    }

    fn revocations(&self) -> Revocations {
        let instance = |caller: &usize, lapsed| v1::RevokedInstance {
            instance: CALLERS[*caller].instance.as_ref().unwrap().to_string(),
            lapsed,
        };
        let handle = |caller: &usize| CALLERS[*caller].handles[0].clone();
        let revoked = self.instances.iter().map(|caller| instance(caller, false));
        // Of both, the revocation counts.
        let lapsed = self.lapsed.difference(&self.instances).map(|caller| instance(caller, true));
        Revocations::try_from(v1::Revocations {
            identities: self.identities.iter().map(|caller| CALLERS[*caller].id.to_string()).collect(),
            instances: revoked.chain(lapsed).collect(),
            certificates: self
                .serials
                .iter()
                .map(handle)
                .map(|handle| v1::RevokedCertificate {
                    issuer_sha256: handle.issuer_sha256.to_vec(),
                    serial: handle.serial,
                })
                .collect(),
            keys: self.keys.iter().map(|caller| handle(caller).spki_sha256.to_vec()).collect(),
        })
        .unwrap()
    }

    fn enter(&self, mesh: &Mesh) -> Applied {
        let bundle = match self.second {
            Second::Believed => bundle(&AUTHORITIES[..]),
            Second::Retired => {
                bundle(&AUTHORITIES[..1]).with_retired(vec![AUTHORITIES[1].root.clone()]).unwrap()
            }
            Second::Gone => bundle(&AUTHORITIES[..1]),
        };
        mesh.update(|inputs| {
            inputs.svid = Some(Arc::clone(if self.we_ended { &ENDED } else { &SELF }));
            inputs.bundles = vec![bundle];
            inputs.revocations = self.revocations();
            inputs.policy = Some(Arc::new(self.policy()));
        })
        .unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    Nothing,
    Bytes,
    Get,
    Post,
}

impl Carried {
    fn content(self) -> Content {
        let request = |method: &str| {
            let request = http::Request::builder().method(method).uri("/").body(()).unwrap();
            Content::Http(Arc::new(Head::of(&request, &World::default().policy())))
        };
        match self {
            Self::Nothing => Content::Connection,
            Self::Bytes => Content::Opaque,
            Self::Get => request("GET"),
            Self::Post => request("POST"),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Comes(usize, Carried),
    TurnsOutToCarry(usize, Carried),
    Goes(usize),
    Toggles(fn(&mut World) -> &mut BTreeSet<usize>, usize),
    Authority(Second),
    WeEndOrAreRenewed,
    NothingChanges,
}

fn step() -> impl Strategy<Value = Step> {
    let carried =
        || prop::sample::select(vec![Carried::Nothing, Carried::Bytes, Carried::Get, Carried::Post]);
    let sets: Vec<fn(&mut World) -> &mut BTreeSet<usize>> = vec![
        |world| &mut world.all,
        |world| &mut world.all,
        |world| &mut world.reads,
        |world| &mut world.identities,
        |world| &mut world.instances,
        |world| &mut world.lapsed,
        |world| &mut world.serials,
        |world| &mut world.keys,
    ];
    prop_oneof![
        6 => (0..PEERS, carried()).prop_map(|(caller, carried)| Step::Comes(caller, carried)),
        2 => (any::<usize>(), carried()).prop_map(|(which, carried)| Step::TurnsOutToCarry(which, carried)),
        1 => any::<usize>().prop_map(Step::Goes),
        6 => (prop::sample::select(sets), 0..PEERS).prop_map(|(set, caller)| Step::Toggles(set, caller)),
        2 => prop::sample::select(vec![Second::Believed, Second::Retired, Second::Gone]).prop_map(Step::Authority),
        1 => Just(Step::WeEndOrAreRenewed),
        1 => Just(Step::NothingChanges),
    ]
}

/// As the way of a connection does: registered, then believed, then decided.
fn come(mesh: &Mesh, table: &Arc<Connections>, caller: usize, carried: Carried) -> Option<Registration> {
    let before = mesh.current()?;
    let registration = table.register(Subject {
        direction: Direction::Inbound,
        peer: Peer::Proven(Arc::clone(&CALLERS[caller])),
        local: SELF.id().clone(),
        port: Some(PORT),
        address: None,
        content: carried.content(),
    });
    may_stay(mesh, &registration, before.generation).then_some(registration)
}

fn may_stay(mesh: &Mesh, registration: &Registration, handshake: u64) -> bool {
    let now = mesh.current().unwrap();
    // The caller's handshake was with that snapshot: whom it did not believe never came so far.
    registration.distrusted(&now, handshake.wrapping_sub(1)).is_none()
        && registration.decide(&now).is_some_and(|verdict| verdict.allowed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_open_connection_lacks_its_right_and_none_is_cut_that_has_it(steps in prop::collection::vec(step(), 1..40)) {
        let table = Arc::new(Connections::default());
        let mesh = Mesh::new(Arc::clone(&table));
        let mut world = World { all: (0..PEERS).collect(), ..World::default() };
        world.enter(&mesh);
        let mut open: Vec<(usize, Carried, Registration)> = Vec::new();
        for step in steps {
            let mut applied = None;
            match step {
                Step::Comes(caller, carried) => {
                    let came = come(&mesh, &table, caller, carried);
                    prop_assert_eq!(came.is_some(), world.permits(caller, carried), "{:?}", carried);
                    open.extend(came.map(|registration| (caller, carried, registration)));
                }
                Step::TurnsOutToCarry(which, carried) => {
                    if let Some(which) = which.checked_rem(open.len()) {
                        let (caller, was, registration) = &mut open[which];
                        registration.carries(carried.content());
                        *was = carried;
                        let stays = may_stay(&mesh, registration, 0);
                        prop_assert_eq!(stays, world.permits(*caller, carried));
                        if !stays {
                            open.swap_remove(which);
                        }
                    }
                }
                Step::Goes(which) => {
                    if let Some(which) = which.checked_rem(open.len()) {
                        open.swap_remove(which);
                    }
                }
                Step::Toggles(set, caller) => {
                    let set = set(&mut world);
                    if !set.remove(&caller) {
                        set.insert(caller);
                    }
                    applied = Some(world.enter(&mesh));
                }
                Step::Authority(second) => {
                    world.second = second;
                    applied = Some(world.enter(&mesh));
                }
                Step::WeEndOrAreRenewed => {
                    world.we_ended = !world.we_ended;
                    applied = Some(world.enter(&mesh));
                }
                Step::NothingChanges => applied = Some(mesh.decide_again()),
            }
            let mut cut = 0;
            for (caller, carried, registration) in &open {
                let told = registration.close_reason();
                prop_assert_eq!(told.is_none(), world.permits(*caller, *carried), "{:?} of {}", told, caller);
                cut += u64::from(told.is_some());
            }
            if let Some(applied) = applied {
                prop_assert_eq!(applied.closed.values().sum::<u64>(), cut, "each is counted once, with its reason");
            }
            open.retain(|(.., registration)| registration.close_reason().is_none());
            prop_assert_eq!(table.len(), open.len());
        }
    }
}

/// Of those who come while a right is taken away, whoever was let in is told to close.
#[test]
fn a_change_while_a_connection_comes_is_seen_by_one_of_the_two() {
    let table = Arc::new(Connections::default());
    let mesh = Mesh::new(Arc::clone(&table));
    let (open, closed) = (World { all: [0].into(), ..World::default() }, World::default());
    let over = AtomicBool::new(false);
    open.enter(&mesh);
    thread::scope(|scope| {
        let coming: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut let_in = Vec::new();
                    while !over.load(Ordering::Acquire) {
                        let_in.extend(come(&mesh, &table, 0, Carried::Bytes));
                        let_in.retain(|registration: &Registration| registration.close_reason().is_none());
                    }
                    let_in
                })
            })
            .collect();
        for _ in 0..200 {
            open.enter(&mesh);
            closed.enter(&mesh);
        }
        over.store(true, Ordering::Release);
        for thread in coming {
            let left: Vec<_> = thread.join().unwrap();
            assert!(left.iter().all(|registration| registration.close_reason().is_some()));
        }
    });
    assert!(table.is_empty());
}

/// A handshake may take long enough for our identity to be given up and another to come.
#[test]
fn who_shook_hands_with_an_identity_that_was_given_up_does_not_stay() {
    let table = Arc::new(Connections::default());
    let mesh = Mesh::new(Arc::clone(&table));
    let world = World { all: [0].into(), ..World::default() };
    world.enter(&mesh);
    let before = mesh.current().unwrap().generation;
    mesh.withdraw();
    assert!(mesh.current().is_none());
    world.enter(&mesh);
    let now = mesh.current().unwrap();
    let late = come(&mesh, &table, 0, Carried::Bytes).unwrap();
    assert_eq!(late.distrusted(&now, now.generation), None);
    assert_eq!(late.distrusted(&now, before), Some(CloseReason::SvidEnded));
    mesh.relocate(None, None, now.revision + 1);
    assert_eq!(late.distrusted(&mesh.current().unwrap(), before), Some(CloseReason::SvidEnded));
}
