//! Revocation lists that other authorities publish, held against the chains of peers.
//!
//! A list counts in a trust domain if an authority of that domain signed it: one of its bundle, or an intermediate of
//! the very path that was just verified. Its issuer's name alone says nothing, as names of authorities are alike in many
//! domains (invariant 7). So a list of an intermediate waits until a peer shows who that is. Whether a signature is right
//! does not change, and is found out once for each key.
//!
//! Nor does a list's own word count for which other one it replaces: it replaces those that a key has signed which has
//! signed it, too. A list that nobody is known to have signed replaces none, keeps none out, and has a bound of its own:
//! whoever may write one of the files can say nothing about the authorities of the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::config::provider;
use crate::spiffe::{CertificateHandle, ListSigner, RevocationList};

/// Most lists at once.
pub const MAX_CRLS: usize = 256;
/// Most entries of all lists together.
pub const MAX_CRL_ENTRIES_IN_ALL: usize = 1_000_000;
/// Most lists of which nobody is known to have signed them, and of one name; the newest to come stay.
const MAX_WAITING: usize = 64;
const MAX_WAITING_OF_NAME: usize = 8;
/// Most entries of all of those.
const MAX_WAITING_ENTRIES: usize = 250_000;
/// Clocks differ by a little.
const FUTURE: Duration = Duration::from_secs(300);
/// Keys of one name for which is kept what was found out; of more it is found out each time.
const MOST_KEYS: usize = 64;

/// What becomes of new peers whose issuer's list is past its nextUpdate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpiredLists {
    /// They are refused: nobody knows whether they are revoked.
    #[default]
    Refuse,
    /// They are let in if the old list does not name them.
    Use,
}

/// A list, and what was found out about who signed it.
#[derive(Debug)]
pub struct KnownList {
    content: RevocationList,
    keys: Mutex<Vec<(ListSigner, Signed)>>,
}

/// What is known of a list by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListState {
    /// An authority of its name signed it.
    Used,
    /// No authority is known yet that could have signed it: an intermediate, until a peer shows it.
    Waiting,
    /// The authority that it names as its signer did not sign it, or may not.
    Unusable,
}

/// The lists in force, by the name of their issuer.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    by_issuer: HashMap<[u8; 32], Vec<Arc<KnownList>>>,
    expired: ExpiredLists,
}

/// What became of lists that came.
#[derive(Debug)]
pub struct Intake {
    /// What is in force now.
    pub lists: Lists,
    /// Those of them that are new.
    pub taken: Vec<Arc<KnownList>>,
    /// What was refused, or is doubtful.
    pub refused: Vec<ListRefused>,
}

/// Why a list that can be read is not taken, or is not used. The one before it stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListRefused {
    /// Its number is lower than that of the list in force.
    #[error("list {number} of `{issuer}` is older than list {known}, which is in force")]
    Older {
        /// Whose.
        issuer: String,
        /// Its number.
        number: String,
        /// That in force.
        known: String,
    },
    /// Two lists with one number.
    #[error("list {number} of `{issuer}` is another one than that with the same number, which is in force")]
    SameNumber {
        /// Whose.
        issuer: String,
        /// The number of both.
        number: String,
    },
    /// It says that it was made later than now.
    #[error("list {number} of `{issuer}` is from the future: is this machine's clock right?")]
    Future {
        /// Whose.
        issuer: String,
        /// Its number.
        number: String,
    },
    /// It says that an authority signed it which did not. It waits: another one may be meant.
    #[error("list {number} of `{issuer}` is not signed by the authority of that name")]
    Signature {
        /// Whose it says it is.
        issuer: String,
        /// Its number.
        number: String,
    },
    /// The issuer signed it and may not. It waits for one that may.
    #[error(
        "list {number} of `{issuer}` is by an authority whose key usage has no cRLSign (RFC 5280 s4.2.1.3)"
    )]
    MayNotSign {
        /// Whose.
        issuer: String,
        /// Its number.
        number: String,
    },
    /// More than are kept.
    #[error(
        "list {number} of `{issuer}` is one too many: at most {MAX_CRLS} lists are kept, with {MAX_CRL_ENTRIES_IN_ALL} entries in all"
    )]
    TooMany {
        /// Whose.
        issuer: String,
        /// Its number.
        number: String,
    },
}

impl ListRefused {
    /// The stable name used in metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Older { .. } | Self::SameNumber { .. } => "older",
            Self::Future { .. } => "future",
            Self::Signature { .. } => "signature",
            Self::MayNotSign { .. } => "may_not_sign",
            Self::TooMany { .. } => "too_many",
        }
    }

    /// Whether nothing knows what the list says: no newer one is in force, nor does it wait for who signed it.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        matches!(self, Self::Future { .. } | Self::TooMany { .. })
    }
}

/// A list that is new, and why it is doubted.
type Taken = (Arc<KnownList>, Option<ListRefused>);

/// Who stands behind a list, as far as one signer can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signed {
    /// It signed the list.
    Rightly,
    /// It signed the list, and may not.
    WithoutRight,
    /// The list says that it is signed with this key, and it is not.
    Falsely,
    /// Another key signed it, or nobody did.
    ByOthers,
}

