//! A mesh of one test: one control service or several replicas of it, what they share, and what they store
//! their state in.
//!
//! [`Mesh`] stands for its first replica where one is meant: `mesh.workload(..)`, `mesh.control`.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::binaries::binaries;
use crate::client::{Client, Finished, file, psql_at};
use crate::clock::Clock;
use crate::control::{Control, Setting, start_at_once};
use crate::place::{Place, Seat};
use crate::pods::Pod;
use crate::postgres::Database;
use crate::proxy::Proxy;
use crate::sockets::free_address;

/// The trust domain of every mesh that is of no other.
pub const TRUST_DOMAIN: &str = "mesh.test";

/// `spiffe://mesh.test` and the path.
#[must_use]
pub fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

/// What control keeps its state in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// The embedded one.
    Sqlite,
    /// A PostgreSQL of the test's own.
    Postgres,
}

/// One control service, or several on one database.
#[derive(Debug)]
pub struct Mesh {
    /// Each of them.
    pub replicas: Vec<Control>,
    /// What they share, unless the store is embedded.
    pub database: Option<Database>,
    _directory: TempDir,
}

/// A mesh that will be started.
#[derive(Debug)]
pub struct MeshBuilder {
    store: Store,
    trust_domain: String,
    replicas: usize,
    at_once: bool,
    options: Vec<String>,
    environment: Vec<(String, String)>,
    config: Option<String>,
    data: Option<PathBuf>,
    pods: Vec<Pod>,
    database: Option<Database>,
    clock: Option<Clock>,
}

impl Mesh {
    /// Starts control on an empty data directory, with lives of SVIDs down to two seconds allowed.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start() -> Self {
        Self::on(Store::Sqlite).start().await
    }

    /// As [`Mesh::start`], with more options of `signet-control run`.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::on(Store::Sqlite).options(options).start().await
    }

    /// As [`Mesh::start`], in `pod`, at the address by which proxies in other pods reach it.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start_in(pod: &Pod) -> Self {
        Self::on(Store::Sqlite).in_pods(std::slice::from_ref(pod)).start().await
    }

    /// One control service on such a store, unless the builder is told otherwise.
    #[must_use]
    pub fn on(store: Store) -> MeshBuilder {
        MeshBuilder {
            store,
            trust_domain: TRUST_DOMAIN.to_owned(),
            replicas: 1,
            at_once: false,
            options: Vec::new(),
            environment: Vec::new(),
            config: None,
            data: None,
            pods: Vec::new(),
            database: None,
            clock: None,
        }
    }

    /// The database that the replicas share.
    ///
    /// # Panics
    /// When the store is embedded.
    pub fn database(&mut self) -> &mut Database {
        self.database.as_mut().expect("a mesh on PostgreSQL")
    }

    /// Starts all replicas again at the same moment.
    ///
    /// # Panics
    /// When one does not become ready.
    pub async fn restart_all_at_once(&mut self) {
        let settings = self.replicas.iter().map(|replica| replica.setting.clone()).collect();
        self.replicas = start_at_once(settings).await;
    }

    /// Has control, of which there is one and which does not run, begin on another engine at its next start: on an
    /// empty store, with the same directory, seal key and ports.
    pub async fn move_to(&mut self, store: Store) {
        self.database = match store {
            Store::Sqlite => None,
            Store::Postgres => Some(Database::start().await),
        };
        self.replicas[0].setting.store = self.database.as_ref().map(Database::url);
    }

    /// What a statement selects from the store behind control's back: rows of columns, as text.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn select(&self, statement: &str) -> Vec<Vec<String>> {
        let client = match &self.database {
            Some(database) => psql_at(database.socket(), database.port(), "signet", statement),
            None => {
                let store = self.data().join("signet.db");
                Client::new("sqlite3").args(["-readonly", "-separator", "|"]).arg(store).arg(statement)
            }
        };
        let finished = client.run().await.succeeded();
        finished.stdout.lines().map(|row| row.split('|').map(str::to_owned).collect()).collect()
    }
}

impl Deref for Mesh {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.replicas[0]
    }
}

impl DerefMut for Mesh {
    fn deref_mut(&mut self) -> &mut Control {
        &mut self.replicas[0]
    }
}

impl MeshBuilder {
    /// Of another trust domain than [`TRUST_DOMAIN`].
    #[must_use]
    pub fn of(mut self, trust_domain: &str) -> Self {
        self.trust_domain = trust_domain.to_owned();
        self
    }

    /// That many replicas, each of which every ticket names.
    #[must_use]
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// Starts all replicas at the same moment, the first time too.
    #[must_use]
    pub fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// More options of `signet-control run`.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    /// A variable of the environment in which control runs.
    #[must_use]
    pub fn environment(mut self, variable: (String, String)) -> Self {
        self.environment.push(variable);
        self
    }

