//! The shared engine: one PostgreSQL database for several replicas. A session is driven by its own thread, with a
//! runtime of that thread, so that domain code stays as plain as with the embedded engine.
//!
//! One write transaction at a time, over all replicas: it begins by taking an advisory lock, and the lock goes with
//! the commit. So revisions and audit events are in one total order, without gaps, and whoever has the lock sees all
//! commits before. Statements whose answer nobody needs are sent together with the next that has one.
//!
//! A connection lost during COMMIT leaves it open whether the change was made. So each transaction leaves a mark of its
//! own; the session takes the lock again, which nobody has whose commit is still open, and looks whether the mark is
//! there before anybody is answered. (The server's own `pg_xact_status` does not do: after a crash a number can be given
//! to another transaction.)

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::future::join_all;
use signet_proto::spiffe::InstanceId;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use super::{Purpose, Row, RowCell, Session, Value, values};
use crate::store::StoreError;
use crate::store::location::{Messages, Server};

/// The writer's place; replicas wait here for their turn.
const WRITER: i32 = 1;
/// An answer that takes longer will not come: the server or the way to it is lost.
const ANSWER: Duration = Duration::from_secs(6);
/// Unless the work may take as long as it takes: a step of the schema, a restored table.
const LONG_ANSWER: Duration = Duration::from_secs(3600);
/// For how long a lost server is asked again before callers are told.
const RECONNECT: Duration = Duration::from_secs(3);
/// For how long the outcome of a commit is asked for.
const OUTCOME: Duration = Duration::from_secs(12);
const RETRY: Duration = Duration::from_millis(100);
const STATEMENTS: usize = 256;
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
const MOST_PENDING: usize = 512;

/// One connection, reconnected when lost.
pub(in crate::store) struct PostgresSession {
    server: Server,
    runtime: Runtime,
    link: RefCell<Option<Link>>,
    replica: String,
    /// The mark of the transaction that writes, while one is open.
    mark: RefCell<Option<String>>,
    failed: Cell<bool>,
    saved: Cell<bool>,
    patience: Cell<Duration>,
}

struct Link {
    client: Client,
    /// What keeps the socket.
    driver: JoinHandle<()>,
    statements: HashMap<String, Statement>,
    pending: Vec<Pending>,
}

enum Pending {
    Plain(&'static str),
    Prepared(Statement, Vec<Value<'static>>),
}

impl PostgresSession {
    pub(in crate::store) fn open(server: &Server, replica: &str) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StoreError::Open(format!("cannot start a runtime: {error}")))?;
        let session = Self {
            server: server.clone(),
            runtime,
            link: RefCell::new(None),
            replica: replica.to_owned(),
            mark: RefCell::new(None),
            failed: Cell::new(false),
            saved: Cell::new(false),
            patience: Cell::new(ANSWER),
        };
        session.reconnect(RECONNECT)?;
        Ok(session)
    }

