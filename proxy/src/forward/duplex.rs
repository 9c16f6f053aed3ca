//! Connections that bytes are carried on, in whatever they come.

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

use super::Prefixed;
use super::screen::{Screen, Screened};
use super::tunnel::Tunneled;
use crate::capture::{Socket, reset_unless};
use crate::tls::TlsStream;

/// A connection, both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {
    /// It ends in the middle of what only its end would end: nobody is to take that for the whole. With TLS, and in a
    /// tunnel, an end that was not said is none.
    fn break_off(&self) {}

    /// Nothing has moved for a while: it gives back what it makes again when something does.
    fn rest(&mut self) {}
}

impl Duplex for TcpStream {}

impl Duplex for Socket {
    fn break_off(&self) {
        reset_unless(false, self);
    }
}

impl<S: Duplex> Duplex for Prefixed<S> {
    fn break_off(&self) {
        self.get_ref().break_off();
    }

    fn rest(&mut self) {
        self.get_mut().rest();
    }
}

impl<S: Duplex, R: Screen + Unpin> Duplex for Screened<S, R> {
    fn break_off(&self) {
        self.get_ref().break_off();
    }

    fn rest(&mut self) {
        self.get_mut().rest();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for TlsStream<S> {
    fn rest(&mut self) {
        Self::rest(self);
    }
}

impl<S: Duplex> Duplex for Tunneled<S> {
    fn rest(&mut self) {
        self.get_mut().rest();
    }
}

impl<S: Duplex + ?Sized> Duplex for Box<S> {
    fn break_off(&self) {
        (**self).break_off();
    }

    fn rest(&mut self) {
        (**self).rest();
    }
}

impl<S: Duplex + ?Sized> Duplex for &mut S {
    fn break_off(&self) {
        (**self).break_off();
    }

    fn rest(&mut self) {
        (**self).rest();
    }
}

/// Not a connection: what micro-benchmarks and tests carry bytes on.
impl Duplex for DuplexStream {
    #[cfg(test)]
    fn rest(&mut self) {
        tests::RESTED.set(tests::RESTED.get() + 1);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    thread_local! {
        /// So often a connection of this test came to rest.
        pub(crate) static RESTED: Cell<usize> = const { Cell::new(0) };
    }
}
