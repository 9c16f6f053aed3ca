//! JWT-SVIDs, for what cannot do mutual TLS: fetched from control with an SVID, kept for as many as ask, and replaced
//! when half of their life is over. One that is valid is used as long as there is no other: control may be away.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use parking_lot::Mutex;
use signet_proto::handshake::{ALPN_H2, Svid, client_config};
use signet_proto::spiffe::{JwtSvid, SpiffeId, TrustBundle};
use signet_proto::v1;
use tokio::sync::Semaphore;

use super::control::{IdentityError, SHORTEST_RETRY, limited, reach};
use super::workload::Lent;
use crate::backoff::Backoff;
use crate::control::{Addresses, CALL_DEADLINE, ControlError, control_id};
use crate::mesh::Mesh;
use crate::telemetry::metrics;

/// Of one holder; those that were not asked for the longest make room.
const MOST_AUDIENCES: usize = 64;
/// It has to reach whom it is for.
const LEAST_LEFT: Duration = Duration::from_secs(2);
/// Asked for at the same time.
const AT_ONCE: usize = 8;
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Who is named by a token: by its SVID control knows who asks.
#[derive(Debug, Clone)]
pub enum Holder {
    /// This proxy's workload.
    Own,
    /// An app's instance.
    App(Arc<Lent>),
}

/// A token that was checked as those would check it whom it is for.
pub struct Jwt {
    id: SpiffeId,
    token: String,
    header: HeaderValue,
    key_id: String,
    expires_at: SystemTime,
    renew_at: SystemTime,
}

/// Gets tokens from control.
#[derive(Debug, Clone)]
pub struct Tokens {
    control: Arc<Addresses>,
    mesh: Arc<Mesh>,
    /// Each asks over a connection of its own.
    asking: Arc<Semaphore>,
}

/// Tokens for one audience.
#[derive(Debug)]
pub struct Kept {
    tokens: Tokens,
    audience: Vec<String>,
    newest: ArcSwapOption<Jwt>,
    /// One at a time asks; who comes meanwhile takes what is there, or waits.
    fetching: Arc<tokio::sync::Mutex<Fetching>>,
}

/// The tokens of one holder, by audience.
#[derive(Debug)]
pub struct TokenShelf {
    tokens: Tokens,
    kept: Mutex<BTreeMap<Vec<String>, Used>>,
}

/// When it was asked for last.
#[derive(Debug)]
struct Used(Arc<Kept>, Instant);

#[derive(Debug)]
struct Fetching {
    backoff: Backoff,
    /// Not before this, and why the last try failed.
    pause: Option<(Instant, Arc<IdentityError>)>,
}

