//! What becomes of certificates and instances, in a word. Pure.

use std::time::SystemTime;

use signet_proto::handshake::RevokedBecause;

use crate::store::model::{AttestedInstance, IssuedCertificate};

/// How a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateStatus {
    /// It can be used.
    Valid,
    /// It can be used, but its instance has a newer one.
    Superseded,
    /// It must not be used: it, its key, its instance or its identity is revoked.
    Revoked(RevokedBecause),
    /// It has ended.
    Expired,
    /// It has ended, and was the last one of its instance, which did not say goodbye.
    Lapsed,
}

impl CertificateStatus {
    /// All words.
    pub const WORDS: [&str; 5] = ["valid", "superseded", "revoked", "expired", "lapsed"];

    /// At `now`; `listed` is what the list of revocations says of it.
    #[must_use]
    pub fn of(certificate: &IssuedCertificate, listed: Option<RevokedBecause>, now: SystemTime) -> Self {
        match listed {
            Some(RevokedBecause::Lapsed) | None => {}
            Some(because) => return Self::Revoked(because),
        }
        if certificate.instance_lapsed && certificate.is_newest {
            Self::Lapsed
        } else if certificate.not_after <= now {
            Self::Expired
        } else if certificate.is_newest {
            Self::Valid
        } else {
            Self::Superseded
        }
    }

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Superseded => "superseded",
            Self::Revoked(_) => "revoked",
            Self::Expired => "expired",
            Self::Lapsed => "lapsed",
        }
    }

    /// What revokes it, if it is revoked.
    #[must_use]
    pub fn revoked_by(self) -> &'static str {
        match self {
            Self::Revoked(RevokedBecause::Identity) => "identity",
            Self::Revoked(RevokedBecause::Instance) => "instance",
            Self::Revoked(RevokedBecause::Key) => "key",
            Self::Revoked(_) => "certificate",
            _ => "",
        }
    }
}

/// How an instance stands at `now`, in one of the words of [`INSTANCE_WORDS`].
#[must_use]
pub fn instance_status(instance: &AttestedInstance, now: SystemTime) -> &'static str {
    match instance.status.as_str() {
        "lapsed" => "lapsed",
        "revoked" => "revoked",
        _ if !instance.workload_is_active => "revoked",
        _ if instance.not_after <= now => "expired",
        "departed" => "departed",
        _ => "active",
    }
}

/// The words for instances.
pub const INSTANCE_WORDS: [&str; 5] = ["active", "departed", "revoked", "lapsed", "expired"];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::time;

    #[test]
    fn certificate_says_the_worst_that_is_known_of_it() {
        let now = time::from_millis(1_800_000_000_000);
        let hour = Duration::from_secs(3600);
        let certificate = |ends: SystemTime, newest: bool, lapsed: bool| IssuedCertificate {
            serial: vec![1],
            spiffe_id: "spiffe://td/web".parse().unwrap(),
            not_before: now - hour,
            not_after: ends,
            issued_at: now - hour,
            seen_at: None,
            issuer_sha256: [1; 32],
            spki_sha256: [2; 32],
            authority: "a".into(),
            issuer: "a".into(),
            instance: None,
            instance_lapsed: lapsed,
            is_newest: newest,
            owner: String::new(),
            contact: String::new(),
            purpose: String::new(),
        };
        let status = |ends, newest, lapsed, listed| {
            CertificateStatus::of(&certificate(ends, newest, lapsed), listed, now)
        };
        let (open, over) = (now + hour, now - hour);
        assert_eq!(status(open, true, false, None), CertificateStatus::Valid);
        assert_eq!(status(open, false, false, None), CertificateStatus::Superseded);
        assert_eq!(status(over, true, false, None), CertificateStatus::Expired);
        assert_eq!(status(over, true, true, Some(RevokedBecause::Lapsed)), CertificateStatus::Lapsed);
        assert_eq!(status(over, false, true, Some(RevokedBecause::Lapsed)), CertificateStatus::Expired);
        for because in [RevokedBecause::Identity, RevokedBecause::Key, RevokedBecause::Certificate] {
            let status = status(over, false, true, Some(because));
            assert_eq!((status, status.as_str()), (CertificateStatus::Revoked(because), "revoked"));
            assert_ne!(status.revoked_by(), "");
        }
    }
}