impl KnownList {
    fn new(content: RevocationList) -> Self {
        Self { content, keys: Mutex::default() }
    }

    /// What it says.
    #[must_use]
    pub fn content(&self) -> &RevocationList {
        &self.content
    }

    /// What is known of it by now.
    #[must_use]
    pub fn state(&self) -> ListState {
        let keys = self.keys.lock();
        let any = |wanted: &[Signed]| keys.iter().any(|(_, signed)| wanted.contains(signed));
        match () {
            () if any(&[Signed::Rightly]) => ListState::Used,
            () if any(&[Signed::WithoutRight, Signed::Falsely]) => ListState::Unusable,
            () => ListState::Waiting,
        }
    }

    /// Those who are known to have signed it.
    fn signers(&self) -> Vec<ListSigner> {
        let keys = self.keys.lock();
        keys.iter().filter(|(_, signed)| *signed == Signed::Rightly).map(|(key, _)| key.clone()).collect()
    }

    /// Whether one key is known to have signed both.
    fn shares_signer(&self, other: &Self) -> bool {
        let theirs = other.signers();
        self.signers().iter().any(|one| theirs.iter().any(|other| one.spki_sha256 == other.spki_sha256))
    }

    fn signed(&self, signer: &ListSigner) -> Signed {
        if signer.subject_sha256 != self.content.issuer_sha256() {
            return Signed::ByOthers;
        }
        let known = self.keys.lock().iter().find(|(key, _)| key == signer).map(|(_, signed)| *signed);
        known.unwrap_or_else(|| {
            let signed = match (verify(&self.content, signer), signer.may_sign_lists) {
                (true, true) => Signed::Rightly,
                (true, false) => Signed::WithoutRight,
                (false, _) => match (self.content.authority_key(), signer.key_identifier.as_deref()) {
                    (Some(said), Some(key)) if said == key => Signed::Falsely,
                    _ => Signed::ByOthers,
                },
            };
            let mut keys = self.keys.lock();
            if keys.len() < MOST_KEYS {
                keys.push((signer.clone(), signed));
            }
            signed
        })
    }

    fn is_expired(&self, now: SystemTime) -> bool {
        self.content.next_update() < now
    }
}

/// By the algorithm that both the list and the key name (RFC 5280 section 6.3.3 (g)).
fn verify(list: &RevocationList, signer: &ListSigner) -> bool {
    let signed = list.signature();
    provider().signature_verification_algorithms.all.iter().any(|algorithm| {
        *algorithm.signature_alg_id() == *signed.algorithm
            && *algorithm.public_key_alg_id() == *signer.key_algorithm
            && algorithm.verify_signature(&signer.key, &signed.message, &signed.signature).is_ok()
    })
}

/// What the lists of an element's issuer say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No list names it, or there is none.
    Unnamed,
    /// A list names it.
    Named,
    /// The newest list of its issuer is past its nextUpdate.
    Expired,
    /// There is a list for its issuer's key, and it cannot be believed.
    Unbelievable,
}

impl Lists {
    /// The same, with another rule about lists past their nextUpdate.
    #[must_use]
    pub fn when_expired(self, expired: ExpiredLists) -> Self {
        Self { expired, ..self }
    }

