//! What is to be done with the authorities by themselves, and what keeps it from being done. Pure: told the time.
//!
//! | what | when |
//! | --- | --- |
//! | intermediate made | by each replica for itself: it has none |
//! | intermediate replaced | the same: half of `--intermediate-ttl` is left; below a root elsewhere that is said, and nothing done, or an `upstream` asked |
//! | intermediate retires | nobody signs with it: its replica is gone; or it is nobody's, and each replica has its own |
//! | root prepared | a quarter of `--root-ttl` is left; the same |
//! | root activated | it is due, was in the bundle for a while, and all proxies have acknowledged that |
//! | root activated all the same | it takes the place of a compromised one, in which trust ends within seconds |
//! | compromised authority distrusted | its time is over; before all else |
//! | prepared authority taken back | a clock that was ahead made it: it is good for nobody yet |
//! | retiring authority removed | nothing live chains to it; a root not before everybody had time to fetch the bundle |

use std::time::{Duration, SystemTime};

use super::hierarchy::{intermediates, own};
use super::{Authority, Hierarchy};
use crate::duration;
use crate::store::model::{AuthorityKind, KnownAuthority, Missing, Phase};
use crate::time;

const DAY: Duration = Duration::from_secs(24 * 3600);
const LEAST: Duration = Duration::from_secs(3600);
/// So much is kept of the time in which a compromised root is believed for everybody to renew.
const RENEWING: Duration = Duration::from_secs(15);
/// Proxies acknowledge within a second; from then on somebody should look.
const STUCK: Duration = Duration::from_secs(600);
/// The longest that a certificate lives, and a day.
const LONG: Duration = Duration::from_secs(8 * 24 * 3600);

/// How long authorities live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// Roots.
    pub root: Duration,
    /// Intermediates.
    pub intermediate: Duration,
    /// How long one key signs tokens.
    pub jwt_key: Duration,
    /// The longest life of a token.
    pub jwt: Duration,
}

impl Lives {
    /// With roots of ten years.
    #[cfg(test)]
    pub(crate) fn with_intermediate(intermediate: Duration) -> Self {
        Self { root: 3650 * DAY, intermediate, jwt_key: 7 * DAY, jwt: Duration::from_secs(300) }
    }

    /// How long an intermediate from elsewhere should be good: shorter lives are a mistake.
    pub(super) fn least(self) -> Duration {
        LEAST.min(self.intermediate / 2)
    }

    /// How long a change of the bundle is announced before anything rests on it: whoever fetches it and is no proxy
    /// has to come by.
    pub(super) fn announcement(self) -> Duration {
        (self.root / 100).min(DAY)
    }
}

/// Who looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat<'r> {
    /// Whose intermediate it signs with.
    pub(super) signs_as: &'r str,
    /// Of the leader: the replicas that run.
    pub(super) leads: Option<&'r [String]>,
}

/// What comes next by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Another intermediate for this replica; none: for those that have none of their own.
    ReplaceIntermediate(String),
    /// This intermediate, with which nobody signs.
    Stop(KnownAuthority),
    /// Another root.
    PrepareRoot,
    /// This root, if all proxies have acknowledged it.
    Activate(KnownAuthority),
    /// This root, whoever does not know it: the one before is compromised.
    ActivateAnyway(KnownAuthority),
    /// This authority, in which nobody is to trust any more.
    Distrust(KnownAuthority),
    /// This authority, if nothing live chains to it; one that is prepared is taken back.
    Remove(KnownAuthority),
}

impl Step {
    /// Whether both are steps of one authority.
    fn is_about(&self, other: &Self) -> bool {
        self.authority().is_some_and(|one| other.authority().is_some_and(|other| one.id == other.id))
    }

    fn authority(&self) -> Option<&KnownAuthority> {
        match self {
            Self::ReplaceIntermediate(_) | Self::PrepareRoot => None,
            Self::Activate(one)
            | Self::ActivateAnyway(one)
            | Self::Distrust(one)
            | Self::Remove(one)
            | Self::Stop(one) => Some(one),
        }
    }
}

