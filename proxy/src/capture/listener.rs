//! Listeners: a TCP port of one address or of all, or a path in the file system.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::socket::{Remote, Socket, canonical, prepare};
use crate::config::Entrance;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Who may call through a unix socket: our user and our group.
const SOCKET_MODE: u32 = 0o660;

/// A bound listener.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, Place),
}

/// A socket's path, removed with its listener if it is still the one that we made.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Binds; the error names what could not be bound.
    ///
    /// # Errors
    /// When the address or path cannot be bound, or the path is in use.
    pub async fn bind(entrance: &Entrance) -> io::Result<Self> {
        let bound = match entrance {
            Entrance::Tcp(address) => tcp(*address),
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
        match &self.0 {
            Kind::Tcp(listener, _) => {
                let (stream, remote) = listener.accept().await?;
                prepare(&stream);
                Ok((Socket::Tcp(stream), Remote::ip(remote)))
            }
            Kind::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let remote = stream.peer_cred()?;
                let remote = Remote::Unix { uid: remote.uid(), pid: remote.pid() };
                Ok((Socket::Unix(stream), remote))
            }
        }
    }

    /// The TCP port that it has.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.0 {
            Kind::Tcp(_, address) => Some(address.port()),
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
            Kind::Tcp(_, address) => address.fmt(f),
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
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    let inode = std::fs::symlink_metadata(path)?.ino();
    Ok(Kind::Unix(listener, Place { path: path.to_path_buf(), inode }))
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpStream, UnixStream};

    #[tokio::test]
    async fn one_listener_hears_both_families_and_tells_ipv4_as_such() {
        let listener = Listener::bind(&Entrance::Tcp((Ipv6Addr::UNSPECIFIED, 0).into())).await.unwrap();
        let port = listener.port().unwrap();
        let _caller = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (_, remote) = listener.accept().await.unwrap();
        assert!(remote.address().unwrap().is_ipv4(), "{remote}");
    }

    #[tokio::test]
    async fn unix_socket_tells_its_caller_and_takes_the_place_of_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let entrance = Entrance::Unix(path.clone());
        let listener = Listener::bind(&entrance).await.unwrap();
        assert!(Listener::bind(&entrance).await.is_err(), "in use");
        let _caller = UnixStream::connect(&path).await.unwrap();
        let (_, remote) = listener.accept().await.unwrap();
        let ours = std::fs::metadata(&path).unwrap();
        assert_eq!(remote.to_string(), format!("unix:uid={},pid={}", ours.uid(), std::process::id()));
        assert_eq!(ours.permissions().mode() & 0o777, SOCKET_MODE);
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(Listener::bind(&entrance).await.is_err(), "not ours to remove");
    }
}
