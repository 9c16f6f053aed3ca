//! Envoy as a neighbour: listeners in plain text whose calls it makes with mutual TLS, and listeners for mutual
//! TLS in front of an app. SPIFFE IDs are matched by Envoy itself.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::client::file;
use crate::pki::SvidFiles;
use crate::process::Process;
use crate::sockets::free_address;
use crate::tools;
use crate::{PATIENCE, eventually};

/// The cluster of the socket that secrets are discovered at.
const SDS: &str = "sds";

/// What it will do.
#[derive(Debug, Default)]
pub struct Envoy {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
    addresses: Vec<SocketAddr>,
    probed: Vec<SocketAddr>,
}

/// What Envoy carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// Bytes.
    Tcp,
    /// HTTP/1.1 towards the called side.
    Http1,
    /// HTTP/2 towards the called side.
    Http2,
}

/// Who Envoy is, whom it believes, and whom it expects at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Mutual<'a> {
    /// Its own SVID.
    pub own: &'a SvidFiles,
    /// The authorities.
    pub bundle: &'a Path,
    /// The SPIFFE ID of the peer.
    pub peer: &'a str,
}

/// What Envoy discovers itself with, by SDS, and whom it expects at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Discovers<'a> {
    /// Where secrets are discovered; its own certificate is `default`.
    pub socket: &'a Path,
    /// In which form of the protocol: `GRPC`, or `DELTA_GRPC` for differences.
    pub by: &'static str,
    /// The name of whom it believes.
    pub authorities: &'a str,
    /// The SPIFFE ID of the peer.
    pub peer: &'a str,
}

impl Envoy {
    /// Accepts plain text and calls `to` with mutual TLS, by secrets that it discovers.
    #[must_use]
    pub fn calling_with_secrets(mut self, to: SocketAddr, discovers: Discovers<'_>) -> Self {
        let sds = |name: &str| {
            let service = json!({ "envoy_grpc": { "cluster_name": SDS } });
            let source = json!({
                "api_type": discovers.by, "transport_api_version": "V3", "grpc_services": [service],
            });
            let config = json!({ "resource_api_version": "V3", "api_config_source": source });
            json!({ "name": name, "sds_config": config })
        };
        if self.clusters.iter().all(|cluster| cluster["name"] != SDS) {
            let pipe = json!({ "pipe": { "path": discovers.socket } });
            let endpoint = json!({ "endpoint": { "address": pipe } });
            self.clusters.push(json!({
                "name": SDS,
                "connect_timeout": "5s",
                "typed_extension_protocol_options": http2(),
                "load_assignment": { "cluster_name": SDS, "endpoints": [{ "lb_endpoints": [endpoint] }] },
            }));
        }
        let socket = tls_with(
            "Upstream",
            &["http/1.1"],
            json!({
                "tls_certificate_sds_secret_configs": [sds("default")],
                "combined_validation_context": {
                    "default_validation_context": { "match_typed_subject_alt_names": [is(discovers.peer)] },
                    "validation_context_sds_secret_config": sds(discovers.authorities),
                },
            }),
        );
        let mut added = self.add(Carries::Http1, to, None, Some(socket));
        // New connections all the time, each with the newest secrets.
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        added.clusters.last_mut().expect("it was added")["typed_extension_protocol_options"] = json!({
            options: {
                "@type": format!("type.googleapis.com/{options}"),
                "common_http_protocol_options": { "max_requests_per_connection": 16 },
                "explicit_http_config": { "http_protocol_options": {} },
            },
        });
        added
    }

    /// Accepts plain text and calls `to` with mutual TLS.
    #[must_use]
    pub fn calling(self, carries: Carries, to: SocketAddr, mutual: Mutual<'_>) -> Self {
        let alpn: &[&str] = match carries {
            Carries::Tcp => &[],
            Carries::Http1 => &["http/1.1"],
            Carries::Http2 => &["h2"],
        };
        self.add(carries, to, None, Some(tls("Upstream", mutual, alpn)))
    }

    /// Accepts mutual TLS and calls the app at `to` in plain text. HTTP requests tell who called in
    /// `x-forwarded-client-cert`.
    #[must_use]
    pub fn serving(self, carries: Carries, to: SocketAddr, mutual: Mutual<'_>) -> Self {
        let alpn: &[&str] = if carries == Carries::Tcp { &[] } else { &["h2", "http/1.1"] };
        let mut socket = tls("Downstream", mutual, alpn);
        socket["typed_config"]["require_client_certificate"] = json!(true);
        self.add(carries, to, Some(socket), None)
    }