    /// A configuration file, in TOML.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// Keeps control's data in that directory, which may be on a disk of its own.
    #[must_use]
    pub fn data_in(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// Has control run by that clock.
    #[must_use]
    pub fn by(mut self, clock: &Clock) -> Self {
        self.clock = Some(clock.clone());
        self
    }

    /// One replica in each pod.
    #[must_use]
    pub fn in_pods(mut self, pods: &[Pod]) -> Self {
        self.replicas = pods.len();
        self.pods = pods.to_vec();
        self
    }

    /// A database that runs already.
    #[must_use]
    pub fn with_database(mut self, database: Database) -> Self {
        self.database = Some(database);
        self
    }

    /// Starts everything and waits until all replicas are ready.
    ///
    /// # Panics
    /// When one does not become ready.
    pub async fn start(mut self) -> Mesh {
        let directory =
            tempfile::Builder::new().prefix("signet-mesh-").tempdir().expect("a temporary directory");
        let shared = directory.path();
        if let Some(toml) = &self.config {
            let path = file(shared, "control.toml", toml).display().to_string();
            self.options.extend(["--config".to_owned(), path]);
        }
        let database = match self.store {
            Store::Sqlite => None,
            Store::Postgres => Some(self.prepare_database(shared).await),
        };
        let url = database.as_ref().map(Database::url);
        let settings = self.settings(shared, url.as_deref());
        let replicas = if self.at_once {
            start_at_once(settings).await
        } else {
            let mut started = Vec::new();
            for setting in settings {
                started.push(Control::start(setting).await);
            }
            started
        };
        Mesh { replicas, database, _directory: directory }
    }

    /// A database with the tables of this version, and the options that lead to it.
    async fn prepare_database(&mut self, shared: &Path) -> Database {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::start().await,
        };
        let url = database.url();
        let place = self.pods.first().map_or(Place::Loopback, Place::Pod);
        let migrate = Client::at(&binaries().control).args(["migrate", "--store", &url]);
        let _ = place.client(migrate).run().await.succeeded();
        let seal_key = shared.join("seal.key").display().to_string();
        self.options.extend(["--seal-key-file".to_owned(), seal_key]);
        database
    }

    fn settings(&self, shared: &Path, store: Option<&str>) -> Vec<Setting> {
        let seats: Vec<(Seat, Seat)> = (0..self.replicas).map(|number| self.seats(number)).collect();
        let mut options = self.options.clone();
        // One alone is named by its listener's address.
        if self.replicas > 1 || !self.pods.is_empty() {
            let addresses = seats.iter().map(|(grpc, _)| grpc.address.to_string());
            options.extend(addresses.flat_map(|address| ["--advertise".to_owned(), address]));
        }
        let setting = |(number, (grpc, http)): (usize, (Seat, Seat))| {
            let directory = shared.join(format!("replica-{number}"));
            std::fs::create_dir(&directory).expect("our own directory");
            let data = self.data.clone().unwrap_or_else(|| directory.join("data"));
            let pod = self.pods.get(number).cloned();
            let store = store.map(str::to_owned);
            let (clock, environment) = (self.clock.clone(), self.environment.clone());
            Setting {
                trust_domain: self.trust_domain.clone(),
                directory,
                data,
                grpc,
                http,
                pod,
                store,
                options: options.clone(),
                environment,
                clock,
            }
        };
        seats.into_iter().enumerate().map(setting).collect()
    }

    /// Where a replica listens. One alone lets the system choose; several have to know of each other.
    fn seats(&self, number: usize) -> (Seat, Seat) {
        match self.pods.get(number) {
            Some(pod) => (Place::Pod(pod).seat(8443), Place::Pod(pod).seat(8080)),
            None if self.replicas == 1 => {
                let any = Seat::from(SocketAddr::from(([127, 0, 0, 1], 0)));
                (any, any)
            }
            None => (free_address().into(), free_address().into()),
        }
    }
}

/// A proxy beside a caller, and one beside the app that it calls.
#[derive(Debug)]
pub struct Pair {
    /// Beside the caller.
    pub caller: Proxy,
    /// Beside the app.
    pub server: Proxy,
}

impl Pair {
    /// Where clients connect to reach the app.
    #[must_use]
    pub fn entry(&self) -> SocketAddr {
        self.caller.outbound()
    }
}

/// `signet` without anything set.
#[must_use]
pub fn signet() -> Client {
    Client::at(&binaries().signet)
}

/// The JSON on standard output.
///
/// # Panics
/// When it is not JSON.
#[must_use]
pub fn parse_json(finished: &Finished) -> Value {
    serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("not JSON ({error}): {}", finished.stdout))
}

/// The rows of a list that `signet --output json` printed.
///
/// # Panics
/// When it is not a list.
#[must_use]
pub fn rows(list: Value) -> Vec<Value> {
    match list {
        Value::Array(rows) => rows,
        other => panic!("not a list: {other}"),
    }
}

/// A policy document that lets `from` reach everything of `target`.
#[must_use]
pub fn allow(name: &str, target: &str, from: &[&str]) -> String {
    let from = from.join(", ");
    format!(
        "kind: Policy\nname: {name}\ntarget: {target}\nrules:\n  - name: callers\n    allow: {{ from: [{from}] }}\n"
    )
}

/// The same scenarios on both engines: functions that take a [`Store`].
#[macro_export]
macro_rules! on_both_engines {
    ($($scenario:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario($crate::mesh::Store::Sqlite).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario($crate::mesh::Store::Postgres).await;
            })+
        }
    };
}
