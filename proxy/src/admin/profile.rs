//! `/profile/cpu` and `/profile/heap`: where CPU time goes and who holds memory, as `pprof` and flame graphs read it.
//! Off unless the configuration says `profiles`.

use std::time::Duration;

use http::StatusCode;

use super::{Admin, Ask, Refused, Reply};
use crate::profiles::{self, Profile, ProfileError};

/// The longest CPU profile, in seconds.
pub(super) const LONGEST: u64 = 300;
const SECONDS: u64 = 10;

/// How a profile is written.
#[derive(Debug, Clone, Copy)]
enum Format {
    Pprof,
    Collapsed,
}

impl std::str::FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "pprof" => Ok(Self::Pprof),
            "collapsed" => Ok(Self::Collapsed),
            _ => Err("expected pprof or collapsed"),
        }
    }
}

pub(super) async fn cpu(admin: &Admin, mut ask: Ask) -> Result<Reply, Refused> {
    allowed(admin)?;
    let seconds = ask.take("seconds")?.unwrap_or(SECONDS);
    let (format, count) = (ask.take("format")?, ask.take("count")?);
    ask.nothing_else("`seconds`, `format` or `count`")?;
    if !(1..=LONGEST).contains(&seconds) {
        return Err(Refused::bad(format!("`seconds`: expected 1 to {LONGEST}, found {seconds}")));
    }
    tracing::info!(seconds, "an operator takes a CPU profile");
    written(&profiles::cpu(Duration::from_secs(seconds)).await?, format, count)
}

pub(super) async fn heap(admin: &Admin, mut ask: Ask) -> Result<Reply, Refused> {
    allowed(admin)?;
    let (format, count) = (ask.take("format")?, ask.take("count")?);
    ask.nothing_else("`format` or `count`")?;
    written(&profiles::heap().await?, format, count)
}

fn allowed(admin: &Admin) -> Result<(), Refused> {
    if admin.profiles {
        return Ok(());
    }
    let text = "not allowed here: `profiles` is not set; start the proxy with it, or upgrade it in place";
    Err(Refused::new(StatusCode::FORBIDDEN, text))
}

fn written(profile: &Profile, format: Option<Format>, count: Option<String>) -> Result<Reply, Refused> {
    match (format.unwrap_or(Format::Pprof), count) {
        (Format::Collapsed, count) => {
            let lines = profile.collapsed(count.as_deref());
            Ok(Reply::text(lines.map_err(|error| Refused::bad(format!("`count`: {error}")))?))
        }
        (Format::Pprof, None) => Ok(Reply::whole("application/vnd.google.protobuf", profile.pprof())),
        (Format::Pprof, Some(_)) => {
            Err(Refused::bad("`count` goes with `format=collapsed`: pprof has all of them"))
        }
    }
}

impl From<ProfileError> for Refused {
    fn from(error: ProfileError) -> Self {
        let status = match error {
            ProfileError::Busy => StatusCode::CONFLICT,
            ProfileError::System(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error)
    }
}
