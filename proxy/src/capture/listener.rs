//! Listeners: a TCP port of one address or of all, or a path in the file system.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, fchmod};
use socket2::{Domain, Protocol, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::socket::{Remote, Socket, canonical, prepare};
use crate::config::Entrance;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Who may call through a unix socket: our user and our group. Nobody else, not for a moment.
const SOCKET_MODE: u32 = 0o660;
/// Anybody may ask through one whose callers are admitted one by one.
const OPEN_MODE: u32 = 0o666;
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
    /// Processes of our own user.
    Ourselves,
    /// Any process of this machine: whoever accepts looks at who it is.
    Admitted,
}

/// A socket's path, removed with its listener if it is still the one that we made, and nobody else took it over.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    file: (u64, u64),
    left_behind: Arc<AtomicBool>,
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
            Entrance::Unix(path) => unix(path, callers).await,
        };
        bound
            .map(Self)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {entrance}: {error}")))
    }

    /// One that another process bound for the same entrance.
    ///
    /// # Errors
    /// When these sockets are something else.
    pub fn adopt(entrance: &Entrance, sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut sockets = sockets.into_iter();
        let (first, second) = (sockets.next(), sockets.next());
        let Some(first) = first else { return Err(io::Error::other("no socket")) };
        let listening = |socket: OwnedFd| {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            prepare(&listener);
            let bound = canonical(listener.local_addr()?);
            Ok::<_, io::Error>((TcpListener::from_std(listener)?, bound))
        };
        let kind = match (entrance, second) {
            (Entrance::Tcp(_) | Entrance::Port(_), None) => {
                let (listener, bound) = listening(first)?;
                Kind::Tcp(listener, bound)
            }
            (Entrance::Tcp(_) | Entrance::Port(_), Some(second)) => {
                let ((v4, bound), (v6, _)) = (listening(first)?, listening(second)?);
                Kind::Loopback(v4, Some(v6), bound)
            }
            (Entrance::Unix(path), _) => {
                let listener = std::os::unix::net::UnixListener::from(first);
                listener.set_nonblocking(true)?;
                let there = std::fs::symlink_metadata(path)?;
                if !there.file_type().is_socket() || listener.local_addr()?.as_pathname() != Some(path) {
                    return Err(io::Error::other("the socket of another path"));
                }
                let file = (there.dev(), there.ino());
                Kind::Unix(
                    UnixListener::from_std(listener)?,
                    Place { path: path.clone(), file, left_behind: Arc::default() },
                )
            }
        };
        let listener = Self(kind);
        match entrance.address().map(|wanted| wanted.port()) {
            Some(wanted) if wanted != 0 && listener.port() != Some(wanted) => {
                Err(io::Error::other("the socket of another port"))
            }
            _ => Ok(listener),
        }
    }

    /// Its sockets, for [`Listener::adopt`] in another process.
    #[must_use]
    pub fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        match &self.0 {
            Kind::Tcp(listener, _) | Kind::Loopback(listener, None, _) => vec![listener.as_fd()],
            Kind::Loopback(v4, Some(v6), _) => vec![v4.as_fd(), v6.as_fd()],
            Kind::Unix(listener, _) => vec![listener.as_fd()],
        }
    }

    /// To be set when another process has adopted it: what is in the file system stays then.
    #[must_use]
    pub fn left_behind(&self) -> Arc<AtomicBool> {
        match &self.0 {
            Kind::Unix(_, place) => Arc::clone(&place.left_behind),
            Kind::Tcp(..) | Kind::Loopback(..) => Arc::default(),
        }
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
    prepare(&socket);
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

async fn unix(path: &Path, callers: Callers) -> io::Result<Kind> {
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
    let mode = match callers {
        Callers::Ourselves => UNTIL_THEN,
        Callers::All | Callers::Loopback => SOCKET_MODE,
        Callers::Admitted => OPEN_MODE,
    };
    std::fs::set_permissions(itself, std::fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = UnixListener::from_std(socket.into())?;
    let file = (there.st_dev, there.st_ino);
    Ok(Kind::Unix(listener, Place { path: path.to_path_buf(), file, left_behind: Arc::default() }))
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.left_behind.load(Ordering::Relaxed) {
            return;
        }
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
    async fn what_is_accepted_sends_at_once_and_notices_who_vanished() {
        let bound = Listener::bind(&Entrance::Port(0), Callers::All).await.unwrap();
        let port = bound.port().unwrap();
        let plain = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let entrance = Entrance::Tcp(plain.local_addr().unwrap());
        let adopted = Listener::adopt(&entrance, vec![plain.into()]).unwrap();
        for (listener, port) in [(&bound, port), (&adopted, adopted.port().unwrap())] {
            let _caller = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let (Socket::Tcp(accepted), _) = listener.accept().await.unwrap() else { panic!("no TCP") };
            let socket = SockRef::from(&accepted);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), 60);
            assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), 15);
        }
    }

    #[tokio::test]
    async fn adopted_listener_accepts_what_waited_for_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        for (entrance, callers) in [
            (Entrance::Port(0), Callers::All),
            (Entrance::Port(0), Callers::Loopback),
            (Entrance::Unix(path.clone()), Callers::Ourselves),
        ] {
            let old = Listener::bind(&entrance, callers).await.unwrap();
            let sockets = old.sockets().iter().map(|socket| socket.try_clone_to_owned().unwrap()).collect();
            let new = Listener::adopt(&entrance, sockets).unwrap();
            assert_eq!(new.port(), old.port());
            let connect = async || match old.port() {
                Some(port) => Socket::Tcp(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap()),
                None => Socket::Unix(UnixStream::connect(&path).await.unwrap()),
            };
            let _waits = connect().await;
            old.left_behind().store(true, Ordering::Relaxed);
            drop(old);
            new.accept().await.unwrap();
        }
        assert!(!path.exists(), "the last one that has it removes it");
        let other = Listener::bind(&Entrance::Port(0), Callers::All).await.unwrap();
        let port = other.port().unwrap();
        let sockets = || other.sockets().iter().map(|socket| socket.try_clone_to_owned().unwrap()).collect();
        assert!(Listener::adopt(&Entrance::Port(port + 1), sockets()).is_err(), "another port");
        assert!(Listener::adopt(&Entrance::Unix(path), sockets()).is_err(), "no unix socket");
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
        let open = Listener::bind(&entrance, Callers::Admitted).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, OPEN_MODE);
        drop(open);
        std::fs::write(&path, "a file").unwrap();
        assert!(Listener::bind(&entrance, Callers::Loopback).await.is_err(), "not ours to remove");
    }
}
