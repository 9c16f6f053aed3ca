//! What proxies may be told, as of one commit. Immutable: what changes is a new state.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use signet_proto::digest::{self, Digest};
use signet_proto::handshake::Revocations;
use signet_proto::settings::{self, Settings};
use signet_proto::spiffe::{InstanceId, SpiffeId, TrustDomain};
use signet_proto::v1;

use super::policies::{Concerned, PolicySection};
use super::rotations::RotationSection;
use super::traffic::TrafficSection;
use crate::store::StoreError;
use crate::store::model::{BundleRead, Commit, MeshRead, RevocationList};

/// What proxies may be told.
#[derive(Debug, Clone)]
pub struct MeshState {
    /// Counts the states of this process. Revisions may go back, with a store; this does not.
    pub generation: u64,
    /// The newest commit that changed any of it.
    pub commit: Commit,
    /// The newest revision looked at; those after `commit` changed nothing here.
    pub processed: u64,
    /// Trust bundles.
    pub bundles: Arc<BundleSection>,
    /// Policy documents.
    pub policies: Arc<PolicySection>,
    /// Revocations.
    pub revocations: Arc<RevocationSection>,
    /// The settings of the mesh.
    pub settings: Arc<SettingsSection>,
    /// Documents of services.
    pub traffic: Arc<TrafficSection>,
    /// Orders to renew.
    pub rotations: Arc<RotationSection>,
    /// When the store turned out to be an older one than before, last.
    pub went_back: Option<WentBack>,
}

/// The store was replaced by an older one while control ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WentBack {
    /// The newest revision known before.
    pub from: u64,
    /// The newest revision then.
    pub to: u64,
    /// When that was noticed.
    pub at: SystemTime,
}

/// Trust bundles, as they are sent.
#[derive(Debug)]
pub struct BundleSection {
    pub(super) message: v1::Bundles,
    pub(super) digest: Digest,
}

/// The settings of the mesh, as they are sent, and as proxies read them.
#[derive(Debug)]
pub struct SettingsSection {
    pub(super) message: v1::MeshSettings,
    pub(super) digest: Digest,
    parsed: Settings,
}

/// All revocations, as they are sent and as they are asked.
#[derive(Debug)]
pub struct RevocationSection {
    pub(super) message: v1::Revocations,
    pub(super) digest: Digest,
    /// To match callers with.
    pub index: Revocations,
}

/// What was added to the revocations. Who has nothing to do with any of it is as welcome as before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Added {
    /// Identities.
    pub identities: Vec<SpiffeId>,
    /// Instances.
    pub instances: Vec<InstanceId>,
    /// Certificates: SHA-256 of the issuer's name, and serial.
    pub certificates: Vec<([u8; 32], Vec<u8>)>,
    /// SHA-256 of public keys.
    pub keys: Vec<[u8; 32]>,
}

impl MeshState {
    /// Nothing, before anything was read.
    #[must_use]
    pub fn empty(commit: Commit) -> Self {
        Self {
            generation: 0,
            commit,
            processed: 0,
            bundles: Arc::new(BundleSection::new(v1::Bundles::default())),
            policies: Arc::default(),
            revocations: Arc::new(RevocationSection {
                digest: digest::revocations(&v1::Revocations::default()),
                message: v1::Revocations::default(),
                index: Revocations::default(),
            }),
            settings: Arc::new(SettingsSection::new(String::new())),
            traffic: Arc::default(),
            rotations: Arc::default(),
            went_back: None,
        }
    }

    /// The next state and whoever has to be told something of it, or `None` if nothing in it changed.
    ///
    /// # Errors
    /// When what was stored cannot be understood.
    pub fn advance(
        &self,
        read: MeshRead,
        trust_domain: &TrustDomain,
    ) -> Result<Option<(Self, Concerned)>, StoreError> {
        let MeshRead { commit, bundle, policies, revocations, settings, services, rotations, went_back: _ } =
            read;
        let everyone = bundle.is_some() || revocations.is_some() || settings.is_some();
        if !everyone && policies.is_none() && services.is_none() && rotations.is_none() {
            return Ok(None);
        }
        let mut next =
            Self { generation: self.generation + 1, commit, processed: commit.revision, ..self.clone() };
        let mut concerned = if everyone { Concerned::Everyone } else { Concerned::nobody() };
        if let Some(BundleRead { authorities, retired, superseded, jwt_authorities, federated, sequence }) =
            bundle
        {
            let own = v1::Bundle {
                trust_domain: trust_domain.to_string(),
                x509_authorities: authorities,
                sequence,
                retired_x509_authorities: retired,
                superseded_issuers: superseded.into_iter().map(Vec::from).collect(),
                jwt_authorities,
            };
            let bundles = std::iter::once(own).chain(federated.iter().map(v1::Bundle::from)).collect();
            next.bundles = Arc::new(BundleSection::new(v1::Bundles { bundles }));
        }
        if let Some(policies) = policies {
            let (section, protected) = self.policies.next(policies);
            next.policies = Arc::new(section);
            if !everyone {
                concerned = protected;
            }
        }
        if let Some(revocations) = revocations {
            next.revocations = Arc::new(RevocationSection::new(revocations)?);
        }
        if let Some(document) = settings {
            next.settings = Arc::new(SettingsSection::new(document));
        }
        if let Some(services) = services {
            let (section, changed) = self.traffic.next(services);
            next.traffic = Arc::new(section);
            changed.iter().for_each(|id| concerned.add_service(id));
        }
        if let Some(rotations) = rotations {
            let (section, meant) = self.rotations.next(rotations);
            next.rotations = Arc::new(section);
            concerned.join(meant);
        }
        Ok(Some((next, concerned)))
    }
}

