//! Documents of `kind: Service`: how calls to one identity are made and taken. None of it gives or takes a right:
//! whoever is called is verified as the identity that was chosen, and decides by its policy.
//!
//! ```yaml
//! kind: Service
//! id: spiffe://prod.example/payments      # a workload's, or a name for those that it is split between
//! split:                                  # for callers: whom a call to it is for, by weight
//!   - { to: spiffe://prod.example/payments, weight: 95 }
//!   - { to: spiffe://prod.example/payments-canary, weight: 5 }
//! retries: { attempts: 3, on: [connect, reset, 503], methods: [GET, PUT], budget: { percent: 20, perSecond: 10 } }
//! timeouts: { connect: 1s, firstByte: 10s, idle: 5m }
//! limits: { requests: 200, queue: 50, wait: 500ms }   # for the workload: at once, of each app
//! rate: { requests: 100, per: 1s, burst: 200 }        # for the workload: of each calling identity
//! ```
//!
//! As with policy, what is not understood is an error, never a default.

mod document;
mod read;

pub use document::{Budget, Condition, Leg, Limits, Rate, Retries, Service, Timeouts};
pub use read::parse_node;

use crate::document::{ParseError, from_json};

/// The `kind` of these documents.
pub const KIND: &str = "Service";

/// Reads one document from the JSON that [`Service::to_json`] writes.
///
/// # Errors
/// The first thing that is not a service's.
pub fn parse_json(text: &str) -> Result<Service, ParseError> {
    const FILE: &str = "json";
    let node = from_json(FILE, text)?;
    parse_node(FILE, &node)
}
