//! Workloads and templates as they are registered: rows of two tables that differ in their key only.
//!
//! An identity that a template gave has a row of its own, so that it can be suspended and revoked alone; what its
//! template says is copied into it with every change of the template, but for status and `held`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::SpiffeId;

use super::StoreError;
use super::change::Change;
use super::model::{Actor, Registered, WorkloadStatus};
use super::sql::{Row, Sql, values};
use crate::registry::{Approval, Declaration, DnsName, Name, Owner, OwnerLabel, Selector, Template, Ttl};

const COLUMNS: &str = "owner, contact, purpose, environment, ttl_s, ttl_min_s, ttl_max_s, dns, status, until_ms, \
                       approval, managed_by, held, created_at_ms, revision";

/// Where names of one sort are.
struct Table {
    name: &'static str,
    key: &'static str,
    /// Where an identity's template is.
    template: &'static str,
}

const IDENTITIES: Table = Table { name: "workload", key: "spiffe_id", template: "template" };
const TEMPLATES: Table = Table { name: "template", key: "name", template: "NULL" };

impl Table {
    fn of(name: &Name) -> Self {
        match name {
            Name::Identity(_) => IDENTITIES,
            Name::Template(_) => TEMPLATES,
        }
    }
}

/// Which identities are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// Those with a registration of their own.
    Registered,
    /// Also those that a template gave.
    All,
}

/// Everything registered, by name.
pub(super) fn all(sql: &Sql<'_>, listed: Listed) -> Result<Vec<Registered>, StoreError> {
    let mut selectors: BTreeMap<String, BTreeSet<Selector>> = BTreeMap::new();
    for row in sql.rows("SELECT name, selector FROM selector", &[])? {
        selectors.entry(row.get(0)?).or_default().insert(row.parsed(1)?);
    }
    let mut found = Vec::new();
    for (table, only) in [(IDENTITIES, listed), (TEMPLATES, Listed::All)] {
        let own = if only == Listed::Registered { "WHERE template IS NULL" } else { "" };
        let Table { name, key, template } = table;
        let rows = sql.rows(&format!("SELECT {key}, {template}, {COLUMNS} FROM {name} {own}"), &[])?;
        for row in rows {
            let key: String = row.get(0)?;
            found.push(registered(&row, selectors.remove(&key).unwrap_or_default())?);
        }
    }
    found.sort_by(|a, b| a.declaration.name.as_str().cmp(b.declaration.name.as_str()));
    Ok(found)
}

/// One of them, with or without a registration of its own.
pub(super) fn find(sql: &Sql<'_>, wanted: &Name) -> Result<Option<Registered>, StoreError> {
    let Some(mut found) = find_alone(sql, wanted)? else { return Ok(None) };
    let query = "SELECT selector FROM selector WHERE name = ?1";
    let selectors = sql.all(query, values![wanted.as_str()], |row| row.parsed(0))?;
    found.declaration.selectors = selectors.into_iter().collect();
    Ok(Some(found))
}

/// The same without its selectors, for whoever does not ask what proves it.
pub(super) fn find_alone(sql: &Sql<'_>, wanted: &Name) -> Result<Option<Registered>, StoreError> {
    let Table { name, key, template } = Table::of(wanted);
    let query = format!("SELECT {key}, {template}, {COLUMNS} FROM {name} WHERE {key} = ?1");
    let row = sql.row(&query, values![wanted.as_str()])?;
    row.map(|row| registered(&row, BTreeSet::new())).transpose()
}

pub(super) fn require(sql: &Sql<'_>, name: &Name) -> Result<Registered, StoreError> {
    find(sql, name)?.ok_or_else(|| StoreError::missing("workload", name.as_str()))
}

