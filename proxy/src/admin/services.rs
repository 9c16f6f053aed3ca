//! `/services`: everybody whom our app calls, and how their endpoints are.

use serde_json::{Value, json};

use super::{Admin, Ask, Refused, Reply};
use crate::balance::Group;
use crate::balance::balancer::Status;

pub(super) fn show(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    let traffic = admin.shared.mesh.traffic();
    let service = |group: &Group| {
        let document = traffic.of(group.peer());
        json!({
            "peer": group.peer().to_string(),
            "place": group.place(),
            "endpoints": group.statuses().iter().map(endpoint).collect::<Vec<_>>(),
            "split": document.map(|document| &document.split),
            "retries": document.and_then(|document| document.retries.as_ref()),
            "timeouts": document.and_then(|document| document.timeouts),
        })
    };
    let services: Vec<Value> = admin.shared.groups.all().iter().map(|group| service(group)).collect();
    Reply::json(
        &json!({ "locality": admin.shared.locality.as_ref().map(ToString::to_string), "services": services }),
    )
}

fn endpoint(status: &Status) -> Value {
    let state = match (status.ejected_for, status.slow_start) {
        (Some(_), _) => "ejected",
        (None, true) => "slow start",
        (None, false) => "healthy",
    };
    json!({
        "address": status.endpoint.address.to_string(),
        "app_port": status.endpoint.app_port,
        "instance": status.endpoint.instance.as_deref(),
        "locality": status.endpoint.locality.as_ref().map(ToString::to_string),
        "state": state,
        "ejected_for_seconds": status.ejected_for.map(|left| left.as_secs_f64()),
        "ewma_milliseconds": status.ewma * 1000.0,
        "in_flight": status.outstanding,
        "preferred": status.preferred,
    })
}
