//! Values that are texts outside and types inside.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use signet_proto::spiffe::SpiffeId;

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Found out from the first line.
    #[default]
    Detect,
    /// HTTP/1.x, and nothing else.
    Http,
    /// Bytes, whatever they are.
    Tcp,
}

/// `[IP:]PORT`; without an address, all IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen(pub SocketAddr);

/// An inbound listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inbound {
    /// Where peers call.
    pub listen: Listen,
    /// Where the app listens.
    pub forward: SocketAddr,
    /// What the app speaks.
    #[serde(default)]
    pub protocol: Protocol,
}

/// An outbound listener.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Where the app calls.
    pub listen: SocketAddr,
    /// Whom it means.
    pub peer: SpiffeId,
    /// Which of the peer's apps, by its port, if it has several.
    pub port: Option<u16>,
    /// Where the peer listens, if not as control says.
    pub address: Option<SocketAddr>,
    /// What the peer's app speaks.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A duration such as `30s` or `1h 30m`, longer than nothing and at most a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Timeout(pub Duration);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))));
        }
        text.parse().map(Self).map_err(|_| format!("expected PORT or IP:PORT such as 15443, found `{text}`"))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let longest = Duration::from_secs(365 * 24 * 3600);
        text.parse::<SignedDuration>()
            .ok()
            .and_then(|duration| Duration::try_from(duration).ok())
            .filter(|duration| !duration.is_zero() && *duration <= longest)
            .map(Self)
            .ok_or_else(|| format!("expected a duration such as 30s or 5m, found `{text}`"))
    }
}

impl TryFrom<String> for Timeout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Inbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, app) = text.split_once('=').ok_or_else(|| {
            format!("expected [IP:]PORT=IP:PORT such as 15443=127.0.0.1:8080, found `{text}`")
        })?;
        let (protocol, app) = declared(app);
        Ok(Self { listen: listen.parse()?, forward: address(app)?, protocol })
    }
}

impl FromStr for Outbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, peer) = text.split_once('=').ok_or_else(|| {
            format!(
                "expected IP:PORT=SPIFFE-ID such as 127.0.0.1:7001=spiffe://prod.example/orders, found `{text}`"
            )
        })?;
        let (protocol, listen) = declared(listen);
        let (peer, endpoint) = match peer.split_once('@') {
            Some((peer, endpoint)) => (peer, Some(address(endpoint)?)),
            None => (peer, None),
        };
        let (peer, port) = match peer.rsplit_once(':') {
            Some((id, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                let port =
                    port.parse().map_err(|_| format!("expected a port after `{id}:`, found `{port}`"))?;
                (id, Some(port))
            }
            _ => (peer, None),
        };
        let peer = peer.parse().map_err(|error| format!("`{peer}`: {error}"))?;
        Ok(Self { listen: address(listen)?, peer, port, address: endpoint, protocol })
    }
}

fn declared(text: &str) -> (Protocol, &str) {
    if let Some(rest) = text.strip_prefix("http://") {
        (Protocol::Http, rest)
    } else if let Some(rest) = text.strip_prefix("tcp://") {
        (Protocol::Tcp, rest)
    } else {
        (Protocol::Detect, text)
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("expected IP:PORT such as 127.0.0.1:8080, found `{text}`"))
}
