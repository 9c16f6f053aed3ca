//! Roles: who may make which call, on which identities.
//!
//! ```text
//!   call ─▶ needs(verb): a stranger's, a member's, or a role, and whether it names what the scope has to cover
//!        ─▶ Operator: whoever calls, with their bindings ─▶ on(what the call touches) ─▶ the actor of the audit
//! ```
//!
//! A binding is a subject, a role and a scope. A right is held by one binding as a whole: the role of one and the
//! scope of another make none. What no binding grants is refused, and the refusal says which one would.
//! Everything here is pure: what the store knows comes in, a decision goes out.
//!
//! Invariants: every call of the service definition is decided on, or nothing compiles ([`needs`]); a change needs
//! an actor, and only [`Operator::on`] makes one of a caller; wider scopes and higher roles never take a right away.

mod binding;
mod decide;
mod operator;
mod scope;
mod table;

pub use binding::{Binding, MAX_PER_SUBJECT, Role, Subject, SubjectError, UnknownRole};
pub use decide::{Refused, may_try, permits};
pub use operator::{Judged, Operator, Permission, Sight};
pub use scope::{Scope, ScopeError};
pub use table::{Needs, Reach, needs};

#[cfg(test)]
mod tests;
