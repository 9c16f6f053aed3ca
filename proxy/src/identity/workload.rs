//! An SVID for an app that does its own TLS: of our identity, with a key that is made for it, as an instance of its own.
//! We vouch for its first one with ours; from then on it renews itself, so that what an operator says of that instance
//! holds for it and not for us. Its key is handed to the app, as the SPIFFE Workload API wants it; ours never is
//! (invariant 2). What fails throws nothing away: an SVID that is good is handed out until there is another (invariant 3).

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_proto::handshake::{RevokedBecause, Svid, VerifyError, WorkloadKey};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::attest::{Request, vouch};
use super::control::{IdentityError, SHORTEST_RETRY, checked, hex, planned_or, renewed, within};
use super::orders::Urgency;
use super::revoked::Revoked;
use super::schedule::{Woken, renewal_delay, sleep_on_both_clocks};
use crate::backoff::Backoff;
use crate::control::{Addresses, ControlError};
use crate::mesh::Mesh;
use crate::telemetry::metrics;

/// Between tries to get the first one.
const RETRIES: (Duration, Duration) = (SHORTEST_RETRY, Duration::from_secs(30));

/// An SVID with its key, both for the app.
pub struct Lent {
    svid: Svid,
    key: WorkloadKey,
}

/// An SVID, and what is known of it.
struct Held {
    lent: Arc<Lent>,
    /// Whom a revocation means, never only its issuer, and how that was told. It holds even when the SVID has ended and
    /// the list forgets it.
    revoked: Option<(Revoked, Arc<str>)>,
    /// Why there is no other one yet, when it is lost.
    instead: Option<Standing>,
}

/// What the app has.
#[derive(Debug, Clone)]
pub enum Standing {
    /// Nothing that is valid now; there may be later.
    Without(Arc<str>),
    /// This.
    Has(Arc<Lent>),
    /// Nothing any more, or not at all: somebody decided so.
    Refused(Arc<str>),
}

/// Keeps one app's SVID.
#[derive(Debug, Clone)]
pub struct Lender {
    /// Whom to ask.
    pub control: Arc<Addresses>,
    /// Who vouches, and by which bundles and revocations an SVID is judged.
    pub mesh: Arc<Mesh>,
    /// The life of the SVIDs; 0: the workload's usual one.
    pub ttl_seconds: u32,
}

impl Lent {
    /// An SVID and the key of its leaf.
    #[must_use]
    pub fn new(svid: Svid, key: WorkloadKey) -> Self {
        Self { svid, key }
    }

    /// The SVID.
    #[must_use]
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// The key, PKCS#8, DER.
    #[must_use]
    pub fn key(&self) -> Zeroizing<Vec<u8>> {
        self.key.to_der()
    }

    /// The same as PEM.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").field("svid", &self.svid).finish_non_exhaustive()
    }
}

impl Standing {
    /// Before the first try.
    #[must_use]
    pub fn none_yet() -> Self {
        Self::Without("no SVID for the app yet".into())
    }
}

impl Held {
    fn new(lent: Arc<Lent>) -> Self {
        Self { lent, revoked: None, instead: None }
    }

    fn left(&self, now: SystemTime) -> Duration {
        self.lent.svid.end().duration_since(now).unwrap_or_default()
    }

    fn whom(&self) -> Option<Revoked> {
        self.revoked.as_ref().map(|(whom, _)| *whom)
    }

    /// An operator decided so: nobody vouches for it again.
    fn is_taken_out(&self) -> bool {
        self.whom() == Some(Revoked::Itself)
    }
}

impl Lender {
    /// Keeps `standing` true for the apps that `rule` admits, for as long as it is polled.
    pub async fn lend(self, rule: &str, standing: watch::Sender<Standing>) {
        let (mut lost, mut restored) = (None, self.restored(rule));
        loop {
            let mut held = match restored.take() {
                Some(restored) => restored,
                None => self.first(lost, rule, &standing).await,
            };
            self.renew(&mut held, rule, &standing).await;
            lost = Some(held);
        }
    }

