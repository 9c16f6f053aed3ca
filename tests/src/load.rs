//! Workloads that join and renew, and operators who change policy, as fast as control answers and whatever
//! becomes of it; and a book of all that it answered, to be compared with what its store holds in the end.
//!
//! An answer that did not come proves nothing: only what was answered is in the book.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{ApplyPolicyRequest, CreateTokenRequest};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::attest::Joiner;
use crate::control::Control;
use crate::mesh::{Mesh, allow, id};
use crate::wait::breath;

const ATTESTERS: usize = 4;
/// What control is told when it meets it for long: all of it is for one workload.
pub const NO_QUOTA: [&str; 2] = ["--issuance-quota", "0"];
const RENEWALS: u64 = 2;
/// A call that takes longer counts as not answered.
const PATIENCE_PER_CALL: Duration = Duration::from_secs(10);
/// What was disturbed goes on within seconds: the product's promise, with slack for a busy machine.
const RECOVERY: Duration = Duration::from_secs(10);

/// Everybody who calls.
#[derive(Debug)]
pub struct Load {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
    book: Arc<Book>,
}

/// What control answered.
#[derive(Debug, Default)]
pub struct Book {
    /// Instances, and how many of their renewals were answered.
    instances: Mutex<BTreeMap<String, u64>>,
    /// Policies, and the revision that was answered.
    policies: Mutex<BTreeMap<String, u64>>,
    answers: watch::Sender<u64>,
    failures: AtomicU64,
}

/// How one of the replicas is called.
#[derive(Debug, Clone)]
struct Doors {
    grpc: SocketAddr,
    admin: PathBuf,
}

impl Load {
    /// Starts calling each of `replicas` in turn, for a workload that is registered already.
    #[must_use]
    pub fn start(replicas: &[Control], workload: &str) -> Self {
        let doors: Arc<[Doors]> = replicas
            .iter()
            .map(|replica| Doors { grpc: replica.grpc, admin: replica.admin_socket() })
            .collect();
        let (stop, book, mut tasks) = (watch::Sender::new(false), Arc::new(Book::default()), JoinSet::new());
        for number in 0..ATTESTERS {
            let caller = Caller { number, doors: Arc::clone(&doors), book: Arc::clone(&book) };
            tasks.spawn(caller.attests(workload.to_owned(), stop.subscribe()));
        }
        let operator = Caller { number: ATTESTERS, doors, book: Arc::clone(&book) };
        tasks.spawn(operator.writes_policy(stop.subscribe()));
        Self { tasks, stop, book }
    }

    /// Waits for that many more answers.
    ///
    /// # Panics
    /// When none comes for a while: control does not go on. How many come in it is the disk's affair.
    pub async fn answered(&self, more: u64) {
        let mut answers = self.book.answers.subscribe();
        let until = *answers.borrow_and_update() + more;
        while *answers.borrow() < until {
            let waited = timeout(RECOVERY, answers.changed()).await;
            assert!(matches!(waited, Ok(Ok(()))), "nobody is answered for {RECOVERY:?}: {}", self.book);
        }
    }

    /// Lets everybody finish their last call.
    ///
    /// # Panics
    /// When one of the callers panicked.
    pub async fn finish(mut self) -> Arc<Book> {
        self.stop.send_replace(true);
        while let Some(caller) = self.tasks.join_next().await {
            caller.expect("a caller");
        }
        self.book
    }
}

#[derive(Debug)]
struct Caller {
    number: usize,
    doors: Arc<[Doors]>,
    book: Arc<Book>,
}

impl Caller {
    async fn attests(self, workload: String, stop: watch::Receiver<bool>) {
        for turn in self.number.. {
            if *stop.borrow() {
                return;
            }
            if self.attest(&self.doors[turn % self.doors.len()], &workload).await.is_err() {
                self.book.failures.fetch_add(1, Ordering::Relaxed);
                breath().await;
            }
        }
    }

    async fn attest(&self, doors: &Doors, workload: &str) -> Result<(), Status> {
        let token = CreateTokenRequest { spiffe_id: workload.to_owned(), ..Default::default() };
        let ticket = in_time(async { operator(&doors.admin).await?.create_token(token).await }).await?;
        let ticket = ticket.into_inner().ticket;
        let mut instance = in_time(async {
            let joiner = Joiner::connect(doors.grpc, &ticket).await;
            joiner.map_err(|error| Status::unavailable(error.to_string()))?.become_instance().await
        })
        .await?;
        let name = instance.svid.instance.clone();
        self.book.instance(&name, 0);
        for renewal in 1..=RENEWALS {
            in_time(instance.renew(doors.grpc)).await?;
            self.book.instance(&name, renewal);
        }
        Ok(())
    }

