//! What may no longer take part, whatever its certificate says.

use std::collections::{HashMap, HashSet};

use crate::spiffe::{CertificateHandle, InstanceId, SpiffeId};
use crate::v1;

/// Everything revoked that a proxy must know of. Identities and instances are matched on the leaf;
/// certificates (by issuer and serial) and keys on every element of a chain (invariant 9).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Revocations {
    identities: HashSet<SpiffeId>,
    /// The value tells whether the instance lapsed (stopped renewing) rather than was revoked.
    instances: HashMap<InstanceId, bool>,
    certificates: HashSet<([u8; 32], Vec<u8>)>,
    keys: HashSet<[u8; 32]>,
}

/// Which entry a peer matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RevokedBecause {
    /// Its SPIFFE ID is revoked.
    Identity,
    /// Its attested instance is revoked.
    Instance,
    /// Its instance stopped renewing.
    Lapsed,
    /// One certificate of its chain is revoked.
    Certificate,
    /// One key of its chain is revoked.
    Key,
}

impl RevokedBecause {
    /// The stable name used in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "revoked_identity",
            Self::Instance => "revoked_instance",
            Self::Lapsed => "lapsed",
            Self::Certificate => "revoked_certificate",
            Self::Key => "revoked_key",
        }
    }
}

impl Revocations {
    /// The entry that matches this peer, if any; of several the one that tells best what was decided: its own certificate, its
    /// identity, of which all instances are listed, too, its instance, its issuer. That it lapsed comes last, as who only
    /// lapsed may come back, and who was revoked may not.
    #[must_use]
    pub fn matching<'a>(
        &self,
        id: &SpiffeId,
        instance: Option<&InstanceId>,
        chain: impl IntoIterator<Item = &'a CertificateHandle>,
    ) -> Option<RevokedBecause> {
        let mut chain = chain.into_iter();
        let lapsed = instance.and_then(|instance| self.instances.get(instance));
        let of_leaf = chain.next().and_then(|leaf| self.element(leaf));
        of_leaf
            .or_else(|| self.identities.contains(id).then_some(RevokedBecause::Identity))
            .or_else(|| (lapsed == Some(&false)).then_some(RevokedBecause::Instance))
            .or_else(|| chain.find_map(|issuer| self.element(issuer)))
            .or_else(|| (lapsed == Some(&true)).then_some(RevokedBecause::Lapsed))
    }

    fn element(&self, element: &CertificateHandle) -> Option<RevokedBecause> {
        if self.certificates.is_empty() && self.keys.is_empty() {
            return None;
        }
        if self.certificates.contains(&(element.issuer_sha256, element.serial.clone())) {
            return Some(RevokedBecause::Certificate);
        }
        self.keys.contains(&element.spki_sha256).then_some(RevokedBecause::Key)
    }

    /// Number of entries of all kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.identities.len() + self.instances.len() + self.certificates.len() + self.keys.len()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An entry that cannot be read. A list with one is refused whole: dropping the entry would re-admit
/// whatever it stands for.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unreadable revocation: {0}")]
pub struct RevocationError(String);

impl TryFrom<v1::Revocations> for Revocations {
    type Error = RevocationError;

