//! Which endpoint of a peer is called, and which connection to it is used again.

pub mod tunnels;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mesh::Endpoint;

/// Gives every endpoint its turn.
#[derive(Debug, Default)]
pub struct Rotation(AtomicUsize);

impl Rotation {
    /// All endpoints, starting with the one whose turn it is; the rest is for when it cannot be reached.
    pub fn order(&self, endpoints: &[Endpoint]) -> Vec<Endpoint> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1);
        let (later, first) = endpoints.split_at(turn.min(endpoints.len()));
        first.iter().chain(later).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_its_turn_and_the_others_follow() {
        let endpoints: Vec<_> =
            (1..=3).map(|port| Endpoint { address: ([127, 0, 0, 1], port).into(), app_port: 80 }).collect();
        let rotation = Rotation::default();
        let orders: Vec<Vec<u16>> = (0..4)
            .map(|_| rotation.order(&endpoints).iter().map(|endpoint| endpoint.address.port()).collect())
            .collect();
        assert_eq!(orders, [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
        assert!(rotation.order(&[]).is_empty());
    }
}
