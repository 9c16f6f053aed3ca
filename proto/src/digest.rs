//! What a proxy should have and what it has, as digests that both ends compute: by them they agree on what need not
//! be sent again, and prove now and then that nothing was lost between them.
//!
//! ```text
//!   section ─▶ items, each its fields, each field after its length ─▶ sorted ─▶ SHA-256 (kind, count, items)
//! ```
//!
//! Pure. The order in which a section lists its items does not matter, everything else does; but a service without
//! endpoints is none. Revisions are no part of it: what counts is the content, whichever history it is from.

use aws_lc_rs::digest::{Context, SHA256};

use crate::v1;

/// The canonical form that this version computes.
pub const FORM: u32 = 3;

/// SHA-256 of one section.
pub type Digest = [u8; 32];

/// Digests of all that one proxy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateDigest {
    /// Of the trust bundles.
    pub bundles: Digest,
    /// Of the policy documents.
    pub policies: Digest,
    /// Of the revocations.
    pub revocations: Digest,
    /// Of the services.
    pub services: Digest,
    /// Of the settings of the mesh.
    pub mesh: Digest,
    /// Of the service documents.
    pub traffic: Digest,
}

impl StateDigest {
    /// As it is sent.
    #[must_use]
    pub fn message(&self) -> v1::StateDigest {
        v1::StateDigest {
            form: FORM,
            bundles: self.bundles.to_vec(),
            policies: self.policies.to_vec(),
            revocations: self.revocations.to_vec(),
            services: self.services.to_vec(),
            mesh: self.mesh.to_vec(),
            traffic: self.traffic.to_vec(),
        }
    }

    /// The sections that differ, by name.
    pub fn differences(&self, other: &Self) -> impl Iterator<Item = &'static str> {
        [
            ("bundles", self.bundles != other.bundles),
            ("policies", self.policies != other.policies),
            ("revocations", self.revocations != other.revocations),
            ("services", self.services != other.services),
            ("mesh", self.mesh != other.mesh),
            ("traffic", self.traffic != other.traffic),
        ]
        .into_iter()
        .filter_map(|(section, differs)| differs.then_some(section))
    }

    /// Reads a digest. `None` if it is of another form, or none: then nothing can be said.
    #[must_use]
    pub fn read(message: &v1::StateDigest) -> Option<Self> {
        let digest = |bytes: &[u8]| Digest::try_from(bytes).ok();
        if message.form != FORM {
            return None;
        }
        Some(Self {
            bundles: digest(&message.bundles)?,
            policies: digest(&message.policies)?,
            revocations: digest(&message.revocations)?,
            services: digest(&message.services)?,
            mesh: digest(&message.mesh)?,
            traffic: digest(&message.traffic)?,
        })
    }
}

/// Of trust bundles. What was retired or superseded and the keys of tokens have no part of their own in it: a change of
/// those has another sequence.
#[must_use]
pub fn bundles(section: &v1::Bundles) -> Digest {
    let bundle = |bundle: &v1::Bundle| {
        let authorities = bundle.x509_authorities.iter().map(|der| item([der.as_slice()]));
        item([
            bundle.trust_domain.as_bytes(),
            &bundle.sequence.to_be_bytes(),
            &sorted("authorities", authorities),
        ])
    };
    sorted("bundles", section.bundles.iter().map(bundle))
}

/// Of policy documents.
#[must_use]
pub fn policies<'a>(documents: impl IntoIterator<Item = &'a str>) -> Digest {
    sorted("policies", documents.into_iter().map(|document| item([document.as_bytes()])))
}

/// Of service documents.
#[must_use]
pub fn traffic<'a>(documents: impl IntoIterator<Item = &'a str>) -> Digest {
    sorted("traffic", documents.into_iter().map(|document| item([document.as_bytes()])))
}

/// Of the settings of the mesh.
#[must_use]
pub fn mesh(section: &v1::MeshSettings) -> Digest {
    sorted("mesh", [item([section.document.as_bytes()])])
}

