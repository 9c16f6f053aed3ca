//! Where a captured connection was going before nftables turned it to us.

use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::socket::canonical;

/// The original destination: with REDIRECT from connection tracking, with TPROXY the socket's own local
/// address, as nothing was rewritten. A connection that was made to us directly has our own address there.
///
/// # Errors
/// When the socket has neither, that is, it is closed.
pub fn destination(stream: &TcpStream) -> std::io::Result<SocketAddr> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    let redirected = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }.ok();
    Ok(redirected.and_then(|address| address.as_socket()).map_or(local, canonical))
}