/// Writes a registration, whether or not it is there; `held` says whether a suspension is by hand.
pub(super) fn write(
    change: &Change<'_>,
    declaration: &Declaration,
    managed_by: Option<&OwnerLabel>,
    held: bool,
    revision: u64,
) -> Result<(), StoreError> {
    let Table { name, key, .. } = Table::of(&declaration.name);
    // What has a registration of its own is not a template's any more.
    let own = if name == IDENTITIES.name { ", template = NULL" } else { "" };
    let statement = format!(
        "INSERT INTO {name} ({key}, {COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
         ON CONFLICT ({key}) DO UPDATE SET owner = excluded.owner, contact = excluded.contact,
           purpose = excluded.purpose, environment = excluded.environment, ttl_s = excluded.ttl_s,
           ttl_min_s = excluded.ttl_min_s, ttl_max_s = excluded.ttl_max_s, dns = excluded.dns,
           status = excluded.status, until_ms = excluded.until_ms, approval = excluded.approval,
           managed_by = excluded.managed_by, held = excluded.held, revision = excluded.revision{own}"
    );
    let Declaration { name, owner, purpose, environment, selectors, ttl, dns, status, until, approval } =
        declaration;
    let seconds = |life: Option<Duration>| life.map(|life| life.as_secs());
    change.sql.post(
        &statement,
        values![
            name.as_str(),
            &owner.team,
            owner.contact.as_deref().unwrap_or_default(),
            purpose,
            environment.as_deref().unwrap_or_default(),
            seconds(ttl.default).unwrap_or_default(),
            seconds(ttl.min),
            seconds(ttl.max),
            lines(dns),
            status.as_str(),
            *until,
            approval.as_str(),
            managed_by.map(OwnerLabel::as_str).unwrap_or_default(),
            held,
            change.at,
            revision
        ],
    )?;
    if let Name::Template(template) = name {
        hand_down(change, template)?;
    }
    write_selectors(change, name, selectors)
}

/// Remembers who said last what proves these identities, and who has to agree.
pub(super) fn declare(change: &Change<'_>, name: &Name, actor: &Actor) -> Result<(), StoreError> {
    let Table { name: table, key, .. } = Table::of(name);
    change.sql.post(
        &format!("UPDATE {table} SET declared_by = ?2 WHERE {key} = ?1"),
        values![name.as_str(), actor.as_str()],
    )
}

/// Who that was; empty: nobody knows.
pub(super) fn declared_by(sql: &Sql<'_>, name: &Name) -> Result<String, StoreError> {
    let Table { name: table, key, .. } = Table::of(name);
    let query = format!("SELECT declared_by FROM {table} WHERE {key} = ?1");
    Ok(sql.find(&query, values![name.as_str()], |row| row.get(0))?.unwrap_or_default())
}

fn write_selectors(
    change: &Change<'_>,
    name: &Name,
    selectors: &BTreeSet<Selector>,
) -> Result<(), StoreError> {
    change.sql.post("DELETE FROM selector WHERE name = ?1", values![name.as_str()])?;
    for selector in selectors {
        change.sql.post(
            "INSERT INTO selector (name, selector) VALUES (?1, ?2)",
            values![name.as_str(), selector.to_string()],
        )?;
    }
    Ok(())
}

/// Copies what a template says into the identities that it gave.
fn hand_down(change: &Change<'_>, template: &Template) -> Result<(), StoreError> {
    const COPIED: [&str; 11] = [
        "owner",
        "contact",
        "purpose",
        "environment",
        "ttl_s",
        "ttl_min_s",
        "ttl_max_s",
        "dns",
        "until_ms",
        "approval",
        "managed_by",
    ];
    let copied: Vec<String> = COPIED
        .iter()
        .map(|column| format!("{column} = (SELECT t.{column} FROM template t WHERE t.name = ?1)"))
        .collect();
    let statement = format!("UPDATE workload SET {} WHERE template = ?1", copied.join(", "));
    change.sql.post(&statement, values![template.as_str()])
}

/// Makes the row of an identity that an active template gives for the first time.
pub(super) fn derive(
    change: &Change<'_>,
    id: &SpiffeId,
    template: &Template,
    revision: u64,
) -> Result<(), StoreError> {
    change.sql.post(
        "INSERT INTO workload (spiffe_id, owner, contact, purpose, environment, ttl_s, ttl_min_s, ttl_max_s, dns,
                               status, until_ms, approval, managed_by, held, created_at_ms, revision, template)
         SELECT CAST(?2 AS TEXT), owner, contact, purpose, environment, ttl_s, ttl_min_s, ttl_max_s, dns,
                'active', until_ms, approval, managed_by, 0, CAST(?3 AS BIGINT), CAST(?4 AS BIGINT), name
         FROM template WHERE name = ?1",
        values![template.as_str(), id.as_str(), change.at, revision],
    )
}

