//! What decides an issuance: read in its commit by one query, then judged without the store. So whatever has to be
//! known costs one question, and every refusal comes before the first change.

use std::time::SystemTime;

use signet_proto::spiffe::{InstanceId, SpiffeId};

use super::authorities::SIGNER;
use super::model::{Issuance, WorkloadStatus};
use super::quota::Issued;
use super::restrictions::{CONCERNS, Freeze};
use super::revocations::certificate_name;
use super::sql::{Row, Sql, Value};
use super::tokens::{self, Found};
use super::{Refusal, StoreError};
use crate::registry::Approval;

/// Issuer and serial of the certificates that somebody presented.
pub(super) type Presented = [([u8; 32], Vec<u8>)];

/// What is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) id: &'a SpiffeId,
    /// The instance that renews, is succeeded, or asks again.
    pub(super) instance: &'a InstanceId,
    /// The key to be certified.
    pub(super) spki_sha256: &'a [u8; 32],
    pub(super) presented: &'a Presented,
    /// Of a join token.
    pub(super) secret_sha256: Option<&'a [u8; 32]>,
    /// What signed it.
    pub(super) authority: &'a str,
    /// Of a proof of another kind.
    pub(super) proof_sha256: Option<&'a [u8; 32]>,
}

/// What the store says about it.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    workload: Option<Workload>,
    /// Status of the instance of this identity, and when its newest SVID ends.
    instance: Option<(String, SystemTime)>,
    certificate_is_listed: bool,
    key: Key,
    token: Option<Found>,
    /// The strictest rule about approval on a subtree that it is in.
    rule: Approval,
    /// What is frozen, at the hardest.
    freeze: Option<Freeze>,
    /// An instance that it gave was revoked.
    proof_is_revoked: bool,
    /// What the identity got in its newest hour.
    issued: Option<Issued>,
    /// What signed it is believed.
    signer_is_good: bool,
}

#[derive(Debug, Clone)]
struct Workload {
    status: WorkloadStatus,
    until: Option<SystemTime>,
    approval: Approval,
}

#[derive(Debug, Clone, Copy, Default)]
struct Key {
    is_listed: bool,
    was_of_another_identity: bool,
    was_of_a_revoked_instance: bool,
}

/// An instance that may renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Live,
    /// By a clock that was ahead: its newest SVID has not ended.
    TakenForLapsed,
}

impl<'a> Asked<'a> {
    /// Without proof.
    pub(super) fn about(issuance: &'a Issuance, instance: &'a InstanceId) -> Self {
        let Issuance { spiffe_id: id, spki_sha256, authority, .. } = issuance;
        Self { id, instance, spki_sha256, authority, presented: &[], secret_sha256: None, proof_sha256: None }
    }
}

impl Facts {
    pub(super) fn read(sql: &Sql<'_>, asked: &Asked<'_>) -> Result<Self, StoreError> {
        let mut values = vec![
            Value::from(asked.id.as_str()),
            Value::from(asked.instance.to_string()),
            Value::from(asked.spki_sha256),
            Value::from(crate::hex::encode(asked.spki_sha256)),
            Value::from(asked.secret_sha256),
            Value::from(asked.proof_sha256),
            Value::from(asked.authority),
        ];
        let mut places = String::from("NULL");
        for (issuer_sha256, serial) in asked.presented {
            values.push(Value::from(certificate_name(issuer_sha256, serial)));
            places.push_str(&format!(", ?{}", values.len()));
        }
        let token = tokens::COLUMNS;
        let query = format!(
            "SELECT w.status, w.until_ms, w.approval, i.status, i.not_after_ms,
                    EXISTS (SELECT 1 FROM revocation WHERE kind = 'certificate' AND name IN ({places})),
                    EXISTS (SELECT 1 FROM revocation WHERE kind = 'key' AND name = ?4),
                    EXISTS (SELECT 1 FROM certificate WHERE spki_sha256 = ?3 AND spiffe_id <> ?1),
                    EXISTS (SELECT 1 FROM certificate c JOIN instance o ON o.id = c.instance
                            WHERE c.spki_sha256 = ?3 AND o.status = 'revoked'),
                    (SELECT max(value) FROM restriction WHERE kind = 'approval' AND {CONCERNS}),
                    (SELECT min(value) FROM restriction WHERE kind = 'freeze' AND {CONCERNS}),
                    EXISTS (SELECT 1 FROM revoked_proof WHERE proof_sha256 = ?6),
                    q.since_ms, q.issued,
                    EXISTS (SELECT 1 FROM authority WHERE id = ?7 AND {SIGNER}),
                    t.*
             FROM (SELECT 1) AS asked
             LEFT JOIN workload w ON w.spiffe_id = ?1
             LEFT JOIN instance i ON i.id = ?2 AND i.spiffe_id = ?1
             LEFT JOIN issuance_count q ON q.spiffe_id = ?1
             LEFT JOIN (SELECT {token} FROM join_token WHERE secret_sha256 = ?5) AS t ON 1 = 1"
        );
        let row = sql.row(&query, &values)?;
        Self::of(&row.ok_or_else(|| StoreError::Damaged("a question without an answer".into()))?)
    }

