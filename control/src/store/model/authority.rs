//! Authorities, and where each is in its life.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use signet_proto::spiffe::{InstanceId, SpiffeId, TrustBundle};

use crate::{duration, time};

/// The two steps of the hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthorityKind {
    /// The trust anchor.
    Root,
    /// What signs leaves.
    Intermediate,
}

impl AuthorityKind {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        }
    }
}

impl fmt::Display for AuthorityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Neither `root` nor `intermediate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `root` or `intermediate`")]
pub struct NoAuthorityKind;

impl FromStr for AuthorityKind {
    type Err = NoAuthorityKind;

    fn from_str(text: &str) -> Result<Self, NoAuthorityKind> {
        match text {
            "root" => Ok(Self::Root),
            "intermediate" => Ok(Self::Intermediate),
            _ => Err(NoAuthorityKind),
        }
    }
}

/// Where an authority is in its life: each step is one commit, and only forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Made; a root is in the trust bundle already. It signs nothing yet.
    Prepared,
    /// It signs.
    Active,
    /// It signs revocation lists only. What it signed is believed.
    Retiring,
    /// Nothing live chained to it any more, nobody is believed by it, and its key is erased.
    Removed,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Prepared, Self::Active, Self::Retiring, Self::Removed];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the key of an authority is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptKey {
    /// Here, sealed.
    Sealed(Vec<u8>),
    /// In a token, by this name (RFC 7512).
    Token(String),
    /// Where control cannot use it.
    Elsewhere,
}

/// A new authority with its key.
#[derive(Debug, Clone)]
pub struct AuthorityRecord {
    /// Its id, unique for ever.
    pub id: String,
    /// Root or intermediate.
    pub kind: AuthorityKind,
    /// The replica that signs with it. Empty: any that has none of its own; and a root.
    pub replica: String,
    /// The root that signed it; a root has none.
    pub issuer: Option<String>,
    /// Common name.
    pub subject: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: KeptKey,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

/// An authority as it is known to all, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAuthority {
    /// Its id.
    pub id: String,
    /// Root or intermediate.
    pub kind: AuthorityKind,
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when.
    pub phase_at: SystemTime,
    /// The replica that signs with it. Empty: any that has none of its own; and a root.
    pub replica: String,
    /// The root that signed it; a root has none.
    pub issuer: Option<String>,
    /// Common name.
    pub subject: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// Of a root: its key, certified by the root whose place it took.
    pub cross_certificate: Option<Vec<u8>>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// The revision with which it changed the trust bundle last.
    pub announced: u64,
    /// It is compromised: from then on nobody is believed by it.
    pub distrusted_at: Option<SystemTime>,
    /// Whether control can sign with it.
    pub has_key: bool,
}

impl KnownAuthority {
    /// Whether it is in the trust bundle.
    #[must_use]
    pub fn is_anchor(&self) -> bool {
        self.kind == AuthorityKind::Root && self.phase != Phase::Removed
    }
}

/// A root that takes the place of the active one, or an intermediate.
#[derive(Debug, Clone)]
pub struct Activation {
    /// Which is prepared.
    pub id: String,
    /// Which is active, and is to be replaced: a root always.
    pub replaces: Option<String>,
    /// It, and what is below it already, as they would be listed: none of them may be.
    pub listings: Vec<Listing>,
    /// Of a root: its key, certified by the root that it replaces, and the first intermediates below it.
    pub root: Option<(Option<Vec<u8>>, Below)>,
    /// Although proxies have not said that they know it.
    pub unacknowledged: bool,
}

/// The first intermediates below a root.
#[derive(Debug, Clone)]
pub enum Below {
    /// Made with it: one in the place of each that signs.
    New(Vec<AuthorityRecord>),
    /// One that was installed before, by its id.
    Prepared(String),
}

/// An intermediate that signs from now on.
#[derive(Debug, Clone)]
pub struct Replacement {
    /// Which.
    pub new: AuthorityRecord,
    /// In the place of this one of the same replica; none: it had none.
    pub replaces: Option<String>,
}

/// An intermediate that a root elsewhere is asked to certify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRequest {
    /// The id that it will have.
    pub id: String,
    /// Common name.
    pub subject: String,
    /// PKCS#10, for people.
    pub pem: String,
    /// PKCS#10.
    pub request: Vec<u8>,
    /// Its key.
    pub key: KeptKey,
}

/// An authority whose key somebody else may have.
#[derive(Debug, Clone)]
pub struct Compromise {
    /// Which.
    pub id: String,
    /// What takes its place, if that has to be made: for a root another one, prepared; for an intermediate another one
    /// that signs at once.
    pub successor: Option<AuthorityRecord>,
    /// For how long it is believed, so that everybody can renew.
    pub within: Duration,
    /// Why, for the audit.
    pub reason: String,
}

/// By what a certificate of an authority is known in revocations.
#[derive(Debug, Clone)]
pub struct Listing {
    /// Which authority.
    pub id: String,
    /// SHA-256 of its issuer's name, DER.
    pub issuer_sha256: [u8; 32],
    /// Its serial.
    pub serial: Vec<u8>,
    /// SHA-256 of its key.
    pub spki_sha256: [u8; 32],
}

/// The trust bundle of this mesh, as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleRead {
    /// Roots, DER, the oldest first.
    pub authorities: Vec<Vec<u8>>,
    /// Those that were removed last, DER, the oldest first.
    pub retired: Vec<Vec<u8>>,
    /// SHA-256 of the names of intermediates whose SVIDs are to be renewed at once.
    pub superseded: Vec<[u8; 32]>,
    /// The bundles of other trust domains that are believed.
    pub federated: Vec<TrustBundle>,
    /// Keys of JWT-SVIDs, as JWKs, the oldest first.
    pub jwt_authorities: Vec<String>,
    /// Grows with every change.
    pub sequence: u64,
}

/// A proxy that has not said that it has a revision in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Whose.
    pub id: SpiffeId,
    /// Which instance.
    pub instance: InstanceId,
    /// Whether it has a stream.
    pub connected: bool,
    /// When its SVID ends: from then on it is not waited for.
    pub until: SystemTime,
}

/// Those who have not acknowledged: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub some: Vec<Unacknowledged>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, proxy) in self.some.iter().enumerate() {
            let Unacknowledged { id, instance, connected, until } = proxy;
            let comma = if place == 0 { "" } else { ", " };
            let until = duration::rough(until.duration_since(time::now()).unwrap_or_default());
            match connected {
                true => write!(f, "{comma}{id} ({instance})")?,
                false => write!(f, "{comma}{id} ({instance}, not connected, its SVID ends in {until})")?,
            }
        }
        more(f, self.count, self.some.len())
    }
}

/// What is live and chains to an authority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chained {
    /// Certificates that have not ended, as far as they were counted.
    pub certificates: u64,
    /// Whether there are more than were counted.
    pub uncounted: bool,
    /// When the last of them ends.
    pub until: Option<SystemTime>,
    /// Identities of those that end last.
    pub some: Vec<String>,
    /// Join tickets that know control by it alone and are not spent, and when the last of them ends.
    pub tickets: u64,
    /// When the last of those tickets ends.
    pub tickets_until: Option<SystemTime>,
}

impl Chained {
    /// Whether there is anything.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.certificates == 0 && self.tickets == 0
    }
}

impl fmt::Display for Chained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = |until: Option<SystemTime>| {
            duration::rough(
                until.and_then(|until| until.duration_since(time::now()).ok()).unwrap_or_default(),
            )
        };
        if self.certificates > 0 {
            let plus = if self.uncounted { " or more" } else { "" };
            write!(
                f,
                "{}{plus} live certificates, the last of which ends in {}",
                self.certificates,
                ends(self.until)
            )?;
            write!(f, ": {}", self.some.join(", "))?;
        }
        if self.tickets > 0 {
            let and = if self.certificates > 0 { "; and " } else { "" };
            let ends = ends(self.tickets_until);
            write!(f, "{and}{} unspent join tickets, the last of which ends in {ends}", self.tickets)?;
        }
        Ok(())
    }
}

fn more(f: &mut fmt::Formatter<'_>, all: u64, told: usize) -> fmt::Result {
    match all.saturating_sub(told as u64) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}