    /// Accepts bytes that begin with the PROXY protocol. Into `log` go, of each connection that has ended, the address
    /// that the header says and the text of its TLV 0xE0.
    #[must_use]
    pub fn told(self, to: SocketAddr, log: &Path) -> Self {
        let mut told = self.add(Carries::Tcp, to, None, None);
        let kind = |of: &str| format!("type.googleapis.com/envoy.extensions.{of}");
        let listener = told.listeners.last_mut().expect("it was added");
        listener["listener_filters"] = json!([{
            "name": "envoy.filters.listener.proxy_protocol",
            "typed_config": {
                "@type": kind("filters.listener.proxy_protocol.v3.ProxyProtocol"),
                "rules": [{ "tlv_type": 0xe0, "on_tlv_present": { "key": "told" } }],
            },
        }]);
        let line = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:told)%\n";
        listener["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": kind("access_loggers.file.v3.FileAccessLog"),
                "path": log,
                "log_format": { "text_format_source": { "inline_string": line } },
            },
        }]);
        // Without a header a connection is not passed on.
        told.probed.extend(told.addresses.last().copied());
        told
    }

    /// Starts it and waits until it listens, which it does everywhere at once; the addresses are in the order they were asked for.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self, directory: &Path) -> (Process, Vec<SocketAddr>) {
        let resources = json!({ "listeners": self.listeners, "clusters": self.clusters });
        let bootstrap = json!({ "static_resources": resources }).to_string();
        let configuration = file(directory, "envoy.json", bootstrap);
        let mut command = Command::new(tools::envoy());
        command.arg("-c").arg(configuration).current_dir(directory);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
        // Without these it discovers nothing.
        command.args(["--service-node", "envoy", "--service-cluster", "scenarios"]);
        let process = Process::start("envoy", command);
        for address in &self.probed {
            listens("Envoy", *address).await;
        }
        (process, self.addresses)
    }

    fn add(mut self, carries: Carries, to: SocketAddr, accepts: Option<Value>, calls: Option<Value>) -> Self {
        let (listen, name) = (free_address(), format!("c{}", self.clusters.len()));
        let filter = if carries == Carries::Tcp { tcp_proxy(&name) } else { http_manager(&name) };
        let mut chain = json!({ "filters": [filter] });
        if let Some(socket) = accepts {
            chain["transport_socket"] = socket;
        }
        self.listeners.push(json!({ "name": name, "address": address(listen), "filter_chains": [chain] }));

        let endpoint = json!({ "endpoint": { "address": address(to) } });
        let mut cluster = json!({
            "name": name,
            "connect_timeout": "5s",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        });
        if let Some(socket) = calls {
            cluster["transport_socket"] = socket;
        }
        if carries == Carries::Http2 {
            cluster["typed_extension_protocol_options"] = http2();
        }
        self.clusters.push(cluster);
        self.addresses.push(listen);
        // A connection for bytes would be passed on at once, and a broken handshake be counted.
        if carries != Carries::Tcp {
            self.probed.push(listen);
        }
        self
    }
}

/// Waits until a program that cannot say so listens.
///
/// # Panics
/// When it does not.
pub async fn listens(program: &str, address: SocketAddr) {
    eventually(&format!("{program} listens on {address}"), PATIENCE, async || {
        TcpStream::connect(address).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

/// TLS 1.3 and nothing else, whose peer must present exactly that SPIFFE ID.
fn tls(side: &str, mutual: Mutual<'_>, alpn: &[&str]) -> Value {
    let believes = json!({
        "tls_certificates": [{
            "certificate_chain": { "filename": mutual.own.svid },
            "private_key": { "filename": mutual.own.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": mutual.bundle },
            "match_typed_subject_alt_names": [is(mutual.peer)],
        },
    });
    tls_with(side, alpn, believes)
}

/// The same with what it proves itself with and whom it believes.
fn tls_with(side: &str, alpn: &[&str], mut context: Value) -> Value {
    let kind = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    context["alpn_protocols"] = json!(alpn);
    context["tls_params"] =
        json!({ "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" });
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": { "@type": kind, "common_tls_context": context },
    })
}

fn is(peer: &str) -> Value {
    json!({ "san_type": "URI", "matcher": { "exact": peer } })
}

fn http2() -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        options: {
            "@type": format!("type.googleapis.com/{options}"),
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    })
}

fn tcp_proxy(cluster: &str) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": { "@type": kind, "stat_prefix": cluster, "cluster": cluster },
    })
}

fn http_manager(cluster: &str) -> Value {
    let of = "type.googleapis.com/envoy.extensions.filters";
    let manager = format!("{of}.network.http_connection_manager.v3.HttpConnectionManager");
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{of}.http.router.v3.Router") },
    });
    let route = json!({ "match": { "prefix": "/" }, "route": { "cluster": cluster } });
    let all = json!({ "name": "all", "domains": ["*"], "routes": [route] });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": manager,
            "stat_prefix": cluster,
            "codec_type": "AUTO",
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": { "uri": true },
            "http_filters": [router],
            "route_config": { "virtual_hosts": [all] },
        },
    })
}
