//! What documents of `kind: Service` say, found by identity. No right follows from any of it: what cannot be read is
//! as if it were not there, and said so.

use std::collections::HashMap;
use std::sync::Arc;

use signet_proto::spiffe::SpiffeId;
use signet_proto::traffic::{Service, parse_json};

use crate::telemetry::metrics;

/// The documents that concern us: of ourselves, and of those whom we call.
#[derive(Debug, Clone, Default)]
pub struct Traffic(HashMap<SpiffeId, Arc<Service>>);

impl Traffic {
    /// Of documents as control sends them. Those that are the same as before stay the same.
    #[must_use]
    pub fn read<'a>(documents: impl IntoIterator<Item = &'a str>, before: &Self) -> Self {
        let mut services = HashMap::new();
        for document in documents {
            match parse_json(document) {
                Ok(service) => {
                    let known = before.of(&service.id).filter(|known| ***known == service).cloned();
                    services.insert(service.id.clone(), known.unwrap_or_else(|| Arc::new(service)));
                }
                Err(error) => {
                    metrics::traffic_unreadable();
                    tracing::error!(%error, "control sent a service document that cannot be read: it has no effect here");
                }
            }
        }
        Self(services)
    }

    /// The document of one identity.
    #[must_use]
    pub fn of(&self, id: &SpiffeId) -> Option<&Arc<Service>> {
        self.0.get(id)
    }

    /// Those between whom calls are split: their endpoints are needed, too.
    pub fn legs(&self) -> impl Iterator<Item = &SpiffeId> {
        self.0.values().flat_map(|service| &service.split).map(|leg| &leg.to)
    }
}
