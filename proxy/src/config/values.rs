//! Values that are texts outside and types inside.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::SignedDuration;
use rustix::process::Pid;
use serde::Deserialize;
use signet_proto::handshake::ExpiredLists;
use signet_proto::locality::{Locality, LocalityError};
use signet_proto::settings::UnknownDestinations;
use signet_proto::spiffe::SpiffeId;

use super::listeners::Place;

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Found out from the first line.
    #[default]
    Detect,
    /// HTTP/1.x or HTTP/2, and nothing else.
    Http,
    /// Bytes, whatever they are.
    Tcp,
}

/// A way to tell an app who calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statement {
    /// `x-forwarded-client-cert`, as Envoy writes it.
    Xfcc,
    /// `client-cert` (RFC 9440).
    ClientCert,
    /// `client-cert` and `client-cert-chain`.
    ClientCertChain,
}

impl Statement {
    const ALL: [(&'static str, Self); 3] = [
        ("xfcc", Self::Xfcc),
        ("client-cert", Self::ClientCert),
        ("client-cert-chain", Self::ClientCertChain),
    ];
}

impl FromStr for Statement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, statement)| statement).ok_or_else(|| {
            format!(
                "expected xfcc, client-cert, client-cert-chain, or several with `+` between, found `{text}`"
            )
        })
    }
}

/// What becomes of a captured connection whose destination is no known peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It ends, whatever the mesh says.
    Refuse,
    /// It goes on without TLS or identity, and is counted, unless the mesh refuses it.
    Passthrough,
}

impl From<Unknown> for UnknownDestinations {
    fn from(own: Unknown) -> Self {
        match own {
            Unknown::Refuse => Self::Refuse,
            Unknown::Passthrough => Self::Passthrough,
        }
    }
}

/// What becomes of new peers whose issuer's revocation list is past its nextUpdate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CrlExpired {
    /// They are refused: whether they are revoked nobody knows.
    Refuse,
    /// They are let in, if the old list does not name them.
    Use,
}

impl From<CrlExpired> for ExpiredLists {
    fn from(rule: CrlExpired) -> Self {
        match rule {
            CrlExpired::Refuse => Self::Refuse,
            CrlExpired::Use => Self::Use,
        }
    }
}

/// Where something is listened on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Entrance {
    /// `IP:PORT`; `[::]` takes IPv4 as well.
    Tcp(SocketAddr),
    /// `PORT`: for peers all addresses, for our app loopback, of both families.
    Port(u16),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// Where operators of this machine come in, if anywhere: never from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminEntrance(pub Option<Entrance>);

/// Where spans are sent: `http://HOST:PORT` or `https://HOST:PORT` of a collector that speaks OTLP over gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CollectorAddress {
    /// Whether it proves itself.
    pub tls: bool,
    /// Where.
    pub place: Requested,
}

/// A part of a whole, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Ratio(pub f64);

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&ratio) {
            Ok(Self(ratio))
        } else {
            Err(format!("expected a ratio from 0 to 1 such as 0.01, found {ratio}"))
        }
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ratio: f64 =
            text.parse().map_err(|_| format!("expected a ratio from 0 to 1 such as 0.01, found `{text}`"))?;
        ratio.try_into()
    }
}

impl FromStr for CollectorAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected http://HOST:PORT or https://HOST:PORT of a collector's gRPC port such as http://127.0.0.1:4317, found `{text}`"
            )
        };
        let schemes = [("http://", false), ("https://", true)];
        let found = schemes.iter().find_map(|(scheme, tls)| Some((text.strip_prefix(scheme)?, *tls)));
        let (address, tls) = found.ok_or_else(expected)?;
        let place = address.trim_end_matches('/').parse().map_err(|_| expected())?;
        Ok(Self { tls, place })
    }
}

/// `HOST:PORT` as an app names it: a name, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Requested {
    /// In lower case; an IPv6 address without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

/// How many of something at once: from 1 to a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct Count(pub usize);

impl TryFrom<usize> for Count {
    type Error = String;

    fn try_from(count: usize) -> Result<Self, String> {
        match count {
            1..=1_000_000 => Ok(Self(count)),
            _ => Err(format!("expected a count from 1 to 1000000, found {count}")),
        }
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count: usize =
            text.parse().map_err(|_| format!("expected a count from 1 to 1000000, found `{text}`"))?;
        count.try_into()
    }
}

/// Addresses, written `10.0.0.0/8` or as one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr(pub IpNet);

/// A locality, such as `eu-1/a`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Label(pub Locality);

/// A duration such as `30s` or `1h 30m`, longer than nothing and at most a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Timeout(pub Duration);

/// A duration such as `5s`, at most a year; `0s` is none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Grace(pub Duration);

/// The id of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i32")]
pub struct ProcessId(pub Pid);

