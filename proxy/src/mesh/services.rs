//! Where instances of each peer listen, found by who they are and by where their apps are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use signet_proto::locality::Locality;
use signet_proto::spiffe::SpiffeId;

/// One listening instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its mutual-TLS port.
    pub address: SocketAddr,
    /// The port of the app behind it.
    pub app_port: u16,
    /// Which instance, if control says so: another one at the same address is another endpoint.
    pub instance: Option<Arc<str>>,
    /// Where it says that it runs.
    pub locality: Option<Locality>,
}

/// Addresses of instances that are remembered.
const MOST_REMEMBERED: usize = 100_000;

/// The endpoints of all peers that we know.
#[derive(Debug, Clone, Default)]
pub struct Services {
    endpoints: BTreeMap<SpiffeId, Vec<Endpoint>>,
    /// By address of the instance and port of its app. `None` where several identities share one: then the
    /// address does not tell who is meant.
    apps: HashMap<(IpAddr, u16), Option<SpiffeId>>,
    /// Where an instance is, or ever was as far as we saw: who cannot be reached there as a peer is not to be
    /// reached as a stranger.
    meshed: HashSet<IpAddr>,
}

/// Whose app is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind<'a> {
    /// This peer's.
    Peer(&'a SpiffeId),
    /// A peer's that is gone, one of several peers', or another port's.
    Unclear,
    /// Nobody's whom we ever knew.
    Stranger,
}

impl Services {
    /// The endpoints of one peer.
    #[must_use]
    pub fn of(&self, peer: &SpiffeId) -> &[Endpoint] {
        self.endpoints.get(peer).map_or(&[], Vec::as_slice)
    }

    /// Whose app is at this address.
    #[must_use]
    pub fn behind(&self, app: SocketAddr) -> Behind<'_> {
        match self.apps.get(&(app.ip(), app.port())) {
            Some(Some(peer)) => Behind::Peer(peer),
            Some(None) => Behind::Unclear,
            None if self.meshed.contains(&app.ip()) || self.meshed.len() > MOST_REMEMBERED => Behind::Unclear,
            None => Behind::Stranger,
        }
    }

    /// The same with the memory of what was known before.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        // Past the bound everything is unclear, and need not be remembered.
        if self.meshed.len() <= MOST_REMEMBERED {
            self.meshed.extend(&before.meshed);
        }
        self
    }
}

impl FromIterator<(SpiffeId, Vec<Endpoint>)> for Services {
    fn from_iter<T: IntoIterator<Item = (SpiffeId, Vec<Endpoint>)>>(services: T) -> Self {
        let mut all = Self::default();
        for (peer, endpoints) in services {
            for endpoint in &endpoints {
                let address = endpoint.address.ip();
                all.meshed.insert(address);
                all.apps
                    .entry((address, endpoint.app_port))
                    .and_modify(|known| {
                        if known.as_ref().is_some_and(|other| *other != peer) {
                            *known = None;
                        }
                    })
                    .or_insert_with(|| Some(peer.clone()));
            }
            all.endpoints.insert(peer, endpoints);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, app_port: u16) -> Endpoint {
        Endpoint { address: address.parse().unwrap(), app_port, instance: None, locality: None }
    }

    #[test]
    fn an_address_that_two_identities_share_tells_nobody() {
        let [one, two] = ["spiffe://td/one", "spiffe://td/two"].map(|id| id.parse::<SpiffeId>().unwrap());
        let services: Services = [
            (one.clone(), vec![endpoint("10.0.0.1:15443", 80), endpoint("10.0.0.2:15443", 80)]),
            (two.clone(), vec![endpoint("10.0.0.2:15444", 80), endpoint("10.0.0.2:15445", 81)]),
        ]
        .into_iter()
        .collect();
        let behind = |app: &str| services.behind(app.parse().unwrap());
        assert_eq!(behind("10.0.0.1:80"), Behind::Peer(&one));
        assert_eq!(behind("10.0.0.2:80"), Behind::Unclear);
        assert_eq!(behind("10.0.0.2:81"), Behind::Peer(&two));
        assert_eq!(behind("10.0.0.1:15443"), Behind::Unclear);
        assert_eq!(behind("10.0.0.9:80"), Behind::Stranger);
    }

    #[test]
    fn who_was_a_peer_once_is_no_stranger_later() {
        let peer: SpiffeId = "spiffe://td/one".parse().unwrap();
        let before: Services = [(peer.clone(), vec![endpoint("10.0.0.1:15443", 80)])].into_iter().collect();
        let after: Services = [(peer, Vec::new())].into_iter().collect();
        let after = after.after(&before);
        assert_eq!(after.behind("10.0.0.1:80".parse().unwrap()), Behind::Unclear);
        assert!(after.of(&"spiffe://td/one".parse().unwrap()).is_empty());
    }
}