impl Tokens {
    /// Asks control, and checks by what `mesh` knows.
    #[must_use]
    pub fn new(control: Arc<Addresses>, mesh: Arc<Mesh>) -> Self {
        Self { control, mesh, asking: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Tokens for `audience`; none is fetched yet.
    #[must_use]
    pub fn keep(&self, audience: Vec<String>) -> Arc<Kept> {
        let backoff = Backoff::new(SHORTEST_RETRY, LONGEST_RETRY);
        Arc::new(Kept {
            tokens: self.clone(),
            audience,
            newest: ArcSwapOption::empty(),
            fetching: Arc::new(tokio::sync::Mutex::new(Fetching { backoff, pause: None })),
        })
    }

    async fn fetch(&self, holder: &Holder, audience: &[String]) -> Result<Jwt, IdentityError> {
        let _place = self.asking.acquire().await;
        let no_svid = || ControlError::Unusable("the proxy has no SVID to ask with".into());
        let (own, trust) = self.mesh.credentials().ok_or_else(no_svid)?;
        let svid: &Svid = match holder {
            Holder::Own => &own,
            Holder::App(lent) => lent.svid(),
        };
        let expected = control_id(svid.id().trust_domain())?;
        let tls = client_config(Some(svid), Arc::clone(&trust), expected, &[ALPN_H2])?;
        let (place, mut client) = reach(&self.control, &tls).await?;
        let request = v1::IssueTokenRequest { audience: audience.to_vec(), ttl_seconds: 0 };
        let answered = client.issue_token(limited(request, CALL_DEADLINE)).await.map_err(ControlError::from);
        let answer = answered.inspect_err(|error| {
            if error.blames_the_replica() {
                self.control.failed(place);
            }
        })?;
        let token = answer.into_inner().token;
        // Keys may have changed while we waited.
        let newest = self.mesh.credentials().map_or(trust, |(_, trust)| trust);
        let first = audience.first().map(String::as_str).unwrap_or_default();
        let now = signet_proto::clock::now();
        let keys = |domain: &_| newest.bundle(domain).map(TrustBundle::jwt_authorities);
        let believed = JwtSvid::verify(&token, first, keys, now)
            .map_err(|error| ControlError::Unusable(format!("its token does not verify: {error}")))?;
        if believed.id != *svid.id() {
            let named = format!("it issued a token of `{}` to `{}`", believed.id, svid.id());
            return Err(ControlError::Unusable(named).into());
        }
        Jwt::new(token, believed, now).map_err(Into::into)
    }
}

impl Jwt {
    fn new(token: String, believed: JwtSvid, now: SystemTime) -> Result<Self, ControlError> {
        let unusable = |_| ControlError::Unusable("its token is no header".into());
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(unusable)?;
        header.set_sensitive(true);
        let JwtSvid { id, key_id, expires_at, .. } = believed;
        let left = expires_at.duration_since(now).unwrap_or_default();
        Ok(Self { id, token, header, key_id, expires_at, renew_at: now + left / 2 })
    }

    /// Whom it names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// JWS compact serialization. Whoever has it is taken for whom it names.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The value of an `authorization` header.
    #[must_use]
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt")
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Kept {
    /// The token of this moment. Waits for control only if there is none that is valid.
    ///
    /// # Errors
    /// When there is none, and control gives none.
    pub async fn token(self: &Arc<Self>, holder: &Holder) -> Result<Arc<Jwt>, Arc<IdentityError>> {
        let now = signet_proto::clock::now();
        let valid = self.newest.load_full().filter(|jwt| self.is_good(jwt, now));
        match valid {
            Some(jwt) if now < jwt.renew_at => Ok(jwt),
            Some(jwt) => {
                if let Ok(mut fetching) = Arc::clone(&self.fetching).try_lock_owned()
                    && fetching.pausing().is_none()
                {
                    let (kept, holder) = (Arc::clone(self), holder.clone());
                    tokio::spawn(async move { kept.fetch(&mut fetching, &holder).await.map(drop) });
                }
                Ok(jwt)
            }
            None => {
                // Who asked first may go away: the others wait for the same token.
                let (kept, holder) = (Arc::clone(self), holder.clone());
                let asked = tokio::spawn(async move {
                    let mut fetching = kept.fetching.lock().await;
                    let now = signet_proto::clock::now();
                    // Somebody else may have fetched one while we waited.
                    match kept.newest.load_full().filter(|jwt| kept.is_good(jwt, now)) {
                        Some(jwt) => Ok(jwt),
                        None => kept.fetch(&mut fetching, &holder).await,
                    }
                });
                let ended = |_| Arc::new(ControlError::Unusable("the proxy ends".into()).into());
                asked.await.map_err(ended).flatten()
            }
        }
    }

    /// Another one. After a failure control is left alone for a while.
    async fn fetch(&self, fetching: &mut Fetching, holder: &Holder) -> Result<Arc<Jwt>, Arc<IdentityError>> {
        if let Some(error) = fetching.pausing() {
            return Err(error);
        }
        match self.tokens.fetch(holder, &self.audience).await {
            Ok(jwt) => {
                metrics::token_fetched("success");
                fetching.backoff.reset();
                fetching.pause = None;
                let jwt = Arc::new(jwt);
                self.newest.store(Some(Arc::clone(&jwt)));
                Ok(jwt)
            }
            Err(error) => {
                metrics::token_fetched(if error.is_final() { "refused" } else { "failed" });
                let delay = fetching.backoff.next_delay();
                tracing::warn!(%error, audience = ?self.audience, ?delay, "no new token, will try again");
                let error = Arc::new(error);
                fetching.pause = Some((Instant::now() + delay, Arc::clone(&error)));
                Err(error)
            }
        }
    }

    /// It has not ended, and its key is believed still.
    fn is_good(&self, jwt: &Jwt, now: SystemTime) -> bool {
        let is_in_time = jwt.expires_at.duration_since(now).is_ok_and(|left| left >= LEAST_LEFT);
        is_in_time
            && self.tokens.mesh.current().is_none_or(|snapshot| {
                let bundle = snapshot.trust.bundle(jwt.id.trust_domain());
                bundle.is_some_and(|bundle| bundle.jwt_authorities().has(&jwt.key_id))
            })
    }
}

impl Fetching {
    /// Why the last try failed, if it is too early for another.
    fn pausing(&self) -> Option<Arc<IdentityError>> {
        let pausing = self.pause.as_ref().filter(|(until, _)| Instant::now() < *until);
        pausing.map(|(_, error)| Arc::clone(error))
    }
}

impl TokenShelf {
    /// Nothing yet.
    #[must_use]
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens, kept: Mutex::default() }
    }

    /// The tokens for these, in whatever order they were named.
    #[must_use]
    pub fn of(&self, mut audience: Vec<String>) -> Arc<Kept> {
        audience.sort_unstable();
        audience.dedup();
        let mut kept = self.kept.lock();
        let now = Instant::now();
        if let Some(Used(known, used)) = kept.get_mut(&audience) {
            *used = now;
            return Arc::clone(known);
        }
        if kept.len() >= MOST_AUDIENCES
            && let Some(oldest) =
                kept.iter().min_by_key(|(_, Used(_, used))| *used).map(|(audience, _)| audience.clone())
        {
            kept.remove(&oldest);
        }
        let new = self.tokens.keep(audience.clone());
        kept.insert(audience, Used(Arc::clone(&new), now));
        new
    }
}

#[cfg(test)]
mod tests {
    use signet_proto::policy::PolicySet;
    use signet_proto::spiffe::JwtAuthorities;
    use tonic::Status;

