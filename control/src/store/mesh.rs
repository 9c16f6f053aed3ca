//! The revision log, and what proxies see at its end.

use std::time::SystemTime;

use signet_proto::policy::Pattern;
use signet_proto::spiffe::SpiffeId;

use super::model::{Commit, MeshRead, NewService};
use super::sql::{Sql, values};
use super::{Store, StoreError, bundle, policies, revocations, rotations, services, settings};
use crate::time;

/// Which parts of the mesh's view a revision changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Topics(u8);

impl Topics {
    /// The trust bundle.
    pub const BUNDLE: Self = Self(1);
    /// Policy documents.
    pub const POLICIES: Self = Self(2);
    /// Revocations.
    pub const REVOCATIONS: Self = Self(4);
    /// The settings of the mesh.
    pub const MESH: Self = Self(8);
    /// Documents of services.
    pub const SERVICES: Self = Self(16);
    /// Orders to renew.
    pub const ROTATIONS: Self = Self(32);
    /// All of it.
    pub const ALL: Self = Self(63);
    /// A change that proxies do not see.
    pub const NONE: Self = Self(0);

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it includes all of `other`.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub(super) fn bits(self) -> i64 {
        i64::from(self.0)
    }

    fn from_bits(bits: i64) -> Self {
        // What a later version adds is something that this one does not serve.
        Self(u8::try_from(bits & Self::ALL.bits()).unwrap_or(Self::ALL.0))
    }
}

impl Store {
    /// What changed for proxies after the commit `known`, as of one commit; everything if `known` is `None`, longer
    /// ago than the log reaches back, or not of this store's history.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn mesh_since(&self, known: Option<Commit>) -> Result<MeshRead, StoreError> {
        self.read(move |sql| {
            let commit = newest(sql)?;
            let went_back = known.map(|known| is_of_another_history(sql, known, commit)).transpose()?;
            let went_back = went_back.unwrap_or(false);
            let topics = match known.filter(|_| !went_back) {
                Some(known) => changed_since(sql, known.revision, commit.revision)?,
                None => Topics::ALL,
            };
            Ok(MeshRead {
                commit,
                went_back,
                bundle: topics.has(Topics::BUNDLE).then(|| bundle::read(sql)).transpose()?,
                policies: topics.has(Topics::POLICIES).then(|| policies::all(sql)).transpose()?,
                revocations: topics.has(Topics::REVOCATIONS).then(|| revocations::all(sql)).transpose()?,
                settings: topics.has(Topics::MESH).then(|| settings_document(sql)).transpose()?,
                services: topics.has(Topics::SERVICES).then(|| service_documents(sql)).transpose()?,
                rotations: topics.has(Topics::ROTATIONS).then(|| rotations::all(sql)).transpose()?,
            })
        })
        .await
    }
}

/// Whom a revision concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// Every proxy; also when it is so long ago that nobody knows.
    Everyone,
    /// Those that one of these matches.
    Targets(Vec<Pattern>),
}

impl Concern {
    /// Whether this identity's proxies.
    #[must_use]
    pub fn includes(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Everyone => true,
            Self::Targets(patterns) => patterns.iter().any(|pattern| pattern.matches(id)),
        }
    }
}

impl Store {
    /// Whom a revision concerns.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn concern(&self, revision: u64) -> Result<Concern, StoreError> {
        self.read(move |sql| {
            let found: Option<(i64, Option<String>)> = sql.find(
                "SELECT topics, targets FROM revision WHERE revision = ?1",
                values![revision],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let Some((topics, targets)) = found else { return Ok(Concern::Everyone) };
            if Topics::from_bits(topics).is_none() {
                return Ok(Concern::Targets(Vec::new()));
            }
            let patterns = targets.map(|targets| targets.lines().map(str::parse).collect());
            Ok(match patterns {
                Some(Ok(patterns)) => Concern::Targets(patterns),
                _ => Concern::Everyone,
            })
        })
        .await
    }
}

/// Revision 0 before the first one.
pub(super) fn newest(sql: &Sql<'_>) -> Result<Commit, StoreError> {
    let newest = sql.row("SELECT revision, at_ms FROM revision ORDER BY revision DESC LIMIT 1", &[])?;
    match newest {
        Some(row) => Ok(Commit { revision: row.get(0)?, at: row.get(1)? }),
        None => Ok(Commit { revision: 0, at: time::from_millis(0) }),
    }
}

/// Whether the store never had `known`, or has it no longer though it was not pruned: it is a copy that lagged, or was
/// restored, and revisions mean something else from there on.
fn is_of_another_history(sql: &Sql<'_>, known: Commit, newest: Commit) -> Result<bool, StoreError> {
    if known.revision == 0 || known == newest {
        return Ok(false);
    }
    if known.revision >= newest.revision {
        return Ok(true);
    }
    let row = sql.row("SELECT at_ms FROM revision WHERE revision = ?1", values![known.revision])?;
    row.map(|row| Ok(row.get::<SystemTime>(0)? != known.at)).unwrap_or(Ok(false))
}

/// The log has no gaps: if not every revision after `known` is there, some were pruned, and all counts as
/// changed.
fn changed_since(sql: &Sql<'_>, known: u64, newest: u64) -> Result<Topics, StoreError> {
    let found = sql.rows("SELECT topics FROM revision WHERE revision > ?1", values![known])?;
    let (mut topics, mut count) = (Topics::NONE, 0);
    for row in found {
        topics = topics.with(Topics::from_bits(row.get(0)?));
        count += 1;
    }
    Ok(if count == newest.saturating_sub(known) { topics } else { Topics::ALL })
}

fn service_documents(sql: &Sql<'_>) -> Result<Vec<NewService>, StoreError> {
    Ok(services::all(sql)?.into_iter().map(|managed| managed.service).collect())
}

fn settings_document(sql: &Sql<'_>) -> Result<String, StoreError> {
    Ok(settings::read(sql)?.map(|managed| managed.document).unwrap_or_default())
}
