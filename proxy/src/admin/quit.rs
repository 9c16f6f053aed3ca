//! `POST /quit`: the app is done, and so is its proxy. Off unless the configuration says `allow-quit`, as whoever can
//! call it ends the workload's part in the mesh.

use http::StatusCode;

use super::{Admin, Ask, Refused, Reply};

pub(super) fn quit(admin: &Admin, ask: &Ask) -> Result<Reply, Refused> {
    ask.nothing_else("none")?;
    let Some(quit) = &admin.quit else {
        return Err(Refused::new(StatusCode::FORBIDDEN, "not allowed here: `allow-quit` is not set"));
    };
    quit.cancel();
    Ok(Reply::text("draining, then ending\n".to_owned()))
}