    async fn writes_policy(self, stop: watch::Receiver<bool>) {
        for turn in self.number.. {
            if *stop.borrow() {
                return;
            }
            let doors = &self.doors[turn % self.doors.len()];
            // Some names are new, some change what is there.
            let name = format!("load-{}", turn % 50);
            let callers = [id(&format!("/caller-{turn}"))];
            let yaml = allow(&name, &id("/nobody-runs-this"), &callers.each_ref().map(String::as_str));
            let change = ApplyPolicyRequest { yaml, file: "load.yaml".to_owned() };
            match in_time(async { operator(&doors.admin).await?.apply_policy(change).await }).await {
                Ok(applied) => {
                    self.book.policies.lock().insert(name, applied.into_inner().revision);
                    self.book.answered();
                }
                Err(_) => {
                    self.book.failures.fetch_add(1, Ordering::Relaxed);
                    breath().await;
                }
            }
        }
    }
}

impl Book {
    /// Checks that the store of `mesh` holds all that was answered, and that it is sound in itself: the audit
    /// chain, and no gap in the orders of revisions and of events.
    ///
    /// # Panics
    /// When something is lost.
    pub async fn is_kept_by(&self, mesh: &Mesh) {
        is_sound(mesh).await;
        let kept = numbers(mesh, "select id, renewals from instance").await;
        for (instance, renewals) in self.instances.lock().iter() {
            let found = kept.get(instance);
            assert!(
                found.is_some_and(|found| found >= renewals),
                "an SVID was given out and is not recorded: {instance}, renewal {renewals}; recorded: {found:?}"
            );
        }
        let kept = numbers(mesh, "select name, revision from policy").await;
        for (policy, revision) in self.policies.lock().iter() {
            let found = kept.get(policy);
            assert!(
                found.is_some_and(|found| found >= revision),
                "a change was answered and is lost: {policy}, revision {revision}; stored: {found:?}"
            );
        }
    }

    /// Calls that were answered.
    #[must_use]
    pub fn answers(&self) -> u64 {
        *self.answers.borrow()
    }

    fn instance(&self, name: &str, renewals: u64) {
        self.instances.lock().insert(name.to_owned(), renewals);
        self.answered();
    }

    fn answered(&self) {
        self.answers.send_modify(|answers| *answers += 1);
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (instances, policies) = (self.instances.lock().len(), self.policies.lock().len());
        let failures = self.failures.load(Ordering::Relaxed);
        write!(
            f,
            "{} answers ({instances} instances, {policies} policies), {failures} calls failed",
            self.answers()
        )
    }
}

/// Checks that the store is sound in itself.
///
/// # Panics
/// When it is not.
pub async fn is_sound(mesh: &Mesh) {
    mesh.verify_audit().await;
    for (table, column) in [("revision", "revision"), ("audit", "sequence")] {
        let statement = format!("select count(*), min({column}), max({column}) from {table}");
        let row: Vec<u64> = mesh.select(&statement).await[0]
            .iter()
            .map(|field| field.parse().unwrap_or_else(|error| panic!("{error}: {field} in {table}")))
            .collect();
        let [count, first, last] = row[..] else { panic!("three columns: {row:?}") };
        assert_eq!(count, last - first + 1, "{table} has a gap or a double: {count} from {first} to {last}");
    }
    if mesh.database.is_none() {
        // SQLite 3.40, which Debian 12 has, says so of every row of a table without rowid whose key does not
        // come first.
        let false_alarm = |row: &Vec<String>| row[0].starts_with("NULL value in ");
        let mut found = mesh.select("pragma integrity_check").await;
        found.retain(|row| row[0] != "ok" && !false_alarm(row));
        assert!(found.is_empty(), "{found:?}");
        let orphans = mesh.select("pragma foreign_key_check").await;
        assert!(orphans.is_empty(), "{orphans:?}");
    }
}

async fn numbers(mesh: &Mesh, statement: &str) -> BTreeMap<String, u64> {
    let rows = mesh.select(statement).await;
    rows.into_iter()
        .map(|row| {
            let number = row[1].parse().unwrap_or_else(|error| panic!("{error}: {row:?}"));
            (row[0].clone(), number)
        })
        .collect()
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("nobody answers");
    timeout(PATIENCE_PER_CALL, call).await.map_err(late)?
}

/// Operators' calls over the admin socket.
///
/// # Errors
/// When nobody listens there.
pub async fn operator(socket: &Path) -> Result<AdminClient<Channel>, Status> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://control.invalid").connect_with_connector(connector).await;
    Ok(AdminClient::new(channel.map_err(|error| Status::unavailable(error.to_string()))?))
}
