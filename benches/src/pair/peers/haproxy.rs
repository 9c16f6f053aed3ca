//! Two haproxys, one thread, no log. Version 2.6 cannot look at a SPIFFE ID: who calls is told by the common name.

use std::process::Command;

use anyhow::Result;

use super::super::service::{GRPC_METHOD, GRPC_SERVICE, HTTP_PATH};
use super::{Carries, Peer, Route, Setup, Side};

pub(super) fn command(setup: &Setup<'_>, side: Side) -> Result<Command> {
    let cache = if setup.resume { "" } else { "  tune.ssl.cachesize 0\n" };
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn {}\n{cache}defaults\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\n  timeout http-keep-alive 1h\n  http-reuse always\n  retries 0\n",
        setup.connections
    );
    for (number, route) in setup.routes.iter().enumerate() {
        text += &format!("listen route{number}\n");
        text += &match side {
            Side::Outbound => outbound(setup, route),
            Side::Inbound => inbound(setup, route),
        };
    }
    let configuration = setup.write("cfg", side, &text)?;
    let mut command = Command::new(setup.programs.of(Peer::Haproxy)?);
    // -db: in the foreground, in one process.
    command.arg("-db").arg("-q").arg("-f").arg(configuration);
    Ok(command)
}

fn outbound(setup: &Setup<'_>, route: &Route) -> String {
    let (own, peer) = (&setup.credentials.client, &setup.credentials.server);
    let (mode, bind, server) = match route.carries {
        Carries::Http1 => ("http", "", "alpn http/1.1"),
        Carries::Http2 => ("http", "proto h2", "alpn h2"),
        Carries::Tcp => ("tcp", "", ""),
    };
    let reuse = if setup.resume { "" } else { "no-ssl-reuse" };
    format!(
        "  mode {mode}\n  bind {} {bind}\n  server peer {} ssl ssl-min-ver TLSv1.3 verify required \
         verifyhost {} ca-file {} crt {} {server} {reuse}\n",
        route.entrance,
        route.middle,
        peer.name,
        setup.credentials.bundle.display(),
        own.combined.display()
    )
}

fn inbound(setup: &Setup<'_>, route: &Route) -> String {
    let (own, peer) = (&setup.credentials.server, &setup.credentials.client);
    let caller = format!("ssl_c_s_dn(CN) -m str {}", peer.name);
    let deny = |method: &str, path: &str| {
        format!("http-request deny unless {{ {caller} }} {{ method {method} }} {{ path {path} }}")
    };
    let (mode, bind, rule, server) = match route.carries {
        Carries::Http1 => ("http", "alpn http/1.1", deny("GET", HTTP_PATH), ""),
        Carries::Http2 => {
            ("http", "alpn h2", deny("POST", &format!("/{GRPC_SERVICE}/{GRPC_METHOD}")), "proto h2")
        }
        Carries::Tcp => ("tcp", "", format!("tcp-request content reject unless {{ {caller} }}"), ""),
    };
    let tickets = if setup.resume { "" } else { "no-tls-tickets" };
    format!(
        "  mode {mode}\n  bind {} ssl ssl-min-ver TLSv1.3 crt {} ca-file {} verify required {tickets} {bind}\n  \
         {rule}\n  server app {} {server}\n",
        route.middle,
        own.combined.display(),
        setup.credentials.bundle.display(),
        route.app
    )
}