    /// What the sealed copy has for them, if it is good now and ours still.
    fn restored(&self, rule: &str) -> Option<Held> {
        let (key, svid) = self.mesh.keeper()?.app_before(rule)?;
        let (own, trust) = self.mesh.credentials()?;
        if let Some((Revoked::Itself, because)) = Revoked::listed(&svid, &trust) {
            // That we were started anew takes back nothing that an operator decided.
            let error = VerifyError::Revoked { id: svid.id().clone(), because };
            let revoked = Some((Revoked::Itself, error.to_string().into()));
            return Some(Held { revoked, ..Held::new(Arc::new(Lent::new(svid, key))) });
        }
        let refused = match svid.check(&trust, signet_proto::clock::now()) {
            Ok(()) if svid.id() == own.id() => None,
            Ok(()) => Some(format!("it is of `{}`", svid.id())),
            Err(error) => Some(error.to_string()),
        };
        if let Some(refused) = refused {
            tracing::warn!(rule, refused, "the sealed SVID of the app is not used");
            return None;
        }
        tracing::info!(
            rule,
            instance = svid.profile().instance.map(tracing::field::display),
            "the app has the SVID that was sealed for it"
        );
        metrics::lent("restored", Some(svid.profile().not_after));
        Some(Held::new(Arc::new(Lent::new(svid, key))))
    }

    /// A new SVID, which is sealed if there is a copy.
    fn taken(&self, rule: &str, lent: Lent) -> Arc<Lent> {
        if let Some(keeper) = self.mesh.keeper() {
            keeper.app(rule, &lent.key, &lent.svid);
        }
        metrics::lent("success", Some(lent.svid.profile().not_after));
        Arc::new(lent)
    }

    /// Tries until there is an instance for the app. The SVID of a lost one serves meanwhile, while it is valid; if an
    /// operator takes it out after all, there is no other.
    async fn first(&self, mut lost: Option<Held>, rule: &str, standing: &watch::Sender<Standing>) -> Held {
        let mut backoff = Backoff::new(RETRIES.0, RETRIES.1);
        let mut request = None;
        loop {
            if let Some(taken_out) = lost.take_if(|held| held.is_taken_out()) {
                return taken_out;
            }
            let error = match self.meanwhile(self.attest(rule, &mut request), lost.as_mut(), standing).await {
                Ok(_) if lost.as_ref().is_some_and(Held::is_taken_out) => continue,
                Ok(lent) => return Held::new(lent),
                Err(error) => error,
            };
            metrics::lent("failed", None);
            let said: Arc<str> = format!("no SVID for the app: {error}").into();
            let why = match &error {
                error if error.is_final() => Standing::Refused(said),
                _ => Standing::Without(said),
            };
            let mut delay = backoff.next_delay();
            match &mut lost {
                Some(held) => {
                    held.instead = Some(why);
                    delay = within(delay, held.left(signet_proto::clock::now()));
                }
                None => {
                    standing.send_replace(why);
                }
            }
            tracing::warn!(%error, ?delay, "no SVID for the app yet, will try again");
            self.meanwhile(tokio::time::sleep(delay), lost.as_mut(), standing).await;
        }
    }

    /// One request, the same for all tries: while it waits for approval its hash is what is approved.
    async fn attest(&self, rule: &str, request: &mut Option<Request>) -> Result<Arc<Lent>, IdentityError> {
        let no_svid = || ControlError::Unusable("the proxy has no SVID to vouch with".into());
        let (own, _) = self.mesh.credentials().ok_or_else(no_svid)?;
        let asked = match request {
            Some(asked) => asked,
            None => request.insert(Request::new()?),
        };
        let answer = vouch(&self.control, &self.mesh, asked.csr.clone(), self.ttl_seconds).await?;
        let (_, trust) = self.mesh.credentials().ok_or_else(no_svid)?;
        let svid = checked(answer.svid, &asked.key, &trust)?;
        if svid.id() != own.id() {
            let issued = format!("it issued `{}` for the app of `{}`", svid.id(), own.id());
            return Err(ControlError::Unusable(issued).into());
        }
        let key = request.take().ok_or_else(no_svid)?.key;
        tracing::info!(id = %svid.id(), instance = svid.profile().instance.map(tracing::field::display),
            serial = hex(&svid.profile().serial), "the app has an SVID of its own");
        Ok(self.taken(rule, Lent::new(svid, key)))
    }

