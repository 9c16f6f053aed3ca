//! Connections that callers made.

use tokio::io::{AsyncRead, AsyncWrite};

use super::Prefixed;
use super::screen::{Screen, Screened};
use super::tunnel::Tunneled;
use crate::capture::{Socket, reset_unless};
use crate::tls::TlsStream;

/// A connection that a caller made, in whatever it comes.
pub trait Caller: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// It ends in the middle of what only its end would end: nobody is to take that for the whole. With TLS, and in a
    /// tunnel, an end that was not said is none.
    fn break_off(&self) {}
}

impl Caller for Socket {
    fn break_off(&self) {
        reset_unless(false, self);
    }
}

impl<S: Caller> Caller for Prefixed<S> {
    fn break_off(&self) {
        self.get_ref().break_off();
    }
}

impl<S: Caller, R: Screen + Unpin + Send + 'static> Caller for Screened<S, R> {
    fn break_off(&self) {
        self.get_ref().break_off();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Caller for Box<TlsStream<S>> {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Caller for Box<Tunneled<S>> {}

#[cfg(test)]
impl Caller for tokio::io::DuplexStream {}