/// What is known of a rotation under way, as of the last look.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    /// Who has not acknowledged the prepared root.
    pub missing: Missing,
}

impl Authority {
    /// What is to be done at `now`: by every replica for itself; for all of them by the leader, who knows which run.
    #[must_use]
    pub fn due(&self, leads: Option<&[String]>, now: SystemTime) -> Vec<Step> {
        let seat = Seat { signs_as: self.store.signs_as(), leads };
        let mut steps = due(&self.hierarchy(), self.lives, seat, now);
        for step in leads.map(|_| self.upstream_steps(now)).into_iter().flatten() {
            if !steps.iter().any(|other| other.is_about(&step)) {
                steps.push(step);
            }
        }
        steps
    }

    /// When the intermediate of this replica should be replaced.
    #[must_use]
    pub fn rotation_due(&self) -> SystemTime {
        self.replacement_due(self.intermediate().certified().not_after())
    }

    /// When an intermediate should be replaced that ends then.
    #[must_use]
    pub fn replacement_due(&self, ends: SystemTime) -> SystemTime {
        if self.upstream_signs() {
            return self.upstream_due();
        }
        intermediate_due(ends, &self.hierarchy(), self.lives)
    }

    /// When the next root should be made.
    #[must_use]
    pub fn root_due(&self) -> SystemTime {
        if self.upstream_signs() {
            return self.upstream_root_due();
        }
        root_due(&self.hierarchy(), self.lives)
    }

    /// Takes in what the last look said.
    pub fn look(&self, outlook: Outlook) {
        *self.outlook.lock() = outlook;
    }

    /// What keeps a rotation from going on.
    #[must_use]
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let missing = self.outlook.lock().missing.clone();
        let hierarchy = self.hierarchy();
        let since = |one: &KnownAuthority| now.duration_since(one.phase_at).unwrap_or_default();
        let warn = |one: &KnownAuthority| match (one.kind, one.phase) {
            (AuthorityKind::Root, Phase::Prepared) if since(one) > STUCK && missing.count > 0 => {
                Some(format!(
                    "root {} was prepared {} ago and is not known to {} proxies yet: {missing}; \
                     `signet ca activate {} --force` does not wait for them",
                    one.id,
                    duration::rough(since(one)),
                    missing.count,
                    one.id
                ))
            }
            (_, Phase::Active | Phase::Retiring) if one.distrusted_at.is_some() => Some(format!(
                "{} {} is compromised: everybody below it renews, and trust in it ends {}",
                one.kind,
                one.id,
                one.distrusted_at.map(time::rfc3339).unwrap_or_default()
            )),
            (_, Phase::Retiring) if since(one) > LONG => Some(format!(
                "{} {} retires for {} and is needed still: `signet ca status` shows by whom",
                one.kind,
                one.id,
                duration::rough(since(one))
            )),
            _ => None,
        };
        let signs = hierarchy.intermediate().certified();
        let left = hierarchy.known().iter().any(|one| one.id == signs.id() && one.phase != Phase::Active);
        let left = left.then(|| {
            format!(
                "intermediate {} retires, and this replica could not make another one: the log says why",
                signs.id()
            )
        });
        hierarchy.known().iter().filter_map(warn).chain(self.awaited(now)).chain(left).collect()
    }
}