/// Of revocations.
#[must_use]
pub fn revocations(section: &v1::Revocations) -> Digest {
    let identities = section.identities.iter().map(|id| item([&b"identity"[..], id.as_bytes()]));
    let instances = section
        .instances
        .iter()
        .map(|entry| item([&b"instance"[..], entry.instance.as_bytes(), &[u8::from(entry.lapsed)]]));
    let certificates = section
        .certificates
        .iter()
        .map(|entry| item([&b"certificate"[..], &entry.issuer_sha256, &entry.serial]));
    let keys = section.keys.iter().map(|key| item([&b"key"[..], key]));
    sorted("revocations", identities.chain(instances).chain(certificates).chain(keys))
}

/// Of the endpoints of one service.
#[must_use]
pub fn endpoints(endpoints: &[v1::Endpoint]) -> Digest {
    let endpoint = |endpoint: &v1::Endpoint| {
        item([
            endpoint.instance.as_bytes(),
            endpoint.address.as_bytes(),
            &endpoint.port.to_be_bytes(),
            &endpoint.app_port.to_be_bytes(),
            endpoint.locality.as_bytes(),
        ])
    };
    sorted("endpoints", endpoints.iter().map(endpoint))
}

/// Of services: each with the digest of its endpoints, and only those that have some.
#[must_use]
pub fn services<'a>(services: impl IntoIterator<Item = (&'a str, &'a Digest)>) -> Digest {
    sorted("services", services.into_iter().map(|(id, endpoints)| item([id.as_bytes(), endpoints])))
}

/// Fields, each after its length.
fn item<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

