//! Two Envoys, one worker, no access log; RBAC on the caller's SPIFFE ID, and on method and path where it carries HTTP.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::credentials::Identity;
use super::super::service::{GRPC_METHOD, GRPC_SERVICE, HTTP_PATH};
use super::{Carries, Peer, Route, Setup, Side};

pub(super) fn command(setup: &Setup<'_>, side: Side) -> Result<Command> {
    let listeners: Vec<Value> = named(setup, |name, route| listener(setup, side, name, route));
    let clusters: Vec<Value> = named(setup, |name, route| cluster(setup, side, name, route));
    let bootstrap = json!({ "static_resources": { "listeners": listeners, "clusters": clusters } });
    let configuration = setup.write("json", side, &bootstrap.to_string())?;
    let mut command = Command::new(setup.programs.of(Peer::Envoy)?);
    command.arg("-c").arg(configuration);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
    Ok(command)
}

fn named(setup: &Setup<'_>, of: impl Fn(&str, &Route) -> Value) -> Vec<Value> {
    setup.routes.iter().enumerate().map(|(number, route)| of(&format!("route{number}"), route)).collect()
}

fn listener(setup: &Setup<'_>, side: Side, name: &str, route: &Route) -> Value {
    let at = if side == Side::Outbound { route.entrance } else { route.middle };
    let client = &setup.credentials.client.id;
    let filters = match (route.carries, side) {
        (Carries::Tcp, Side::Inbound) => json!([rbac_of_connections(client), tcp_proxy(name)]),
        (Carries::Tcp, Side::Outbound) => json!([tcp_proxy(name)]),
        (_, Side::Inbound) => json!([http_manager(name, Some(&rbac_of_requests(client, route.carries)))]),
        (_, Side::Outbound) => json!([http_manager(name, None)]),
    };
    // What is null is not there (JSON of Protocol Buffers).
    let socket = (side == Side::Inbound).then(|| tls(setup, side, route.carries));
    let chain = json!({ "filters": filters, "transport_socket": socket });
    json!({ "name": name, "address": address(at), "filter_chains": [chain] })
}

fn cluster(setup: &Setup<'_>, side: Side, name: &str, route: &Route) -> Value {
    let to = if side == Side::Outbound { route.middle } else { route.app };
    let endpoint = json!({ "endpoint": { "address": address(to) } });
    let most = setup.connections;
    let limits = json!({
        "max_connections": most, "max_pending_requests": most, "max_requests": most,
    });
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let http2 = json!({ options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": { "http2_protocol_options": {} },
    } });
    json!({
        "name": name,
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [limits] },
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        "transport_socket": (side == Side::Outbound).then(|| tls(setup, side, route.carries)),
        "typed_extension_protocol_options": (route.carries == Carries::Http2).then_some(http2),
    })
}

/// TLS 1.3 and nothing else, whose peer must present exactly that SPIFFE ID.
fn tls(setup: &Setup<'_>, side: Side, carries: Carries) -> Value {
    let (client, server) = (&setup.credentials.client, &setup.credentials.server);
    let (kind, own, peer): (_, &Identity, &Identity) = match side {
        Side::Outbound => ("Upstream", client, server),
        Side::Inbound => ("Downstream", server, client),
    };
    let kind = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}TlsContext");
    let alpn: &[&str] = match carries {
        Carries::Http1 => &["http/1.1"],
        Carries::Http2 => &["h2"],
        Carries::Tcp => &[],
    };
    let context = json!({
        "alpn_protocols": alpn,
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [{
            "certificate_chain": { "filename": own.certificate }, "private_key": { "filename": own.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": setup.credentials.bundle },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer.id } }],
        },
    });
    let config = match side {
        Side::Outbound => json!({
            "@type": kind,
            "common_tls_context": context,
            "max_session_keys": (!setup.resume).then_some(0),
        }),
        Side::Inbound => json!({
            "@type": kind,
            "common_tls_context": context,
            "require_client_certificate": true,
            "disable_stateless_session_resumption": (!setup.resume).then_some(true),
            "disable_stateful_session_resumption": !setup.resume,
        }),
    };
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": config })
}

fn rbac_of_connections(client: &str) -> Value {
    let any = json!({ "any": true });
    json!({
        "name": "envoy.filters.network.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": "rbac",
            "rules": rules(client, &any),
        },
    })
}

fn rbac_of_requests(client: &str, carries: Carries) -> Value {
    let (method, path) = match carries {
        Carries::Http2 => ("POST", format!("/{GRPC_SERVICE}/{GRPC_METHOD}")),
        _ => ("GET", HTTP_PATH.to_owned()),
    };
    let allowed = json!({ "and_rules": { "rules": [
        { "header": { "name": ":method", "string_match": { "exact": method } } },
        { "url_path": { "path": { "exact": path } } },
    ] } });
    json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": rules(client, &allowed),
        },
    })
}

fn rules(client: &str, permission: &Value) -> Value {
    let principal = json!({ "authenticated": { "principal_name": { "exact": client } } });
    let policy = json!({ "permissions": [permission], "principals": [principal] });
    json!({ "action": "ALLOW", "policies": { "bench": policy } })
}

fn tcp_proxy(cluster: &str) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": { "@type": kind, "stat_prefix": cluster, "cluster": cluster },
    })
}

fn http_manager(cluster: &str, rbac: Option<&Value>) -> Value {
    let of = "type.googleapis.com/envoy.extensions.filters";
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{of}.http.router.v3.Router") },
    });
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    let all = json!({ "name": "all", "domains": ["*"], "routes": [route] });
    // In front of the app the caller's certificate is told, as Signet tells it.
    let details = rbac.map(|_| json!({ "uri": true }));
    let config = json!({
        "@type": format!("{of}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": cluster,
        "codec_type": "AUTO",
        "http_filters": rbac.into_iter().chain([&router]).collect::<Vec<_>>(),
        "route_config": { "virtual_hosts": [all] },
        "forward_client_cert_details": details.as_ref().map(|_| "SANITIZE_SET"),
        "set_current_client_cert_details": details,
    });
    json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": config })
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
