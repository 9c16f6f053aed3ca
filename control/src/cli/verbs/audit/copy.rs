//! The whole record, from control.

use std::collections::VecDeque;

use indicatif::{ProgressBar, ProgressStyle};
use signet_proto::v1::admin_client::AdminClient;
use signet_proto::v1::{ListCheckpointsRequest, TailAuditRequest};
use tonic::transport::Channel;

use super::parse;
use crate::audit::{AuditEvent, Checkpoint, Line};
use crate::cli::connect::Session;
use crate::cli::error::CliError;
use crate::cli::output;

/// Prints events, each checkpoint after its event.
pub(super) async fn export(after: u64, session: &Session) -> Result<(), CliError> {
    let mut admin = session.admin().await?;
    // One of the event before lets the first one be verified.
    let mut checkpoints: VecDeque<Checkpoint> =
        checkpoints(&mut admin, after.saturating_sub(1)).await?.into();
    let mut print = |next: Option<&AuditEvent>| {
        let until = next.map_or(u64::MAX, |event| event.sequence);
        let mut lines = String::new();
        while let Some(checkpoint) = checkpoints.pop_front_if(|checkpoint| checkpoint.sequence < until) {
            lines.push_str(&format!("{}\n", Line::Checkpoint(checkpoint)));
        }
        if let Some(event) = next {
            lines.push_str(&format!("{}\n", Line::Event(event.clone())));
        }
        output::print(&lines)
    };
    events(&mut admin, after, |event| print(Some(event))).await?;
    print(None)
}

/// All checkpoints of events after one.
pub(super) async fn checkpoints(
    admin: &mut AdminClient<Channel>,
    after: u64,
) -> Result<Vec<Checkpoint>, CliError> {
    let mut found = Vec::new();
    let mut after_sequence = after;
    loop {
        let request = ListCheckpointsRequest { after_sequence };
        let lines = admin.list_checkpoints(request).await?.into_inner().checkpoints;
        if lines.is_empty() {
            return Ok(found);
        }
        for line in lines {
            match Line::parse(&line) {
                Ok(Line::Checkpoint(checkpoint)) if checkpoint.sequence > after_sequence => {
                    after_sequence = checkpoint.sequence;
                    found.push(checkpoint);
                }
                Ok(_) => return Err(CliError::failed("control's checkpoints are not in order")),
                Err(error) => return Err(CliError::failed(format!("control's checkpoints: {error}"))),
            }
        }
    }
}

/// Hands over all events after one, up to the newest. How far it is is shown if that takes long.
pub(super) async fn events(
    admin: &mut AdminClient<Channel>,
    after: u64,
    mut each: impl FnMut(&AuditEvent) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let request = TailAuditRequest { after_sequence: after, follow: false };
    let mut stream = admin.tail_audit(request).await?.into_inner();
    let bar = progress(0);
    while let Some(message) = stream.message().await? {
        bar.set_length(message.newest.saturating_sub(after));
        bar.inc(message.events.len() as u64);
        for event in message.events {
            each(&parse(event)?)?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// On standard error, and only if that is a terminal.
pub(super) fn progress(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {percent}% of {len}, {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
