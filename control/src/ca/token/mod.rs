//! Keys in a PKCS#11 token: made there, used there, and never seen here. Tokens are slow, go away and come back, and their
//! modules block; so one thread for each module does all that is asked of it, one thing after the other, each within a
//! deadline, and a session that was lost is opened again by the next who asks.
//!
//! A wrong PIN is tried once: three would lock the token. It is tried again when its file has changed.

mod place;
mod session;
mod signature;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use super::KeyCurve;

pub(super) use place::TokenKeyName;
pub use place::TokenPlace;
use worker::Worker;

/// Why a token did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The module cannot be loaded.
    #[error("PKCS#11 module {}: {error}: install it on this machine, or correct module-path of --ca-key", path.display())]
    Module {
        /// Which.
        path: PathBuf,
        /// What the system or the module says.
        error: String,
    },
    /// No slot holds it, or nothing leads to it.
    #[error(
        "token `{token}` is not there ({reason}): connect it, or start what leads to it; it is looked for again every few \
         seconds"
    )]
    Away {
        /// Which.
        token: String,
        /// What the module says.
        reason: String,
    },
    /// The file with the PIN.
    #[error("PIN file {}: {problem}", path.display())]
    PinFile {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The PIN is wrong, or locked.
    #[error(
        "token `{token}` refuses the PIN in {} ({reason}); it is not tried again before that file has changed, as the token \
         locks itself after a few wrong ones", path.display()
    )]
    PinRefused {
        /// Which token.
        token: String,
        /// Where the PIN is.
        path: PathBuf,
        /// What the token says.
        reason: String,
    },
    /// The key is not in it.
    #[error("token `{token}` has no key {name}: is it the right one? Restore the token from its own backup")]
    NoKey {
        /// Which token.
        token: String,
        /// Which key.
        name: String,
    },
    /// A key is in a token that nobody named.
    #[error("key {0} is in a token that no --ca-key names: name it too, after the place of new keys")]
    Unknown(String),
    /// The store's name of a key cannot be read.
    #[error("the store names a key `{0}`, which is no name of a key in a token")]
    Name(String),
    /// It did something else than it should have.
    #[error("token `{token}`: {problem}: it cannot hold keys of authorities")]
    Unfit {
        /// Which token.
        token: String,
        /// What it did.
        problem: &'static str,
    },
    /// It failed.
    #[error("token `{token}`: {error}: it is tried again; the token's own log says more")]
    Failed {
        /// Which token.
        token: String,
        /// What it says.
        error: String,
    },
    /// It has not answered.
    #[error("token `{0}` has not answered in time: it is asked again; restart control if it stays so")]
    Silent(String),
    /// Too many wait.
    #[error("token `{0}` is asked for more than it can do: ask again in a moment")]
    Busy(String),
}

/// CKA_ID of a key: the id of its authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyId(pub(super) [u8; 16]);

/// A token that control was told of.
#[derive(Debug, Clone)]
pub(super) struct Token {
    place: Arc<TokenPlace>,
    worker: Worker,
}

/// What a token is asked for.
#[derive(Debug, Clone)]
enum Ask {
    /// Whether it is there, and what its name is.
    Probe,
    Generate(KeyId, KeyCurve, String),
    Sign(KeyId, Vec<u8>),
    Destroy(KeyId),
}

/// What it answers.
#[derive(Debug)]
enum Answer {
    /// Its serial number and label.
    There(String, String),
    /// A public point.
    Made(Vec<u8>),
    /// Two numbers of fixed width.
    Signature(Vec<u8>),
    Destroyed,
}

impl Token {
    /// The token at this place. It is opened by the first who asks it for something.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn at(place: TokenPlace) -> Result<Self, TokenError> {
        let worker = Worker::of(&place.module)?;
        Ok(Self { place: Arc::new(place), worker })
    }

    /// Whether it answers. Returns its serial number and label.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub(super) fn probe(&self) -> Result<(String, String), TokenError> {
        match self.worker.ask(&self.place, Ask::Probe)? {
            Answer::There(serial, label) => Ok((serial, label)),
            _ => Err(self.other_answer()),
        }
    }

    /// Makes a key pair that cannot be taken out. Returns its public point.
    ///
    /// # Errors
    /// When the token does not, or would let the key be taken out.
    pub(super) fn generate(&self, id: KeyId, curve: KeyCurve, label: &str) -> Result<Vec<u8>, TokenError> {
        match self.worker.ask(&self.place, Ask::Generate(id, curve, label.to_owned()))? {
            Answer::Made(point) => {
                let problem = "its answer is no point of the curve that was asked for";
                curve
                    .point(&point)
                    .ok_or_else(|| TokenError::Unfit { token: self.place.to_string(), problem })
            }
            _ => Err(self.other_answer()),
        }
    }

    /// Signs a message: DER. That the signature is the key's is verified here.
    ///
    /// # Errors
    /// When the token does not, or with another key.
    pub(super) fn sign(
        &self,
        id: KeyId,
        curve: KeyCurve,
        point: &[u8],
        message: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        let Answer::Signature(raw) =
            self.worker.ask(&self.place, Ask::Sign(id, curve.digest(message).as_ref().to_vec()))?
        else {
            return Err(self.other_answer());
        };
        let problem = "what it signed does not verify with the key that it should be";
        curve
            .to_der(&raw)
            .filter(|der| curve.verifies(point, message, der))
            .ok_or_else(|| TokenError::Unfit { token: self.place.to_string(), problem })
    }

    /// Destroys a key pair, if it is there.
    ///
    /// # Errors
    /// When the token does not.
    pub(super) fn destroy(&self, id: KeyId) -> Result<(), TokenError> {
        self.worker.ask(&self.place, Ask::Destroy(id)).map(drop)
    }

    fn other_answer(&self) -> TokenError {
        let problem = "it answered something else than was asked";
        TokenError::Unfit { token: self.place.to_string(), problem }
    }
}
