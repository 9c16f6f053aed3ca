//! The store, by scenario: each on both engines.

/// Runs each scenario, a function of a [`Fixture`], on both engines.
macro_rules! both_engines {
    ($($scenario:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Fixture::new(super::Engine::Sqlite).await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Fixture::new(super::Engine::Postgres).await).await;
            })*
        }
    };
}

mod audit;
mod backups;
mod crl;
mod durability;
mod federation;
mod intermediates;
mod inventory;
mod issuance;
mod jwt;
mod pruning;
mod registry;
mod replicas;
mod requests;
mod revocation;
mod revoking;
mod roles;
mod rotation;
mod sealed;
mod server;
mod sessions;
mod sightings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{InstanceId, SpiffeId};
use tempfile::TempDir;

use super::model::{
    Actor, Attestation, AuthorityKind, AuthorityRecord, Issuance, JwtKeyRecord, NewPolicy, NewToken, Renewal,
};
use super::*;
use crate::audit::ChainVerifier;
use crate::registry::{Action, Approval, Change, Declaration, Kind, Owner, OwnerLabel, Plan, Ttl, Write};
use crate::roles::Permission;
use crate::time;

const ISSUER: [u8; 32] = [7; 32];

struct Fixture {
    directory: TempDir,
    location: Location,
    store: Store,
}

impl Fixture {
    /// With an authority to issue from, and two workloads.
    async fn new(engine: Engine) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = match engine {
            Engine::Sqlite => Location::from(directory.path()),
            Engine::Postgres => server::database().await,
        };
        let store = open(&location);
        store
            .create_authorities(
                authority("root", AuthorityKind::Root),
                authority("ca", AuthorityKind::Intermediate),
                jwt_key("first"),
            )
            .await
            .unwrap();
        let fixture = Self { directory, location, store };
        for name in ["orders", "payments"] {
            fixture.workload(name).await;
        }
        fixture
    }

    /// Another one, from what a program with the schema `version` left: these rows.
    async fn brought_up_from(self, version: u64, rows: &[&str]) -> (Self, &'static [Migration]) {
        let directory = tempfile::tempdir().unwrap();
        let location = match self.location {
            Location::Directory(_) => Location::from(directory.path()),
            Location::Server(_) => server::database().await,
        };
        let filled = aside(|| {
            let Opened { engine, writer, .. } = &Opened::open(&location, EMBEDDED)?;
            schema::transaction(&**writer, |sql| {
                schema::start(&**writer, sql, *engine, version)?;
                rows.iter().try_for_each(|row| sql.post(row, &[]))
            })
        });
        filled.unwrap();
        let steps = Store::migrate(&location, false).unwrap();
        (Self { directory, store: open(&location), location }, steps)
    }

    async fn workload(&self, name: &str) {
        self.store.create_workload(declared(id(name).as_str()), operator()).await.unwrap();
    }

    async fn token(&self, name: &str, secret: u8) {
        let token = NewToken {
            secret_sha256: [secret; 32],
            spiffe_id: id(name),
            expires_at: time::now() + Duration::from_secs(60),
        };
        self.store.create_token(token, operator()).await.unwrap();
    }

    /// Attests a new instance whose first SVID lives for `ttl`.
    async fn instance(&self, name: &str, secret: u8, ttl: Duration) -> (InstanceId, Issuance) {
        self.token(name, secret).await;
        let issuance = issuance(name, time::now() + ttl);
        let attestation = attestation(secret);
        let instance = attestation.instance;
        self.store.record_attestation(issuance.clone(), attestation).await.unwrap();
        (instance, issuance)
    }

    /// A Watch stream opens.
    async fn watch(&self, lease: model::Lease) {
        assert!(self.watch_as(lease, 1).await.is_empty());
    }

    /// The same by the stream of this number. Returns whose stream is newer elsewhere.
    async fn watch_as(&self, lease: model::Lease, claim: u64) -> Vec<InstanceId> {
        self.store.watched(lease.instance).await.unwrap();
        self.stand(lease, claim, 0).await
    }

    /// The stream of the instance says that it has a revision in force.
    async fn acknowledge(&self, lease: model::Lease, revision: u64) {
        assert!(self.stand(lease, revision, revision).await.is_empty());
    }

    async fn stand(&self, lease: model::Lease, claim: u64, in_force: u64) -> Vec<InstanceId> {
        let standing = model::Standing {
            opened: true,
            version: "test".into(),
            schema: signet_proto::policy::Schema::NEWEST,
            opened_at: time::now(),
            seen_at: time::now(),
            in_force,
            in_force_at: time::now(),
            closed: 0,
            claim,
            lease,
        };
        self.store.put_standings(vec![(standing.lease.instance, Some(standing))]).await.unwrap()
    }

    /// Closes and opens again, as a restart does.
    fn reopen(self) -> Self {
        let Self { directory, location, store } = self;
        drop(store);
        let store = open(&location);
        Self { directory, location, store }
    }

    async fn verified_events(&self) -> u64 {
        let mut verifier = ChainVerifier::from_genesis();
        for event in self.store.events_after(0, u32::MAX).await.unwrap() {
            verifier.take(&event).unwrap();
        }
        verifier.verified()
    }
}