fn due(hierarchy: &Hierarchy, lives: Lives, seat: Seat<'_>, now: SystemTime) -> Vec<Step> {
    let known = hierarchy.known();
    let over = |one: &&KnownAuthority| {
        let ended = one.phase == Phase::Retiring && one.distrusted_at.is_some_and(|ends| ends <= now);
        ended && seat.leads.is_some()
    };
    let mut steps: Vec<Step> = known.iter().filter(over).cloned().map(Step::Distrust).collect();
    // At a root elsewhere somebody has to be asked.
    let held = known.iter().any(|one| one.is_anchor() && one.phase == Phase::Active && one.has_key);
    if held && needs_another(hierarchy, lives, seat.signs_as, now) {
        steps.push(Step::ReplaceIntermediate(seat.signs_as.to_owned()));
    }
    let Some(replicas) = seat.leads else { return steps };
    for one in intermediates(known).filter(|one| one.replica != seat.signs_as) {
        if is_over(one, known, replicas) {
            steps.push(Step::Stop(one.clone()));
        } else if held && one.replica.is_empty() && needs_another(hierarchy, lives, "", now) {
            steps.push(Step::ReplaceIntermediate(String::new()));
        }
    }
    let root_is_due = root_due(hierarchy, lives) <= now;
    let compromised = known.iter().find(|one| one.is_anchor() && one.phase == Phase::Active);
    let compromised = compromised.and_then(|root| root.distrusted_at);
    let waited = |one: &KnownAuthority| one.phase_at + lives.announcement() <= now;
    let mut others = false;
    for one in known {
        match (one.kind, one.phase) {
            (kind, Phase::Prepared) if one.not_before > now => {
                others |= kind == AuthorityKind::Root;
                if made_here(known, one) {
                    steps.push(Step::Remove(one.clone()));
                }
            }
            (AuthorityKind::Root, Phase::Prepared) if compromised.is_some() => {
                others = true;
                let anyway = compromised.is_some_and(|ends| now + RENEWING >= ends);
                steps.push(if anyway {
                    Step::ActivateAnyway(one.clone())
                } else {
                    Step::Activate(one.clone())
                });
            }
            (AuthorityKind::Root, Phase::Prepared) => {
                others = true;
                if root_is_due && waited(one) {
                    steps.push(Step::Activate(one.clone()));
                }
            }
            (_, Phase::Retiring) if one.distrusted_at.is_some() => others = true,
            (AuthorityKind::Root, Phase::Retiring) => {
                others = true;
                if waited(one) {
                    steps.push(Step::Remove(one.clone()));
                }
            }
            (AuthorityKind::Intermediate, Phase::Retiring) => steps.push(Step::Remove(one.clone())),
            _ => {}
        }
    }
    if held && (root_is_due || compromised.is_some()) && !others {
        steps.push(Step::PrepareRoot);
    }
    steps
}

/// Whether a replica has no intermediate of its own, or not for long, or one that a clock certified which was ahead: it is
/// good for nobody.
fn needs_another(hierarchy: &Hierarchy, lives: Lives, replica: &str, now: SystemTime) -> bool {
    own(hierarchy.known(), replica).is_none_or(|one| {
        let ahead = one.not_before > now && hierarchy.root().not_before() <= now;
        ahead || intermediate_due(one.not_after, hierarchy, lives) <= now
    })
}

/// Whether nobody signs with an intermediate: its replica does not run; or it is nobody's, and all that run have their own.
fn is_over(one: &KnownAuthority, known: &[KnownAuthority], replicas: &[String]) -> bool {
    match one.replica.as_str() {
        "" => !replicas.is_empty() && replicas.iter().all(|replica| own(known, replica).is_some()),
        gone => !replicas.iter().any(|replica| replica == gone),
    }
}

/// Rather than brought by somebody, who meant what it says.
fn made_here(known: &[KnownAuthority], one: &KnownAuthority) -> bool {
    let root = match &one.issuer {
        None => Some(one),
        Some(issuer) => known.iter().find(|root| root.id == *issuer),
    };
    root.is_some_and(|root| root.has_key)
}

/// While half of `--intermediate-ttl` is left, so that a leaf of the longest life still fits. Never, once it ends with
/// the root: another one would not live longer.
fn intermediate_due(ends: SystemTime, hierarchy: &Hierarchy, lives: Lives) -> SystemTime {
    if ends >= hierarchy.root().not_after() { ends } else { ends - lives.intermediate / 2 }
}

/// While there is time for two intermediates below it.
fn root_due(hierarchy: &Hierarchy, lives: Lives) -> SystemTime {
    hierarchy.root().not_after() - lives.root / 4
}

#[cfg(test)]
mod tests;
