//! Whoever calls as an operator. A change needs an [`Actor`], and of a caller only [`Permission::on`] makes one:
//! a call that touches what nobody judged does not get so far as to be audited. The actor takes along the stored
//! roles that it was judged by, and the commit asks whether they are still there.

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signet_proto::spiffe::SpiffeId;
use signet_proto::verbs::Verb;

use super::decide::{may_become, may_try, permits};
use super::{Binding, Refused, Scope, Subject};
use crate::audit::RequestId;
use crate::store::model::Actor;

/// Whether a call was judged by what it is about. What was not is not answered.
#[derive(Debug, Clone, Default)]
pub struct Judged(Arc<AtomicBool>);

impl Judged {
    /// Whether it was.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Whoever makes one call, and what they may.
#[derive(Debug)]
#[must_use = "who calls has been asked, but not whether they may: say on what"]
pub struct Operator {
    subject: Subject,
    bindings: Vec<Binding>,
    verb: Verb,
    judged: Judged,
    request_id: Option<RequestId>,
    /// Whether the bindings are in the store, where they may be withdrawn meanwhile.
    stored: bool,
}

/// What permits a change, once it is known what that touches: in the commit, if it is known only there.
pub trait Permission: Send + 'static {
    /// The actor that the audit names, if it may make the change on all `targets`. None at all are refused.
    ///
    /// # Errors
    /// Why not, and which role would do.
    fn on_all(&self, targets: &[Scope]) -> Result<Actor, Refused>;

    /// Whether a change may let its actor come by the identity `id`, which has the roles `held`: nobody becomes
    /// someone who may do more.
    ///
    /// # Errors
    /// What it would gain.
    fn may_become(&self, id: &SpiffeId, held: &[Binding]) -> Result<(), Refused>;

    /// As [`Self::on_all`], for one target.
    ///
    /// # Errors
    /// Why not, and which role would do.
    fn on(&self, target: &Scope) -> Result<Actor, Refused> {
        self.on_all(slice::from_ref(target))
    }
}

/// Control itself, and whoever was judged before.
impl Permission for Actor {
    fn on_all(&self, _targets: &[Scope]) -> Result<Self, Refused> {
        Ok(self.clone())
    }

    fn may_become(&self, _id: &SpiffeId, _held: &[Binding]) -> Result<(), Refused> {
        Ok(())
    }
}

impl Permission for Operator {
    fn on_all(&self, targets: &[Scope]) -> Result<Actor, Refused> {
        if targets.is_empty() {
            return Err(Refused::Untold(self.verb.method()));
        }
        for target in targets {
            permits(&self.subject, &self.bindings, self.verb, Some(target))?;
        }
        self.judged.set();
        Ok(self.actor())
    }

    fn may_become(&self, id: &SpiffeId, held: &[Binding]) -> Result<(), Refused> {
        may_become(&self.subject, &self.bindings, id, held)
    }
}

impl Operator {
    /// `subject`, who has `bindings`, makes the call.
    pub fn new(subject: Subject, bindings: Vec<Binding>, verb: Verb, judged: Judged) -> Self {
        Self { subject, bindings, verb, judged, request_id: None, stored: true }
    }

    /// Its bindings are those of the settings: nobody withdraws them.
    pub fn by_settings(self) -> Self {
        Self { stored: false, ..self }
    }

    /// The call has this name: what it changes is recorded with it.
    pub fn in_call(self, request_id: Option<RequestId>) -> Self {
        Self { request_id, ..self }
    }

    /// Whether there is anything it may make the call on.
    ///
    /// # Errors
    /// Why not, and which role would do.
    pub fn may_try(&self) -> Result<(), Refused> {
        may_try(&self.subject, &self.bindings, self.verb)
    }

    /// The actor, if it may make the call on the mesh as a whole.
    ///
    /// # Errors
    /// Why not, and which role would do.
    pub fn on_everything(&self) -> Result<Actor, Refused> {
        self.on(&Scope::Everything)
    }

    /// For calls whose answer holds what the caller may see: the test for each entry.
    ///
    /// # Errors
    /// When the call is not of that kind, or the caller may see nothing at all.
    pub fn sight(self) -> Result<Sight, Refused> {
        permits(&self.subject, &self.bindings, self.verb, None)?;
        self.judged.set();
        Ok(Sight { operator: self })
    }

    fn actor(&self) -> Actor {
        let actor = match &self.subject {
            Subject::Identity(id) => Actor::identity(id),
            Subject::Unix(uid) => Actor::unix(*uid),
        };
        let actor = actor.in_call(self.request_id);
        if !self.stored {
            return actor;
        }
        let own = self.bindings.iter().filter(|binding| binding.subject == self.subject);
        actor.by_roles(own.cloned().collect::<Vec<_>>())
    }
}

/// What of an answer its caller may see.
#[derive(Debug)]
pub struct Sight {
    operator: Operator,
}

impl Sight {
    /// Whether what is about all of `target` is shown.
    #[must_use]
    pub fn sees(&self, target: &Scope) -> bool {
        let Operator { subject, bindings, verb, .. } = &self.operator;
        permits(subject, bindings, *verb, Some(target)).is_ok()
    }

    /// Whether what is about this identity is shown.
    #[must_use]
    pub fn sees_identity(&self, id: &SpiffeId) -> bool {
        self.sees(&Scope::identity(id))
    }

    /// Whether a binding is shown: everybody sees their own.
    #[must_use]
    pub fn sees_binding(&self, binding: &Binding) -> bool {
        binding.subject == self.operator.subject || self.sees(&binding.scope)
    }
}
