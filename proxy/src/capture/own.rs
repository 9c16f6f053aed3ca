//! What nobody reaches through this proxy: its own listeners, as that would be a loop or a way past the
//! loopback bound of its metrics (Linkerd CVE-2024-40632), and control.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpSocket;

use super::socket::canonical;

const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);

/// The listeners of this process, and control's addresses.
#[derive(Debug, Default)]
pub struct Own {
    /// Ports for peers: what arrives there is decided, so another way to them is no loop.
    for_peers: BTreeSet<u16>,
    /// All other ports.
    others: BTreeSet<u16>,
    /// `HOST:PORT`, as in the ticket.
    control: Vec<String>,
    /// Ports from which we call strangers ourselves.
    calling: Arc<Mutex<HashMap<u16, usize>>>,
}

/// A port from which we call a stranger, for as long as we do.
#[derive(Debug)]
pub struct Calling {
    port: u16,
    all: Arc<Mutex<HashMap<u16, usize>>>,
}

impl Drop for Calling {
    fn drop(&mut self) {
        if let Entry::Occupied(mut calls) = self.all.lock().entry(self.port) {
            *calls.get_mut() -= 1;
            if *calls.get() == 0 {
                calls.remove();
            }
        }
    }
}

impl Own {
    /// What leads nowhere.
    #[must_use]
    pub fn new(for_peers: BTreeSet<u16>, others: BTreeSet<u16>, control: Vec<String>) -> Self {
        Self { for_peers, others, control, calling: Arc::default() }
    }

    /// A socket to call a stranger with, known before it calls: should the rules capture it, as they do when the
    /// proxy runs as another user than they were told, it is recognized.
    ///
    /// # Errors
    /// When there is no port to call from.
    pub fn caller(&self, destination: SocketAddr) -> io::Result<(TcpSocket, Calling)> {
        let (socket, any) = match destination {
            SocketAddr::V4(_) => (TcpSocket::new_v4()?, SocketAddr::from(([0; 4], 0))),
            SocketAddr::V6(_) => (TcpSocket::new_v6()?, SocketAddr::from(([0; 16], 0))),
        };
        // One port may call many destinations: bound for itself it would be lost to everybody else here.
        socket.set_reuseaddr(true)?;
        socket.bind(any)?;
        let port = socket.local_addr()?.port();
        *self.calling.lock().entry(port).or_default() += 1;
        Ok((socket, Calling { port, all: Arc::clone(&self.calling) }))
    }

    /// Whether a connection from there is one of our own calls.
    #[must_use]
    pub fn calls_from(&self, remote: SocketAddr) -> bool {
        self.calling.lock().contains_key(&remote.port()) && is_local(remote)
    }

    /// Whether this is one of our listeners that no connection to a peer may end at.
    #[must_use]
    pub fn would_loop(&self, destination: SocketAddr) -> bool {
        self.others.contains(&destination.port()) && is_local(destination)
    }

    /// Whether this is any of our listeners.
    #[must_use]
    pub fn has(&self, destination: SocketAddr) -> bool {
        let port = destination.port();
        (self.others.contains(&port) || self.for_peers.contains(&port)) && is_local(destination)
    }

    /// Whether this is control. A name that cannot be looked up counts by its port alone.
    pub async fn is_control(&self, destination: SocketAddr) -> bool {
        let destination = canonical(destination);
        let port = format!(":{}", destination.port());
        for control in self.control.iter().filter(|control| control.ends_with(&port)) {
            let found = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host(control)).await;
            let Ok(Ok(mut addresses)) = found else { return true };
            // Control on this machine answers under each of its addresses.
            let here = is_local(destination);
            if addresses.any(|address| canonical(address) == destination || (here && is_local(address))) {
                return true;
            }
        }
        false
    }
}

/// Whether an address is this machine's (or namespace's): only then can a socket be bound to it. What cannot be
/// found out counts as local.
#[must_use]
pub fn is_local(address: SocketAddr) -> bool {
    let mut address = canonical(address);
    address.set_port(0);
    match UdpSocket::bind(address) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn own_ports_and_control_are_recognized_under_every_address() {
        let control = vec!["127.0.0.1:8443".into(), "localhost:9443".into()];
        let own = Own::new([15443].into(), [15001, 15020].into(), control);
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

    #[tokio::test]
    async fn our_own_calls_are_recognized_while_they_last() {
        let own = Own::default();
        let (socket, calling) = own.caller("127.0.0.1:1".parse().unwrap()).unwrap();
        let from = SocketAddr::from(([127, 0, 0, 1], socket.local_addr().unwrap().port()));
        assert!(own.calls_from(from));
        assert!(!own.calls_from(SocketAddr::from(([192, 0, 2, 7], from.port()))));
        drop(calling);
        assert!(!own.calls_from(from));
    }
}
