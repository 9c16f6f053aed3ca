//! The schema: forward-only migrations, one file for each engine and step.
//!
//! Expand, then contract: a step adds what the next version of the program needs and leaves what the one before
//! needs; a later step removes that. So replicas of two neighbouring versions work on one database. Each step says the
//! oldest program that can (`oldest`). Nothing is migrated behind anybody's back: an empty database is filled, an
//! older one waits for `signet-control migrate`.

use signet_proto::spiffe::TrustDomain;

use super::StoreError;
use super::sql::{Purpose, Session, Sql, values};

/// How an engine differs, where it has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Sqlite,
    Postgres,
}

/// One step of the schema.
#[derive(Debug)]
pub struct Migration {
    /// Its place, from 1.
    pub version: u64,
    /// What it is about.
    pub name: &'static str,
    /// The schema that a program must at least know to work with this one.
    oldest: u64,
    sqlite: &'static str,
    postgres: &'static str,
}

impl Migration {
    fn sql(&self, engine: Engine) -> &'static str {
        match engine {
            Engine::Sqlite => self.sqlite,
            Engine::Postgres => self.postgres,
        }
    }
}

macro_rules! migration {
    ($version:literal, $file:literal, $name:literal, oldest: $oldest:literal) => {
        Migration {
            version: $version,
            name: $name,
            oldest: $oldest,
            sqlite: include_str!(concat!("migrations/sqlite/", $file)),
            postgres: include_str!(concat!("migrations/postgres/", $file)),
        }
    };
}

const MIGRATIONS: &[Migration] = &[
    migration!(1, "0001_ground.sql", "ground", oldest: 1),
    migration!(2, "0002_replicas.sql", "replicas and sessions", oldest: 1),
    migration!(3, "0003_roles.sql", "roles", oldest: 1),
    migration!(4, "0004_registry.sql", "registry", oldest: 1),
    migration!(5, "0005_audit.sql", "signed checkpoints of the audit", oldest: 1),
    migration!(6, "0006_proofs.sql", "proofs that are good with one key", oldest: 1),
    migration!(7, "0007_inventory.sql", "inventory", oldest: 1),
    migration!(8, "0008_claims.sql", "claims of streams", oldest: 1),
    migration!(9, "0009_approval.sql", "requests that wait for approval", oldest: 1),
    migration!(10, "0010_revoked_proofs.sql", "proofs of revoked instances", oldest: 1),
    migration!(11, "0011_quota.sql", "how many SVIDs each identity got", oldest: 1),
    migration!(12, "0012_mesh.sql", "settings of the mesh", oldest: 1),
    migration!(13, "0013_outsiders.sql", "addresses without identity", oldest: 1),
    migration!(14, "0014_policy_schema.sql", "policy documents that each proxy reads", oldest: 1),
    migration!(15, "0015_services.sql", "services and localities", oldest: 1),
    migration!(16, "0016_rotation.sql", "authorities one after another", oldest: 16),
    migration!(17, "0017_compromise.sql", "authorities that are compromised", oldest: 16),
    migration!(18, "0018_rotations.sql", "orders to renew", oldest: 16),
    migration!(19, "0019_federation.sql", "federated trust domains", oldest: 16),
    migration!(20, "0020_token_keys.sql", "keys in tokens", oldest: 16),
    migration!(21, "0021_crl.sql", "revocation lists", oldest: 16),
    migration!(22, "0022_jwt.sql", "keys of JWT-SVIDs", oldest: 16),
    migration!(23, "0023_authority_request.sql", "roots elsewhere", oldest: 16),
    // Of a program of before: with which of several it signs does not matter, all keys open to it; what it replaces takes
    // the place of all, until each replica has made its own again.
    migration!(24, "0024_replica_authorities.sql", "an intermediate for each replica", oldest: 16),
];

/// `SGNT`: so that another program's database is not taken for ours.
const APPLICATION_ID: i64 = 0x5347_4e54;

/// What a database says of itself.
#[derive(Debug, Clone, Copy)]
struct State {
    version: u64,
    oldest: u64,
}

/// Fills an empty database, and checks that this program can work with any other.
pub(super) fn prepare(session: &dyn Session, engine: Engine, domain: &TrustDomain) -> Result<(), StoreError> {
    transaction(session, |sql| {
        match read(sql, engine)? {
            None => {
                apply(session, sql, engine, MIGRATIONS)?;
            }
            Some(state) => {
                if let Some(first) = pending(state)?.first() {
                    return Err(StoreError::Open(format!(
                        "its schema has version {}, this program needs {}: run `signet-control migrate` with the same \
                         settings (`--dry-run` shows what it would do, beginning with {} `{}`)",
                        state.version,
                        MIGRATIONS.len(),
                        first.version,
                        first.name
                    )));
                }
            }
        }
        pin(sql, domain)
    })
}

/// Brings the schema up to date. Returns the steps that were, or would be, taken.
pub(super) fn migrate(
    session: &dyn Session,
    engine: Engine,
    dry_run: bool,
) -> Result<&'static [Migration], StoreError> {
    transaction(session, |sql| {
        let steps = match read(sql, engine)? {
            None => MIGRATIONS,
            Some(state) => pending(state)?,
        };
        if !dry_run {
            apply(session, sql, engine, steps)?;
        }
        Ok(steps)
    })
}

