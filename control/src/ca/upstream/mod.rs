//! A CA above ours that is asked by itself: Vault's PKI, or OpenBao's. It has the root; control asks it for the next
//! intermediate while half of the life of the one of now is left.
//!
//! | the answer is | so |
//! | --- | --- |
//! | an intermediate below the root of now | it signs from now on |
//! | one below another root | that root is in everybody's bundle; it signs when all proxies have acknowledged that |
//! | none, or one that a proxy would not believe | nothing is changed, the one of now signs on; asked again, and told |
//!
//! A new mesh begins with the upstream's root, and does not begin without. One that has a root of its own moves to it, as
//! to any other root.
//!
//! Invariants: what comes is checked as what an operator brings (`chain`); a key leaves nothing but its request; whatever
//! fails, what signs is not touched.

mod config;
mod error;
mod vault;

use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use signet_proto::spiffe::TrustDomain;

use super::elsewhere::{Installed, records};
use super::hierarchy::active_root;
use super::places::Places;
use super::profile::{self, Draft};
use super::{Authority, CaError, Hierarchy, Lives, Step, chain};
use crate::store::Store;
use crate::store::model::{Actor, AuthorityKind, AuthorityRecord, KnownAuthority, Phase};
use crate::telemetry::metrics;
use crate::{backoff, duration, time};

pub use config::UpstreamConfig;
pub use error::UpstreamError;

use error::UNUSABLE;
use vault::Vault;

/// It is sealed, away, or refuses: whoever mends that wants to see it soon.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// It signs what cannot be used, and keeps a record of each.
const LONGEST_UNUSABLE: Duration = Duration::from_secs(3600);
/// What is asked for ends so much before its root, as clocks differ.
const SLACK: Duration = Duration::from_secs(60);

/// A CA above ours, and how it stands with it.
#[derive(Debug)]
pub struct Upstream {
    vault: Vault,
    trouble: Mutex<Option<Trouble>>,
    /// It is asked for one at a time.
    asking: tokio::sync::Mutex<()>,
}

/// It was asked in vain.
#[derive(Debug, Clone)]
struct Trouble {
    since: SystemTime,
    failures: u32,
    again: Instant,
    reason: &'static str,
    told: String,
}