    /// Connects, trying again until `patience` is over.
    fn reconnect(&self, patience: Duration) -> Result<(), StoreError> {
        self.drop_link();
        let server = &self.server;
        let (client, driver) = self.runtime.block_on(async {
            let until = Instant::now() + patience;
            loop {
                match server.connect().await {
                    Ok((client, messages)) => {
                        return Ok((client, tokio::spawn(drive(messages))));
                    }
                    Err(error @ StoreError::Open(_)) => return Err(error),
                    Err(error) if Instant::now() + RETRY >= until => return Err(error),
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        })?;
        self.link.replace(Some(Link { client, driver, statements: HashMap::new(), pending: Vec::new() }));
        Ok(())
    }

    /// Runs `work` on the link. A lost or silent link is dropped.
    fn on_link<T>(
        &self,
        work: impl AsyncFnOnce(&mut Link) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut link = self.link.borrow_mut();
        let Some(open) = link.as_mut() else { return Err(lost("not connected")) };
        let done = self.runtime.block_on(async {
            match tokio::time::timeout(self.patience.get(), work(open)).await {
                Ok(done) => done,
                Err(_) => Err(lost("no answer in time")),
            }
        });
        if let Err(error) = &done {
            self.failed.set(true);
            if matches!(error, StoreError::Unavailable(_)) {
                drop(link);
                self.drop_link();
            }
        }
        done
    }

    /// Closes the socket at once: a server that still works for it must not keep the writer's place for us.
    fn drop_link(&self) {
        if let Some(link) = self.link.replace(None) {
            link.driver.abort();
            self.runtime.block_on(async { drop(link.driver.await) });
        }
    }

    fn plain(&self, sql: &'static str) -> Result<(), StoreError> {
        let mut link = self.link.borrow_mut();
        link.as_mut().ok_or_else(|| lost("not connected"))?.pending.push(Pending::Plain(sql));
        Ok(())
    }

    fn flushed(&self, sql: &'static str) -> Result<(), StoreError> {
        self.on_link(async |link| {
            link.pending.push(Pending::Plain(sql));
            link.flush().await
        })
    }

    fn start(&self, purpose: Purpose) -> Result<(), StoreError> {
        self.failed.set(false);
        self.saved.set(false);
        self.patience.set(ANSWER);
        match purpose {
            // Sent at once: that a connection was lost meanwhile has to show before any work is done on it.
            Purpose::Read => self.flushed(SNAPSHOT),
            Purpose::Copy => self.plain(SNAPSHOT).and_then(|()| self.take_time()),
            Purpose::Schema => self.lock().and_then(|()| self.take_time()),
            Purpose::Write => {
                self.lock()?;
                let mark =
                    InstanceId::random().map_err(|error| StoreError::Io(error.to_string()))?.to_string();
                self.post(
                    "INSERT INTO commit_mark (replica, mark) VALUES (?1, ?2)
                     ON CONFLICT (replica) DO UPDATE SET mark = excluded.mark",
                    values![&self.replica, &mark],
                )?;
                self.mark.replace(Some(mark));
                Ok(())
            }
        }
    }

    /// Opens a transaction and waits for the writer's place.
    fn lock(&self) -> Result<(), StoreError> {
        self.plain("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")?;
        let places = values![i64::from(self.server.schema()?.locks()), i64::from(WRITER)];
        self.rows("SELECT CAST(pg_advisory_xact_lock(?1, ?2) AS text)", places).map(drop)
    }

    /// Nothing of this transaction is cut for its length.
    fn take_time(&self) -> Result<(), StoreError> {
        self.rows(
            "SELECT set_config(name, '0', true) FROM pg_settings
             WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'lock_timeout')",
            &[],
        )?;
        self.patience.set(LONG_ANSWER);
        Ok(())
    }

    /// What became of a commit that nobody confirmed.
    fn outcome(&self, mark: &str) -> Result<(), StoreError> {
        let until = Instant::now() + OUTCOME;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let found = self.reconnect(left).and_then(|()| self.newest_mark());
            self.rollback();
            match found {
                Ok(Some(newest)) if newest == mark => return Ok(()),
                Ok(_) => return Err(lost("the connection was lost before the commit")),
                Err(_) if left.is_zero() => return Err(StoreError::Unknown),
                Err(_) => self.runtime.block_on(async { tokio::time::sleep(RETRY).await }),
            }
        }
    }

    fn newest_mark(&self) -> Result<Option<String>, StoreError> {
        self.failed.set(false);
        self.saved.set(false);
        self.lock()?;
        let found = self.rows("SELECT mark FROM commit_mark WHERE replica = ?1", values![&self.replica])?;
        found.first().map(|row| row.get(0)).transpose()
    }
}

impl Link {
    async fn statement(&mut self, sql: &str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        // What was sent before may make a table that this names.
        self.flush().await?;
        if self.statements.len() >= STATEMENTS {
            self.statements.clear();
        }
        let statement = self.client.prepare(&numbered(sql)).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Sends what waits together with the question.
    async fn query(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<(u64, Vec<tokio_postgres::Row>), StoreError> {
        let statement = self.statement(sql).await?;
        let pending = std::mem::take(&mut self.pending);
        let client = &self.client;
        let asked = async {
            let answer = client.query_raw(&statement, values).await?;
            let mut answer = std::pin::pin!(answer);
            let mut rows = Vec::new();
            while let Some(row) = answer.next().await {
                rows.push(row?);
            }
            Ok::<_, tokio_postgres::Error>((answer.rows_affected().unwrap_or(0), rows))
        };
        let (before, asked) = tokio::join!(send(client, &pending), asked);
        before?;
        Ok(asked?)
    }

    /// Sends what waits, and hears every answer.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let pending = std::mem::take(&mut self.pending);
        send(&self.client, &pending).await
    }
}

/// All at once, in order; the first error is the cause of those after it.
async fn send(client: &Client, pending: &[Pending]) -> Result<(), StoreError> {
    let sent = pending.iter().map(|pending| async move {
        match pending {
            Pending::Plain(sql) => client.batch_execute(sql).await,
            Pending::Prepared(statement, values) => client.execute_raw(statement, values).await.map(drop),
        }
    });
    for answer in join_all(sent).await {
        answer?;
    }
    Ok(())
}

impl Session for PostgresSession {
    fn begin(&self, purpose: Purpose) -> Result<(), StoreError> {
        let connected = self.link.borrow().as_ref().is_some_and(|link| !link.client.is_closed());
        if !connected {
            self.reconnect(RECONNECT)?;
        }
        match (self.start(purpose), connected) {
            // Lost while nobody looked: nothing was begun, so that it can be begun again.
            (Err(StoreError::Unavailable(_)), true) => {
                self.reconnect(RECONNECT)?;
                self.start(purpose)
            }
            (started, _) => started,
        }
    }

