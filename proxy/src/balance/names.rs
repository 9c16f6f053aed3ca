//! Peers that a configuration names by DNS: looked up when they are first called and again as their answers grow
//! old. While DNS fails the last good answer stays: who is really there is proven by the handshake anyway.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Backoff;
use crate::config::Requested;
use crate::telemetry::metrics;

/// How long an answer is used at least and at most, whatever its TTL.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);
/// For how long one lookup may go on, and who calls first waits for it.
const DEADLINE: Duration = Duration::from_secs(5);
/// Addresses of an answer that are used.
const MOST_ADDRESSES: usize = 32;

/// How names are looked up.
#[derive(Debug, Clone, Default)]
pub struct Names {
    servers: Vec<SocketAddr>,
}

/// A name whose addresses are kept up to date for as long as this lives.
#[derive(Debug)]
pub struct Name {
    found: watch::Receiver<Option<Arc<[SocketAddr]>>>,
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The system's configuration, or ours.
    #[error("cannot set up DNS: {0}")]
    Setup(NetError),
    /// There is no answer.
    #[error("{0}")]
    Lookup(NetError),
    /// It took too long.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
    /// The answer has no address.
    #[error("it has no address")]
    Empty,
}

impl Names {
    /// Asks these servers; without any, as the system does (`/etc/resolv.conf`, `/etc/hosts`).
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers }
    }

    /// Begins to look up `name`, and goes on until it is not needed, or `drain`.
    #[must_use]
    pub fn follow(&self, name: &Requested, tasks: &TaskTracker, drain: &CancellationToken) -> Arc<Name> {
        let (tell, found) = watch::channel(None);
        let followed = Arc::new(Name { found });
        let needed = Arc::downgrade(&followed);
        let (names, name, drain) = (self.clone(), name.clone(), drain.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = names.keep(&name, &tell, &needed) => {}
                () = drain.cancelled() => {}
            }
        });
        followed
    }

    async fn keep(
        &self,
        name: &Requested,
        tell: &watch::Sender<Option<Arc<[SocketAddr]>>>,
        needed: &Weak<Name>,
    ) {
        let mut backoff = Backoff::new(SHORTEST, Duration::from_secs(30));
        let mut resolver = None;
        while needed.strong_count() > 0 {
            let found = tokio::time::timeout(DEADLINE, self.look_up(&mut resolver, name)).await;
            let pause = match found.unwrap_or(Err(NameError::Deadline)) {
                Ok((addresses, ttl)) => {
                    backoff.reset();
                    tell.send_if_modified(|known| {
                        let changed = known.as_deref() != Some(&*addresses);
                        if changed {
                            tracing::info!(%name, ?addresses, ?ttl, "DNS answered");
                            *known = Some(addresses.into());
                        }
                        changed
                    });
                    ttl.clamp(SHORTEST, LONGEST)
                }
                Err(error) => {
                    // Its configuration may have changed: it is read again.
                    resolver = None;
                    metrics::lookup_failed();
                    let kept = tell.borrow().as_ref().map_or(0, |known| known.len());
                    tracing::warn!(%name, %error, kept, "DNS lookup failed: addresses known before stay in use");
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look_up(
        &self,
        resolver: &mut Option<TokioResolver>,
        name: &Requested,
    ) -> Result<(Vec<SocketAddr>, Duration), NameError> {
        let resolver = match resolver {
            Some(resolver) => resolver,
            None => resolver.insert(self.resolver().map_err(NameError::Setup)?),
        };
        let answer = resolver.lookup_ip(name.host.as_str()).await.map_err(NameError::Lookup)?;
        let ttl = answer.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or_default();
        let mut addresses: Vec<IpAddr> = answer.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST_ADDRESSES);
        if addresses.is_empty() {
            return Err(NameError::Empty);
        }
        let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, name.port)).collect();
        Ok((addresses, Duration::from_secs(u64::from(ttl))))
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let server = |server: &SocketAddr| {
                let at_port = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
                NameServerConfig::new(server.ip(), true, connections)
            };
            let servers = self.servers.iter().map(server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        // Each answer is asked for once its time is over, and never before: there is nothing to keep.
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        builder.build()
    }
}

impl Name {
    /// The newest addresses; the first caller waits for them.
    pub async fn addresses(&self) -> Option<Arc<[SocketAddr]>> {
        let mut found = self.found.clone();
        let known = tokio::time::timeout(DEADLINE, found.wait_for(Option::is_some)).await.ok()?.ok()?;
        known.clone()
    }

    /// The newest addresses, if there were any yet.
    #[must_use]
    pub fn known(&self) -> Option<Arc<[SocketAddr]>> {
        self.found.borrow().clone()
    }
}
