//! JWT-SVIDs: what signs them, and when another key takes its place. A key is in the trust bundle, and in what is served
//! to others, before it signs, and as long as a token that it signed is good.
//!
//! | what | when |
//! | --- | --- |
//! | key prepared | there is none, or the one that signs does so for `--jwt-key-ttl`, less the time to announce another |
//! | key activated | the one before is due, the next one was announced for long enough, all proxies acknowledged it |
//! | retiring key removed | the last token that it signed has ended |

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use signet_proto::spiffe::{JwtAuthorities, SpiffeId};
use zeroize::Zeroizing;

use super::{Authority, CaError, Lives, SealKey, profile};
use crate::store::model::{Actor, JwtActivation, JwtCompromise, JwtKeyRecord, KnownJwtKey, Mutation, Phase};
use crate::store::{Refusal, Store, StoreError};
use crate::telemetry::metrics;
use crate::time;

/// As people, the audit and metrics name it.
pub const JWT: &str = "jwt";
/// Verifiers whose clocks are slow shall not take a token for one of the future.
const BACKDATED: Duration = Duration::from_secs(10);
/// For keys that are announced: readers outside of the mesh come by within this.
const LONGEST_ANNOUNCEMENT: Duration = Duration::from_secs(3600);
/// How long readers of our keys may keep them.
const LONGEST_CACHED: Duration = Duration::from_secs(300);

/// The keys of one moment.
#[derive(Debug, Clone, Default)]
pub struct JwtKeys {
    known: Vec<KnownJwtKey>,
    signer: Option<Arc<JwtSigner>>,
}

/// What signs tokens.
pub struct JwtSigner {
    id: String,
    key: EcdsaKeyPair,
}

/// What a token is to say.
#[derive(Debug, Clone)]
pub struct JwtRequest<'a> {
    /// Whom it names.
    pub id: &'a SpiffeId,
    /// Whom it is for.
    pub audience: &'a [String],
    /// Who says so, for those who look for our keys by that.
    pub issuer: Option<&'a str>,
    /// When it ends.
    pub expires_at: SystemTime,
}

/// A signed token, not yet given out: the record comes first.
pub struct SignedJwt {
    /// JWS compact serialization.
    pub token: String,
    /// Its name.
    pub jti: String,
    /// What signed it.
    pub key: String,
}

/// What comes next by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtStep {
    /// Another key.
    Prepare,
    /// This one, if all proxies have acknowledged it.
    Activate(KnownJwtKey),
    /// This one, whose tokens have ended.
    Remove(KnownJwtKey),
}

impl JwtKeys {
    /// What is stored, with the key that signs; the one that is known already is not unsealed again.
    pub(super) async fn read(store: &Store, seal: &SealKey, before: &Self) -> Result<Self, CaError> {
        let known = store.jwt_keys().await?;
        let active = known.iter().find(|key| key.phase == Phase::Active);
        let signer = match (active, &before.signer) {
            (None, _) => None,
            (Some(active), Some(signer)) if signer.id == active.id => Some(Arc::clone(signer)),
            (Some(active), _) => {
                let sealed = store.sealed_jwt_key(active.id.clone()).await?;
                let sealed = sealed.ok_or_else(|| StoreError::from(Refusal::RotatedMeanwhile))?;
                Some(Arc::new(JwtSigner::unseal(active, &sealed, seal)?))
            }
        };
        Ok(Self { known, signer })
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn known(&self) -> &[KnownJwtKey] {
        &self.known
    }

    /// The revision with which they changed the trust bundle last.
    pub(super) fn announced(&self) -> u64 {
        self.known.iter().map(|key| key.announced).max().unwrap_or_default()
    }

    pub(super) fn authorities(&self) -> Result<JwtAuthorities, CaError> {
        let keys = self.known.iter().map(KnownJwtKey::jwk);
        JwtAuthorities::new(keys).map_err(|error| CaError::Bundle(error.into()))
    }

    fn in_phase(&self, phase: Phase) -> Option<&KnownJwtKey> {
        self.known.iter().find(|key| key.phase == phase)
    }
}

impl JwtSigner {
    /// Makes a key. It is sealed at once.
    pub(super) fn generate(seal: &SealKey) -> Result<JwtKeyRecord, CaError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| CaError::Crypto("the system has no randomness to give".into()))?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        let id = crate::hex::encode(&profile::random::<16>()?);
        let public_key = read_key(&pkcs8)?.public_key().as_ref().to_vec();
        Ok(JwtKeyRecord { sealed_key: seal.seal(JWT, &id, &pkcs8)?, id, public_key })
    }

    fn unseal(known: &KnownJwtKey, sealed: &[u8], seal: &SealKey) -> Result<Self, CaError> {
        let key = read_key(&seal.unseal(JWT, &known.id, sealed)?)?;
        if key.public_key().as_ref() != known.public_key {
            return Err(CaError::Mismatch(format!("JWT key {}", known.id)));
        }
        Ok(Self { id: known.id.clone(), key })
    }

    fn sign(&self, request: &JwtRequest<'_>, now: SystemTime) -> Result<SignedJwt, CaError> {
        let jti = crate::hex::encode(&profile::random::<16>()?);
        let header = json!({ "alg": "ES256", "kid": self.id, "typ": "JWT" });
        let mut claims = json!({
            "sub": request.id.as_str(),
            "aud": request.audience,
            "iat": seconds(now - BACKDATED),
            "exp": seconds(request.expires_at),
            "jti": jti,
        });
        if let (Some(issuer), Some(claims)) = (request.issuer, claims.as_object_mut()) {
            claims.insert("iss".to_owned(), issuer.into());
        }
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| CaError::Crypto("a token cannot be signed".into()))?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        Ok(SignedJwt { token, jti, key: self.id.clone() })
    }
}

