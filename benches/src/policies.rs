//! Policies in numbers: each document protects one service and has a rule of each kind.

use std::fmt::Write as _;

use signet_proto::policy::{PolicySet, parse_yaml};
use signet_proto::spiffe::SpiffeId;

use crate::Error;

/// `count` documents, compiled. The last one protects [`somebody`]'s service.
///
/// # Errors
/// When the policy language no longer accepts them.
pub fn documents(count: usize) -> Result<PolicySet, Error> {
    let mut yaml = String::new();
    for number in 0..count {
        write!(
            yaml,
            r#"---
kind: Policy
name: service-{number}
target: spiffe://bench.mesh/service/{number}
rules:
  - name: stores
    allow:
      from: ["spiffe://bench.mesh/store/*"]
      ports: [8080, 8081]
  - name: shop
    allow:
      from: [spiffe://bench.mesh/shop, spiffe://bench.mesh/kiosk]
      ports: [8080]
      http: {{ methods: [GET, POST], paths: ["/orders/*", "/carts/*"] }}
  - name: batch
    deny: {{ from: ["spiffe://bench.mesh/batch/*"] }}
"#
        )?;
    }
    Ok(PolicySet::compile(parse_yaml("bench.yaml", &yaml)?)?)
}

/// A caller and the service of the last of `count` documents, which allows it.
///
/// # Errors
/// When these are no SPIFFE IDs.
pub fn somebody(count: usize) -> Result<(SpiffeId, SpiffeId), Error> {
    let last = count.saturating_sub(1);
    Ok(("spiffe://bench.mesh/shop".parse()?, format!("spiffe://bench.mesh/service/{last}").parse()?))
}

/// A caller that no rule knows.
///
/// # Errors
/// When this is no SPIFFE ID.
pub fn nobody() -> Result<SpiffeId, Error> {
    Ok("spiffe://bench.mesh/stranger".parse()?)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use signet_proto::policy::{Direction, HttpRequest, Layer, Request};

    use super::*;

    #[test]
    fn what_is_measured_is_what_it_says() {
        let policies = documents(10).unwrap();
        let (shop, service) = somebody(10).unwrap();
        let stranger = nobody().unwrap();
        let mut request = Request {
            direction: Direction::Inbound,
            source: Some(&shop),
            destination: &service,
            port: Some(8080),
            address: None,
            layer: Layer::Http(HttpRequest {
                method: "GET",
                path: "/orders/17",
                host: None,
                grpc: false,
                headers: None,
            }),
            now: SystemTime::UNIX_EPOCH,
        };
        assert!(policies.decide(&request).allowed);
        request.source = Some(&stranger);
        assert!(!policies.decide(&request).allowed);
    }
}
