//! What one cell is measured in: apps, a pair in front of them, made anew each time.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::apps::{Apps, Iperf};
use super::check::{Speaks, exchange};
use super::credentials::Credentials;
use super::mesh::Mesh;
use super::peers::{Carries, Pair, Peer, Programs, Route, Setup};
use super::{Effort, Plan};

/// Below what the system gives to connections that go out.
const PORTS: std::ops::Range<u16> = 18_000..32_000;
const START: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// What all cells have in common.
pub(super) struct Environment {
    pub(super) programs: Programs,
    pub(super) credentials: Credentials,
    pub(super) effort: Effort,
    /// The hard limit of open files.
    pub(super) descriptors: u64,
    mesh: Option<Mesh>,
    directory: TempDir,
    next_port: AtomicU16,
}

/// What a load asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    /// What is carried, and who answers there.
    pub(super) routes: &'a [(Carries, Speaks)],
    /// Connections at once, at most.
    pub(super) connections: usize,
    /// Whether TLS sessions may be resumed by those who do so unasked.
    pub(super) resume: bool,
}

/// One pair, or none, with its apps.
pub(super) struct Bed {
    pub(super) pair: Option<Pair>,
    /// Where each of the routes begins.
    pub(super) entrances: Vec<SocketAddr>,
    pub(super) apps: Apps,
    routes: Vec<Speaks>,
    _iperf: Option<Iperf>,
    _directory: TempDir,
}

impl Environment {
    pub(super) async fn prepare(plan: &Plan, descriptors: Option<u64>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("signet-pair-").tempdir()?;
        let mesh = match &plan.signet {
            Some((_, control)) => Some(Mesh::start(control).await?),
            None => None,
        };
        Ok(Self {
            programs: Programs::find(plan)?,
            credentials: Credentials::write(directory.path())?,
            effort: plan.effort,
            descriptors: descriptors.unwrap_or(u64::MAX),
            mesh,
            directory,
            next_port: AtomicU16::new(PORTS.start),
        })
    }

    /// An address that nobody listens at.
    pub(super) fn free_address(&self) -> Result<SocketAddr> {
        for _ in PORTS {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            if port >= PORTS.end - 1 {
                self.next_port.store(PORTS.start, Ordering::Relaxed);
            }
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            if PORTS.contains(&port) && TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        bail!("no free port from {} to {}", PORTS.start, PORTS.end)
    }
}

impl Bed {
    /// Starts apps and pair, and waits until an exchange on each route has passed its check.
    pub(super) async fn make(environment: &Environment, peer: Peer, wish: &Wish<'_>) -> Result<Self> {
        let apps = Apps::start().await?;
        let directory = tempfile::tempdir_in(environment.directory.path())?;
        let iperf = wish.routes.iter().any(|(_, speaks)| *speaks == Speaks::Iperf);
        let iperf = iperf.then(|| Iperf::start(environment.free_address()?, directory.path())).transpose()?;
        let mut routes = Vec::new();
        for &(carries, speaks) in wish.routes {
            let app = match speaks {
                Speaks::Http => apps.addresses.http,
                Speaks::Grpc => apps.addresses.grpc,
                Speaks::Echo(_) => apps.addresses.echo,
                Speaks::Iperf => iperf.as_ref().context("iperf3 was started")?.address,
            };
            let (entrance, middle) = (environment.free_address()?, environment.free_address()?);
            routes.push(Route { carries, entrance, middle, app });
        }
        let tickets = match (&environment.mesh, wish.routes.first()) {
            (Some(mesh), Some((carries, _))) if peer == Peer::Signet => Some(mesh.tickets(*carries).await?),
            _ => None,
        };
        let setup = Setup {
            directory: directory.path(),
            credentials: &environment.credentials,
            programs: &environment.programs,
            routes: &routes,
            tickets: tickets.as_ref(),
            connections: wish.connections,
            resume: wish.resume,
        };
        let pair = Pair::start(peer, &setup)?;
        let entrances = match &pair {
            Some(_) => routes.iter().map(|route| route.entrance).collect(),
            None => routes.iter().map(|route| route.app).collect(),
        };
        let speaks = wish.routes.iter().map(|(_, speaks)| *speaks).collect();
        let mut bed = Self { pair, entrances, apps, routes: speaks, _iperf: iperf, _directory: directory };
        let mut ports: BTreeSet<u16> = bed.entrances.iter().map(SocketAddr::port).collect();
        ports.extend(routes.iter().filter(|_| bed.pair.is_some()).map(|route| route.middle.port()));
        bed.becomes_ready(&ports).await?;
        Ok(bed)
    }

    /// Where the first route begins.
    pub(super) fn entrance(&self) -> Result<SocketAddr> {
        self.entrances.first().copied().context("a bed without routes")
    }

    /// One exchange on each route.
    pub(super) async fn check(&mut self) -> Result<()> {
        for (&speaks, &entrance) in self.routes.iter().zip(&self.entrances) {
            if let Err(error) = exchange(speaks, entrance).await {
                let words = self.pair.as_ref().map(Pair::tail).unwrap_or_default();
                return Err(
                    error.context(format!("{speaks:?} did not come back as sent; last words:\n{words}"))
                );
            }
        }
        self.pair.as_mut().map_or(Ok(()), Pair::require_alive)
    }

    /// Processor time of both proxies so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        self.pair.as_ref().map_or(Ok(Duration::ZERO), Pair::cpu)
    }

    /// Memory of both proxies.
    pub(super) fn memory(&self) -> Result<u64> {
        self.pair.as_ref().map_or(Ok(0), Pair::memory)
    }

    async fn becomes_ready(&mut self, ports: &BTreeSet<u16>) -> Result<()> {
        let deadline = Instant::now() + START;
        // A connection to find out would be passed on at once, and count.
        while !ports.is_subset(&listening()?) {
            self.still_waits(deadline)?;
            tokio::time::sleep(POLL).await;
        }
        loop {
            match self.check().await {
                Ok(()) => return Ok(()),
                Err(error) => self.still_waits(deadline).map_err(|_| error)?,
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn still_waits(&mut self, deadline: Instant) -> Result<()> {
        if let Some(pair) = &mut self.pair {
            pair.require_alive()?;
            if Instant::now() > deadline {
                bail!("the pair does not listen within {START:?}:\n{}", pair.tail());
            }
        }
        if Instant::now() > deadline {
            bail!("the apps do not listen within {START:?}");
        }
        Ok(())
    }
}

/// The ports on IPv4 loopback that somebody listens at.
fn listening() -> Result<BTreeSet<u16>> {
    Ok(ports_in(&fs::read_to_string("/proc/net/tcp").context("cannot read /proc/net/tcp")?))
}

/// Lines as proc(5) says: number, local address, remote address, state; 0A is LISTEN.
fn ports_in(table: &str) -> BTreeSet<u16> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (local, state) = (fields.nth(1)?, fields.nth(1)?);
        let port = local.rsplit_once(':')?.1;
        (state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_are_listed() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
            0: 0100007F:4E20 00000000:0000 0A 00000000:00000000\n   \
            1: 0100007F:4E21 0100007F:8000 01 00000000:00000000\n";
        assert_eq!(ports_in(table), BTreeSet::from([0x4e20]));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listening().unwrap().contains(&listener.local_addr().unwrap().port()));
    }
}