    fn try_from(message: v1::Revocations) -> Result<Self, RevocationError> {
        let digest = |bytes: Vec<u8>| -> Result<[u8; 32], RevocationError> {
            bytes.try_into().map_err(|_| RevocationError("expected a SHA-256 of 32 bytes".into()))
        };
        Ok(Self {
            identities: message
                .identities
                .iter()
                .map(|id| id.parse().map_err(|error| RevocationError(format!("{error}"))))
                .collect::<Result<_, _>>()?,
            instances: message
                .instances
                .iter()
                .map(|entry| {
                    let instance: InstanceId =
                        entry.instance.parse().map_err(|error| RevocationError(format!("{error}")))?;
                    Ok((instance, entry.lapsed))
                })
                .collect::<Result<_, _>>()?,
            certificates: message
                .certificates
                .into_iter()
                .map(|entry| Ok((digest(entry.issuer_sha256)?, entry.serial)))
                .collect::<Result<_, _>>()?,
            keys: message.keys.into_iter().map(digest).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    fn element(seed: u8) -> CertificateHandle {
        CertificateHandle { issuer_sha256: [seed; 32], serial: vec![seed], spki_sha256: [seed + 100; 32] }
    }

    #[test]
    fn every_kind_matches_and_nothing_else() {
        let instance: InstanceId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let lapsed: InstanceId = "1123456789abcdef0123456789abcdef".parse().unwrap();
        let revocations = Revocations::try_from(v1::Revocations {
            identities: vec!["spiffe://td/gone".into()],
            instances: vec![
                v1::RevokedInstance { instance: instance.to_string(), lapsed: false },
                v1::RevokedInstance { instance: lapsed.to_string(), lapsed: true },
            ],
            certificates: vec![v1::RevokedCertificate { issuer_sha256: vec![1; 32], serial: vec![1] }],
            keys: vec![vec![102; 32]],
        })
        .unwrap();
        let ok = id("spiffe://td/ok");
        let none: &[CertificateHandle] = &[];
        assert_eq!(revocations.matching(&id("spiffe://td/gone"), None, none), Some(RevokedBecause::Identity));
        assert_eq!(revocations.matching(&ok, Some(&instance), none), Some(RevokedBecause::Instance));
        assert_eq!(revocations.matching(&ok, Some(&lapsed), none), Some(RevokedBecause::Lapsed));
        assert_eq!(
            revocations.matching(&ok, None, &[element(9), element(1)]),
            Some(RevokedBecause::Certificate)
        );
        assert_eq!(revocations.matching(&ok, None, &[element(9), element(2)]), Some(RevokedBecause::Key));
        assert_eq!(revocations.matching(&ok, None, &[element(9)]), None);
        assert_eq!(revocations.len(), 5);
    }

    #[test]
    fn the_reason_is_what_was_decided_and_lapsed_is_the_last() {
        let instance: InstanceId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let peer = id("spiffe://td/gone");
        let chain = [element(1), element(2)];
        let mut message = v1::Revocations {
            identities: vec![peer.to_string()],
            instances: vec![v1::RevokedInstance { instance: instance.to_string(), lapsed: false }],
            certificates: vec![v1::RevokedCertificate { issuer_sha256: vec![1; 32], serial: vec![1] }],
            keys: vec![vec![101; 32], vec![102; 32]],
        };
        let because = |message: &v1::Revocations| {
            let list = Revocations::try_from(message.clone()).unwrap();
            list.matching(&peer, Some(&instance), &chain).unwrap()
        };
        assert_eq!(because(&message), RevokedBecause::Certificate);
        message.certificates.clear();
        assert_eq!(because(&message), RevokedBecause::Key);
        message.keys.remove(0);
        assert_eq!(because(&message), RevokedBecause::Identity, "its instances are listed with it");
        message.identities.clear();
        assert_eq!(because(&message), RevokedBecause::Instance);
        message.instances[0].lapsed = true;
        assert_eq!(because(&message), RevokedBecause::Key, "its issuer's");
        message.keys.clear();
        assert_eq!(because(&message), RevokedBecause::Lapsed);
        // Who lapsed and was revoked does not come back as one who only lapsed.
        message.certificates = vec![v1::RevokedCertificate { issuer_sha256: vec![1; 32], serial: vec![1] }];
        assert_eq!(because(&message), RevokedBecause::Certificate);
    }

    #[test]
    fn one_unreadable_entry_refuses_the_list() {
        for message in [
            v1::Revocations { identities: vec!["spiffe://".into()], ..Default::default() },
            v1::Revocations { keys: vec![vec![1; 31]], ..Default::default() },
            v1::Revocations {
                instances: vec![v1::RevokedInstance { instance: "x".into(), lapsed: false }],
                ..Default::default()
            },
        ] {
            assert!(Revocations::try_from(message).is_err());
        }
    }
}
