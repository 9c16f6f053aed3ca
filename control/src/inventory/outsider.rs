//! An address without identity at one end of connections, and what is added to it. Pure.

use std::net::IpAddr;
use std::time::SystemTime;

use signet_proto::spiffe::SpiffeId;

use super::edge::Spoken;

/// Which end it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// It calls a workload without TLS, where the mesh takes that.
    Plaintext,
    /// A workload calls it, where unknown destinations pass.
    Passthrough,
}

/// Connections of one workload with one address, or what a report adds to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outsider {
    /// The end that has an identity.
    pub workload: SpiffeId,
    /// Which end the other is.
    pub way: Way,
    /// The other.
    pub address: IpAddr,
    /// The port that is called.
    pub port: u16,
    /// What was spoken last, if that is known.
    pub protocol: Option<Spoken>,
    /// When it was first seen.
    pub first_at: SystemTime,
    /// When last.
    pub last_at: SystemTime,
    /// Connections that were let in, or let pass.
    pub connections: u64,
    /// HTTP requests that were let in.
    pub requests: u64,
    /// To the end that is called.
    pub bytes_in: u64,
    /// From it.
    pub bytes_out: u64,
    /// Connections and requests that were denied.
    pub denied: u64,
}

/// A workload that is called in plaintext at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaintextPort {
    /// Which workload.
    pub workload: SpiffeId,
    /// The port of its app.
    pub port: u16,
    /// From how many addresses.
    pub callers: u64,
    /// When last.
    pub last_at: SystemTime,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Plaintext, Self::Passthrough];

    /// The word for it; stable.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Passthrough => "passthrough",
        }
    }

    /// From the word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.as_str() == word)
    }
}

impl Outsider {
    /// Counts what a report adds. No count wraps.
    pub fn add(&mut self, more: &Self) {
        self.protocol = more.protocol.or(self.protocol);
        self.first_at = self.first_at.min(more.first_at);
        self.last_at = self.last_at.max(more.last_at);
        let most = i64::MAX.unsigned_abs();
        for (total, more) in [
            (&mut self.connections, more.connections),
            (&mut self.requests, more.requests),
            (&mut self.bytes_in, more.bytes_in),
            (&mut self.bytes_out, more.bytes_out),
            (&mut self.denied, more.denied),
        ] {
            *total = total.saturating_add(more).min(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time;

    #[test]
    fn what_is_added_spans_both_and_never_wraps() {
        let seen = |at: i64, connections: u64| Outsider {
            workload: "spiffe://td/web".parse().unwrap(),
            way: Way::Plaintext,
            address: [10, 0, 0, 1].into(),
            port: 80,
            protocol: None,
            first_at: time::from_millis(at),
            last_at: time::from_millis(at + 5),
            connections,
            requests: 0,
            bytes_in: 1,
            bytes_out: 2,
            denied: 3,
        };
        let mut all = seen(100, 1);
        all.add(&Outsider { protocol: Some(Spoken::Tcp), ..seen(50, u64::MAX) });
        all.add(&seen(60, 1));
        assert_eq!((all.first_at, all.last_at), (time::from_millis(50), time::from_millis(105)));
        assert_eq!((all.connections, all.bytes_in, all.denied), (i64::MAX.unsigned_abs(), 3, 9));
        assert_eq!(all.protocol, Some(Spoken::Tcp));
        assert_eq!(Way::ALL.map(|way| Way::from_word(way.as_str())), Way::ALL.map(Some));
    }
}