    /// That rule.
    #[must_use]
    pub fn expired(&self) -> ExpiredLists {
        self.expired
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    /// All of them, but those after which a newer one of the same key turned out to be in force.
    pub fn all(&self) -> impl Iterator<Item = &Arc<KnownList>> {
        self.by_issuer.values().flat_map(|of_name| {
            let is_newest = |one: &&Arc<KnownList>| {
                !of_name
                    .iter()
                    .any(|other| one.content.is_older_than(&other.content) && one.shares_signer(other))
            };
            of_name.iter().filter(is_newest)
        })
    }

    /// What is in force once these came. What did not come again stays in force: a file that is gone takes nothing back.
    /// `authorities` are those of all bundles.
    #[must_use]
    pub fn with(&self, read: Vec<RevocationList>, authorities: &[ListSigner], now: SystemTime) -> Intake {
        let mut intake = Intake { lists: self.clone(), taken: Vec::new(), refused: Vec::new() };
        for list in read {
            match intake.lists.take(KnownList::new(list), authorities, now) {
                Ok(None) => {}
                Ok(Some((taken, doubt))) => {
                    intake.taken.push(taken);
                    intake.refused.extend(doubt);
                }
                Err(why) => intake.refused.push(why),
            }
        }
        intake
    }

    fn take(
        &mut self,
        list: KnownList,
        authorities: &[ListSigner],
        now: SystemTime,
    ) -> Result<Option<Taken>, ListRefused> {
        let content = list.content();
        let (issuer, number) = (content.issuer().to_owned(), content.number());
        if content.this_update() > now + FUTURE {
            return Err(ListRefused::Future { issuer, number });
        }
        let of_name = self.by_issuer.get(&content.issuer_sha256()).map(Vec::as_slice).unwrap_or_default();
        if of_name.iter().any(|known| known.content.sha256() == content.sha256()) {
            return Ok(None);
        }
        // Who signed a list before may have signed this one, too: also an intermediate that a peer showed.
        let followed: Vec<_> = of_name.iter().flat_map(|known| known.signers()).collect();
        let found: Vec<_> = authorities.iter().chain(&followed).map(|signer| list.signed(signer)).collect();
        if let Some(known) = of_name
            .iter()
            .filter(|known| known.shares_signer(&list))
            .find(|known| content.is_older_than(&known.content) || content.has_number_of(&known.content))
        {
            return Err(match content.has_number_of(&known.content) {
                true => ListRefused::SameNumber { issuer, number },
                false => ListRefused::Older { issuer, number, known: known.content.number() },
            });
        }
        let is_known = found.contains(&Signed::Rightly);
        let most =
            if is_known { (MAX_CRLS, MAX_CRL_ENTRIES_IN_ALL) } else { (MAX_WAITING, MAX_WAITING_ENTRIES) };
        let others = self.by_issuer.values().flatten().filter(|known| known.signers().is_empty() != is_known);
        let (count, entries) = others
            .filter(|known| !known.shares_signer(&list))
            .fold((0, 0), |(count, sum), known| (count + 1, sum + known.content.len()));
        if count >= most.0 || entries + content.len() > most.1 {
            return Err(ListRefused::TooMany { issuer, number });
        }
        let doubt = match () {
            () if is_known => None,
            () if found.contains(&Signed::WithoutRight) => Some(ListRefused::MayNotSign { issuer, number }),
            () if found.contains(&Signed::Falsely) => Some(ListRefused::Signature { issuer, number }),
            () => None,
        };
        let of_name = self.by_issuer.entry(content.issuer_sha256()).or_default();
        of_name.retain(|known| !known.shares_signer(&list));
        if !is_known
            && of_name.iter().filter(|known| known.signers().is_empty()).count() >= MAX_WAITING_OF_NAME
        {
            let first = of_name.iter().position(|known| known.signers().is_empty());
            first.map(|first| of_name.remove(first));
        }
        let list = Arc::new(list);
        of_name.push(Arc::clone(&list));
        Ok(Some((list, doubt)))
    }

    fn of(&self, element: &CertificateHandle) -> &[Arc<KnownList>] {
        self.by_issuer.get(&element.issuer_sha256).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether there are lists of any of their issuers' names.
    pub(super) fn concern(&self, elements: &[CertificateHandle]) -> bool {
        !self.is_empty() && elements.iter().any(|element| !self.of(element).is_empty())
    }

    /// Whether there are lists of its name. Who signed them is known after this.
    pub(super) fn has_lists_of(&self, signer: &ListSigner) -> bool {
        let of_its_name = self.by_issuer.get(&signer.subject_sha256);
        of_its_name.into_iter().flatten().for_each(|list| {
            list.signed(signer);
        });
        of_its_name.is_some()
    }

    /// What they say of one element of a chain, whose domain's authorities are `signers`. Whichever of them named it, it is
    /// named; whether a list is missed is asked of the key that signed the element, as far as that says which one did.
    pub(super) fn standing(
        &self,
        element: &CertificateHandle,
        authority_key: Option<&[u8]>,
        signers: &[ListSigner],
        now: SystemTime,
    ) -> Standing {
        let (mut is_doubted, mut is_expired) = (false, false);
        for signer in signers {
            let newest = self.newest(element, signer);
            if newest.is_some_and(|list| list.content.names(&element.serial)) {
                return Standing::Named;
            }
            let is_its_issuer = signer.subject_sha256 == element.issuer_sha256
                && authority_key.zip(signer.key_identifier.as_deref()).is_none_or(|(said, key)| said == key);
            match newest {
                _ if !is_its_issuer => {}
                Some(list) => is_expired |= list.is_expired(now),
                None => {
                    let doubtful = [Signed::Falsely, Signed::WithoutRight];
                    is_doubted |= self.of(element).iter().any(|list| doubtful.contains(&list.signed(signer)));
                }
            }
        }
        match self.expired {
            _ if is_doubted => Standing::Unbelievable,
            ExpiredLists::Refuse if is_expired => Standing::Expired,
            _ => Standing::Unnamed,
        }
    }

    /// Whether a list names an element that was accepted before. Who signed is asked only of lists that do.
    pub(super) fn name(&self, element: &CertificateHandle, signers: impl Fn() -> Vec<ListSigner>) -> bool {
        let is_named = self.of(element).iter().any(|list| list.content.names(&element.serial));
        is_named
            && signers().iter().any(|signer| {
                self.newest(element, signer).is_some_and(|list| list.content.names(&element.serial))
            })
    }

    /// The newest list for the element's issuer that this key signed.
    fn newest(&self, element: &CertificateHandle, signer: &ListSigner) -> Option<&Arc<KnownList>> {
        let rightly = self.of(element).iter().filter(|list| list.signed(signer) == Signed::Rightly);
        rightly.reduce(|one, other| if one.content.is_older_than(&other.content) { other } else { one })
    }
}

#[cfg(test)]
mod tests;
