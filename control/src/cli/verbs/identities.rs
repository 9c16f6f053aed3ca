//! Taking an identity away.

use signet_proto::v1::RevokeRequest;
use signet_proto::v1::revoke_request::What;

use super::applied;
use crate::cli::args::RevokeWhat;
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output::Output;

pub(in crate::cli) async fn revoke(
    what: RevokeWhat,
    session: &Session,
    output: Output,
) -> Result<(), CliError> {
    let RevokeWhat { id, instance, serial, reason, wait } = what;
    let what = id.map(What::SpiffeId).or(instance.map(What::Instance)).or(serial.map(What::Serial));
    let mut client = session.admin().await?;
    let mutation = client.revoke(RevokeRequest { what, reason }).await?.into_inner();
    applied::report(mutation.into(), Some(wait), &mut client, output).await
}