/// How many identities a template gave.
pub(super) fn count_given(sql: &Sql<'_>, template: &Template) -> Result<u64, StoreError> {
    sql.one("SELECT count(*) FROM workload WHERE template = ?1", values![template.as_str()])
}

/// Identities that a template gave: name, status, and whether that is by hand.
pub(super) fn given(
    sql: &Sql<'_>,
    template: &Template,
) -> Result<Vec<(SpiffeId, WorkloadStatus, bool)>, StoreError> {
    sql.all(
        "SELECT spiffe_id, status, held FROM workload WHERE template = ?1 ORDER BY spiffe_id",
        values![template.as_str()],
        |row| Ok((row.parsed(0)?, row.parsed(1)?, row.get(2)?)),
    )
}

pub(super) fn write_status(
    change: &Change<'_>,
    name: &Name,
    status: WorkloadStatus,
    held: bool,
    revision: u64,
) -> Result<(), StoreError> {
    let Table { name: table, key, .. } = Table::of(name);
    change.sql.post(
        &format!("UPDATE {table} SET status = ?2, held = ?3, revision = ?4 WHERE {key} = ?1"),
        values![name.as_str(), status.as_str(), held, revision],
    )
}

fn registered(row: &Row, selectors: BTreeSet<Selector>) -> Result<Registered, StoreError> {
    let name: Name = row.parsed(0)?;
    let template: Option<Template> = match row.get::<Option<String>>(1)? {
        Some(_) => Some(row.parsed(1)?),
        None => None,
    };
    let life = |column: usize| Ok::<_, StoreError>(row.get::<Option<u64>>(column)?.map(Duration::from_secs));
    let managed_by = said(row.get(13)?).map(|label| label.parse()).transpose();
    Ok(Registered {
        declaration: Declaration {
            dns: dns(&name, template.as_ref(), &row.get::<String>(9)?)?,
            name,
            owner: Owner { team: row.get(2)?, contact: said(row.get(3)?) },
            purpose: row.get(4)?,
            environment: said(row.get(5)?),
            selectors,
            ttl: Ttl { default: life(6)?, min: life(7)?, max: life(8)? },
            status: row.parsed(10)?,
            until: row.get::<Option<SystemTime>>(11)?,
            approval: row.parsed::<Approval>(12)?,
        },
        template,
        managed_by: managed_by.map_err(|error| StoreError::Damaged(format!("ownership label: {error}")))?,
        held: row.get(14)?,
        created_at: row.get(15)?,
        revision: row.get(16)?,
    })
}

/// The DNS names of a row; of an identity that a template gave, with its values filled in.
fn dns(name: &Name, template: Option<&Template>, text: &str) -> Result<BTreeSet<DnsName>, StoreError> {
    let damaged = |error: &dyn std::fmt::Display| StoreError::Damaged(format!("`{name}`: dns: {error}"));
    let names: BTreeSet<DnsName> =
        text.lines().map(str::parse).collect::<Result<_, _>>().map_err(|error| damaged(&error))?;
    match name {
        Name::Identity(id) => filled(id, template, names),
        Name::Template(_) => Ok(names),
    }
}

/// The names of an identity; of one that a template gives, with its values filled in.
pub(super) fn filled(
    id: &SpiffeId,
    template: Option<&Template>,
    names: BTreeSet<DnsName>,
) -> Result<BTreeSet<DnsName>, StoreError> {
    let Some(template) = template else { return Ok(names) };
    let strange = || StoreError::Damaged(format!("`{id}`: its template does not give it"));
    let values = template.values_of(id).ok_or_else(strange)?;
    // A name that a later change of the template cannot fill here is one that this identity does not have.
    Ok(names.iter().filter_map(|name| name.fill(&values).ok()?.parse().ok()).collect())
}

fn said(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn lines<T: ToString>(items: &BTreeSet<T>) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
