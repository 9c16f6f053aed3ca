//! Listeners and routes: which door leads where.

use std::net::SocketAddr;
use std::str::FromStr;

use serde::Deserialize;
use signet_proto::spiffe::SpiffeId;

use super::values::{Cidr, Entrance, Protocol, Requested, Statement, address, declared, peer};

/// A listener for peers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Inbound {
    /// Where peers call.
    pub listen: Entrance,
    /// Where the app listens.
    pub forward: App,
    /// What the app speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Load balancers, who begin with a PROXY protocol header.
    #[serde(default)]
    pub proxy_protocol_from: Vec<Cidr>,
    /// How requests tell the app who calls.
    #[serde(default = "usual_statements")]
    pub identity: Vec<Statement>,
    /// Whether each connection to the app begins with a PROXY protocol header, which tells it too.
    #[serde(default)]
    pub send_proxy: bool,
}

fn usual_statements() -> Vec<Statement> {
    vec![Statement::Xfcc]
}

/// Where the app of an inbound connection listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum App {
    /// There.
    At(SocketAddr),
    /// Where the connection was going before it was captured.
    Original,
}

/// A listener for our app.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OutboundTable")]
pub struct Outbound {
    /// Where the app calls.
    pub listen: Entrance,
    /// Whom it means.
    pub destination: Destination,
    /// What the called app speaks, where no route says it.
    pub protocol: Protocol,
    /// Load balancers, who begin with a PROXY protocol header.
    pub proxy_protocol_from: Vec<Cidr>,
}

/// How the destination of an outbound connection is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// It is always this peer.
    Peer(SpiffeId, Place),
    /// By where it was going before it was captured.
    Original,
    /// By what the app asks for with HTTP CONNECT.
    Connect,
}

/// Where a peer is, as far as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Place {
    /// Which of the peer's apps, by its port, if it has several.
    pub port: Option<u16>,
    /// Where the peer listens, by address or DNS name, if not as control says.
    pub address: Option<Requested>,
}

/// Who is behind a destination that apps use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RouteTable")]
pub struct Route {
    /// What the app calls it.
    pub destination: Requested,
    /// Who it is.
    pub peer: SpiffeId,
    /// Where.
    pub place: Place,
    /// What is spoken there.
    pub protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct OutboundTable {
    listen: Entrance,
    destination: Option<String>,
    peer: Option<SpiffeId>,
    port: Option<u16>,
    address: Option<Requested>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    proxy_protocol_from: Vec<Cidr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RouteTable {
    destination: Requested,
    peer: SpiffeId,
    port: Option<u16>,
    address: Option<Requested>,
    #[serde(default)]
    protocol: Protocol,
}

impl TryFrom<OutboundTable> for Outbound {
    type Error = String;

    fn try_from(table: OutboundTable) -> Result<Self, String> {
        let OutboundTable { listen, destination, peer, port, address, protocol, proxy_protocol_from } = table;
        let destination = match (destination.as_deref(), peer) {
            (None, Some(peer)) => Destination::Peer(peer, Place { port, address }),
            (Some(known), None) if port.is_none() && address.is_none() => {
                unnamed(known).ok_or_else(|| {
                    format!("`destination`: expected \"original\" or \"connect\", found `{known}`")
                })?
            }
            _ => {
                return Err(
                    "expected `peer` (with `port`, `address` if needed), or `destination` alone".into()
                );
            }
        };
        Ok(Self { listen, destination, protocol, proxy_protocol_from })
    }
}

impl TryFrom<RouteTable> for Route {
    type Error = String;

    fn try_from(table: RouteTable) -> Result<Self, String> {
        let RouteTable { destination, peer, port, address, protocol } = table;
        Ok(Self { destination, peer, place: Place { port, address }, protocol })
    }
}

impl FromStr for App {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "original" => Ok(Self::Original),
            text => address(text).map(Self::At).map_err(|error| format!("{error} (or `original`)")),
        }
    }
}

impl TryFrom<String> for App {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Inbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, Options { proxy_protocol_from, identity, send_proxy }) = options(text)?;
        let (listen, app) = text.split_once('=').ok_or_else(|| {
            format!("expected [IP:]PORT=IP:PORT such as 15443=127.0.0.1:8080, found `{text}`")
        })?;
        let (protocol, app) = declared(app);
        Ok(Self {
            listen: listen.parse()?,
            forward: app.parse()?,
            protocol,
            proxy_protocol_from,
            identity: identity.unwrap_or_else(usual_statements),
            send_proxy,
        })
    }
}

impl FromStr for Outbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, Options { proxy_protocol_from, identity, send_proxy }) = options(text)?;
        if identity.is_some() || send_proxy {
            return Err(
                "`identity` and `send-proxy` are for inbound listeners: they tell our app who calls".into()
            );
        }
        let (listen, destination) = text.split_once('=').ok_or_else(|| {
            format!(
                "expected IP:PORT=SPIFFE-ID such as 127.0.0.1:7001=spiffe://prod.example/orders, found `{text}`"
            )
        })?;
        let (protocol, listen) = declared(listen);
        let destination = match unnamed(destination) {
            Some(destination) => destination,
            None => peer(destination).map(|(peer, place)| Destination::Peer(peer, place))?,
        };
        Ok(Self { listen: listen.parse()?, destination, protocol, proxy_protocol_from })
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (destination, to) = text.split_once('=').ok_or_else(|| {
            format!(
                "expected HOST:PORT=SPIFFE-ID such as 10.1.0.7:5432=spiffe://prod.example/db, found `{text}`"
            )
        })?;
        let (protocol, destination) = declared(destination);
        let (peer, place) = peer(to)?;
        Ok(Self { destination: destination.parse()?, peer, place, protocol })
    }
}

fn unnamed(text: &str) -> Option<Destination> {
    match text {
        "original" => Some(Destination::Original),
        "connect" => Some(Destination::Connect),
        _ => None,
    }
}

/// What may follow a listener, after commas.
#[derive(Default)]
struct Options {
    proxy_protocol_from: Vec<Cidr>,
    identity: Option<Vec<Statement>>,
    send_proxy: bool,
}

/// `REST[,proxy-protocol-from=CIDR]...[,identity=WAY[+WAY]...][,send-proxy]`
fn options(text: &str) -> Result<(&str, Options), String> {
    let mut parts = text.split(',');
    let rest = parts.next().unwrap_or_default();
    let mut options = Options::default();
    for option in parts {
        match option.split_once('=') {
            Some(("proxy-protocol-from", addresses)) => options.proxy_protocol_from.push(addresses.parse()?),
            Some(("identity", "none")) => options.identity = Some(Vec::new()),
            Some(("identity", ways)) => {
                options.identity = Some(ways.split('+').map(str::parse).collect::<Result<_, _>>()?);
            }
            None if option == "send-proxy" => options.send_proxy = true,
            _ => {
                return Err(format!(
                    "expected proxy-protocol-from=CIDR, identity=WAY or send-proxy after the comma, found `{option}`"
                ));
            }
        }
    }
    Ok((rest, options))
}
