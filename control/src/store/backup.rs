//! A whole store as one file, of either engine for either engine: taken while control runs, as of one commit.
//!
//! JSON lines: a header, a line for each row, and an end that counts the rows and covers every byte before it with
//! SHA-256. What is sealed stays sealed: without the seal key the signing keys in it are worthless, and with it
//! alone nothing can be restored; keep the two apart. What control knows only of the moment (open streams, endpoints,
//! replicas) is not in it.

use std::io::{BufRead, Write};

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::StoreError;
use super::schema::{self, Engine};
use super::sql::{Purpose, RowCell, Session, Sql, Value};
use crate::time;

const FORMAT: &str = "signet store backup v1";
const PAGE: i64 = 2000;
/// Longer lines are not ours: a policy document is the largest thing in a row.
const LONGEST_LINE: usize = 16 * 1024 * 1024;

/// Every table but the operational ones, each after those that it refers to.
pub(super) const TABLES: &[&str] = &[
    "meta",
    "revision",
    "audit",
    "authority",
    "jwt_key",
    "authority_request",
    "template",
    "workload",
    "selector",
    "join_token",
    "instance",
    "certificate",
    "policy",
    "mesh_settings",
    "service",
    "revocation",
    "admin",
    "role_binding",
    "restriction",
    "rotation",
    "federation",
    "held_request",
    "held_decision",
    "revoked_proof",
    "audit_key",
    "audit_checkpoint",
    "proof_use",
    "edge",
    "outsider",
    "tally",
    "report_mark",
];
/// What is of the moment, or made anew from the rest (revocation lists, whose numbers are times). How far copies of the audit are, too: a restored store is behind them, and goes by what they
/// hold themselves, or begins again.
#[cfg(test)]
pub(super) const OPERATIONAL: &[&str] = &[
    "endpoint",
    "session",
    "replica",
    "commit_mark",
    "audit_copy",
    "issuance_count",
    "token_key",
    "jwt_count",
    "crl",
];

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    schema: u64,
    trust_domain: String,
    at: String,
    /// The newest audit event in it.
    sequence: u64,
    revision: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    rows: u64,
    sha256: String,
}

/// What was backed up, or restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows of all tables.
    pub rows: u64,
    /// The mesh.
    pub trust_domain: String,
    /// The newest revision.
    pub revision: u64,
    /// The newest audit event.
    pub sequence: u64,
    /// When the backup was taken.
    pub taken_at: String,
}

struct Table {
    name: &'static str,
    columns: Vec<String>,
    key: Vec<String>,
}

/// Writes a backup as of one commit.
pub(super) fn backup(
    session: &dyn Session,
    engine: Engine,
    to: &mut dyn Write,
) -> Result<Summary, StoreError> {
    session.begin(Purpose::Copy)?;
    let written = write_all(&Sql::new(session), engine, to);
    session.rollback();
    written
}

fn write_all(sql: &Sql<'_>, engine: Engine, to: &mut dyn Write) -> Result<Summary, StoreError> {
    let schema = schema::version(sql, engine)?
        .ok_or_else(|| StoreError::Open("there is nothing to back up: the store is empty".into()))?;
    schema::require_known(schema)?;
    let header = Header {
        format: FORMAT.into(),
        schema,
        trust_domain: sql.one("SELECT value FROM meta WHERE name = 'trust_domain'", &[])?,
        at: time::rfc3339(time::now()),
        sequence: sql.one("SELECT coalesce(max(sequence), 0) FROM audit", &[])?,
        revision: sql.one("SELECT coalesce(max(revision), 0) FROM revision", &[])?,
    };
    let mut lines = Lines { to, covered: Context::new(&SHA256) };
    lines.write(&header)?;
    let mut rows = 0;
    for name in TABLES {
        let Some(table) = Table::read(sql, engine, name)? else { continue };
        let select = format!("SELECT {} FROM {name}", table.columns.join(", "));
        let key = table.key.join(", ");
        let places: Vec<_> = (1..=table.key.len()).map(|place| format!("?{place}")).collect();
        let limit = format!("ORDER BY {key} LIMIT {PAGE}");
        let mut page = sql.rows(&format!("{select} {limit}"), &[])?;
        while let Some(last) = page.last() {
            let after: Vec<Value<'static>> = table
                .key
                .iter()
                .filter_map(|column| table.columns.iter().position(|other| other == column))
                .filter_map(|column| last.0.get(column))
                .map(parameter)
                .collect();
            for row in &page {
                let cells = row.0.iter().map(to_json);
                lines.write(&std::iter::once(Json::from(*name)).chain(cells).collect::<Vec<_>>())?;
                rows += 1;
            }
            page = sql.rows(&format!("{select} WHERE ({key}) > ({}) {limit}", places.join(", ")), &after)?;
        }
    }
    let end = End { rows, sha256: crate::hex::encode(lines.covered.clone().finish().as_ref()) };
    lines.write(&end)?;
    Ok(summary(header, rows))
}

