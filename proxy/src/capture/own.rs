//! What nobody reaches through this proxy: its own listeners, as that would be a loop or a way past the
//! loopback bound of its metrics (Linkerd CVE-2024-40632), and control.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::socket::canonical;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);

/// The listeners of this process, and control's addresses.
#[derive(Debug, Default)]
pub struct Own {
    /// Ports for peers: what arrives there is decided, so another way to them is no loop.
    pub for_peers: BTreeSet<u16>,
    /// All other ports.
    pub others: BTreeSet<u16>,
    /// `HOST:PORT`, as in the ticket.
    pub control: Vec<String>,
}

impl Own {
    /// Whether this is one of our listeners that no connection to a peer may end at.
    #[must_use]
    pub fn would_loop(&self, destination: SocketAddr) -> bool {
        self.others.contains(&destination.port()) && is_local(destination.ip())
    }

    /// Whether this is any of our listeners.
    #[must_use]
    pub fn has(&self, destination: SocketAddr) -> bool {
        let (address, port) = (destination.ip(), destination.port());
        (self.others.contains(&port) || self.for_peers.contains(&port)) && is_local(address)
    }

    /// Whether this is control. A name that cannot be looked up counts by its port alone.
    pub async fn is_control(&self, destination: SocketAddr) -> bool {
        let destination = canonical(destination);
        let port = format!(":{}", destination.port());
        for control in self.control.iter().filter(|control| control.ends_with(&port)) {
            let found = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host(control)).await;
            let Ok(Ok(mut addresses)) = found else { return true };
            // Control on this machine answers under each of its addresses.
            let here = is_local(destination.ip());
            if addresses.any(|address| canonical(address) == destination || (here && is_local(address.ip())))
            {
                return true;
            }
        }
        false
    }
}

/// Whether an address is this machine's (or namespace's): only then can a socket be bound to it.
fn is_local(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn own_ports_and_control_are_recognized_under_every_address() {
        let own = Own {
            for_peers: [15443].into(),
            others: [15001, 15020].into(),
            control: vec!["127.0.0.1:8443".into(), "localhost:9443".into()],
        };
        for loops in ["127.0.0.1:15001", "127.9.9.9:15020", "[::1]:15001", "0.0.0.0:15020"] {
            assert!(own.would_loop(loops.parse().unwrap()), "{loops}");
        }
        for fine in ["192.0.2.7:15001", "127.0.0.1:15443", "127.0.0.1:80"] {
            assert!(!own.would_loop(fine.parse().unwrap()), "{fine}");
        }
        assert!(own.has("127.0.0.1:15443".parse().unwrap()));
        assert!(own.is_control("127.0.0.1:8443".parse().unwrap()).await);
        assert!(own.is_control("[::ffff:127.0.0.1]:8443".parse().unwrap()).await);
        assert!(own.is_control("0.0.0.0:8443".parse().unwrap()).await);
        assert!(own.is_control("127.0.0.2:8443".parse().unwrap()).await);
        assert!(own.is_control("127.0.0.1:9443".parse().unwrap()).await);
        assert!(!own.is_control("192.0.2.7:8443".parse().unwrap()).await);
    }
}