    fn of(row: &Row) -> Result<Self, StoreError> {
        let workload = match row.get::<Option<String>>(0)? {
            Some(_) => {
                Some(Workload { status: row.parsed(0)?, until: row.get(1)?, approval: row.parsed(2)? })
            }
            None => None,
        };
        let instance = match row.get(3)? {
            Some(status) => Some((status, row.get(4)?)),
            None => None,
        };
        // `one` is less than `two`.
        let rule = match row.get::<Option<String>>(9)? {
            Some(_) => row.parsed(9)?,
            None => Approval::None,
        };
        // `all` is less than `new`.
        let freeze = match row.get::<Option<String>>(10)? {
            Some(_) => Some(row.parsed(10)?),
            None => None,
        };
        let issued = match row.get(12)? {
            Some(since) => Some(Issued { since, count: row.get(13)? }),
            None => None,
        };
        let token = match row.get::<Option<String>>(15)? {
            Some(_) => Some(Found::read(row, 15)?),
            None => None,
        };
        Ok(Self {
            workload,
            instance,
            certificate_is_listed: row.get(5)?,
            key: Key {
                is_listed: row.get(6)?,
                was_of_another_identity: row.get(7)?,
                was_of_a_revoked_instance: row.get(8)?,
            },
            token,
            rule,
            freeze,
            proof_is_revoked: row.get(11)?,
            issued,
            signer_is_good: row.get(14)?,
        })
    }

    /// Whether, and how, the instance may have its next SVID at `now`.
    pub(super) fn judge_renewal(&self, id: &SpiffeId, now: SystemTime) -> Result<Standing, StoreError> {
        self.require_active(id, now)?;
        let standing = self.standing(now)?;
        self.require_unlisted()?;
        self.key.require_own()?;
        Ok(standing)
    }

    /// The workload is there, active, and its time is not over.
    pub(super) fn require_active(&self, id: &SpiffeId, now: SystemTime) -> Result<(), StoreError> {
        let workload = self.workload.as_ref().ok_or_else(|| StoreError::missing("workload", id.as_str()))?;
        if workload.status != WorkloadStatus::Active {
            return Err(Refusal::WorkloadNotActive { id: id.clone(), status: workload.status }.into());
        }
        match workload.until {
            Some(until) if until <= now => Err(Refusal::WorkloadEnded { id: id.clone(), until }.into()),
            _ => Ok(()),
        }
    }

    /// The key is nobody else's, and good.
    pub(super) fn require_own_key(&self) -> Result<(), Refusal> {
        self.key.require_own()
    }

    /// How many have to agree to a new instance.
    pub(super) fn approval(&self) -> Approval {
        self.workload.as_ref().map_or(Approval::None, |workload| workload.approval).max(self.rule)
    }

    /// What signed it was not taken out meanwhile.
    pub(super) fn require_signer(&self) -> Result<(), Refusal> {
        if self.signer_is_good { Ok(()) } else { Err(Refusal::SignerRemoved) }
    }

    /// No instance that the proof gave was revoked.
    pub(super) fn require_good_proof(&self) -> Result<(), Refusal> {
        if self.proof_is_revoked { Err(Refusal::ProofRevoked) } else { Ok(()) }
    }

    /// What the identity has got with this one.
    pub(super) fn one_more(&self, id: &SpiffeId, quota: u64, now: SystemTime) -> Result<Issued, Refusal> {
        Issued::one_more(self.issued, id, quota, now)
    }

    /// What nobody gets.
    pub(super) fn freeze(&self) -> Option<Freeze> {
        self.freeze
    }

    /// Nothing outlives the workload, whatever was known of that when it was signed.
    pub(super) fn require_end(&self, not_after: SystemTime) -> Result<(), Refusal> {
        match self.workload.as_ref().and_then(|workload| workload.until) {
            Some(until) if not_after > until => Err(Refusal::ChangedMeanwhile),
            _ => Ok(()),
        }
    }

    /// Nothing that was presented is revoked.
    pub(super) fn require_unlisted(&self) -> Result<(), Refusal> {
        if self.certificate_is_listed { Err(Refusal::CertificateRevoked) } else { Ok(()) }
    }

    pub(super) fn has_instance(&self) -> bool {
        self.instance.is_some()
    }

    pub(super) fn token(&self) -> Result<&Found, Refusal> {
        self.token.as_ref().ok_or(Refusal::TokenUnknown)
    }

