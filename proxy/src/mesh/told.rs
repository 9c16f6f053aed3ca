//! What control told this proxy, as digests and as the services of which it tells only changes: by it both ends know
//! that they agree, and control need not send again what is here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use signet_proto::digest::{self, Digest, StateDigest};
use signet_proto::spiffe::{SpiffeId, TrustBundle};
use signet_proto::v1;

use super::{Endpoint, Services};

/// What is in force of what control told, and stays while control is away.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// The newest message of the stream.
    pub(super) position: u64,
    policies: Option<Digest>,
    revocations: Option<Digest>,
    services: Option<Known>,
    mesh: Option<Digest>,
    traffic: Option<Digest>,
}

/// Services, each by its instances.
#[derive(Debug, Clone, Default)]
struct Known {
    services: BTreeMap<String, Service>,
}

#[derive(Debug, Clone)]
struct Service {
    instances: BTreeMap<String, Vec<v1::Endpoint>>,
    digest: Digest,
}

impl Told {
    /// Takes in a message. True if services changed.
    pub(super) fn take(&mut self, message: &v1::WatchResponse) -> bool {
        self.position = message.position;
        if let Some(policies) = &message.policies {
            self.policies = Some(digest::policies(policies.documents.iter().map(String::as_str)));
        }
        if let Some(revocations) = &message.revocations {
            self.revocations = Some(digest::revocations(revocations));
        }
        if let Some(mesh) = &message.mesh {
            self.mesh = Some(digest::mesh(mesh));
        }
        if let Some(traffic) = &message.traffic {
            self.traffic = Some(digest::traffic(traffic.documents.iter().map(String::as_str)));
        }
        if let Some(services) = &message.services {
            self.services = Some(Known::whole(services));
        }
        if let Some(changes) = &message.service_changes {
            self.services.get_or_insert_default().change(changes);
        }
        message.services.is_some() || message.service_changes.is_some()
    }

    /// Of all that is in force; `None` while something was never told.
    pub(super) fn digest<'a>(
        &self,
        bundles: impl IntoIterator<Item = &'a TrustBundle>,
    ) -> Option<StateDigest> {
        let bundles = bundles.into_iter().map(v1::Bundle::from).collect();
        Some(StateDigest {
            bundles: digest::bundles(&v1::Bundles { bundles }),
            policies: self.policies?,
            revocations: self.revocations?,
            services: self.services.as_ref()?.digest(),
            mesh: self.mesh?,
            traffic: self.traffic?,
        })
    }

    /// The services, as control would say them at once.
    pub(super) fn whole(&self) -> v1::Services {
        let known = self.services.iter().flat_map(|known| &known.services);
        let services = known.map(|(id, service)| v1::Service {
            spiffe_id: id.clone(),
            endpoints: service.instances.values().flatten().cloned().collect(),
        });
        v1::Services { services: services.collect() }
    }

    /// The services, for connections to be made with.
    pub(super) fn services(&self) -> Services {
        self.services.as_ref().map(Known::services).unwrap_or_default()
    }
}

impl Known {
    fn whole(section: &v1::Services) -> Self {
        let mut known = Self::default();
        for v1::Service { spiffe_id, endpoints } in &section.services {
            known.update(spiffe_id, &[], endpoints);
        }
        known
    }

    fn change(&mut self, changes: &v1::ServiceChanges) {
        for v1::ServiceChange { spiffe_id, removed, added } in &changes.changes {
            self.update(spiffe_id, removed, added);
        }
    }

    fn update(&mut self, id: &str, removed: &[String], added: &[v1::Endpoint]) {
        let mut instances = self.services.remove(id).map(|service| service.instances).unwrap_or_default();
        for instance in removed {
            instances.remove(instance);
        }
        for endpoint in added {
            instances.entry(endpoint.instance.clone()).or_default().push(endpoint.clone());
        }
        // A service without endpoints is none.
        if !instances.is_empty() {
            let endpoints: Vec<_> = instances.values().flatten().cloned().collect();
            let digest = digest::endpoints(&endpoints);
            self.services.insert(id.to_owned(), Service { instances, digest });
        }
    }

    fn digest(&self) -> Digest {
        digest::services(self.services.iter().map(|(id, service)| (id.as_str(), &service.digest)))
    }

