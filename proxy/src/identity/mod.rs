//! One valid SVID at all times. A source delivers SVIDs into the [`Mesh`](crate::mesh::Mesh); what is in force
//! is replaced only by a new one that our peers would believe, and never dropped because a renewal failed
//! (invariant 3).

mod attest;
pub mod control;
pub mod files;
mod jwt;
mod orders;
mod patience;
mod proof;
mod revoked;
mod schedule;
pub mod socket;
#[cfg(test)]
pub(crate) mod tests;
mod workload;

pub use attest::{Joining, vouch};
pub use control::IdentityError;
pub use jwt::{Holder, Jwt, Kept, TokenShelf, Tokens};
pub use orders::RenewalOrder;
pub use proof::{Proof, ProofError};
pub use workload::{Lender, Lent, Standing};
