//! Two `signet-proxy` that joined a control service, one worker, access log off; a document with identity and route
//! rules in front of the app.

use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Carries, Peer, Route, Setup, Side};

pub(super) fn command(setup: &Setup<'_>, side: Side) -> Result<Command> {
    let tickets = setup.tickets.context("no tickets for Signet's pair")?;
    let own = if side == Side::Outbound { &tickets.outbound } else { &tickets.inbound };
    let ticket = setup.write("ticket", side, own)?;
    let mut command = Command::new(setup.programs.of(Peer::Signet)?);
    command.env("TOKIO_WORKER_THREADS", "1").env("SIGNET_LOG", "warn,access=off");
    command.arg("run").arg("--join-file").arg(ticket);
    command.args(["--metrics-listen", "127.0.0.1:0", "--admin-listen", "none"]);
    let most = setup.connections.to_string();
    command.args(["--max-connections", &most, "--max-connections-per-identity", &most]);
    for Route { carries, entrance, middle, app } in setup.routes {
        let scheme = if *carries == Carries::Tcp { "tcp://" } else { "http://" };
        let (option, value) = match side {
            Side::Outbound => ("--outbound", format!("{scheme}{entrance}={}:{}", tickets.server, app.port())),
            Side::Inbound => ("--inbound", format!("{middle}={scheme}{app}")),
        };
        command.args([option, &value]);
    }
    Ok(command)
}