/// Fills an empty store from a backup, all or nothing, and brings its schema up to date.
pub(super) fn restore(
    session: &dyn Session,
    engine: Engine,
    from: &mut dyn BufRead,
) -> Result<Summary, StoreError> {
    schema::transaction(session, |sql| {
        if schema::version(sql, engine)?.is_some() {
            return Err(StoreError::Open(
                "there is something in the store: restore into an empty one".into(),
            ));
        }
        let (rows, header) = read_all(session, sql, engine, from)?;
        schema::complete(session, sql, engine)?;
        Ok(summary(header, rows))
    })
}

fn read_all(
    session: &dyn Session,
    sql: &Sql<'_>,
    engine: Engine,
    from: &mut dyn BufRead,
) -> Result<(u64, Header), StoreError> {
    let mut covered = Context::new(&SHA256);
    let first = line(from)?.ok_or_else(|| broken("it is empty"))?;
    let header: Header = serde_json::from_str(&first).map_err(|_| broken("it is no backup of a store"))?;
    if header.format != FORMAT {
        return Err(broken(&format!("its format is `{}`, expected `{FORMAT}`", header.format)));
    }
    covered.update(first.as_bytes());
    schema::start(session, sql, engine, header.schema)?;
    let (mut tables, mut rows) = (Vec::new(), 0_u64);
    loop {
        let text = line(from)?.ok_or_else(|| broken("its end is missing: the file was cut"))?;
        let cells: Vec<Json> = match serde_json::from_str::<End>(&text) {
            Ok(end) => {
                let sha256 = crate::hex::encode(covered.finish().as_ref());
                return if end.rows == rows && end.sha256 == sha256 && line(from)?.is_none() {
                    Ok((rows, header))
                } else {
                    Err(broken("its checksum does not match: it was damaged or changed"))
                };
            }
            Err(_) => {
                serde_json::from_str(&text).map_err(|_| broken(&format!("row {} is damaged", rows + 1)))?
            }
        };
        covered.update(text.as_bytes());
        insert(sql, engine, &mut tables, &cells).map_err(|error| match error {
            StoreError::Damaged(why) => broken(&format!("row {}: {why}", rows + 1)),
            other => other,
        })?;
        rows += 1;
    }
}

fn insert(sql: &Sql<'_>, engine: Engine, tables: &mut Vec<Table>, cells: &[Json]) -> Result<(), StoreError> {
    let damaged = |why: &str| StoreError::Damaged(why.to_owned());
    let (name, cells) = cells.split_first().ok_or_else(|| damaged("it is empty"))?;
    let name =
        TABLES.iter().find(|known| name.as_str() == Some(known)).ok_or_else(|| damaged("unknown table"))?;
    if tables.last().is_none_or(|table| table.name != *name) {
        tables.push(Table::read(sql, engine, name)?.ok_or_else(|| damaged("unknown table"))?);
    }
    let table = tables.last().ok_or_else(|| damaged("unknown table"))?;
    if cells.len() != table.columns.len() {
        return Err(damaged("not as many columns as the table has"));
    }
    let values =
        cells.iter().map(from_json).collect::<Option<Vec<_>>>().ok_or_else(|| damaged("unknown value"))?;
    let places: Vec<_> = (1..=values.len()).map(|place| format!("?{place}")).collect();
    // The schema wrote its own rows of `meta`.
    let conflict = if *name == "meta" { "ON CONFLICT (name) DO NOTHING" } else { "" };
    sql.post(
        &format!(
            "INSERT INTO {name} ({}) VALUES ({}) {conflict}",
            table.columns.join(", "),
            places.join(", ")
        ),
        &values,
    )
}

