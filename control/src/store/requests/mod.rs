//! Requests that are held: a new instance whose workload, or a rule on its subtree, wants people to agree.
//!
//! ```text
//!   attest: proof believed, nobody agreed yet ──▶ rolled back (its join token stays unspent)
//!                                             └─▶ hold: recorded as pending, in a commit of its own
//!   approve, deny: bound to the signing request by its hash; never by who asks, or had a part in it
//!   attest again, the same signing request ──▶ admit: approved by as many as it takes now ──▶ issued, used
//! ```
//!
//! Invariants: an approval is good for one signing request of one identity, once; what it takes is what the workload
//! and the rules say in the commit of the issuance, not what they said when it was asked for.

mod decide;
mod hold;
mod independence;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::SpiffeId;

use super::model::UnknownWord;
use super::sql::{Row, Sql, Value, values};
use super::{Store, StoreError};
use crate::registry::Name;

pub use decide::Verdict;
pub use hold::NewRequest;
pub(super) use hold::{Approved, admit, excuse, expire_all_of, expire_all_with_tokens, holds, use_up};
pub use independence::Part;

/// The longest that a request may wait: records of join tokens are kept as long.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// More than this is not for one answer.
const LIMIT: u32 = 10_000;

/// The name of a request: 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeldId([u8; 8]);

/// Not the name of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the id of a request, 16 hex digits as `signet requests list` shows it; found `{0}`")]
pub struct HeldIdError(String);

impl HeldId {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes)
            .map_err(|_| StoreError::Io("the system has no randomness to give".into()))?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for HeldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.0))
    }
}

impl FromStr for HeldId {
    type Err = HeldIdError;

    fn from_str(text: &str) -> Result<Self, HeldIdError> {
        let bytes = crate::hex::decode(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| HeldIdError(text.chars().take(64).collect()))
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// Nobody, or not everybody, has agreed.
    Pending,
    /// It is issued when it is asked for again.
    Approved,
    /// For good.
    Denied,
    /// Its time is over, or its workload's.
    Expired,
    /// Its instance has its SVID.
    Used,
}

impl HeldState {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Used => "used",
        }
    }
}

impl FromStr for HeldState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "pending" => Ok(Self::Pending),
            "approved" => Ok(Self::Approved),
            "denied" => Ok(Self::Denied),
            "expired" => Ok(Self::Expired),
            "used" => Ok(Self::Used),
            other => Err(UnknownWord(other.to_owned())),
        }
    }
}

/// What one person decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Who.
    pub actor: String,
    /// What.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

/// A request that is or was held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRequest {
    /// Its name.
    pub id: HeldId,
    /// Who it wants to be.
    pub spiffe_id: SpiffeId,
    /// The workload or template by which it asks.
    pub registration: Name,
    /// SHA-256 of the signing request: what is approved.
    pub csr_sha256: [u8; 32],
    /// SHA-256 of its public key.
    pub spki_sha256: [u8; 32],
    /// `join_token`, or the attestor.
    pub proof: String,
    /// JSON: what the proof says.
    pub evidence: String,
    /// From where it was asked.
    pub address: String,
    /// Version of the program that asked.
    pub version: String,
    /// Who made the join token that it came with.
    pub token_by: Option<String>,
    /// What became of it.
    pub state: HeldState,
    /// How many approvals it takes.
    pub needed: u32,
    /// By time.
    pub decisions: Vec<Decision>,
    /// When it was asked for first.
    pub created_at: SystemTime,
    /// Until when it can be approved and used.
    pub expires_at: SystemTime,
}

impl HeldRequest {
    /// Those who approved, by time.
    pub fn approvers(&self) -> impl Iterator<Item = &str> {
        let approved = self.decisions.iter().filter(|decision| decision.verdict == Verdict::Approve);
        approved.map(|decision| decision.actor.as_str())
    }
}

impl Store {
    /// Requests, the newest first: of one identity or all; with `ended`, also those that are over.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn held_requests(
        &self,
        id: Option<SpiffeId>,
        ended: bool,
    ) -> Result<Vec<HeldRequest>, StoreError> {
        self.read(move |sql| {
            let clause = "(CAST(?1 AS TEXT) IS NULL OR spiffe_id = ?1)
                          AND (?2 = 1 OR state IN ('pending', 'approved'))
                          ORDER BY created_at_ms DESC, id LIMIT ?3";
            find_all(sql, clause, values![id.as_ref().map(SpiffeId::as_str), ended, LIMIT])
        })
        .await
    }

    /// One request.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn held_request(&self, id: HeldId) -> Result<HeldRequest, StoreError> {
        self.read(move |sql| require(sql, id)).await
    }

    /// How many wait.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn count_pending(&self) -> Result<u64, StoreError> {
        self.read(|sql| sql.one("SELECT count(*) FROM held_request WHERE state = 'pending'", &[])).await
    }
}

fn require(sql: &Sql<'_>, id: HeldId) -> Result<HeldRequest, StoreError> {
    let name = id.to_string();
    find(sql, "id = ?1", values![&name])?.ok_or_else(|| StoreError::missing("request", &name))
}

fn find(sql: &Sql<'_>, clause: &str, values: &[Value<'_>]) -> Result<Option<HeldRequest>, StoreError> {
    Ok(find_all(sql, clause, values)?.into_iter().next())
}

fn find_all(sql: &Sql<'_>, clause: &str, values: &[Value<'_>]) -> Result<Vec<HeldRequest>, StoreError> {
    let query = format!(
        "SELECT id, spiffe_id, registration, csr_sha256, spki_sha256, proof, evidence, address, version, token_by,
                state, needed, created_at_ms, expires_at_ms FROM held_request WHERE {clause}"
    );
    let mut found: Vec<HeldRequest> = sql.all(&query, values, request)?;
    for request in &mut found {
        request.decisions = sql.all(
            "SELECT actor, verdict, reason, at_ms FROM held_decision WHERE request = ?1 ORDER BY at_ms, actor",
            values![request.id.to_string()],
            |row| {
                Ok(Decision {
                    actor: row.get(0)?,
                    verdict: row.parsed(1)?,
                    reason: row.get(2)?,
                    at: row.get(3)?,
                })
            },
        )?;
    }
    Ok(found)
}

fn request(row: &Row) -> Result<HeldRequest, StoreError> {
    Ok(HeldRequest {
        id: row.parsed(0)?,
        spiffe_id: row.parsed(1)?,
        registration: row.parsed(2)?,
        csr_sha256: row.get(3)?,
        spki_sha256: row.get(4)?,
        proof: row.get(5)?,
        evidence: row.get(6)?,
        address: row.get(7)?,
        version: row.get(8)?,
        token_by: row.get(9)?,
        state: row.parsed(10)?,
        needed: row.get(11)?,
        decisions: Vec::new(),
        created_at: row.get(12)?,
        expires_at: row.get(13)?,
    })
}
