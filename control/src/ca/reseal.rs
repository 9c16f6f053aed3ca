//! Another seal key: everything that is sealed is opened with the one before and sealed with the next, in one commit. A
//! kill before it leaves all as it was, after it all is done; told again, it finds that out.

use std::time::Duration;

use super::seal::{SealError, SealKey, SealPlace};
use super::{CaError, profile};
use crate::store::{Store, StoreError};

/// Replicas say every five seconds that they run.
const SEEN: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resealed {
    /// So many keys are sealed with the other key now.
    Done(usize),
    /// All of them were already.
    Already(usize),
}

/// Opens everything with the key at `from` and seals it with the one at `to`, which is made if it is a file and absent.
///
/// # Errors
/// When a key is in neither, or a replica runs.
pub async fn reseal(store: &Store, from: &SealPlace, to: &SealPlace) -> Result<Resealed, CaError> {
    let keys = store.sealed_keys().await?;
    if keys.is_empty() {
        return Err(StoreError::Open("nothing is sealed in it: run control first".into()).into());
    }
    let next = of_store(store, to, true).await?;
    let opens =
        |with: &SealKey| keys.iter().all(|key| with.unseal(&key.purpose, &key.id, &key.sealed).is_ok());
    if opens(&next) {
        return Ok(Resealed::Already(keys.len()));
    }
    let before = of_store(store, from, false).await?;
    let again = keys.into_iter().map(|key| {
        let secret = before.unseal(&key.purpose, &key.id, &key.sealed)?;
        let sealed = next.seal(&key.purpose, &key.id, &secret)?;
        Ok((key, sealed))
    });
    let again = again.collect::<Result<Vec<_>, SealError>>()?;
    let count = again.len();
    store.reseal(again, to.to_string(), SEEN).await?;
    Ok(Resealed::Done(count))
}

/// Takes the key from its place; a passphrase goes with the salt of the store.
pub(super) async fn of_store(store: &Store, place: &SealPlace, may_create: bool) -> Result<SealKey, CaError> {
    let salt = match place {
        SealPlace::Passphrase(_) => store.seal_salt(crate::hex::encode(&profile::random::<16>()?)).await?,
        SealPlace::File(_) | SealPlace::Keyring(_) => String::new(),
    };
    Ok(SealKey::open(place, may_create, salt.as_bytes())?)
}
