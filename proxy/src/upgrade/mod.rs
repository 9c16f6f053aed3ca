//! Upgrade in place: a new process takes the listeners of the one that runs, over a unix socket of their own, and no
//! caller notices.
//!
//! ```text
//!   new process                                     old process
//!     connects to `upgrade-socket`, says hello  ──▶   same user? which form?
//!                                               ◀──   every listening socket (SCM_RIGHTS)
//!     makes a key, asks for a certificate       ──▶   asks control, with its own SVID as proof
//!     verifies it, follows control              ◀──   the certificate
//!     ready: identity and policy                ──▶   stops accepting
//!     accepts                                   ◀──   yours; goodbye to control, what is open may end
//! ```
//!
//! No private key goes from process to process (invariant 2): the new process makes its own, and the old one vouches for
//! it at control, as whoever holds an SVID may. It is a new instance of the same identity, so that the old one still
//! hears from control until its last connection has ended, and cuts those that lose their right (invariant 5).
//! Sockets are shared before they are given up: callers meanwhile wait with the kernel. Until the new process is ready
//! it has changed nothing: if it fails, the old one goes on.

mod doors;
mod line;
mod predecessor;
mod successor;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use doors::Doors;
pub use predecessor::Predecessor;
pub use successor::{Successor, Successors, start_on_signal};

/// Why a process did not take over from another one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeError {
    /// The socket.
    #[error("`upgrade-socket` {}: {error}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The other end is somebody else.
    #[error(
        "the process at the other end runs as user {found}, expected {expected}: only a proxy of the same user is handed anything"
    )]
    Stranger {
        /// Its user.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// It speaks another form.
    #[error(
        "the other process speaks form {found} of the hand-over, this one {expected}: stop the old proxy, and start the new one"
    )]
    Form {
        /// Its.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// It said something that does not fit here.
    #[error("the other process said something unexpected: {0}")]
    Unexpected(&'static str),
    /// It went away.
    #[error("the other process went away: {0}")]
    Gone(io::Error),
    /// It is silent.
    #[error("the other process is silent: it may be in another upgrade")]
    Silent,
    /// There was no certificate for the new process.
    #[error("the running proxy could not get a certificate for this one: {reason}")]
    Certificate {
        /// Why.
        reason: String,
        /// Whether there is no use in asking again.
        is_final: bool,
    },
}

/// What both ends say to each other; a change that an older process would misunderstand raises this.
const FORM: u32 = 1;