impl Entrance {
    /// The address, if it is TCP; unspecified without one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Port(port) => Some((Ipv6Addr::UNSPECIFIED, *port).into()),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Entrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Port(port) => write!(f, "port {port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A unix socket, `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SocketPath(pub PathBuf);

impl FromStr for SocketPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(Entrance::Unix(path)) => Ok(Self(path)),
            _ => Err(format!("expected unix:PATH such as unix:/run/signet/workload.sock, found `{text}`")),
        }
    }
}

impl FromStr for Entrance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.file_name().is_some() {
                Ok(Self::Unix(path))
            } else {
                Err(format!("expected unix:PATH such as unix:/run/app/db.sock, found `{text}`"))
            };
        }
        if let Ok(port) = text.parse::<u16>() {
            return Ok(Self::Port(port));
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("expected PORT, IP:PORT or unix:PATH such as 15443, found `{text}`"))
    }
}

impl Default for AdminEntrance {
    fn default() -> Self {
        Self(Some(Entrance::Tcp(SocketAddr::from(([127, 0, 0, 1], 15021)))))
    }
}

impl FromStr for AdminEntrance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let expected = || {
            format!("expected a loopback address such as 127.0.0.1:15021, unix:PATH or none, found `{text}`")
        };
        match text.parse::<Entrance>().map_err(|_| expected())? {
            Entrance::Tcp(address) if !address.ip().to_canonical().is_loopback() => Err(expected()),
            entrance => Ok(Self(Some(entrance))),
        }
    }
}

impl From<SocketAddr> for Requested {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_canonical().to_string(), port: address.port() }
    }
}

impl Requested {
    /// The same from its parts; an IPv6 host may have brackets. A name is the same with and without the dot at
    /// its end.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, port).into(),
            Err(_) => Self { host: bare.trim_end_matches('.').to_ascii_lowercase(), port },
        }
    }

    /// The address, if it is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.parse().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Requested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Requested {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("expected HOST:PORT such as 10.1.0.7:5432 or db.internal:5432, found `{text}`");
        let authority: http::uri::Authority = text.parse().map_err(|_| expected())?;
        let port = authority.port_u16().filter(|port| *port != 0).ok_or_else(expected)?;
        if authority.host().is_empty() || text.contains('@') {
            return Err(expected());
        }
        Ok(Self::new(authority.host(), port))
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let network = text.parse::<IpNet>().ok().or_else(one);
        network
            .map(|network| Self(network.trunc()))
            .ok_or_else(|| format!("expected addresses such as 10.0.0.0/8 or fd00::/8, found `{text}`"))
    }
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: LocalityError| format!("{error}, found `{text}`"))
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration(text)
            .filter(|duration| !duration.is_zero())
            .map(Self)
            .ok_or_else(|| format!("expected a duration such as 30s or 5m, found `{text}`"))
    }
}

impl FromStr for Grace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration(text)
            .map(Self)
            .ok_or_else(|| format!("expected a duration such as 5s, or 0s for none, found `{text}`"))
    }
}

/// At most a year.
fn duration(text: &str) -> Option<Duration> {
    let longest = Duration::from_secs(365 * 24 * 3600);
    let duration = Duration::try_from(text.parse::<SignedDuration>().ok()?).ok()?;
    (duration <= longest).then_some(duration)
}

impl TryFrom<i32> for ProcessId {
    type Error = String;

    fn try_from(id: i32) -> Result<Self, String> {
        let pid = (id > 0).then(|| Pid::from_raw(id)).flatten();
        pid.map(Self).ok_or_else(|| format!("expected the id of a process, found {id}"))
    }
}

impl FromStr for ProcessId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id: i32 = text.parse().map_err(|_| format!("expected the id of a process, found `{text}`"))?;
        id.try_into()
    }
}

/// `[http://|tcp://]REST`.
pub(super) fn declared(text: &str) -> (Protocol, &str) {
    if let Some(rest) = text.strip_prefix("http://") {
        (Protocol::Http, rest)
    } else if let Some(rest) = text.strip_prefix("tcp://") {
        (Protocol::Tcp, rest)
    } else {
        (Protocol::Detect, text)
    }
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("expected IP:PORT such as 127.0.0.1:8080, found `{text}`"))
}

/// `spiffe://ID[:PORT][@HOST:PORT]`: whom, which of its apps, and where.
pub(super) fn peer(text: &str) -> Result<(SpiffeId, Place), String> {
    let (peer, endpoint) = match text.split_once('@') {
        Some((peer, endpoint)) => (peer, Some(endpoint.parse()?)),
        None => (text, None),
    };
    let (peer, port) = match peer.rsplit_once(':') {
        Some((id, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            let port = port.parse().map_err(|_| format!("expected a port after `{id}:`, found `{port}`"))?;
            (id, Some(port))
        }
        _ => (peer, None),
    };
    let peer = peer.parse().map_err(|error| format!("`{peer}`: {error}"))?;
    Ok((peer, Place { port, address: endpoint }))
}

macro_rules! from_text {
    ($($kind:ty),+) => {$(
        impl TryFrom<String> for $kind {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )+};
}

from_text!(Entrance, AdminEntrance, SocketPath, CollectorAddress, Requested, Cidr, Label, Timeout, Grace);