    /// The instance is this identity's, not revoked, and its newest SVID has not ended.
    fn standing(&self, now: SystemTime) -> Result<Standing, Refusal> {
        let (status, not_after) = self.instance.as_ref().ok_or(Refusal::InstanceUnknown)?;
        match status.as_str() {
            "active" | "departed" if *not_after > now => Ok(Standing::Live),
            "lapsed" if *not_after > now => Ok(Standing::TakenForLapsed),
            "active" | "departed" | "lapsed" => Err(Refusal::InstanceLapsed),
            _ => Err(Refusal::InstanceRevoked),
        }
    }
}

impl Key {
    /// A key is one identity's: not revoked, not of a revoked instance, not certified for anyone else.
    fn require_own(self) -> Result<(), Refusal> {
        if self.is_listed || self.was_of_a_revoked_instance {
            Err(Refusal::KeyRevoked)
        } else if self.was_of_another_identity {
            Err(Refusal::KeyOfAnother)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time;

    fn id() -> SpiffeId {
        "spiffe://mesh.local/orders".parse().unwrap()
    }

    /// All is well at the second 100.
    fn good() -> Facts {
        Facts {
            workload: Some(Workload {
                status: WorkloadStatus::Active,
                until: Some(second(101)),
                approval: Approval::None,
            }),
            instance: Some(("active".into(), second(101))),
            certificate_is_listed: false,
            key: Key::default(),
            token: None,
            rule: Approval::None,
            freeze: None,
            proof_is_revoked: false,
            issued: None,
            signer_is_good: true,
        }
    }

    fn second(number: u64) -> SystemTime {
        time::from_millis(0) + Duration::from_secs(number)
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = good();
        change(&mut facts);
        facts
    }

    fn refusal(facts: &Facts) -> String {
        match facts.judge_renewal(&id(), second(100)) {
            Err(StoreError::Refused(refusal)) => refusal.as_str().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn instance_whose_svid_has_not_ended_renews() {
        let standing = |status: &str| {
            with(|facts| facts.instance = Some((status.into(), second(101))))
                .judge_renewal(&id(), second(100))
        };
        assert_eq!(standing("active").unwrap(), Standing::Live);
        assert_eq!(standing("departed").unwrap(), Standing::Live);
        assert_eq!(standing("lapsed").unwrap(), Standing::TakenForLapsed);
        assert!(standing("revoked").is_err());
        assert!(standing("what a later version writes").is_err(), "what is not known is no right");
    }

    #[test]
    fn each_fact_alone_is_enough_to_refuse() {
        let refused = [
            with(|facts| facts.workload.as_mut().unwrap().status = WorkloadStatus::Suspended),
            with(|facts| facts.workload.as_mut().unwrap().until = Some(second(100))),
            with(|facts| facts.instance = None),
            with(|facts| facts.instance.as_mut().unwrap().1 = second(100)),
            with(|facts| facts.instance.as_mut().unwrap().0 = "revoked".into()),
            with(|facts| facts.certificate_is_listed = true),
            with(|facts| facts.key.is_listed = true),
            with(|facts| facts.key.was_of_a_revoked_instance = true),
            with(|facts| facts.key.was_of_another_identity = true),
        ];
        let names: Vec<String> = refused.iter().map(refusal).collect();
        assert_eq!(
            names,
            [
                Refusal::WorkloadNotActive { id: id(), status: WorkloadStatus::Suspended }.as_str(),
                Refusal::WorkloadEnded { id: id(), until: second(100) }.as_str(),
                Refusal::InstanceUnknown.as_str(),
                Refusal::InstanceLapsed.as_str(),
                Refusal::InstanceRevoked.as_str(),
                Refusal::CertificateRevoked.as_str(),
                Refusal::KeyRevoked.as_str(),
                Refusal::KeyRevoked.as_str(),
                Refusal::KeyOfAnother.as_str(),
            ]
        );
        let gone = with(|facts| facts.workload = None).judge_renewal(&id(), second(100));
        assert!(matches!(gone, Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn no_svid_outlives_its_workload() {
        assert_eq!(good().require_end(second(101)), Ok(()));
        assert_eq!(good().require_end(second(102)), Err(Refusal::ChangedMeanwhile));
        let for_ever = with(|facts| facts.workload.as_mut().unwrap().until = None);
        assert_eq!(for_ever.require_end(second(1_000_000)), Ok(()));
    }

    #[test]
    fn approval_is_asked_for_new_instances_only() {
        let held = with(|facts| facts.workload.as_mut().unwrap().approval = Approval::One);
        assert_eq!(held.approval(), Approval::One);
        assert_eq!(held.judge_renewal(&id(), second(100)).unwrap(), Standing::Live);
        let ruled = Facts { rule: Approval::Two, ..held };
        assert_eq!(ruled.approval(), Approval::Two, "the stricter one counts");
        assert_eq!(good().approval(), Approval::None);
    }
}
