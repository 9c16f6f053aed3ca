//! Two nginxes, one worker beside the master, no access log. nginx cannot look at a SPIFFE ID: who calls is told by the
//! subject.

use std::process::Command;

use anyhow::Result;

use super::super::service::{GRPC_METHOD, GRPC_SERVICE, HTTP_PATH};
use super::{Carries, Peer, Route, Setup, Side};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// Idle connections to the next hop that are kept; more than any load of requests opens.
const KEPT: usize = 128;

pub(super) fn command(setup: &Setup<'_>, side: Side) -> Result<Command> {
    let (mut http, mut stream) = (String::new(), String::new());
    for (number, route) in setup.routes.iter().enumerate() {
        let name = format!("route{number}");
        match (route.carries, side) {
            (Carries::Tcp, Side::Outbound) => stream += &stream_outbound(setup, route),
            (Carries::Tcp, Side::Inbound) => stream += &stream_inbound(setup, route, &name),
            (_, Side::Outbound) => http += &http_outbound(setup, route, &name),
            (_, Side::Inbound) => http += &http_inbound(setup, route, &name),
        }
    }
    // Two for each connection, as the next hop counts, too.
    let most = setup.connections * 2 + 64;
    let side_name = side.name();
    let text = format!(
        "load_module {MODULE};
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile {most};
pid {side_name}.pid;
error_log stderr crit;
events {{ worker_connections {most}; }}
http {{
  access_log off;
  client_body_temp_path {side_name}-body;
  proxy_temp_path {side_name}-proxy;
  fastcgi_temp_path {side_name}-fastcgi;
  uwsgi_temp_path {side_name}-uwsgi;
  scgi_temp_path {side_name}-scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
{http}}}
stream {{
  access_log off;
  proxy_timeout 1h;
{stream}}}
"
    );
    let configuration = setup.write("conf", side, &text)?;
    let mut command = Command::new(setup.programs.of(Peer::Nginx)?);
    command.arg("-p").arg(setup.directory).args(["-e", "stderr", "-c"]).arg(configuration);
    Ok(command)
}

fn upstream(name: &str, to: std::net::SocketAddr) -> String {
    format!(
        "  upstream {name} {{ server {to}; keepalive {KEPT}; keepalive_requests 1000000000; keepalive_timeout 1h; }}\n"
    )
}

fn http_outbound(setup: &Setup<'_>, route: &Route, name: &str) -> String {
    let (own, peer) = (&setup.credentials.client, &setup.credentials.server);
    let (listen, scheme, pass, more) = kind(route.carries);
    let reuse = if setup.resume { "on" } else { "off" };
    format!(
        "{}  server {{
    listen {}{listen};
    location / {{
      {pass}_pass {scheme}s://{name};
      {more}
      {pass}_ssl_certificate {};
      {pass}_ssl_certificate_key {};
      {pass}_ssl_trusted_certificate {};
      {pass}_ssl_verify on;
      {pass}_ssl_name {};
      {pass}_ssl_protocols TLSv1.3;
      {pass}_ssl_session_reuse {reuse};
    }}
  }}
",
        upstream(name, route.middle),
        route.entrance,
        own.certificate.display(),
        own.key.display(),
        setup.credentials.bundle.display(),
        peer.name
    )
}

fn http_inbound(setup: &Setup<'_>, route: &Route, name: &str) -> String {
    let (listen, scheme, pass, more) = kind(route.carries);
    let (method, path) = match route.carries {
        Carries::Http2 => ("POST", format!("/{GRPC_SERVICE}/{GRPC_METHOD}")),
        _ => ("GET", HTTP_PATH.to_owned()),
    };
    format!(
        "{}  server {{
    listen {} ssl{listen};
{}    if ($ssl_client_s_dn != \"CN={}\") {{ return 403; }}
    location / {{ return 403; }}
    location = {path} {{
      if ($request_method != {method}) {{ return 403; }}
      {pass}_pass {scheme}://{name};
      {more}
    }}
  }}
",
        upstream(name, route.app),
        route.middle,
        served(setup, "    "),
        setup.credentials.client.name
    )
}

/// What follows `listen`, scheme, kind of directives, and what keeps connections to the next hop.
fn kind(carries: Carries) -> (&'static str, &'static str, &'static str, &'static str) {
    match carries {
        Carries::Http2 => (" http2", "grpc", "grpc", ""),
        _ => ("", "http", "proxy", "proxy_http_version 1.1; proxy_set_header Connection \"\";"),
    }
}

fn stream_outbound(setup: &Setup<'_>, route: &Route) -> String {
    let (own, peer) = (&setup.credentials.client, &setup.credentials.server);
    let reuse = if setup.resume { "on" } else { "off" };
    format!(
        "  server {{
    listen {};
    proxy_pass {};
    proxy_ssl on;
    proxy_ssl_certificate {};
    proxy_ssl_certificate_key {};
    proxy_ssl_trusted_certificate {};
    proxy_ssl_verify on;
    proxy_ssl_name {};
    proxy_ssl_protocols TLSv1.3;
    proxy_ssl_session_reuse {reuse};
    proxy_half_close on;
  }}
",
        route.entrance,
        route.middle,
        own.certificate.display(),
        own.key.display(),
        setup.credentials.bundle.display(),
        peer.name
    )
}

fn stream_inbound(setup: &Setup<'_>, route: &Route, name: &str) -> String {
    format!(
        "  upstream {name} {{ server {}; }}
  map $ssl_client_s_dn ${name} {{ \"CN={}\" {name}; default \"\"; }}
  server {{
    listen {} ssl;
{}    proxy_pass ${name};
    proxy_half_close on;
  }}
",
        route.app,
        setup.credentials.client.name,
        route.middle,
        served(setup, "    ")
    )
}

/// Mutual TLS 1.3 as a server.
fn served(setup: &Setup<'_>, indent: &str) -> String {
    let own = &setup.credentials.server;
    let mut lines = vec![
        "ssl_protocols TLSv1.3;".to_owned(),
        format!("ssl_certificate {};", own.certificate.display()),
        format!("ssl_certificate_key {};", own.key.display()),
        format!("ssl_client_certificate {};", setup.credentials.bundle.display()),
        "ssl_verify_client on;".to_owned(),
    ];
    if !setup.resume {
        lines.push("ssl_session_cache off; ssl_session_tickets off;".to_owned());
    }
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}
