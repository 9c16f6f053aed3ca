//! Where keys of authorities are: sealed in the store, or in tokens. New ones are made in the first place that is named;
//! those that are elsewhere are found there until they have been replaced.
//!
//! A key in a token and its record cannot be made in one step. So the store is told of the key before it exists, as one
//! to be destroyed soon; the commit that records its authority takes that back. A kill in between leaves nothing behind.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use signet_proto::spiffe::TrustDomain;

use super::keys::{KeyCurve, SigningKey};
use super::profile::{self, Draft};
use super::seal::SealKey;
use super::signer::Signer;
use super::token::{KeyId, Token, TokenError, TokenKeyName, TokenPlace};
use super::{CaError, CaError::Token as InToken};
use crate::store::Store;
use crate::store::model::{AuthorityKind, KeptKey, KnownAuthority};
use crate::telemetry::metrics;
use crate::time;

/// From when it is told of a key to the commit that needs it.
const INTENDED: Duration = Duration::from_secs(600);

/// Where a key of an authority can be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum KeyPlace {
    /// In the store, sealed.
    Sealed,
    /// In a token.
    Token(TokenPlace),
}

impl FromStr for KeyPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sealed" => Ok(Self::Sealed),
            text if text.starts_with("pkcs11:") => text.parse().map(Self::Token),
            _ => Err("expected `sealed`, or a PKCS#11 URI `pkcs11:token=LABEL?module-path=/…&pin-source=/…`"
                .into()),
        }
    }
}

impl TryFrom<String> for KeyPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sealed => f.write_str("sealed"),
            Self::Token(place) => place.fmt(f),
        }
    }
}

/// What operators decide about keys of authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaKeys {
    /// The first one is for new keys; none: sealed.
    pub places: Vec<KeyPlace>,
    /// Of new keys.
    pub curve: KeyCurve,
}

/// The places, open.
pub(super) struct Places {
    seal: SealKey,
    tokens: Vec<Token>,
    /// Whether new keys are made in the first token.
    first_is_token: bool,
    curve: KeyCurve,
    trouble: Mutex<Vec<TokenError>>,
}

impl Places {
    pub(super) fn new(seal: SealKey, keys: &CaKeys) -> Result<Self, CaError> {
        let tokens = keys.places.iter().filter_map(|place| match place {
            KeyPlace::Sealed => None,
            KeyPlace::Token(place) => Some(Token::at(place.clone())),
        });
        Ok(Self {
            seal,
            tokens: tokens.collect::<Result<_, _>>()?,
            first_is_token: matches!(keys.places.first(), Some(KeyPlace::Token(_))),
            curve: keys.curve,
            trouble: Mutex::default(),
        })
    }

    pub(super) fn seal(&self) -> &SealKey {
        &self.seal
    }

    /// A new key, where new ones are made.
    pub(super) async fn draft(
        &self,
        store: &Store,
        domain: &TrustDomain,
        kind: AuthorityKind,
    ) -> Result<Draft, CaError> {
        let Some(token) = self.tokens.first().filter(|_| self.first_is_token) else {
            return Draft::sealed(kind, self.curve, &self.seal);
        };
        let id = KeyId(profile::random()?);
        let (serial, label) = token.probe()?;
        let name = TokenKeyName { serial, label, id }.to_string();
        store.intend_token_key(name.clone(), time::now() + INTENDED).await?;
        let point = token.generate(id, self.curve, &format!("Signet {kind} of {domain}"))?;
        let key = SigningKey::in_token(token.clone(), id, self.curve, point);
        Ok(Draft::new(kind, crate::hex::encode(&id.0), key, KeptKey::Token(name)))
    }

    /// An authority with its key, unless that was erased.
    pub(super) async fn signer(
        &self,
        store: &Store,
        known: &KnownAuthority,
    ) -> Result<Option<Signer>, CaError> {
        match store.kept_key(known.id.clone()).await? {
            None => Ok(None),
            Some(KeptKey::Elsewhere) => Ok(None),
            Some(KeptKey::Sealed(sealed)) => Signer::unseal(known, &sealed, &self.seal).map(Some),
            Some(KeptKey::Token(name)) => {
                let (token, id) = self.find(&name)?;
                let key = SigningKey::of_certificate(token, id, &known.certificate)?;
                Ok(Some(Signer::new(known.into(), key)))
            }
        }
    }

    /// The key of a request, which proves itself.
    pub(super) fn key_of_request(&self, name: &str, request: &[u8]) -> Result<SigningKey, CaError> {
        let (token, id) = self.find(name)?;
        SigningKey::of_request(token, id, request)
    }

    /// Destroys keys in tokens whose authorities are gone, or never came to be. What cannot be destroyed now is tried
    /// again, and keeps no other from it.
    pub(super) async fn destroy_ended(&self, store: &Store) -> Result<(), CaError> {
        let mut result = Ok(());
        for name in store.ended_token_keys(time::now()).await? {
            result = result.and(self.destroy(store, name).await);
        }
        result
    }

    async fn destroy(&self, store: &Store, name: String) -> Result<(), CaError> {
        let (token, id) = self.find(&name)?;
        token.destroy(id)?;
        store.forget_token_key(name.clone()).await?;
        tracing::info!(name, "key destroyed in its token");
        Ok(())
    }

    /// Asks each token whether it is there.
    pub(super) fn look(&self) {
        let mut trouble = Vec::new();
        for token in &self.tokens {
            if let Err(error) = token.probe() {
                trouble.push(error);
            }
        }
        if !self.tokens.is_empty() {
            metrics::tokens_away(trouble.len());
        }
        let mut before = self.trouble.lock();
        if before.is_empty() != trouble.is_empty() {
            match trouble.first() {
                Some(error) => tracing::error!(%error, "a token does not answer"),
                None => tracing::info!("all tokens answer again"),
            }
        }
        *before = trouble;
    }

    /// Tokens that did not answer when they were asked last.
    pub(super) fn trouble(&self) -> Vec<TokenError> {
        self.trouble.lock().clone()
    }

    fn find(&self, name: &str) -> Result<(Token, KeyId), CaError> {
        let wanted: TokenKeyName = name.parse().map_err(|_| TokenError::Name(name.to_owned()))?;
        let mut away = None;
        for token in &self.tokens {
            match token.probe() {
                Ok((serial, label)) if serial == wanted.serial && label == wanted.label => {
                    return Ok((token.clone(), wanted.id));
                }
                Ok(_) => {}
                Err(error) => away = Some(error),
            }
        }
        Err(InToken(away.unwrap_or_else(|| TokenError::Unknown(name.to_owned()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_keys_is_sealed_or_a_token() {
        let token = "pkcs11:token=a?module-path=/m.so&pin-source=/pin";
        assert_eq!("sealed".parse(), Ok(KeyPlace::Sealed));
        assert!(matches!(token.parse(), Ok(KeyPlace::Token(_))));
        for text in ["sealed", token] {
            assert_eq!(text.parse::<KeyPlace>().unwrap().to_string(), text);
        }
        assert!("file".parse::<KeyPlace>().unwrap_err().contains("PKCS#11 URI"));
        assert!("pkcs11:".parse::<KeyPlace>().unwrap_err().contains("token=LABEL"));
    }
}