impl Upstream {
    /// One that can be asked.
    ///
    /// # Errors
    /// When its authorities cannot be read.
    pub async fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        Ok(Self {
            vault: Vault::new(config).await?,
            trouble: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// The root and the first intermediate of a new mesh.
    pub(super) async fn first(
        &self,
        store: &Store,
        domain: &TrustDomain,
        places: &Places,
        lives: Lives,
    ) -> Result<(AuthorityRecord, AuthorityRecord), CaError> {
        let draft = places.draft(store, domain, AuthorityKind::Intermediate).await?;
        let params = profile::request(&draft, domain)?;
        let request = params.serialize_request(&draft.key).map_err(|error| draft.key.explain(error))?;
        let Draft { id, subject, key, kept } = draft;
        let checked = match self.vault.sign(&request.pem()?, &subject, lives.intermediate).await {
            Ok(signed) => chain::check(request.der(), &id, key, &signed, domain, lives.least(), time::now()),
            Err(error) => Err(error.into()),
        };
        let checked = counted(checked).map_err(|error| CaError::NotBegun(Box::new(error)))?;
        let root = checked.root.id.clone();
        Ok(records(checked, root, kept))
    }

    fn may_ask(&self, now: Instant) -> bool {
        self.trouble.lock().as_ref().is_none_or(|trouble| trouble.again <= now)
    }

    fn failed(&self, error: &CaError, now: SystemTime) {
        let reason = reason(error);
        let longest = if reason == UNUSABLE { LONGEST_UNUSABLE } else { LONGEST };
        let mut trouble = self.trouble.lock();
        let failures = trouble.as_ref().map_or(0, |before| before.failures).saturating_add(1);
        let since = trouble.as_ref().map_or(now, |before| before.since);
        let again = Instant::now() + backoff::after(failures, longest);
        *trouble = Some(Trouble { since, failures, again, reason, told: error.to_string() });
    }
}

impl Authority {
    /// Whether the root of now is the upstream's.
    pub(super) fn upstream_signs(&self) -> bool {
        self.upstream.is_some() && self.root_is_elsewhere()
    }

    /// What the leader does: has the upstream sign the next intermediate when that is due, and keeps in mind what it fails
    /// on.
    ///
    /// # Errors
    /// When there is none, or one that cannot be used.
    pub async fn follow_upstream(&self, now: SystemTime) -> Result<(), CaError> {
        let Some(upstream) = &self.upstream else { return Ok(()) };
        if !self.store.leads() || !is_due(&self.hierarchy(), self.lives, now) {
            *upstream.trouble.lock() = None;
            return Ok(());
        }
        if !upstream.may_ask(Instant::now()) {
            return Ok(());
        }
        match self.ask(upstream, Wanted::Longer, Actor::control()).await {
            Ok(_) => Ok(()),
            Err(error) => {
                upstream.failed(&error, now);
                Err(error)
            }
        }
    }

    /// Has the upstream sign another intermediate here and now. Returns its id.
    ///
    /// # Errors
    /// [`UpstreamError::AnotherRoot`] when it does not sign yet; when there is none, or one that cannot be used.
    pub(super) async fn replace_by_upstream(&self, actor: Actor) -> Result<String, CaError> {
        let installed = self.ask(self.required_upstream()?, Wanted::Any, actor).await?;
        match installed.root {
            Some(root) => Err(UpstreamError::AnotherRoot(root).into()),
            None => Ok(installed.id),
        }
    }

    /// Has the upstream's other root take the first step.
    ///
    /// # Errors
    /// [`UpstreamError::SameRoot`] when it has none; when what comes cannot be used.
    pub(super) async fn prepare_by_upstream(&self, actor: Actor) -> Result<Installed, CaError> {
        self.ask(self.required_upstream()?, Wanted::AnotherRoot, actor).await
    }

    fn required_upstream(&self) -> Result<&Upstream, CaError> {
        self.upstream.as_ref().ok_or_else(|| CaError::RootElsewhere(self.root().id))
    }

    async fn ask(&self, upstream: &Upstream, wanted: Wanted, actor: Actor) -> Result<Installed, CaError> {
        let _one = upstream.asking.lock().await;
        let installed = counted(self.exchange(upstream, wanted, actor).await)?;
        *upstream.trouble.lock() = None;
        Ok(installed)
    }

    async fn exchange(
        &self,
        upstream: &Upstream,
        wanted: Wanted,
        actor: Actor,
    ) -> Result<Installed, CaError> {
        self.refresh().await?;
        let now = time::now();
        let hierarchy = self.hierarchy();
        let (waiting, pem) = self.signing_request(false, actor.clone()).await?;
        let subject = profile::subject(AuthorityKind::Intermediate, &waiting);
        let root_ends = self.upstream_signs().then(|| hierarchy.root().not_after());
        let signed = upstream.vault.sign(&pem, &subject, ttl(root_ends, self.lives, now)).await?;
        let current = hierarchy.root().certificate();
        // Another certificate for the same key is worth nothing to whoever wants to be rid of that key.
        if let Some(root) =
            signed.last().filter(|root| wanted == Wanted::AnotherRoot && chain::same_key(root, current))
        {
            return Err(UpstreamError::SameRoot(crate::hex::encode(&crate::sha256(root))).into());
        }
        if signed.last().is_some_and(|root| root.as_slice() == current.as_ref()) {
            match (wanted, chain::ends(&signed)) {
                (Wanted::Longer, Some(ends)) if !gains(&hierarchy, now, ends) => {
                    return Err(UpstreamError::NoGain { ends: time::rfc3339(ends) }.into());
                }
                _ => {}
            }
        }
        self.install(&signed, actor).await
    }

    /// What is done about what the upstream signed, beside what is due anyway: it is activated.
    pub(super) fn upstream_steps(&self, now: SystemTime) -> Vec<Step> {
        if self.upstream.is_none() {
            return Vec::new();
        }
        let hierarchy = self.hierarchy();
        let ends = hierarchy.intermediate().certified().not_after();
        // What waits to be announced must not be old before it signs.
        let is_half_over = |one: &KnownAuthority| {
            let life = one.not_after.duration_since(one.not_before).unwrap_or_default();
            one.not_before + life / 2 <= now
        };
        let prepared = || hierarchy.known().iter().filter(|one| one.phase == Phase::Prepared);
        let is_next = |one: &&KnownAuthority| {
            let waited = one.phase_at + self.lives.announcement();
            match &one.issuer {
                // A kill came between its installation and this.
                Some(issuer) => issuer == hierarchy.root().id() && self.root_is_elsewhere(),
                None => {
                    let below = prepared().find(|below| below.issuer.as_ref() == Some(&one.id));
                    let in_time = |below| waited <= now || waited >= ends || is_half_over(below);
                    !one.has_key && below.is_some_and(in_time)
                }
            }
        };
        // What ended while it waited is taken back, with its root, and asked for again.
        let has_ended = |one: &&KnownAuthority| {
            one.kind == AuthorityKind::Intermediate && one.not_after <= now && self.root_is_elsewhere()
        };
        let ended: Vec<Step> = prepared().filter(has_ended).cloned().map(Step::Remove).collect();
        match ended.is_empty() {
            true => prepared().filter(is_next).cloned().map(Step::Activate).collect(),
            false => ended,
        }
    }

    /// When the upstream's root is to be another one: while there is time for two intermediates below it.
    pub(super) fn upstream_root_due(&self) -> SystemTime {
        self.root().not_after() - self.lives.intermediate * 2
    }

    /// When the upstream is asked for another intermediate.
    pub(super) fn upstream_due(&self) -> SystemTime {
        due(&self.hierarchy(), self.lives)
    }

    /// What somebody has to do there, for everybody.
    pub(super) fn upstream_awaited(&self, now: SystemTime) -> Option<String> {
        let upstream = self.upstream.as_ref()?;
        let left = |ends: SystemTime| duration::rough(ends.duration_since(now).unwrap_or_default());
        if let Some(Trouble { since, reason, .. }) = &*upstream.trouble.lock() {
            let hierarchy = self.hierarchy();
            let intermediate = hierarchy.intermediate().certified();
            let since = duration::rough(now.duration_since(*since).unwrap_or_default());
            return Some(format!(
                "the upstream has given no intermediate for {since} ({reason}); the one of now lasts for {}: `signet ca \
                 status` says why",
                left(intermediate.not_after())
            ));
        }
        (self.upstream_signs() && self.upstream_root_due() <= now).then(|| {
            let root = self.root();
            format!(
                "the upstream's root {} ends in {}: make another issuer there, and its default or the one that the \
                 settings name",
                root.id(),
                left(root.not_after())
            )
        })
    }

    /// What comes next for an authority that signs now and that the upstream replaces, for operators.
    #[must_use]
    pub fn upstream_next(&self, kind: AuthorityKind, now: SystemTime) -> Option<String> {
        let upstream = self.upstream.as_ref()?;
        let url = upstream.vault.url();
        let moved = self.root_is_elsewhere();
        if let Some(Trouble { told, again, .. }) = &*upstream.trouble.lock() {
            let again = duration::rough(again.saturating_duration_since(Instant::now()));
            match (kind, moved) {
                (AuthorityKind::Intermediate, true) => {
                    let ends = time::rfc3339(self.intermediate().certified().not_after());
                    return Some(format!("signs until {ends} at most: {told}; asked again in {again}"));
                }
                (AuthorityKind::Root, false) => {
                    return Some(format!("another one is to take its place: {told}; asked again in {again}"));
                }
                _ => {}
            }
        }
        match (kind, moved) {
            (AuthorityKind::Root, true) => {
                Some(format!("is upstream: another one of {url} is taken over by itself"))
            }
            (AuthorityKind::Root, false) => Some(format!("the root of {url} takes its place by itself")),
            (AuthorityKind::Intermediate, true) => {
                let due = self.upstream_due().max(now);
                Some(format!("replaced by {url} from {}", time::rfc3339(due)))
            }
            (AuthorityKind::Intermediate, false) => None,
        }
    }
}

/// What the upstream is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Whatever it signs.
    Any,
    /// One that need not be replaced again at once.
    Longer,
    /// One below another root.
    AnotherRoot,
}

fn counted<T>(asked: Result<T, CaError>) -> Result<T, CaError> {
    metrics::upstream_asked(asked.as_ref().err().map_or("signed", reason));
    asked
}

/// A stable word for metrics, and for whoever may not know more.
fn reason(error: &CaError) -> &'static str {
    match error {
        CaError::Upstream(error) => error.reason(),
        CaError::Chain(_) => UNUSABLE,
        _ => "failed",
    }
}