impl BundleSection {
    fn new(message: v1::Bundles) -> Self {
        Self { digest: digest::bundles(&message), message }
    }

    /// Those of other trust domains than `own`.
    pub fn federated(&self, own: &TrustDomain) -> impl Iterator<Item = &v1::Bundle> {
        self.message.bundles.iter().filter(move |bundle| bundle.trust_domain != own.as_str())
    }

    /// Whether identities of a trust domain are believed at all.
    #[must_use]
    pub fn believes(&self, domain: &TrustDomain) -> bool {
        self.message.bundles.iter().any(|bundle| bundle.trust_domain == domain.as_str())
    }
}

impl SettingsSection {
    /// A document that cannot be read is sent as it is: proxies are strict then.
    fn new(document: String) -> Self {
        let parsed = match document.as_str() {
            "" => Settings::default(),
            text => settings::parse_json(text).unwrap_or_else(|error| {
                tracing::error!(%error, "the stored settings of the mesh cannot be read: it is strict; apply them anew");
                Settings::closed()
            }),
        };
        let message = v1::MeshSettings { document };
        Self { digest: digest::mesh(&message), message, parsed }
    }

    /// What proxies make of them.
    #[must_use]
    pub fn parsed(&self) -> &Settings {
        &self.parsed
    }
}

impl RevocationSection {
    fn new(list: RevocationList) -> Result<Self, StoreError> {
        let message = v1::Revocations {
            identities: list.identities,
            instances: list
                .instances
                .into_iter()
                .map(|(instance, lapsed)| v1::RevokedInstance { instance, lapsed })
                .collect(),
            certificates: list
                .certificates
                .into_iter()
                .map(|(issuer, serial)| v1::RevokedCertificate { issuer_sha256: issuer.to_vec(), serial })
                .collect(),
            keys: list.keys.into_iter().map(|key| key.to_vec()).collect(),
        };
        let index = Revocations::try_from(message.clone())
            .map_err(|error| StoreError::Damaged(format!("stored revocations: {error}")))?;
        Ok(Self { digest: digest::revocations(&message), message, index })
    }

    /// What this lists and `before` did not. What cannot be read is in no list.
    #[must_use]
    pub fn added_since(&self, before: &Self) -> Added {
        let (now, before) = (&self.message, &before.message);
        let identities: HashSet<_> = before.identities.iter().collect();
        let instances: HashSet<_> =
            before.instances.iter().map(|entry| (&entry.instance, entry.lapsed)).collect();
        let certificates: HashSet<_> =
            before.certificates.iter().map(|entry| (&entry.issuer_sha256, &entry.serial)).collect();
        let keys: HashSet<_> = before.keys.iter().collect();
        let new_instance =
            |entry: &&v1::RevokedInstance| !instances.contains(&(&entry.instance, entry.lapsed));
        let new_certificate =
            |entry: &&v1::RevokedCertificate| !certificates.contains(&(&entry.issuer_sha256, &entry.serial));
        let certificate = |entry: &v1::RevokedCertificate| {
            Some((entry.issuer_sha256.as_slice().try_into().ok()?, entry.serial.clone()))
        };
        Added {
            identities: now
                .identities
                .iter()
                .filter(|id| !identities.contains(id))
                .filter_map(|id| id.parse().ok())
                .collect(),
            instances: now
                .instances
                .iter()
                .filter(new_instance)
                .filter_map(|entry| entry.instance.parse().ok())
                .collect(),
            certificates: now.certificates.iter().filter(new_certificate).filter_map(certificate).collect(),
            keys: now
                .keys
                .iter()
                .filter(|key| !keys.contains(key))
                .filter_map(|key| key.as_slice().try_into().ok())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_added_is_looked_at() {
        let instance = || InstanceId::random().unwrap();
        let (one, other) = (instance(), instance());
        let section = |list| RevocationSection::new(list).unwrap();
        let before = section(RevocationList {
            identities: vec!["spiffe://td/a".into()],
            instances: vec![(one.to_string(), true)],
            keys: vec![[1; 32]],
            ..RevocationList::default()
        });
        let after = section(RevocationList {
            identities: vec!["spiffe://td/b".into(), "spiffe://td/a".into()],
            // What had lapsed is revoked now: that is more.
            instances: vec![(one.to_string(), false), (other.to_string(), true)],
            certificates: vec![([2; 32], vec![7])],
            keys: vec![[1; 32]],
        });
        let added = Added {
            identities: vec!["spiffe://td/b".parse().unwrap()],
            instances: vec![one, other],
            certificates: vec![([2; 32], vec![7])],
            keys: Vec::new(),
        };
        assert_eq!(after.added_since(&before), added);
        assert_eq!(after.added_since(&after), Added::default());
    }
}
