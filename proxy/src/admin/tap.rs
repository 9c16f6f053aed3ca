//! `/tap`: a line of JSON for each connection and request from now on, until the reader leaves.

use http::StatusCode;

use super::{Admin, Ask, Refused, Reply};
use crate::telemetry::observers::Wanted;

const FILTERS: &str =
    "`source`, `destination`, `port`, `direction`, `verdict`, `kind`, `method`, `path` or `status`";

pub(super) fn stream(admin: &Admin, mut ask: Ask) -> Result<Reply, Refused> {
    let wanted = Wanted {
        source: ask.take("source")?,
        destination: ask.take("destination")?,
        port: ask.take("port")?,
        direction: one_of(&mut ask, "direction", &["inbound", "outbound"])?,
        verdict: one_of(&mut ask, "verdict", &["allow", "deny", "none"])?,
        kind: one_of(&mut ask, "kind", &["connection", "request"])?,
        method: ask.take("method")?,
        path: ask.take("path")?,
        status: ask.take("status")?,
    };
    ask.nothing_else(FILTERS)?;
    let tap = admin.shared.observers.tap(wanted);
    let tap =
        tap.ok_or_else(|| Refused::new(StatusCode::TOO_MANY_REQUESTS, "too many taps: end one of them"))?;
    Ok(Reply::lines(futures_util::stream::unfold(tap, async |mut tap| {
        let line = tap.next().await?;
        Some((line, tap))
    })))
}

fn one_of(ask: &mut Ask, name: &str, values: &[&str]) -> Result<Option<String>, Refused> {
    let value: Option<String> = ask.take(name)?;
    match value {
        Some(value) if !values.contains(&value.as_str()) => {
            Err(Refused::bad(format!("`{name}`: expected {}, found `{value}`", values.join(", "))))
        }
        value => Ok(value),
    }
}
