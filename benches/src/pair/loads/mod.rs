//! What pairs carry, and what is measured while they do.

mod bulk;
mod connect;
mod grpc;
mod http1;
mod idle;
mod latency;
mod rest;

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::bed::{Bed, Environment};
use super::peers::Peer;
use crate::numbers::number;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Load {
    /// HTTP/1.1 requests on connections that stay, 1 KiB each.
    Http1,
    /// The same through a pair that takes them for bytes.
    Opaque,
    /// gRPC calls over HTTP/2.
    Grpc,
    /// New connections of bytes, one exchange each, one after the other.
    Connect,
    /// New connections that all stay open: a handshake for each.
    ConnectCold,
    /// Bytes to the app.
    BulkToApp,
    /// Bytes from the app.
    BulkFromApp,
    /// 1,000 requests a second.
    Latency,
    /// Open connections in which nothing moves.
    Idle,
    /// Many of them.
    IdleMany,
    /// Nothing at all.
    Rest,
}

/// What one measurement found: figures by their name.
pub(super) type Sample = BTreeMap<&'static str, f64>;

/// Processor time of the pair for one unit of work, in microseconds.
pub(super) const CPU_US: &str = "cpu_us";
/// The same for 10^9 bytes, in seconds.
pub(super) const CPU_S_PER_GB: &str = "cpu_s_per_gb";
/// Units of work in a second; for bulk, 10^9 bytes.
pub(super) const RATE: &str = "rate";
/// Units of work that were counted; for bulk, 10^9 bytes.
pub(super) const UNITS: &str = "units";
/// Latencies in microseconds.
pub(super) const P50: &str = "p50_us";
pub(super) const P99: &str = "p99_us";
pub(super) const P999: &str = "p999_us";
/// Memory of the pair for one connection, in bytes.
pub(super) const BYTES_EACH: &str = "bytes_per_connection";
/// Memory of the pair, in bytes.
pub(super) const MEMORY: &str = "memory_bytes";
/// Size of the program's file, in bytes.
pub(super) const BINARY: &str = "binary_bytes";

impl Load {
    /// What its row is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1 request",
            Self::Opaque => "opaque keep-alive request",
            Self::Grpc => "gRPC call",
            Self::Connect => "new connection",
            Self::ConnectCold => "new connection, cold",
            Self::BulkToApp => "bulk, to the app",
            Self::BulkFromApp => "bulk, from the app",
            Self::Latency => "1,000 requests/s",
            Self::Idle => "idle connections, few",
            Self::IdleMany => "idle connections, many",
            Self::Rest => "at rest",
        }
    }

    /// Whether there is something to measure.
    pub(super) fn applies(self, peer: Peer) -> bool {
        match self {
            Self::Idle | Self::IdleMany | Self::Rest => peer != Peer::None,
            _ => true,
        }
    }

    /// The programs that it is made with.
    pub(super) fn tools(self) -> &'static [&'static str] {
        match self {
            Self::Http1 | Self::Opaque => &["wrk"],
            Self::Grpc => &["h2load"],
            Self::BulkToApp | Self::BulkFromApp => &["iperf3"],
            _ => &[],
        }
    }

    /// A line for whoever waits.
    pub(super) fn summary(self, sample: &Sample) -> String {
        let figures = sample.iter().map(|(name, value)| format!("{name} {}", number(*value)));
        figures.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Measures one cell.
pub(super) async fn measure(load: Load, peer: Peer, environment: &Environment) -> Result<Sample> {
    match load {
        Load::Http1 => http1::measure(peer, environment, http1::As::Http).await,
        Load::Opaque => http1::measure(peer, environment, http1::As::Bytes).await,
        Load::Grpc => grpc::measure(peer, environment).await,
        Load::Connect => connect::warm(peer, environment).await,
        Load::ConnectCold => connect::cold(peer, environment).await,
        Load::BulkToApp => bulk::measure(peer, environment, bulk::Way::ToApp).await,
        Load::BulkFromApp => bulk::measure(peer, environment, bulk::Way::FromApp).await,
        Load::Latency => latency::measure(peer, environment).await,
        Load::Idle => idle::measure(peer, environment, environment.effort.idle.0).await,
        Load::IdleMany => idle::measure(peer, environment, environment.effort.idle.1).await,
        Load::Rest => rest::measure(peer, environment).await,
    }
}

/// From here on things count.
struct Count {
    cpu: Duration,
    at: Instant,
}

impl Count {
    fn begin(bed: &Bed) -> Result<Self> {
        Ok(Self { cpu: bed.cpu()?, at: Instant::now() })
    }

    /// What each of `units` took. Nobody's processor time is no figure.
    fn end(self, bed: &Bed, units: f64) -> Result<Sample> {
        let wall = self.at.elapsed();
        let mut sample = Sample::from([(UNITS, units), (RATE, units / wall.as_secs_f64())]);
        if bed.pair.is_some() {
            let cpu = bed.cpu()?.saturating_sub(self.cpu);
            sample.insert(CPU_US, cpu.as_secs_f64() * 1e6 / units);
        }
        Ok(sample)
    }
}
