//! Certificate revocation lists, for those who are not proxies and verify our certificates all the same.
//!
//! ```text
//!   leader, each --crl-every: what is revoked of each authority ─▶ entries::next ─▶ different, or an hour old?
//!     ─▶ complete and delta list, one number, signed by the authority ─▶ store
//!   every replica, each second: the store has newer ones ─▶ Lists ─▶ GET /crl/<authority>.crl, -delta.crl
//! ```
//!
//! Invariants: a list holds all certificates of its authority that are revoked and have not ended, and no other, but
//! those that ended since the list before: what is revoked is listed once at least. Numbers only grow, also over a
//! restore of the store: they are times, unless the clock went back. Not the revocation makes a list, but the timer; what is
//! made is bounded by what is revoked and has not ended.
//!
//! An authority whose key is not here (erased, or offline) has no new lists.

mod encode;
mod entries;
mod served;
mod url;

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{SvidError, certificate_handle};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::ca::{Authority, CaError, CrlSigner};
use crate::store::model::{AuthorityKind, Crl, CrlHead, KnownAuthority, Listing, Phase, Reason, Revoked};
use crate::store::{Store, StoreError};
use crate::time;

use encode::{Issuer, List};
use entries::{Contents, Line};

pub use served::{Document, Lists};
pub use url::{ListsUrl, ListsUrlError};

/// How long a list may be believed. Control may be down for nearly as long before verifiers are without.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// A list is replaced after this long though nothing is different.
const REFRESHED: Duration = Duration::from_secs(3600);

/// Why there is no newer list.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CrlError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A certificate of an authority does not read.
    #[error(transparent)]
    Certificate(#[from] SvidError),
    /// An authority's certificate cannot name it in a list.
    #[error("certificate of authority `{0}`: expected a subject and a subject key identifier")]
    Unnamed(String),
    /// A time that certificates cannot say.
    #[error("cannot write the time {0:?} into a revocation list")]
    Time(SystemTime),
    /// What is kept of the lists before does not read.
    #[error("contents of the revocation list of `{authority}`: {error}")]
    Contents {
        /// Whose.
        authority: String,
        /// Why.
        error: serde_json::Error,
    },
}

/// Makes new lists of all authorities whose lists lack something, or are old.
///
/// # Errors
/// The first failure; other authorities have theirs all the same.
pub async fn issue_due(
    authority: &Authority,
    store: &Store,
    url: Option<&ListsUrl>,
    now: SystemTime,
) -> Result<(), CrlError> {
    authority.refresh().await?;
    let hierarchy = authority.hierarchy();
    let issuers: Vec<_> = hierarchy.known().iter().filter(|known| has_lists(known, now)).collect();
    let mut result = Ok(());
    for issuer in &issuers {
        result = result.and(issue_if_due(authority, store, url, issuer, time::whole_seconds(now)).await);
    }
    result?;
    let current: HashSet<&str> = issuers.iter().map(|issuer| issuer.id.as_str()).collect();
    for head in store.crl_heads().await? {
        if !current.contains(head.authority.as_str()) {
            store.drop_crl(head.authority).await?;
        }
    }
    Ok(())
}

/// What it signed may be believed by somebody.
fn has_lists(known: &KnownAuthority, now: SystemTime) -> bool {
    matches!(known.phase, Phase::Active | Phase::Retiring) && known.not_after > now
}

async fn issue_if_due(
    authority: &Authority,
    store: &Store,
    url: Option<&ListsUrl>,
    issuer: &KnownAuthority,
    now: SystemTime,
) -> Result<(), CrlError> {
    let Some(next) = next(authority, store, issuer, now).await? else { return Ok(()) };
    // Keys are opened only to be used.
    match authority.crl_signer(issuer).await? {
        Some(signer) => issue(store, url, next, &signer).await,
        None => {
            tracing::debug!(issuer = issuer.subject, "its key is not here: no new revocation list");
            Ok(())
        }
    }
}

/// Lists that are to be signed.
struct Next<'a> {
    issuer: &'a KnownAuthority,
    number: u64,
    replaces: Option<u64>,
    this_update: SystemTime,
    contents: Contents,
}

