//! Two stunnels: bytes only, a thread for each connection, the peer by its DNS name.

use std::process::Command;

use anyhow::Result;

use super::{Peer, Setup, Side};

pub(super) fn command(setup: &Setup<'_>, side: Side) -> Result<Command> {
    let (client, server) = (&setup.credentials.client, &setup.credentials.server);
    let (own, peer) = if side == Side::Outbound { (client, server) } else { (server, client) };
    let mut text = "foreground = yes\npid =\nsyslog = no\ndebug = err\n".to_owned();
    for (number, route) in setup.routes.iter().enumerate() {
        let (accept, connect, client) = match side {
            Side::Outbound => (route.entrance, route.middle, "yes"),
            Side::Inbound => (route.middle, route.app, "no"),
        };
        let resume = if setup.resume { "yes" } else { "no" };
        text += &format!(
            "[route{number}]\nclient = {client}\naccept = {accept}\nconnect = {connect}\nsslVersion = TLSv1.3\n\
             cert = {}\nkey = {}\nCAfile = {}\nverifyChain = yes\ncheckHost = {}\nsessionResume = {resume}\n\
             TIMEOUTidle = 3600\nsocket = l:TCP_NODELAY=1\nsocket = r:TCP_NODELAY=1\n",
            own.certificate.display(),
            own.key.display(),
            setup.credentials.bundle.display(),
            peer.name
        );
    }
    let configuration = setup.write("conf", side, &text)?;
    let mut command = Command::new(setup.programs.of(Peer::Stunnel)?);
    command.arg(configuration);
    Ok(command)
}