fn is_due(hierarchy: &Hierarchy, lives: Lives, now: SystemTime) -> bool {
    let known = hierarchy.known();
    // One thing after the other.
    if known.iter().any(|one| one.phase == Phase::Prepared) {
        return false;
    }
    match active_root(known) {
        Ok(root) if root.has_key => {
            !known.iter().any(|one| one.kind == AuthorityKind::Root && one.phase == Phase::Retiring)
        }
        Ok(_) => due(hierarchy, lives) <= now || hierarchy.intermediate().certified().not_before() > now,
        Err(_) => false,
    }
}

/// At half of what it lives: the upstream may have cut that.
fn due(hierarchy: &Hierarchy, lives: Lives) -> SystemTime {
    let intermediate = hierarchy.intermediate().certified();
    let life = intermediate.not_after().duration_since(intermediate.not_before()).unwrap_or_default();
    intermediate.not_after() - life.min(lives.intermediate) / 2
}

/// What to ask for: not every upstream keeps what it signs within the life of its root.
fn ttl(root_ends: Option<SystemTime>, lives: Lives, now: SystemTime) -> Duration {
    let left = root_ends.and_then(|ends| ends.duration_since(now).ok());
    match left.and_then(|left| left.checked_sub(SLACK)) {
        Some(left) if left >= lives.least() => lives.intermediate.min(left),
        _ => lives.intermediate,
    }
}

/// Whether one that ends then lives longer than the one of now, by a quarter of its life.
fn gains(hierarchy: &Hierarchy, now: SystemTime, ends: SystemTime) -> bool {
    let current = hierarchy.intermediate().certified();
    let life = ends.duration_since(now).unwrap_or_default();
    let gained = ends.duration_since(current.not_after());
    current.not_before() > now || gained.is_ok_and(|gained| gained >= life / 4)
}
