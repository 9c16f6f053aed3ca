//! What operators ask for on a subtree, beyond what each workload declares: approval of new instances, and a freeze
//! of issuance. A handful of rows, looked up with the commit of every issuance that they may concern.

use std::str::FromStr;
use std::time::SystemTime;

use serde_json::json;
use signet_proto::policy::Pattern;
use signet_proto::spiffe::SpiffeId;

use super::mesh::Topics;
use super::model::{Mutation, UnknownWord};
use super::sql::{Row, Sql, values};
use super::{Refusal, Store, StoreError};
use crate::audit::Action;
use crate::registry::Approval;
use crate::roles::{Permission, Scope};

/// They are looked through at every first issuance.
const MOST: u64 = 256;

/// Rows that concern the identity `?1`.
pub(super) const CONCERNS: &str = "((below = 1 AND substr(CAST(?1 AS TEXT), 1, length(prefix)) = prefix)
                         OR (below = 0 AND prefix = CAST(?1 AS TEXT)))";

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restriction {
    /// Each new instance needs as many approvers at least.
    Approval(Approval),
    /// Nothing is issued.
    Freeze(Freeze),
}

/// What is not issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// No SVID for new instances.
    New,
    /// None at all: what runs ends with its SVIDs.
    All,
}

impl Freeze {
    fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::All => "all",
        }
    }
}

impl FromStr for Freeze {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        match text {
            "new" => Ok(Self::New),
            "all" => Ok(Self::All),
            other => Err(UnknownWord(other.to_owned())),
        }
    }
}

/// A restriction, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restricted {
    /// Whom it concerns.
    pub scope: Scope,
    /// What it is.
    pub restriction: Restriction,
    /// Why.
    pub reason: String,
    /// By whom.
    pub set_by: String,
    /// Since when.
    pub set_at: SystemTime,
}

/// Kinds of restrictions: one of each on a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Restriction::Approval`].
    Approval,
    /// [`Restriction::Freeze`].
    Freeze,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Approval => "approval",
            Self::Freeze => "freeze",
        }
    }

    /// In words, before the scope.
    fn told(self) -> &'static str {
        match self {
            Self::Approval => "rule about approval on",
            Self::Freeze => "freeze on",
        }
    }
}

impl Restricted {
    /// Where and why nothing is issued, in words; none if this is no freeze.
    #[must_use]
    pub fn frozen(&self) -> Option<String> {
        let what = match self.restriction {
            Restriction::Approval(_) => return None,
            Restriction::Freeze(Freeze::New) => "to new instances",
            Restriction::Freeze(Freeze::All) => "to anyone",
        };
        Some(format!("nothing is issued {what} on {}: {}", self.scope, self.reason))
    }
}

impl Restriction {
    fn kind(self) -> Kind {
        match self {
            Self::Approval(_) => Kind::Approval,
            Self::Freeze(_) => Kind::Freeze,
        }
    }

    fn value(self) -> &'static str {
        match self {
            Self::Approval(approval) => approval.as_str(),
            Self::Freeze(freeze) => freeze.as_str(),
        }
    }

    fn effect(self, on: &Scope) -> String {
        match self {
            Self::Approval(Approval::Two) => format!("new instances on {on} need two approvers"),
            Self::Approval(_) => format!("new instances on {on} need an approver"),
            Self::Freeze(Freeze::New) => format!("new instances on {on} get no SVID; renewals go on"),
            Self::Freeze(Freeze::All) => {
                format!("nobody on {on} gets an SVID: what runs there ends with the SVIDs that it has")
            }
        }
    }
}

