//! Opaque streams between two Signet proxies: ALPN `signet/1`, one stream at a time over one mutually
//! authenticated TLS connection, which carries the next stream when one has ended cleanly.
//!
//! `SPEC.md` beside this file is the protocol; this room is its implementation, without I/O and without a
//! clock. The caller moves the bytes, keeps the deadlines, and decides who may do what.
//!
//! ```text
//!   initiator                                          acceptor
//!   open(preamble) ────OPEN────▶ receive ─▶ Opened     decide, dial the app
//!   data(n) + n bytes ──DATA───▶ receive ─▶ Data       held back until accepted
//!   Accepted ◀─ receive ◀──ACCEPT─────────── accept()  or refuse(why): Refused, then end()
//!   Data ◀───── receive ◀───DATA──────────── data(n)
//!   end() ──────────────END────▶ receive ─▶ Ended
//!   Ended ◀──── receive ◀───END───────────── end()     idle again: is_idle() is true on both sides
//! ```
//!
//! One [`Tunnel`] stands for one end of one connection, for all its streams. Rules kept here:
//!
//! - The same table judges what we send and what we receive ([`SendError`], [`Violation`]), so nothing
//!   leaves that the other end would refuse.
//! - Payloads pass through borrowed from the input, in whatever pieces they come: nothing is copied and
//!   nothing is allocated per DATA frame. Only a control frame that came in pieces is held, in at most
//!   [`MAX_OPEN_BYTES`].
//! - A stream that was refused, or whose connection ended before an answer, reached no app: it may be tried
//!   again ([`Event::Refused`], [`Event::Reset`], [`Ending::Unanswered`]).
//! - No input makes it panic; after the first violation nothing more is read.

mod endpoint;
mod frame;
mod preamble;
mod reason;
mod state;
#[cfg(test)]
mod tests;
mod traceparent;

pub use endpoint::{Ending, Event, SendError, Tunnel, Violation};
pub use frame::{
    FrameError, FrameType, HEADER_BYTES, MAX_DATA_BYTES, MAX_OPEN_BYTES, MAX_REASON_BYTES, Wants,
};
pub use preamble::{Preamble, PreambleError};
pub use reason::{Refusal, RefusalError, RefuseCode, ResetCode};
pub use state::MAX_EARLY_BYTES;
pub use traceparent::{TraceParent, TraceParentError};

/// The protocol's name in the TLS handshake (RFC 7301). A change that breaks it gets another name.
pub const ALPN: &[u8] = b"signet/1";