fn sorted(kind: &str, items: impl IntoIterator<Item = Vec<u8>>) -> Digest {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort_unstable();
    let mut context = Context::new(&SHA256);
    let mut field = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    field(b"signet state v1");
    field(kind.as_bytes());
    field(&(items.len() as u64).to_be_bytes());
    items.iter().for_each(|item| field(item));
    let mut digest = Digest::default();
    digest.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    digest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn endpoint() -> impl Strategy<Value = v1::Endpoint> {
        ("[ab]{0,2}", 0..3_u32, "[cd]{0,2}", 0..3_u32, "[ab]{0,1}").prop_map(
            |(address, port, instance, app_port, locality)| v1::Endpoint {
                address,
                port,
                instance,
                app_port,
                locality,
            },
        )
    }

    fn revoked() -> impl Strategy<Value = v1::Revocations> {
        let instance = ("[ab]{1,2}", any::<bool>())
            .prop_map(|(instance, lapsed)| v1::RevokedInstance { instance, lapsed });
        let certificate =
            (proptest::collection::vec(0..2_u8, 0..2), proptest::collection::vec(0..2_u8, 0..2))
                .prop_map(|(issuer_sha256, serial)| v1::RevokedCertificate { issuer_sha256, serial });
        (
            proptest::collection::vec("[ab]{1,2}", 0..3),
            proptest::collection::vec(instance, 0..3),
            proptest::collection::vec(certificate, 0..3),
            proptest::collection::vec(proptest::collection::vec(0..2_u8, 0..2), 0..3),
        )
            .prop_map(|(identities, instances, certificates, keys)| v1::Revocations {
                identities,
                instances,
                certificates,
                keys,
            })
    }

    fn bundle() -> impl Strategy<Value = v1::Bundle> {
        ("[ab]{1,2}", proptest::collection::vec(proptest::collection::vec(0..2_u8, 0..3), 0..3), 0..2_u64)
            .prop_map(|(trust_domain, x509_authorities, sequence)| v1::Bundle {
                trust_domain,
                x509_authorities,
                sequence,
                retired_x509_authorities: Vec::new(),
                superseded_issuers: Vec::new(),
                jwt_authorities: Vec::new(),
            })
    }

    /// What two messages must have in common to mean the same.
    fn meaning(revocations: &v1::Revocations) -> v1::Revocations {
        let mut sorted = revocations.clone();
        sorted.identities.sort();
        sorted.instances.sort_by_key(|entry| (entry.instance.clone(), entry.lapsed));
        sorted.certificates.sort_by_key(|entry| (entry.issuer_sha256.clone(), entry.serial.clone()));
        sorted.keys.sort();
        sorted
    }

    fn content(bundles: &[v1::Bundle]) -> Vec<(String, Vec<Vec<u8>>, u64)> {
        let one = |bundle: &v1::Bundle| {
            let mut authorities = bundle.x509_authorities.clone();
            authorities.sort();
            (bundle.trust_domain.clone(), authorities, bundle.sequence)
        };
        let mut all: Vec<_> = bundles.iter().map(one).collect();
        all.sort();
        all
    }

    fn key(endpoint: &v1::Endpoint) -> (String, String, u32, u32, String) {
        let v1::Endpoint { address, port, instance, app_port, locality } = endpoint.clone();
        (instance, address, port, app_port, locality)
    }

    proptest! {
        #[test]
        fn digests_of_endpoints_are_equal_exactly_when_they_are_the_same_in_any_order(
            one in proptest::collection::vec(endpoint(), 0..4),
            other in proptest::collection::vec(endpoint(), 0..4),
            turn in 0..4_usize,
        ) {
            let mut turned = one.clone();
            turned.rotate_left(turn.min(one.len()));
            prop_assert_eq!(endpoints(&one), endpoints(&turned));
            let keys = |endpoints: &[v1::Endpoint]| {
                let mut keys: Vec<_> = endpoints.iter().map(key).collect();
                keys.sort();
                keys
            };
            prop_assert_eq!(endpoints(&one) == endpoints(&other), keys(&one) == keys(&other));
        }

        #[test]
        fn digests_of_revocations_are_equal_exactly_when_they_are_the_same_in_any_order(
            one in revoked(), other in revoked(),
        ) {
            prop_assert_eq!(revocations(&one), revocations(&meaning(&one)));
            prop_assert_eq!(revocations(&one) == revocations(&other), meaning(&one) == meaning(&other));
        }

        #[test]
        fn digests_of_bundles_are_equal_exactly_when_they_are_the_same_in_any_order(
            one in proptest::collection::vec(bundle(), 0..3),
            other in proptest::collection::vec(bundle(), 0..3),
        ) {
            let digest = |list: &[v1::Bundle]| bundles(&v1::Bundles { bundles: list.to_vec() });
            let mut turned = one.clone();
            turned.reverse();
            prop_assert_eq!(digest(&one), digest(&turned));
            prop_assert_eq!(digest(&one) == digest(&other), content(&one) == content(&other));
        }

        #[test]
        fn digests_of_policies_and_services_depend_on_every_item(
            one in proptest::collection::btree_map("[ab]{1,2}", 0..3_u8, 0..4),
            other in proptest::collection::btree_map("[ab]{1,2}", 0..3_u8, 0..4),
        ) {
            let texts = |map: &BTreeMap<String, u8>| -> Vec<String> {
                map.iter().map(|(name, number)| format!("{name}{number}")).collect()
            };
            let documents = |map| policies(texts(map).iter().rev().map(String::as_str));
            prop_assert_eq!(documents(&one), policies(texts(&one).iter().map(String::as_str)));
            prop_assert_eq!(documents(&one) == documents(&other), one == other);
            let section = |map: &BTreeMap<String, u8>, backwards: bool| {
                let mut list: Vec<_> = map.iter().map(|(id, number)| (id.as_str(), [*number; 32])).collect();
                if backwards {
                    list.reverse();
                }
                services(list.iter().map(|(id, digest)| (*id, digest)))
            };
            prop_assert_eq!(section(&one, false), section(&one, true));
            prop_assert_eq!(section(&one, false) == section(&other, false), one == other);
        }
    }

    #[test]
    fn fields_and_items_do_not_run_into_each_other() {
        assert_ne!(policies(["ab", "c"]), policies(["a", "bc"]));
        assert_ne!(policies(["a"]), policies(["a", "a"]));
        assert_ne!(policies([]), services([]));
        assert_ne!(policies(["a"]), traffic(["a"]));
    }

    #[test]
    fn digest_of_another_form_says_nothing() {
        let digest = StateDigest {
            bundles: [1; 32],
            policies: [2; 32],
            revocations: [3; 32],
            services: [4; 32],
            mesh: [6; 32],
            traffic: [7; 32],
        };
        assert_eq!(StateDigest::read(&digest.message()), Some(digest));
        assert_eq!(StateDigest::read(&v1::StateDigest { form: 2, ..digest.message() }), None);
        assert_eq!(StateDigest::read(&v1::StateDigest { services: vec![4; 31], ..digest.message() }), None);
        assert_eq!(StateDigest::read(&v1::StateDigest::default()), None);
        let other = StateDigest { services: [5; 32], bundles: [5; 32], ..digest };
        assert_eq!(digest.differences(&other).collect::<Vec<_>>(), ["bundles", "services"]);
    }
}
