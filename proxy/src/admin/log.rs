//! `/log`: what is logged, changed while the proxy runs, for good or for a while.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::identity::moment;
use super::{Admin, Ask, Refused, Reply};
use crate::config::Timeout;

/// What to log from now on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    filter: String,
    #[serde(rename = "for")]
    lasting: Option<Timeout>,
}

pub(super) fn show(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    let now = admin.log.state();
    Reply::json(&json!({
        "filter": now.filter,
        "configured": now.configured,
        "reverts_at": now.reverts_at.and_then(moment),
    }))
}

pub(super) fn change(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    let Wanted { filter, lasting } = ask.json()?;
    let lasting = lasting.map(|Timeout(lasting)| lasting);
    admin.log.change(&filter, lasting).map_err(|error| {
        Refused::new(StatusCode::BAD_REQUEST, format!("`filter`: {error} (such as `debug,access=off`)"))
    })?;
    tracing::info!(filter, ?lasting, "what is logged was changed by an operator");
    show(admin, ask)
}
