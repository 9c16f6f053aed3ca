//! The decision, and why not.

use std::fmt::Write;

use signet_proto::spiffe::SpiffeId;
use signet_proto::verbs::Verb;

use super::{Binding, Needs, Reach, Role, Scope, Subject, needs};

/// So many of a subject's bindings are told in a refusal.
const TOLD: usize = 4;

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No binding of the caller gives the role on what the call is about.
    #[error(transparent)]
    Missing(Box<Missing>),
    /// The call could make its caller someone who may do more.
    #[error(transparent)]
    Gain(Box<Gain>),
    /// Roles give no right to it.
    #[error("{0} is for attested instances, with their SVID: a role gives no right to it")]
    Membership(&'static str),
    /// A call was judged without what it is about: a defect of this program. Nothing was done.
    #[error("{0} did not say what it is about, and is refused for that: a defect of control")]
    Untold(&'static str),
}

/// The binding that would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{call} takes the role {needed} on {about}; `{subject}` has {held}. An admin gives it: \
     `signet role grant {needed} {subject}{argument}`"
)]
pub struct Missing {
    call: &'static str,
    /// The least role that would do.
    pub needed: Role,
    about: String,
    subject: Subject,
    held: String,
    /// The end of the command that gives it: where.
    pub argument: String,
}

/// What the caller would come by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "whoever makes a join ticket for `{id}`, or says what proves to be it, can become it; it has the role {role} \
     on {scope}, which `{subject}` has not: ask someone who has it"
)]
pub struct Gain {
    id: SpiffeId,
    role: Role,
    scope: Scope,
    subject: Subject,
}

/// Whether `subject` may make the call on `target`; `None` when it named nothing.
///
/// Bindings of others among `bindings` do not count.
///
/// # Errors
/// Why not, and which binding would do.
pub fn permits(
    subject: &Subject,
    bindings: &[Binding],
    verb: Verb,
    target: Option<&Scope>,
) -> Result<(), Refused> {
    let (role, reach) = match needs(verb) {
        Needs::Stranger => return Ok(()),
        Needs::Member => return Err(Refused::Membership(verb.method())),
        Needs::Role(role, reach) => (role, reach),
    };
    let covered = |scope: &Scope| match (reach, target) {
        (Reach::Mesh, _) => scope.covers(&Scope::Everything),
        (Reach::Visible, None) => true,
        (Reach::Named, None) => false,
        (Reach::Named | Reach::Visible, Some(target)) => scope.covers(target),
    };
    let about = match (reach, target) {
        (Reach::Named, None) => return Err(Refused::Untold(verb.method())),
        (Reach::Mesh, _) => Some(&Scope::Everything),
        (_, target) => target,
    };
    if own(subject, bindings).any(|binding| binding.role.includes(role) && covered(&binding.scope)) {
        Ok(())
    } else {
        Err(refused(subject, bindings, verb, role, about))
    }
}

/// Whether there is anything that `subject` may make the call on: before what it is about has been read.
///
/// # Errors
/// Why not, and which binding would do.
pub fn may_try(subject: &Subject, bindings: &[Binding], verb: Verb) -> Result<(), Refused> {
    match needs(verb) {
        Needs::Role(role, Reach::Named) => {
            if own(subject, bindings).any(|binding| binding.role.includes(role)) {
                Ok(())
            } else {
                Err(refused(subject, bindings, verb, role, None))
            }
        }
        _ => permits(subject, bindings, verb, None),
    }
}

/// Whether `subject` has all that `held` gives to `id`: if not, it must not come by that identity.
///
/// # Errors
/// What it would gain.
pub(super) fn may_become(
    subject: &Subject,
    bindings: &[Binding],
    id: &SpiffeId,
    held: &[Binding],
) -> Result<(), Refused> {
    let gained = held.iter().find(|gain| !own(subject, bindings).any(|binding| binding.includes(gain)));
    match gained {
        None => Ok(()),
        Some(gain) => Err(Refused::Gain(Box::new(Gain {
            id: id.clone(),
            role: gain.role,
            scope: gain.scope.clone(),
            subject: subject.clone(),
        }))),
    }
}

fn own<'a>(subject: &'a Subject, bindings: &'a [Binding]) -> impl Iterator<Item = &'a Binding> {
    bindings.iter().filter(move |binding| binding.subject == *subject)
}

fn refused(
    subject: &Subject,
    bindings: &[Binding],
    verb: Verb,
    needed: Role,
    about: Option<&Scope>,
) -> Refused {
    let (about, argument) = match about {
        Some(Scope::Everything) => ("everything".to_owned(), String::new()),
        Some(scope) => (format!("`{scope}`"), format!(" --on '{scope}'")),
        None => ("what it is about".to_owned(), " --on SCOPE".to_owned()),
    };
    Refused::Missing(Box::new(Missing {
        call: verb.method(),
        needed,
        about,
        subject: subject.clone(),
        held: told(subject, bindings),
        argument,
    }))
}

fn told(subject: &Subject, bindings: &[Binding]) -> String {
    let mut text = String::new();
    let mut all = own(subject, bindings);
    for binding in all.by_ref().take(TOLD) {
        let comma = if text.is_empty() { "" } else { ", " };
        let scope = match &binding.scope {
            Scope::Everything => "everything".to_owned(),
            scope => format!("`{scope}`"),
        };
        // A string takes whatever is written to it.
        let _ = write!(text, "{comma}{} on {scope}", binding.role);
    }
    match all.count() {
        0 if text.is_empty() => "none".to_owned(),
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
