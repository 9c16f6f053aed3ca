//! Revocation lists that other authorities publish, held against the chains of peers.
//!
//! A list counts in a trust domain if an authority of that domain signed it: one of its bundle, or an intermediate of
//! the very path that was just verified. Its issuer's name alone says nothing, as names of authorities are alike in many
//! domains (invariant 7). So a list of an intermediate waits until a peer shows who that is. Whether a signature is right
//! does not change, and is found out once for each key.

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
    /// What was refused.
    pub refused: Vec<ListRefused>,
}

/// Why a list that can be read is not taken. The one before it stays in force.
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
    /// The issuer is known and did not sign it.
    #[error("list {number} of `{issuer}` is not signed by the authority of that name")]
    Signature {
        /// Whose it says it is.
        issuer: String,
        /// Its number.
        number: String,
    },
    /// The issuer signed it and may not.
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
}

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

    /// Whether it is the next list of the same issuer and key. Where lists do not say their key, they may be of two
    /// authorities with one name, if they are known to be signed by two.
    fn replaces(&self, known: &Self) -> bool {
        let (content, other) = (&self.content, &known.content);
        if content.issuer_sha256() != other.issuer_sha256()
            || content.authority_key() != other.authority_key()
        {
            return false;
        }
        let (ours, theirs) = (self.signers(), known.signers());
        content.authority_key().is_some()
            || ours.is_empty()
            || theirs.is_empty()
            || ours.iter().any(|one| theirs.iter().any(|other| one.spki_sha256 == other.spki_sha256))
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
    /// The lists of its issuer are all past their nextUpdate.
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

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Arc<KnownList>> {
        self.by_issuer.values().flatten()
    }

    /// What is in force once these came. What did not come again stays in force: a file that is gone takes nothing back.
    /// `authorities` are those of all bundles.
    #[must_use]
    pub fn with(&self, read: Vec<RevocationList>, authorities: &[ListSigner], now: SystemTime) -> Intake {
        let mut intake = Intake { lists: self.clone(), taken: Vec::new(), refused: Vec::new() };
        for list in read {
            match intake.lists.take(KnownList::new(list), authorities, now) {
                Ok(taken) => intake.taken.extend(taken),
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
    ) -> Result<Option<Arc<KnownList>>, ListRefused> {
        let content = list.content();
        let (issuer, number) = (content.issuer().to_owned(), content.number());
        if content.this_update() > now + FUTURE {
            return Err(ListRefused::Future { issuer, number });
        }
        let of_issuer = self.by_issuer.get(&content.issuer_sha256()).map(Vec::as_slice).unwrap_or_default();
        if of_issuer.iter().any(|known| known.content.sha256() == content.sha256()) {
            return Ok(None);
        }
        // Who signed a list before may have signed this one, too: also an intermediate that a peer showed.
        let followed: Vec<_> = of_issuer.iter().flat_map(|known| known.signers()).collect();
        let found: Vec<_> = authorities.iter().chain(&followed).map(|signer| list.signed(signer)).collect();
        let before = of_issuer.iter().find(|known| list.replaces(known));
        if !found.contains(&Signed::Rightly) {
            if found.contains(&Signed::WithoutRight) {
                return Err(ListRefused::MayNotSign { issuer, number });
            }
            if found.contains(&Signed::Falsely) || before.is_some_and(|known| !known.signers().is_empty()) {
                return Err(ListRefused::Signature { issuer, number });
            }
        }
        if let Some(before) = before {
            if content.is_older_than(&before.content) {
                return Err(ListRefused::Older { issuer, number, known: before.content.number() });
            }
            if content.has_number_of(&before.content) {
                return Err(ListRefused::SameNumber { issuer, number });
            }
        }
        let others = self.all().filter(|known| !list.replaces(known));
        let (count, entries) =
            others.fold((0, 0), |(count, sum), known| (count + 1, sum + known.content.len()));
        if count >= MAX_CRLS || entries + content.len() > MAX_CRL_ENTRIES_IN_ALL {
            return Err(ListRefused::TooMany { issuer, number });
        }
        let place = self.by_issuer.entry(content.issuer_sha256()).or_default();
        place.retain(|known| !list.replaces(known));
        let list = Arc::new(list);
        place.push(Arc::clone(&list));
        Ok(Some(list))
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

    /// What they say of one element of a chain, whose domain's authorities are `signers`.
    pub(super) fn standing(
        &self,
        element: &CertificateHandle,
        signers: &[ListSigner],
        now: SystemTime,
    ) -> Standing {
        let (mut believed, mut expired, mut doubted) = (0_usize, 0_usize, false);
        for list in self.of(element) {
            let found: Vec<_> = signers.iter().map(|signer| list.signed(signer)).collect();
            if found.contains(&Signed::Rightly) {
                if list.content.names(&element.serial) {
                    return Standing::Named;
                }
                believed += 1;
                expired += usize::from(list.is_expired(now));
            } else {
                doubted |= found.contains(&Signed::Falsely) || found.contains(&Signed::WithoutRight);
            }
        }
        match (believed, self.expired) {
            (0, _) if doubted => Standing::Unbelievable,
            (0, _) | (_, ExpiredLists::Use) => Standing::Unnamed,
            (_, ExpiredLists::Refuse) if expired == believed => Standing::Expired,
            (_, ExpiredLists::Refuse) => Standing::Unnamed,
        }
    }

    /// Whether a list names an element that was accepted before. Who signed is asked only of lists that do.
    pub(super) fn name(&self, element: &CertificateHandle, signers: impl Fn() -> Vec<ListSigner>) -> bool {
        let naming = self.of(element).iter().filter(|list| list.content.names(&element.serial));
        let mut naming = naming.peekable();
        if naming.peek().is_none() {
            return false;
        }
        let signers = signers();
        naming.any(|list| signers.iter().any(|signer| list.signed(signer) == Signed::Rightly))
    }
}

#[cfg(test)]
mod tests;