/// The version of what is there; `None` if nothing is.
pub(super) fn version(sql: &Sql<'_>, engine: Engine) -> Result<Option<u64>, StoreError> {
    Ok(read(sql, engine)?.map(|state| state.version))
}

/// Whether all that a schema has is known here.
pub(super) fn require_known(version: u64) -> Result<(), StoreError> {
    if version <= MIGRATIONS.len() as u64 {
        return Ok(());
    }
    Err(StoreError::Open(format!("its schema has version {version}: use the signet-control that made it")))
}

/// Makes the schema as it was at `version`, in an empty database.
pub(super) fn start(
    session: &dyn Session,
    sql: &Sql<'_>,
    engine: Engine,
    version: u64,
) -> Result<(), StoreError> {
    let steps = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(..version));
    let steps = steps.filter(|steps| !steps.is_empty()).ok_or_else(|| {
        StoreError::Open(format!(
            "schema version {version}: this program knows up to {}, use a newer signet-control",
            MIGRATIONS.len()
        ))
    })?;
    apply(session, sql, engine, steps)
}

/// Takes the steps that are missing.
pub(super) fn complete(session: &dyn Session, sql: &Sql<'_>, engine: Engine) -> Result<(), StoreError> {
    match read(sql, engine)? {
        Some(state) => apply(session, sql, engine, pending(state)?),
        None => Err(StoreError::Damaged("the schema is gone".into())),
    }
}

/// One write transaction outside of the writer's batches.
pub(super) fn transaction<T>(
    session: &dyn Session,
    work: impl FnOnce(&Sql<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    session.begin(Purpose::Schema)?;
    let sql = Sql::new(session);
    let result = work(&sql).and_then(|done| session.commit().map(|()| done));
    result.inspect_err(|_| session.rollback())
}

/// What is there; `None` if nothing is.
fn read(sql: &Sql<'_>, engine: Engine) -> Result<Option<State>, StoreError> {
    let (tables, ours) = match engine {
        Engine::Sqlite => (
            sql.one::<i64>("SELECT count(*) FROM sqlite_schema", &[])?,
            sql.one::<i64>("PRAGMA application_id", &[])? == APPLICATION_ID,
        ),
        Engine::Postgres => {
            let named = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()";
            let meta =
                "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'meta'";
            (sql.one::<i64>(named, &[])?, sql.one::<i64>(meta, &[])? == 1)
        }
    };
    if tables == 0 {
        return Ok(None);
    }
    if !ours {
        return Err(StoreError::Open("what is in the database is not Signet's".into()));
    }
    let number = |name: &str| -> Result<u64, StoreError> {
        let row = sql.row("SELECT value FROM meta WHERE name = ?1", values![name])?;
        row.ok_or_else(|| StoreError::Open(format!("what is in the database is not Signet's: no `{name}`")))?
            .parsed(0)
    };
    Ok(Some(State { version: number("schema_version")?, oldest: number("schema_oldest")? }))
}

fn pending(state: State) -> Result<&'static [Migration], StoreError> {
    let known = MIGRATIONS.len() as u64;
    if state.version > known && state.oldest > known {
        return Err(StoreError::Open(format!(
            "its schema has version {}, this program knows up to {known}: use a newer signet-control",
            state.version
        )));
    }
    Ok(usize::try_from(state.version).ok().and_then(|taken| MIGRATIONS.get(taken..)).unwrap_or_default())
}

fn apply(
    session: &dyn Session,
    sql: &Sql<'_>,
    engine: Engine,
    steps: &[Migration],
) -> Result<(), StoreError> {
    let Some(last) = steps.last() else { return Ok(()) };
    for step in steps {
        session.batch(step.sql(engine))?;
        tracing::info!(version = step.version, name = step.name, "store schema brought up to date");
    }
    if engine == Engine::Sqlite {
        session.batch(&format!("PRAGMA application_id = {APPLICATION_ID}"))?;
    }
    // What one step asks for, later ones do not take back.
    let oldest = MIGRATIONS.iter().filter(|step| step.version <= last.version).map(|step| step.oldest).max();
    for (name, value) in [("schema_version", last.version), ("schema_oldest", oldest.unwrap_or(1))] {
        sql.execute(
            "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            values![name, value.to_string()],
        )?;
    }
    Ok(())
}

fn pin(sql: &Sql<'_>, domain: &TrustDomain) -> Result<(), StoreError> {
    let stored = sql.row("SELECT value FROM meta WHERE name = 'trust_domain'", &[])?;
    match stored.map(|row| row.get::<String>(0)).transpose()? {
        Some(stored) if stored == domain.as_str() => Ok(()),
        Some(stored) => Err(StoreError::Open(format!(
            "it belongs to trust domain `{stored}`, not `{domain}`: use `--trust-domain {stored}` or another \
             --data-dir or --store"
        ))),
        None => {
            sql.post("INSERT INTO meta (name, value) VALUES ('trust_domain', ?1)", values![domain.as_str()])
        }
    }
}