/// The next lists of an authority; none if those that it has are as good.
async fn next<'a>(
    authority: &Authority,
    store: &Store,
    issuer: &'a KnownAuthority,
    this_update: SystemTime,
) -> Result<Option<Next<'a>>, CrlError> {
    let (before, contents) = match store.crl_contents(issuer.id.clone()).await? {
        None => (None, Contents::default()),
        Some((head, contents)) => (Some(head), Contents::read(&issuer.id, &contents)?),
    };
    // What ended before was in the list that was made then.
    let since = before.as_ref().map_or(this_update, |before| before.this_update.min(this_update));
    let revoked = match issuer.kind {
        AuthorityKind::Intermediate => store.revoked_certificates(issuer.id.clone(), since).await?,
        AuthorityKind::Root => revoked_authorities(authority, store, issuer, since).await?,
    };
    let number = next_number(before.as_ref(), this_update);
    let (contents, changed) = contents.next(revoked, since, number, this_update);
    let old = before.as_ref().is_none_or(|before| {
        before.this_update > this_update || before.this_update + REFRESHED <= this_update
    });
    let replaces = before.map(|before| before.number);
    Ok((changed || old).then_some(Next { issuer, number, replaces, this_update, contents }))
}

async fn issue(
    store: &Store,
    url: Option<&ListsUrl>,
    next: Next<'_>,
    signer: &CrlSigner,
) -> Result<(), CrlError> {
    let Next { issuer, number, replaces, this_update, contents } = next;
    let next_update = this_update + LIFE;
    let (_, certificate) = X509Certificate::from_der(&issuer.certificate).map_err(|_| unnamed(issuer))?;
    let key_identifier = key_identifier(&certificate).ok_or_else(|| unnamed(issuer))?;
    let named =
        Issuer { name: certificate.subject().as_raw(), key_identifier, algorithm: signer.algorithm() };
    let deltas = url.map(|url| url.delta(&issuer.id));
    let list = |base, entries: &[Line]| {
        let list = List { number, base, this_update, next_update, deltas: deltas.as_deref(), entries };
        encode::sign(named, &list, |content| signer.sign(content))
    };
    let (complete, delta) = (contents.complete(), contents.delta());
    let new = Crl {
        complete: list(None, &complete)?,
        delta: list(Some(contents.base()), &delta)?,
        contents: contents.write(&issuer.id)?,
        head: CrlHead { authority: issuer.id.clone(), number, this_update, next_update },
    };
    // Otherwise another replica leads, and was faster.
    if store.put_crl(new, replaces).await? {
        let (entries, changes) = (complete.len(), delta.len());
        tracing::info!(issuer = issuer.subject, number, entries, changes, "revocation list made");
    }
    Ok(())
}

/// Intermediates and cross certificates that a root signed, as far as they are revoked.
async fn revoked_authorities(
    authority: &Authority,
    store: &Store,
    root: &KnownAuthority,
    since: SystemTime,
) -> Result<Vec<Revoked>, CrlError> {
    let name = certificate_handle(&root.certificate)?.issuer_sha256;
    let hierarchy = authority.hierarchy();
    let (mut signed, mut listings) = (Vec::new(), Vec::new());
    for known in hierarchy.known().iter().filter(|known| known.not_after >= since && known.id != root.id) {
        for certificate in std::iter::once(&known.certificate).chain(&known.cross_certificate) {
            let handle = certificate_handle(certificate)?;
            if handle.issuer_sha256 == name {
                signed.push((known, handle.serial.clone()));
                listings.push(Listing {
                    id: known.id.clone(),
                    issuer_sha256: handle.issuer_sha256,
                    serial: handle.serial,
                    spki_sha256: handle.spki_sha256,
                });
            }
        }
    }
    let listed = store.revoked_authorities(listings).await?;
    let revoked = signed.into_iter().zip(listed).filter_map(|((known, serial), at)| {
        let compromised = known.distrusted_at.is_some();
        let reason = if compromised { Reason::CaCompromise } else { Reason::Unspecified };
        Some(Revoked { serial, at: at?, reason, ends: known.not_after })
    });
    let mut revoked: Vec<_> = revoked.collect();
    revoked.sort_by(|one, other| one.serial.cmp(&other.serial));
    Ok(revoked)
}

fn next_number(before: Option<&CrlHead>, this_update: SystemTime) -> u64 {
    let at = this_update.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    before.map_or(at, |before| at.max(before.number + 1))
}

fn key_identifier<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    })
}

fn unnamed(issuer: &KnownAuthority) -> CrlError {
    CrlError::Unnamed(issuer.id.clone())
}