    use super::*;
    use crate::identity::control::join;
    use crate::identity::tests::control::Control;
    use crate::identity::tests::{HOUR, by_token, mesh};

    async fn joined() -> (Control, Arc<Mesh>, Tokens) {
        let control = Control::start(HOUR).await;
        let (_token, proof) = by_token("eyJ.the.token");
        let (joining, mesh) = (control.joining(proof), mesh());
        let addresses = Arc::new(Addresses::new(joining.control.clone()));
        join(&joining, &addresses, &mesh).await.unwrap();
        mesh.update(|inputs| inputs.policy = Some(Arc::new(PolicySet::empty()))).unwrap();
        let tokens = Tokens::new(addresses, Arc::clone(&mesh));
        (control, mesh, tokens)
    }

    fn asked(control: &Control) -> usize {
        control.state(|state| state.issued.len())
    }

    #[tokio::test]
    async fn token_is_fetched_once_for_as_many_as_ask() {
        let (control, _, tokens) = joined().await;
        let kept = tokens.keep(vec!["billing".to_owned()]);
        let (one, other) = tokio::join!(kept.token(&Holder::Own), kept.token(&Holder::Own));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(Arc::ptr_eq(&one, &other) && asked(&control) == 1);
        assert_eq!(one.header(), &format!("Bearer {}", one.token()));
        assert!(one.header().is_sensitive() && !format!("{one:?}").contains(one.token()), "no log shows it");
    }

    #[tokio::test]
    async fn control_that_gives_none_is_left_alone_for_a_while() {
        let (control, _, tokens) = joined().await;
        control.state(|state| state.to_issue = [Status::permission_denied("suspended")].into());
        let kept = tokens.keep(vec!["billing".to_owned()]);
        for _ in 0..3 {
            let error = kept.token(&Holder::Own).await.unwrap_err();
            assert!(error.is_final() && error.to_string().contains("suspended"), "{error}");
        }
        assert_eq!(asked(&control), 1);
    }

    #[tokio::test]
    async fn token_whose_key_is_believed_no_more_is_used_no_more() {
        let (control, mesh, tokens) = joined().await;
        let kept = tokens.keep(vec!["billing".to_owned()]);
        kept.token(&Holder::Own).await.unwrap();
        mesh.update(|inputs| {
            for bundle in &mut inputs.bundles {
                *bundle = bundle.clone().with_jwt(JwtAuthorities::default());
            }
        })
        .unwrap();
        let error = kept.token(&Holder::Own).await.unwrap_err();
        assert!(error.to_string().contains("does not verify"), "{error}");
        assert_eq!(asked(&control), 2);
    }

    #[tokio::test]
    async fn audiences_are_kept_by_what_they_are_and_bounded() {
        let (_, _, tokens) = joined().await;
        let shelf = TokenShelf::new(tokens);
        let of = |names: &[&str]| shelf.of(names.iter().map(|name| (*name).to_owned()).collect());
        assert!(Arc::ptr_eq(&of(&["a", "b"]), &of(&["b", "a", "b"])));
        assert!(!Arc::ptr_eq(&of(&["a", "b"]), &of(&["a"])));
        for number in 0..MOST_AUDIENCES * 2 {
            of(&[&number.to_string()]);
        }
        assert_eq!(shelf.kept.lock().len(), MOST_AUDIENCES);
    }
}