struct Lines<'a> {
    to: &'a mut dyn Write,
    covered: Context,
}

impl Lines<'_> {
    fn write(&mut self, line: &impl Serialize) -> Result<(), StoreError> {
        let mut text = serde_json::to_string(line).map_err(|error| StoreError::Damaged(error.to_string()))?;
        text.push('\n');
        self.covered.update(text.as_bytes());
        self.to.write_all(text.as_bytes()).map_err(|error| StoreError::Io(format!("the backup: {error}")))
    }
}

/// With its end of line; `None` at the end.
fn line(from: &mut dyn BufRead) -> Result<Option<String>, StoreError> {
    let mut text = String::new();
    let read = std::io::Read::take(from, LONGEST_LINE as u64).read_line(&mut text);
    match read.map_err(|error| broken(&error.to_string()))? {
        0 => Ok(None),
        _ if text.ends_with('\n') => Ok(Some(text)),
        _ => Err(broken("its end is missing: the file was cut")),
    }
}

impl Table {
    /// Its columns and primary key; `None` in a schema that does not have it.
    fn read(sql: &Sql<'_>, engine: Engine, name: &'static str) -> Result<Option<Self>, StoreError> {
        let (columns, key) = match engine {
            Engine::Sqlite => (
                format!("SELECT name FROM pragma_table_info('{name}') ORDER BY cid"),
                format!("SELECT name FROM pragma_table_info('{name}') WHERE pk > 0 ORDER BY pk"),
            ),
            Engine::Postgres => (
                format!(
                    "SELECT CAST(column_name AS text) FROM information_schema.columns
                     WHERE table_schema = current_schema() AND table_name = '{name}' ORDER BY ordinal_position"
                ),
                format!(
                    "SELECT CAST(k.column_name AS text) FROM information_schema.table_constraints c
                     JOIN information_schema.key_column_usage k USING (constraint_schema, constraint_name)
                     WHERE c.table_schema = current_schema() AND c.table_name = '{name}'
                       AND c.constraint_type = 'PRIMARY KEY' ORDER BY k.ordinal_position"
                ),
            ),
        };
        let names = |query: &str| sql.all(query, &[], |row| row.get::<String>(0));
        let columns = names(&columns)?;
        Ok(if columns.is_empty() { None } else { Some(Self { name, columns, key: names(&key)? }) })
    }
}

fn to_json(cell: &RowCell) -> Json {
    match cell {
        RowCell::Null => Json::Null,
        RowCell::Integer(number) => Json::from(*number),
        RowCell::Text(text) => Json::from(text.as_str()),
        RowCell::Bytes(bytes) => serde_json::json!([STANDARD.encode(bytes)]),
    }
}

fn from_json(json: &Json) -> Option<Value<'static>> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Number(number) => Value::Integer(number.as_i64()?),
        Json::String(text) => Value::from(text.clone()),
        Json::Array(bytes) => match bytes.as_slice() {
            [Json::String(text)] => Value::Bytes(STANDARD.decode(text).ok()?.into()),
            _ => return None,
        },
        _ => return None,
    })
}

fn parameter(cell: &RowCell) -> Value<'static> {
    match cell {
        RowCell::Null => Value::Null,
        RowCell::Integer(number) => Value::Integer(*number),
        RowCell::Text(text) => Value::from(text.clone()),
        RowCell::Bytes(bytes) => Value::Bytes(bytes.clone().into()),
    }
}

fn summary(header: Header, rows: u64) -> Summary {
    let Header { trust_domain, at, sequence, revision, .. } = header;
    Summary { rows, trust_domain, revision, sequence, taken_at: at }
}

fn broken(why: &str) -> StoreError {
    StoreError::Open(format!("the backup cannot be used: {why}; the store is as empty as before"))
}