/// The threads of a closed store end a moment after its last handle; the lock goes with the handle.
fn open(location: &Location) -> Store {
    Store::open(location.clone(), &"mesh.local".parse().unwrap()).unwrap()
}

/// With as little as possible said about it.
fn declared(name: &str) -> Declaration {
    Declaration {
        name: name.parse().unwrap(),
        owner: Owner { team: "team".into(), contact: None },
        purpose: "test".into(),
        environment: None,
        selectors: BTreeSet::new(),
        ttl: Ttl { default: Some(Duration::from_secs(60)), ..Ttl::default() },
        dns: BTreeSet::new(),
        status: model::WorkloadStatus::Active,
        until: None,
        approval: Approval::None,
    }
}

impl Store {
    /// Policies that need not be any, as whoever does not say who manages them.
    pub(crate) async fn apply_policies(
        &self,
        new: Vec<NewPolicy>,
        permission: impl Permission,
        check: impl Fn(&[&str]) -> Result<(), String> + Send + 'static,
    ) -> Result<(Commit, Vec<(String, Action)>), StoreError> {
        let plan = move |current: &model::Documents| {
            let stored = |name: &str| {
                current.policies.iter().map(|managed| &managed.policy).find(|policy| policy.name == name)
            };
            let mut together: BTreeMap<&str, &str> = current
                .policies
                .iter()
                .map(|managed| (&*managed.policy.name, &*managed.policy.document))
                .collect();
            together.extend(new.iter().map(|new| (&*new.name, &*new.document)));
            let together: Vec<&str> = together.into_values().collect();
            let refused = check(&together).map_err(Refusal::PoliciesDoNotFit);
            let changes = new.iter().map(|new| {
                let action = match stored(&new.name) {
                    None => Action::Created,
                    Some(old) if old.document != new.document => Action::Updated,
                    Some(_) => Action::Unchanged,
                };
                let unchanged = action == Action::Unchanged;
                Change {
                    kind: Kind::Policy,
                    name: new.name.clone(),
                    action,
                    fields: Vec::new(),
                    place: None,
                    write: if unchanged { Write::Nothing } else { Write::Policy(new.clone()) },
                }
            });
            let changes = changes.collect();
            let label = OwnerLabel::unnamed();
            (Plan { label, changes, refused: Vec::new(), warnings: Vec::new() }, refused)
        };
        let (commit, plan) = self.apply_documents(permission, plan).await?;
        Ok((commit, plan.changes.into_iter().map(|change| (change.name, change.action)).collect()))
    }
}

fn id(name: &str) -> SpiffeId {
    format!("spiffe://mesh.local/{name}").parse().unwrap()
}

fn operator() -> Actor {
    Actor::unix(0)
}

fn authority(name: &str, kind: AuthorityKind) -> AuthorityRecord {
    AuthorityRecord {
        id: name.into(),
        kind,
        replica: String::new(),
        issuer: (kind == AuthorityKind::Intermediate).then(|| "root".into()),
        subject: name.into(),
        certificate: vec![1],
        key: model::KeptKey::Sealed(vec![2]),
        not_before: time::now(),
        not_after: time::now() + Duration::from_secs(86_400),
    }
}

fn in_place_of(replaced: &str, new: AuthorityRecord) -> Vec<model::Replacement> {
    vec![model::Replacement { new, replaces: Some(replaced.into()) }]
}

fn jwt_key(name: &str) -> JwtKeyRecord {
    JwtKeyRecord { id: name.into(), public_key: vec![4; 65], sealed_key: vec![2] }
}

/// A certificate with its own serial and key.
fn issuance(name: &str, not_after: SystemTime) -> Issuance {
    let serial = InstanceId::random().unwrap().as_bytes().to_vec();
    Issuance {
        spki_sha256: crate::sha256(&serial),
        serial,
        issuer_sha256: ISSUER,
        authority: "ca".into(),
        spiffe_id: id(name),
        not_before: time::now() - Duration::from_secs(10),
        not_after,
    }
}

fn attestation(secret: u8) -> Attestation {
    Attestation {
        instance: InstanceId::random().unwrap(),
        evidence: model::Evidence::JoinToken { secret_sha256: [secret; 32] },
        csr_sha256: [secret; 32],
        version: "test".into(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        request_id: None,
    }
}

fn listener(port: u16) -> model::Listener {
    model::Listener { port, app_port: 8000 + port }
}

fn renewal(instance: InstanceId, current: &Issuance) -> Renewal {
    Renewal {
        instance,
        presented: vec![(current.issuer_sha256, current.serial.clone())],
        version: "test".into(),
        request_id: None,
    }
}

fn policy(name: &str, document: &str) -> NewPolicy {
    NewPolicy { name: name.into(), target: "spiffe://mesh.local/orders".into(), document: document.into() }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Refusal {
    match result {
        Err(StoreError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

const HOUR: Duration = Duration::from_secs(3600);