    /// Renews until the instance is lost though nobody took it out.
    async fn renew(&self, held: &mut Held, rule: &str, standing: &watch::Sender<Standing>) {
        let mut backoff = Backoff::new(SHORTEST_RETRY, RETRIES.1);
        let mut generations = self.mesh.generations();
        let mut urgency = Urgency::of(&self.mesh);
        let (mut was_believed, mut is_failing) = (true, false);
        let mut due = planned(&held.lent, None);
        loop {
            generations.mark_unchanged();
            let now = signet_proto::clock::now();
            let is_believed = self.tell(held, standing, now);
            if was_believed && !is_believed {
                // What nobody believes any more does not wait for its time.
                due = now;
            }
            was_believed = is_believed;
            if now < due {
                let end = Some(held.lent.svid.end()).filter(|end| *end > now);
                let wake = end.map_or(due, |end| end.min(due)).duration_since(now).unwrap_or_default();
                tokio::select! {
                    woken = sleep_on_both_clocks(wake) => if woken == Woken::ClockJumped {
                        due = planned(&held.lent, Some(due));
                    },
                    () = urgency.concern(&held.lent.svid), if !is_failing => due = now,
                    changed = generations.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let lent = Arc::clone(&held.lent);
            let renewal = renewed(&lent.svid, self.ttl_seconds, &self.control, &self.mesh);
            match self.meanwhile(renewal, Some(&mut *held), standing).await {
                Ok((svid, key)) => {
                    *held = Held::new(self.taken(rule, Lent::new(svid, key)));
                    is_failing = false;
                    due = planned(&held.lent, None);
                    backoff.reset();
                }
                Err(error) => {
                    let now = signet_proto::clock::now();
                    let left = held.left(now);
                    metrics::lent(if error.is_final() { "refused" } else { "failed" }, None);
                    let known = Revoked::known(error.because(), &held.lent.svid, &self.mesh, held.whom());
                    if Revoked::is_lost(known, error.because(), left) {
                        tracing::warn!(%error, ?left, "the app's instance is lost: vouching for a new one");
                        held.revoked = None;
                        return;
                    }
                    if let Some(whom) = known.filter(|known| held.whom() != Some(*known)) {
                        held.revoked = Some((whom, error.to_string().into()));
                    }
                    let delay = within(backoff.next_delay(), left);
                    tracing::warn!(%error, ?delay, ?left, "cannot renew the app's SVID yet, will try again");
                    (due, is_failing) = (now + delay, true);
                }
            }
        }
    }

    /// Does that, and tells all the while what becomes of the SVID in hand.
    async fn meanwhile<T>(
        &self,
        work: impl Future<Output = T>,
        held: Option<&mut Held>,
        standing: &watch::Sender<Standing>,
    ) -> T {
        let Some(held) = held else { return work.await };
        let mut generations = self.mesh.generations();
        let mut work = pin!(work);
        loop {
            generations.mark_unchanged();
            let now = signet_proto::clock::now();
            self.tell(held, standing, now);
            let left = held.left(now);
            tokio::select! {
                // What is in force is looked at before what was done by it.
                biased;
                changed = generations.changed() => if changed.is_err() { return work.await },
                done = &mut work => return done,
                _ = sleep_on_both_clocks(left), if !left.is_zero() => {}
            }
        }
    }

    /// Tells what is to be said of an SVID now, and keeps in mind that an operator took it out. True if it is valid.
    fn tell(&self, held: &mut Held, standing: &watch::Sender<Standing>, now: SystemTime) -> bool {
        if let Some((_, trust)) = self.mesh.credentials()
            && let Some((Revoked::Itself, because)) = Revoked::listed(&held.lent.svid, &trust)
            && !held.is_taken_out()
        {
            let error = VerifyError::Revoked { id: held.lent.svid.id().clone(), because };
            held.revoked = Some((Revoked::Itself, error.to_string().into()));
        }
        let judged = self.judge(held, now);
        let is_believed = matches!(judged, Standing::Has(_));
        standing.send_if_modified(|before| replace(before, judged));
        is_believed
    }

    fn judge(&self, held: &Held, now: SystemTime) -> Standing {
        if let Some((_, said)) = &held.revoked {
            return Standing::Refused(Arc::clone(said));
        }
        let Some((_, trust)) = self.mesh.credentials() else { return Standing::none_yet() };
        match held.lent.svid.check(&trust, now) {
            Ok(()) => Standing::Has(Arc::clone(&held.lent)),
            Err(error @ VerifyError::Revoked { because: RevokedBecause::Identity, .. }) => {
                Standing::Refused(error.to_string().into())
            }
            Err(error) => held.instead.clone().unwrap_or_else(|| {
                Standing::Without(format!("the app's SVID is not valid now: {error}").into())
            }),
        }
    }
}

/// When to renew: as planned, unless the clock was set back.
fn planned(lent: &Lent, before: Option<SystemTime>) -> SystemTime {
    let now = signet_proto::clock::now();
    now + planned_or(before, renewal_delay(lent.svid.profile().not_after, now), now)
}

/// True if that is news.
fn replace(before: &mut Standing, now: Standing) -> bool {
    let same = match (&*before, &now) {
        (Standing::Has(before), Standing::Has(now)) => Arc::ptr_eq(before, now),
        (Standing::Without(before), Standing::Without(now))
        | (Standing::Refused(before), Standing::Refused(now)) => before == now,
        _ => false,
    };
    if !same {
        *before = now;
    }
    !same
}