    fn commit(&self) -> Result<(), StoreError> {
        let mark = self.mark.take();
        if self.failed.get() {
            self.rollback();
            return Err(lost("the transaction was lost"));
        }
        match (self.flushed("COMMIT"), mark) {
            (Err(StoreError::Unavailable(why)), Some(mark)) => {
                tracing::warn!(why, "connection lost during a commit; the server is asked what became of it");
                self.outcome(&mark)
            }
            (Err(error), _) => {
                self.rollback();
                Err(error)
            }
            (committed, _) => committed,
        }
    }

    fn rollback(&self) {
        self.mark.replace(None);
        if let Some(link) = self.link.borrow_mut().as_mut() {
            link.pending.clear();
        }
        if self.flushed("ROLLBACK").is_err() {
            self.drop_link();
        }
    }

    fn savepoint(&self) -> Result<(), StoreError> {
        self.saved.set(true);
        self.plain("SAVEPOINT job")
    }

    fn release(&self) -> Result<(), StoreError> {
        self.flushed("RELEASE SAVEPOINT job")?;
        self.saved.set(false);
        Ok(())
    }

    fn undo(&self) -> Result<(), StoreError> {
        if let Some(link) = self.link.borrow_mut().as_mut() {
            // Also the savepoint itself may not have been sent yet: sent in order, all of it is undone.
            link.pending.retain(|pending| matches!(pending, Pending::Plain(_)));
        }
        self.flushed("ROLLBACK TO SAVEPOINT job; RELEASE SAVEPOINT job")?;
        self.saved.set(false);
        self.failed.set(false);
        Ok(())
    }

    fn is_usable(&self) -> bool {
        self.link.borrow().is_some() && (self.saved.get() || !self.failed.get())
    }

    fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        self.on_link(async |link| Ok(link.query(sql, values).await?.0))
    }

    fn post(&self, sql: &str, values: &[Value<'_>]) -> Result<(), StoreError> {
        let values = values.iter().cloned().map(Value::into_owned).collect();
        if let Some(link) = self.link.borrow_mut().as_mut()
            && link.pending.len() < MOST_PENDING
            && let Some(statement) = link.statements.get(sql)
        {
            link.pending.push(Pending::Prepared(statement.clone(), values));
            return Ok(());
        }
        self.on_link(async |link| {
            let statement = link.statement(sql).await?;
            link.pending.push(Pending::Prepared(statement, values));
            if link.pending.len() >= MOST_PENDING { link.flush().await } else { Ok(()) }
        })
    }

    fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        self.on_link(async |link| link.query(sql, values).await?.1.iter().map(row).collect())
    }

    fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.on_link(async |link| {
            link.flush().await?;
            Ok(link.client.batch_execute(sql).await?)
        })
    }
}

/// Until the connection ends: after an error it has nothing more to say.
pub(in crate::store) async fn drive(mut messages: Messages) {
    while let Some(Ok(_)) = messages.next().await {}
}

/// `?1` is `$1` here. Statements are our own: no text in them has a question mark.
fn numbered(sql: &str) -> String {
    sql.replace('?', "$")
}

fn lost(why: &str) -> StoreError {
    StoreError::Unavailable(why.to_owned())
}

fn row(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let cells = (0..row.len()).map(|column| row.try_get::<_, RowCell>(column).map_err(StoreError::from));
    Ok(Row(cells.collect::<Result<_, _>>()?))
}

impl<'a> FromSql<'a> for RowCell {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(match *kind {
            Type::BOOL => Self::Integer(bool::from_sql(kind, raw)?.into()),
            Type::INT4 => Self::Integer(i32::from_sql(kind, raw)?.into()),
            Type::BYTEA => Self::Bytes(Vec::from_sql(kind, raw)?),
            Type::TEXT | Type::VARCHAR | Type::NAME => Self::Text(String::from_sql(kind, raw)?),
            _ => Self::Integer(i64::from_sql(kind, raw)?),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(kind: &Type) -> bool {
        matches!(
            *kind,
            Type::BOOL | Type::INT4 | Type::INT8 | Type::BYTEA | Type::TEXT | Type::VARCHAR | Type::NAME
        )
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => match *kind {
                Type::BOOL => (*number != 0).to_sql(kind, out),
                Type::INT4 => i32::try_from(*number)?.to_sql(kind, out),
                _ => number.to_sql(kind, out),
            },
            Self::Text(text) => text.as_ref().to_sql(kind, out),
            Self::Bytes(bytes) => bytes.as_ref().to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let said = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        match error.code() {
            Some(code) if *code == SqlState::DISK_FULL => Self::Full,
            Some(code) if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
                Self::Damaged(said)
            }
            // The server ends the connection, or did not let it in.
            Some(code)
                if ["08", "57", "53", "28", "25P03", "25006", "55P03", "40001"]
                    .iter()
                    .any(|class| code.code().starts_with(class)) =>
            {
                Self::Unavailable(said)
            }
            Some(_) => Self::Io(said),
            None => Self::Unavailable(said),
        }
    }
}
