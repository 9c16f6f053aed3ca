//! Listeners: a TCP port of one address or of all, or a path in the file system.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, fchmod};
use socket2::{Domain, Protocol, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::socket::{Remote, Socket, canonical, prepare};
use crate::config::Entrance;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Who may call through a unix socket: our user and our group. Nobody else, not for a moment.
const SOCKET_MODE: u32 = 0o660;
const UNTIL_THEN: u32 = 0o600;

/// A bound listener.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener, SocketAddr),
    /// A port of both families' loopback, where there is IPv6.
    Loopback(TcpListener, Option<TcpListener>, SocketAddr),
    Unix(UnixListener, Place),
}

/// Who may call a port that is given without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Everybody: they prove who they are.
    All,
    /// This machine or pod: we lend it our identity.
    Loopback,
}

/// A socket's path, removed with its listener if it is still the one that we made.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    file: (u64, u64),
}

impl Listener {
    /// Binds; the error names what could not be bound.
    ///
    /// # Errors
    /// When the address or path cannot be bound, or the path is in use.
    pub async fn bind(entrance: &Entrance, callers: Callers) -> io::Result<Self> {
        let bound = match entrance {
            Entrance::Tcp(address) => tcp(*address),
            Entrance::Port(port) if callers == Callers::All => tcp((Ipv6Addr::UNSPECIFIED, *port).into()),
            Entrance::Port(port) => loopback(*port),
            Entrance::Unix(path) => unix(path).await,
        };
        bound
            .map(Self)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {entrance}: {error}")))
    }

    /// The next connection.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<(Socket, Remote)> {
        let (stream, remote) = match &self.0 {
            Kind::Tcp(listener, _) | Kind::Loopback(listener, None, _) => listener.accept().await?,
            Kind::Loopback(v4, Some(v6), _) => tokio::select! {
                accepted = v4.accept() => accepted?,
                accepted = v6.accept() => accepted?,
            },
            Kind::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let remote = stream.peer_cred()?;
                let remote = Remote::Unix { uid: remote.uid(), pid: remote.pid() };
                return Ok((Socket::Unix(stream), remote));
            }
        };
        prepare(&stream);
        Ok((Socket::Tcp(stream), Remote::ip(remote)))
    }

    /// The TCP port that it has.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.0 {
            Kind::Tcp(_, address) | Kind::Loopback(_, _, address) => Some(address.port()),
            Kind::Unix(..) => None,
        }
    }

    /// Lets it take connections that TPROXY hands over, whose local address is not ours. Needs
    /// `CAP_NET_ADMIN`; without it, connections come by REDIRECT only.
    pub fn take_foreign(&self) -> bool {
        let Kind::Tcp(listener, _) = &self.0 else { return false };
        // One bit for both families, which the IPv4 option sets on IPv6 sockets, too.
        SockRef::from(listener).set_ip_transparent_v4(true).is_ok()
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Tcp(_, address) | Kind::Loopback(_, _, address) => address.fmt(f),
            Kind::Unix(_, place) => write!(f, "unix:{}", place.path.display()),
        }
    }
}

/// `[::]` takes IPv4 as well; on a machine without IPv6 it means all IPv4 addresses.
fn tcp(address: SocketAddr) -> io::Result<Kind> {
    let all = address.ip() == Ipv6Addr::UNSPECIFIED;
    let socket = match open(address) {
        Err(error) if all && is_without_ipv6(&error) => {
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        opened => opened,
    }?;
    let listener = TcpListener::from_std(socket)?;
    let bound = listener.local_addr()?;
    Ok(Kind::Tcp(listener, canonical(bound)))
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Both families' loopback.
fn loopback(port: u16) -> io::Result<Kind> {
    let v4 = TcpListener::from_std(open((Ipv4Addr::LOCALHOST, port).into())?)?;
    let bound = v4.local_addr()?;
    let v6 = match open((Ipv6Addr::LOCALHOST, bound.port()).into()) {
        Ok(v6) => Some(TcpListener::from_std(v6)?),
        Err(error) if is_without_ipv6(&error) => None,
        Err(error) => return Err(error),
    };
    Ok(Kind::Loopback(v4, v6, bound))
}

fn is_without_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}

async fn unix(path: &Path) -> io::Result<Kind> {
    if let Ok(there) = std::fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path is there and no socket"));
        }
        match tokio::net::UnixStream::connect(path).await {
            // What a process left that did not end in peace.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, UNTIL_THEN.into())?;
    socket.bind(&SockAddr::unix(path)?)?;
    // By what was bound and not by its path, in whose place somebody could put another file meanwhile.
    let bound = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let there = rustix::fs::fstat(&bound)?;
    if FileType::from_raw_mode(there.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "somebody put another file in its place"));
    }
    let itself = format!("/proc/self/fd/{}", bound.as_raw_fd());
    std::fs::set_permissions(itself, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from_std(socket.into())?;
    Ok(Kind::Unix(listener, Place { path: path.to_path_buf(), file: (there.st_dev, there.st_ino) }))
}

impl Drop for Place {
    fn drop(&mut self) {
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use tokio::net::{TcpStream, UnixStream};

    #[tokio::test]
    async fn one_listener_hears_both_families_and_tells_ipv4_as_such() {
        let listener = Listener::bind(&Entrance::Port(0), Callers::All).await.unwrap();
        let port = listener.port().unwrap();
        let _caller = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (_, remote) = listener.accept().await.unwrap();
        assert!(remote.address().unwrap().is_ipv4(), "{remote}");
    }

    #[tokio::test]
    async fn port_for_our_app_is_open_on_both_loopbacks_and_nowhere_else() {
        let listener = Listener::bind(&Entrance::Port(0), Callers::Loopback).await.unwrap();
        let port = listener.port().unwrap();
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let (caller, accepted) = tokio::join!(TcpStream::connect((ip, port)), listener.accept());
            assert_eq!(accepted.unwrap().1.address().unwrap(), caller.unwrap().local_addr().unwrap());
        }
        assert!(TcpStream::connect((Ipv4Addr::new(127, 0, 0, 2), port)).await.is_err());
    }

    #[tokio::test]
    async fn unix_socket_tells_its_caller_and_takes_the_place_of_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let entrance = Entrance::Unix(path.clone());
        let listener = Listener::bind(&entrance, Callers::Loopback).await.unwrap();
        assert!(Listener::bind(&entrance, Callers::Loopback).await.is_err(), "in use");
        let _caller = UnixStream::connect(&path).await.unwrap();
        let (_, remote) = listener.accept().await.unwrap();
        let ours = std::fs::metadata(&path).unwrap();
        assert_eq!(remote.to_string(), format!("unix:uid={},pid={}", ours.uid(), std::process::id()));
        assert_eq!(ours.permissions().mode() & 0o777, SOCKET_MODE);
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(Listener::bind(&entrance, Callers::Loopback).await.is_err(), "not ours to remove");
    }
}
