//! `/config`: every key, its value, and where that came from.

use super::{Admin, Ask, Refused, Reply};

pub(super) fn show(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    Reply::json(&admin.config)
}