impl std::fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JwtSigner").field(&self.id).finish()
    }
}

impl Authority {
    /// Signs a token.
    ///
    /// # Errors
    /// When no key signs tokens yet.
    pub fn sign_jwt(&self, request: &JwtRequest<'_>) -> Result<SignedJwt, CaError> {
        let hierarchy = self.hierarchy();
        hierarchy.jwt().signer.as_ref().ok_or(CaError::NoJwtKey)?.sign(request, time::now())
    }

    /// Makes a key that signs nothing yet, and is in the trust bundle from then on.
    ///
    /// # Errors
    /// When the store refuses or fails.
    pub async fn prepare_jwt_key(&self, actor: Actor) -> Result<(String, Mutation), CaError> {
        let record = JwtSigner::generate(self.seal())?;
        let id = record.id.clone();
        let mutation = self.store.prepare_jwt_key(record, actor).await?;
        self.stepped("prepare", &mutation).await?;
        Ok((id, mutation))
    }

    /// Has a prepared key sign.
    ///
    /// # Errors
    /// When proxies, or those who read our keys, need not know it yet, unless `unacknowledged`; when the store refuses or
    /// fails.
    pub async fn activate_jwt_key(
        &self,
        prepared: &KnownJwtKey,
        unacknowledged: bool,
        actor: Actor,
    ) -> Result<Mutation, CaError> {
        self.refresh().await?;
        let until = self.jwt_key_is_known_from(prepared);
        if until > time::now() && !unacknowledged {
            return Err(StoreError::from(Refusal::AnnouncedLately { id: prepared.id.clone(), until }).into());
        }
        let replaces = self.hierarchy().jwt().in_phase(Phase::Active).map(|key| key.id.clone());
        let longest = self.lives.jwt;
        let activation = JwtActivation { id: prepared.id.clone(), replaces, longest, unacknowledged };
        let mutation = self.store.activate_jwt_key(activation, actor).await?;
        self.stepped("activate", &mutation).await?;
        Ok(mutation)
    }

    /// When those who read our keys as often as they are told to know this one; where none signs, nobody relies on what
    /// they read before.
    #[must_use]
    pub fn jwt_key_is_known_from(&self, prepared: &KnownJwtKey) -> SystemTime {
        match self.hierarchy().jwt().in_phase(Phase::Active) {
            Some(_) => prepared.phase_at + self.jwt_keys_cached(),
            None => prepared.phase_at,
        }
    }

    /// Takes a retiring key out, or a prepared one back.
    ///
    /// # Errors
    /// When a token that it signed is good; when the store refuses or fails.
    pub async fn retire_jwt_key(&self, key: &KnownJwtKey, actor: Actor) -> Result<Mutation, CaError> {
        let mutation = self.store.retire_jwt_key(key.id.clone(), actor).await?;
        self.stepped("retire", &mutation).await?;
        Ok(mutation)
    }

    /// Somebody else may have it: another one signs at once, and after `within` nothing is believed by this one.
    ///
    /// # Errors
    /// When the store refuses or fails.
    pub async fn compromised_jwt_key(
        &self,
        key: &KnownJwtKey,
        within: Duration,
        reason: String,
        actor: Actor,
    ) -> Result<Mutation, CaError> {
        let successor = JwtSigner::generate(self.seal())?;
        let compromise = JwtCompromise { id: key.id.clone(), successor, within, reason };
        let mutation = self.store.compromise_jwt_key(compromise, actor).await?;
        self.stepped("compromised", &mutation).await?;
        Ok(mutation)
    }