    fn services(&self) -> Services {
        self.services
            .iter()
            .filter_map(|(id, service)| {
                let id: SpiffeId = id.parse().ok()?;
                Some((id, service.instances.values().flatten().filter_map(endpoint).collect()))
            })
            .collect()
    }
}

fn endpoint(endpoint: &v1::Endpoint) -> Option<Endpoint> {
    let address: IpAddr = endpoint.address.parse().ok()?;
    let port = u16::try_from(endpoint.port).ok()?;
    let app_port = u16::try_from(endpoint.app_port).ok()?;
    let instance = (!endpoint.instance.is_empty()).then(|| endpoint.instance.as_str().into());
    // Nobody is called less for a label that cannot be read.
    let locality = endpoint.locality.parse().ok();
    Some(Endpoint { address: SocketAddr::new(address, port), app_port, instance, locality })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Mesh = BTreeMap<u8, BTreeMap<u8, u32>>;

    fn endpoint(instance: u8, port: u32) -> v1::Endpoint {
        let (address, instance) = ("10.0.0.1".into(), format!("i{instance}"));
        v1::Endpoint { address, port, instance, app_port: 80, locality: String::new() }
    }

    fn whole(mesh: &Mesh) -> v1::Services {
        let endpoints = |instances: &BTreeMap<u8, u32>| {
            instances.iter().map(|(instance, port)| endpoint(*instance, *port)).collect()
        };
        let services = mesh.iter().map(|(id, instances)| v1::Service {
            spiffe_id: format!("spiffe://td/s{id}"),
            endpoints: endpoints(instances),
        });
        v1::Services { services: services.collect() }
    }

    fn difference(before: &Mesh, after: &Mesh) -> v1::ServiceChanges {
        let none = BTreeMap::new();
        let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let change = |id: &u8| {
            let (old, new) = (before.get(id).unwrap_or(&none), after.get(id).unwrap_or(&none));
            let gone = old.iter().filter(|(instance, port)| new.get(instance) != Some(port));
            let come = new.iter().filter(|(instance, port)| old.get(instance) != Some(port));
            v1::ServiceChange {
                spiffe_id: format!("spiffe://td/s{id}"),
                removed: gone.map(|(instance, _)| format!("i{instance}")).collect(),
                added: come.map(|(instance, port)| endpoint(*instance, *port)).collect(),
            }
        };
        v1::ServiceChanges { changes: ids.into_iter().map(change).collect() }
    }

    fn mesh() -> impl Strategy<Value = Mesh> {
        let instances = proptest::collection::btree_map(0..3_u8, 1..3_u32, 0..3);
        proptest::collection::btree_map(0..3_u8, instances, 0..4)
    }

    proptest! {
        #[test]
        fn changes_one_after_the_other_lead_to_the_same_as_the_whole(
            steps in proptest::collection::vec(mesh(), 1..6), lost in proptest::option::of(1..5_usize),
        ) {
            let mut told = Known::whole(&whole(&steps[0]));
            let mut skipped = false;
            for (number, pair) in steps.windows(2).enumerate() {
                if lost == Some(number + 1) {
                    skipped = true;
                    continue;
                }
                told.change(&difference(&pair[0], &pair[1]));
            }
            let expected = Known::whole(&whole(steps.last().unwrap()));
            if !skipped {
                prop_assert_eq!(told.digest(), expected.digest());
            }
            // What was lost shows in the digest, or made no difference.
            let same = told.services.values().map(|service| &service.instances)
                .eq(expected.services.values().map(|service| &service.instances))
                && told.services.keys().eq(expected.services.keys());
            prop_assert_eq!(told.digest() == expected.digest(), same);
        }
    }

    #[test]
    fn nothing_is_claimed_before_everything_was_told() {
        let mut told = Told::default();
        let mut message = v1::WatchResponse {
            policies: Some(v1::Policies::default()),
            revocations: Some(v1::Revocations::default()),
            mesh: Some(v1::MeshSettings::default()),
            traffic: Some(v1::Traffic::default()),
            ..v1::WatchResponse::default()
        };
        assert!(!told.take(&message));
        assert!(told.digest([]).is_none());
        message.services = Some(v1::Services::default());
        assert!(told.take(&message));
        assert!(told.digest([]).is_some());
    }
}