impl Store {
    /// Sets a restriction, in place of one of its kind on the same scope.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`]; [`Refusal::TooManyRestrictions`].
    pub async fn restrict(
        &self,
        scope: Scope,
        restriction: Restriction,
        reason: String,
        permission: impl Permission,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let actor = permission.on(&scope)?;
            let (kind, on) = (restriction.kind(), scope.to_string());
            let others = change.sql.one::<u64>(
                "SELECT count(*) FROM restriction WHERE NOT (kind = ?1 AND scope = ?2)",
                values![kind.as_str(), &on],
            )?;
            if others >= MOST {
                return Err(Refusal::TooManyRestrictions.into());
            }
            let (prefix, below) = prefix(&scope);
            change.sql.post(
                "INSERT INTO restriction (kind, scope, prefix, below, value, reason, set_by, set_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (kind, scope) DO UPDATE SET value = excluded.value, reason = excluded.reason,
                   set_by = excluded.set_by, set_at_ms = excluded.set_at_ms",
                values![
                    kind.as_str(),
                    &on,
                    prefix,
                    below,
                    restriction.value(),
                    &reason,
                    actor.as_str(),
                    change.at
                ],
            )?;
            let action = match kind {
                Kind::Approval => Action::ApprovalRequired,
                Kind::Freeze => Action::IssuanceFrozen,
            };
            let detail = json!({ "value": restriction.value(), "reason": reason });
            change.audit(&actor, action, &on, &detail)?;
            let commit = change.revise(Topics::NONE, &on)?;
            Ok(Mutation { commit, effects: vec![restriction.effect(&scope)] })
        })
        .await
    }

    /// Lifts the restriction of this kind on just this scope.
    ///
    /// # Errors
    /// [`StoreError::NotPermitted`]; [`StoreError::NotFound`].
    pub async fn lift(
        &self,
        scope: Scope,
        kind: Kind,
        reason: String,
        permission: impl Permission,
    ) -> Result<Mutation, StoreError> {
        self.write(move |change| {
            let actor = permission.on(&scope)?;
            let on = scope.to_string();
            let lifted = change.sql.execute(
                "DELETE FROM restriction WHERE kind = ?1 AND scope = ?2",
                values![kind.as_str(), &on],
            )?;
            if lifted == 0 {
                return Err(StoreError::missing(kind.told(), &on));
            }
            let action = match kind {
                Kind::Approval => Action::ApprovalNotRequired,
                Kind::Freeze => Action::IssuanceUnfrozen,
            };
            change.audit(&actor, action, &on, &json!({ "reason": reason }))?;
            let commit = change.revise(Topics::NONE, &on)?;
            let gone = format!("there is no {} {on} any more", kind.told());
            let effect = match wider(&change.sql, kind, &scope)? {
                None => gone,
                Some(left) => format!("{gone}; the one on {left} goes on"),
            };
            Ok(Mutation { commit, effects: vec![effect] })
        })
        .await
    }

    /// All of them, by scope.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn restrictions(&self) -> Result<Vec<Restricted>, StoreError> {
        self.read(all).await
    }
}

fn all(sql: &Sql<'_>) -> Result<Vec<Restricted>, StoreError> {
    sql.all(
        "SELECT kind, value, scope, reason, set_by, set_at_ms FROM restriction ORDER BY scope, kind",
        &[],
        |row| {
            Ok(Restricted {
                restriction: restriction(row)?,
                scope: row.parsed(2)?,
                reason: row.get(3)?,
                set_by: row.get(4)?,
                set_at: row.get(5)?,
            })
        },
    )
}

/// What concerns one identity.
#[derive(Debug, Default)]
pub(super) struct InForce {
    /// The strictest rule about approval.
    pub(super) approval: Approval,
    /// The hardest freeze: where it is, and why.
    frozen: Option<(Freeze, String, String)>,
}

impl InForce {
    pub(super) fn of(sql: &Sql<'_>, id: &SpiffeId) -> Result<Self, StoreError> {
        let query =
            format!("SELECT kind, value, scope, reason FROM restriction WHERE {CONCERNS} ORDER BY scope");
        let mut found = Self::default();
        for row in sql.rows(&query, values![id.as_str()])? {
            match restriction(&row)? {
                Restriction::Approval(approval) => found.approval = found.approval.max(approval),
                Restriction::Freeze(freeze) => {
                    if freeze == Freeze::All || found.frozen.is_none() {
                        found.frozen = Some((freeze, row.get(2)?, row.get(3)?));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// A new instance may get an SVID.
pub(super) fn require_not_frozen(sql: &Sql<'_>, id: &SpiffeId) -> Result<(), StoreError> {
    match InForce::of(sql, id)?.frozen {
        None => Ok(()),
        Some((_, scope, reason)) => Err(Refusal::Frozen { scope, reason }.into()),
    }
}

fn restriction(row: &Row) -> Result<Restriction, StoreError> {
    match row.get::<String>(0)?.as_str() {
        "approval" => Ok(Restriction::Approval(row.parsed(1)?)),
        "freeze" => Ok(Restriction::Freeze(row.parsed(1)?)),
        other => Err(StoreError::Damaged(format!("restriction `{other}`"))),
    }
}

/// How an identity that the scope covers begins; or, without anything below, what it is.
pub(super) fn prefix(scope: &Scope) -> (String, bool) {
    match scope {
        Scope::Everything => (String::new(), true),
        Scope::Of(Pattern::Exact(id)) => (id.to_string(), false),
        Scope::Of(Pattern::Subtree(subtree)) => (format!("{}/", subtree.root()), true),
    }
}

/// Another one that covers all of `scope`.
fn wider(sql: &Sql<'_>, kind: Kind, scope: &Scope) -> Result<Option<Scope>, StoreError> {
    let others = all(sql)?.into_iter().filter(|other| other.restriction.kind() == kind);
    Ok(others.map(|other| other.scope).find(|other| other.covers(scope)))
}
