//! Where instances of each peer listen, found by who they are and by where their apps are.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use signet_proto::spiffe::SpiffeId;

/// One listening instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its mutual-TLS port.
    pub address: SocketAddr,
    /// The port of the app behind it.
    pub app_port: u16,
}

/// The endpoints of all peers that we know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    endpoints: BTreeMap<SpiffeId, Vec<Endpoint>>,
    /// By address of the instance and port of its app. `None` where several identities share one: then the
    /// address does not tell who is meant.
    apps: HashMap<(IpAddr, u16), Option<(SpiffeId, Endpoint)>>,
}

impl Services {
    /// The endpoints of one peer.
    #[must_use]
    pub fn of(&self, peer: &SpiffeId) -> &[Endpoint] {
        self.endpoints.get(peer).map_or(&[], Vec::as_slice)
    }

    /// Whose app is at this address, and its endpoint.
    #[must_use]
    pub fn behind(&self, app: SocketAddr) -> Option<&(SpiffeId, Endpoint)> {
        self.apps.get(&(app.ip(), app.port()))?.as_ref()
    }
}

impl FromIterator<(SpiffeId, Vec<Endpoint>)> for Services {
    fn from_iter<T: IntoIterator<Item = (SpiffeId, Vec<Endpoint>)>>(services: T) -> Self {
        let mut all = Self::default();
        for (peer, endpoints) in services {
            for endpoint in &endpoints {
                let place = (endpoint.address.ip(), endpoint.app_port);
                all.apps
                    .entry(place)
                    .and_modify(|known| {
                        if known.as_ref().is_some_and(|(other, _)| *other != peer) {
                            *known = None;
                        }
                    })
                    .or_insert_with(|| Some((peer.clone(), *endpoint)));
            }
            all.endpoints.insert(peer, endpoints);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_two_identities_share_tells_nobody() {
        let endpoint = |address: &str, app_port| Endpoint { address: address.parse().unwrap(), app_port };
        let [one, two] = ["spiffe://td/one", "spiffe://td/two"].map(|id| id.parse::<SpiffeId>().unwrap());
        let services: Services = [
            (one.clone(), vec![endpoint("10.0.0.1:15443", 80), endpoint("10.0.0.2:15443", 80)]),
            (two.clone(), vec![endpoint("10.0.0.2:15444", 80), endpoint("10.0.0.2:15445", 81)]),
        ]
        .into_iter()
        .collect();
        let behind = |app: &str| services.behind(app.parse().unwrap());
        assert_eq!(behind("10.0.0.1:80"), Some(&(one, endpoint("10.0.0.1:15443", 80))));
        assert_eq!(behind("10.0.0.2:80"), None);
        assert_eq!(behind("10.0.0.2:81").unwrap().0, two);
        assert_eq!(behind("10.0.0.1:15443"), None);
    }
}