    /// The one key that `name` means: `jwt`, if one is in one of these phases, or the first digits of its id. None: it
    /// may be an authority's.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn jwt_key_named(&self, name: &str, phases: &[Phase]) -> Result<Option<KnownJwtKey>, CaError> {
        self.refresh().await?;
        let hierarchy = self.hierarchy();
        let keys = hierarchy.jwt();
        if name == JWT {
            return Ok(phases.iter().find_map(|phase| keys.in_phase(*phase)).cloned());
        }
        let mut found = keys.known.iter().filter(|key| name.len() >= 4 && key.id.starts_with(name));
        Ok(match (found.next(), found.next()) {
            (Some(one), None) => Some(one.clone()),
            _ => None,
        })
    }

    /// What is to be done with the keys of tokens at `now`.
    #[must_use]
    pub fn jwt_due(&self, now: SystemTime) -> Vec<JwtStep> {
        due(self.hierarchy().jwt(), self.lives, now)
    }

    /// When the key that signs tokens is replaced.
    #[must_use]
    pub fn jwt_key_ends(&self) -> Option<SystemTime> {
        self.hierarchy().jwt().in_phase(Phase::Active).map(|key| key.phase_at + self.lives.jwt_key)
    }

    /// How long others may keep what they read of our keys: another one is announced for longer before it signs.
    #[must_use]
    pub fn jwt_keys_cached(&self) -> Duration {
        (announcement(self.lives) / 2).min(LONGEST_CACHED)
    }

    async fn stepped(&self, step: &'static str, done: &Mutation) -> Result<(), CaError> {
        metrics::authority_step(JWT, step);
        tracing::info!(kind = JWT, step, revision = done.commit.revision, effects = ?done.effects, "keys changed");
        self.refresh().await.map(drop)
    }
}

fn due(keys: &JwtKeys, lives: Lives, now: SystemTime) -> Vec<JwtStep> {
    let mut steps = Vec::new();
    for key in keys.known.iter().filter(|key| key.phase == Phase::Retiring) {
        if key.ends.is_none_or(|ends| ends <= now) {
            steps.push(JwtStep::Remove(key.clone()));
        }
    }
    let age = |key: &KnownJwtKey| now.duration_since(key.phase_at).unwrap_or_default();
    let signs_for = keys.in_phase(Phase::Active).map(age);
    match keys.in_phase(Phase::Prepared) {
        Some(next) => {
            let announced = age(next) >= announcement(lives);
            // Where none signs, nobody relies on what they read before.
            if signs_for.is_none_or(|signs_for| signs_for >= lives.jwt_key && announced) {
                steps.push(JwtStep::Activate(next.clone()));
            }
        }
        None if signs_for.is_none_or(|signs_for| signs_for + announcement(lives) >= lives.jwt_key) => {
            steps.push(JwtStep::Prepare);
        }
        None => {}
    }
    steps
}

fn announcement(lives: Lives) -> Duration {
    (lives.jwt_key / 4).min(LONGEST_ANNOUNCEMENT)
}

fn read_key(pkcs8: &[u8]) -> Result<EcdsaKeyPair, CaError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
        .map_err(|error| CaError::Crypto(format!("not a P-256 key in PKCS#8: {error}")))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVES: Lives = Lives {
        root: Duration::from_secs(400 * 24 * 3600),
        intermediate: Duration::from_secs(30 * 24 * 3600),
        jwt_key: Duration::from_secs(400),
        jwt: Duration::from_secs(60),
    };

    fn second(number: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + number)
    }

    fn key(id: &str, phase: Phase, since: u64) -> KnownJwtKey {
        let ends = (phase == Phase::Retiring).then(|| second(since + 60));
        KnownJwtKey {
            id: id.into(),
            phase,
            phase_at: second(since),
            public_key: vec![4; 65],
            ends,
            announced: 1,
        }
    }

    fn steps(known: &[KnownJwtKey], now: u64) -> Vec<String> {
        let keys = JwtKeys { known: known.to_vec(), signer: None };
        let word = |step: JwtStep| match step {
            JwtStep::Prepare => "prepare".to_owned(),
            JwtStep::Activate(key) => format!("activate {}", key.id),
            JwtStep::Remove(key) => format!("remove {}", key.id),
        };
        due(&keys, LIVES, second(now)).into_iter().map(word).collect()
    }

    #[test]
    fn next_key_is_announced_before_it_signs_and_the_last_one_stays_as_long_as_its_tokens() {
        assert_eq!(steps(&[], 0), ["prepare"]);
        let first = key("a", Phase::Prepared, 0);
        assert_eq!(steps(std::slice::from_ref(&first), 0), ["activate a"], "nobody relies on another one");
        let active = key("a", Phase::Active, 0);
        assert!(steps(std::slice::from_ref(&active), 299).is_empty());
        assert_eq!(steps(std::slice::from_ref(&active), 300), ["prepare"]);
        let both = [active, key("b", Phase::Prepared, 300)];
        assert!(steps(&both, 399).is_empty());
        assert_eq!(steps(&both, 400), ["activate b"]);
        let late = [both[0].clone(), key("b", Phase::Prepared, 390)];
        assert!(steps(&late, 489).is_empty(), "it is announced as long, however late it was made");
        assert_eq!(steps(&late, 490), ["activate b"]);
        let after = [key("a", Phase::Retiring, 400), key("b", Phase::Active, 400)];
        assert!(steps(&after, 459).is_empty());
        assert_eq!(steps(&after, 460), ["remove a"]);
    }

    #[test]
    fn clock_that_was_set_back_hurries_nothing() {
        let keys = [key("a", Phase::Retiring, 1000), key("b", Phase::Active, 1000)];
        assert!(steps(&keys, 0).is_empty());
    }
}
