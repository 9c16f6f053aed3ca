//! Who has which role on what.

use std::fmt;
use std::str::FromStr;

use signet_proto::spiffe::{SpiffeId, SpiffeIdError};

use super::Scope;

/// One subject has at most so many: each of its calls reads them all.
pub const MAX_PER_SUBJECT: usize = 64;

const UNIX: &str = "unix:uid=";

/// One role of one subject on one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Whose.
    pub subject: Subject,
    /// What it may do.
    pub role: Role,
    /// On what.
    pub scope: Scope,
}

impl Binding {
    /// Whether whoever has this has all that `other` gives, whoever has that.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        self.role.includes(other.role) && self.scope.covers(&other.scope)
    }
}

/// What a subject may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes.
    Operator,
    /// Reads and approves; changes nothing.
    Approver,
    /// All of that; also grants and withdraws roles, and rotates. An admin could become an approver any time:
    /// it is one.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Approver, Self::Admin];

    /// Whether this role may do all that `other` may.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        match self {
            Self::Viewer => other == Self::Viewer,
            Self::Operator => matches!(other, Self::Viewer | Self::Operator),
            Self::Approver => matches!(other, Self::Viewer | Self::Approver),
            Self::Admin => true,
        }
    }

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of the roles viewer, operator, approver, admin; found `{0}`")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// Who can have a role. Its text is the actor of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Whoever holds an SVID of this identity.
    Identity(SpiffeId),
    /// A user of control's machine, by the credentials of its socket.
    Unix(u32),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => fmt::Display::fmt(id, f),
            Self::Unix(uid) => write!(f, "{UNIX}{uid}"),
        }
    }
}

/// A text that names nobody who could have a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// Not a number of a user.
    #[error("expected `{UNIX}N` with the number of a user, as `id -u` prints it; found `{0}`")]
    Uid(String),
    /// Not a SPIFFE ID.
    #[error("expected a SPIFFE ID or `{UNIX}N`: {0}")]
    Id(#[from] SpiffeIdError),
}

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let Some(digits) = text.strip_prefix(UNIX) else {
            return Ok(Self::Identity(text.parse()?));
        };
        // One text for each user, so that equal users are equal rows: `+5` and `05` are none.
        let uid: Option<u32> = digits.parse().ok().filter(|uid: &u32| uid.to_string() == digits);
        uid.map(Self::Unix).ok_or_else(|| SubjectError::Uid(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_have_one_text_each() {
        for text in ["spiffe://td/people/ada", "unix:uid=0", "unix:uid=4294967295"] {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for text in [
            "unix:uid=",
            "unix:uid=05",
            "unix:uid=+5",
            "unix:uid=-1",
            "unix:uid=4294967296",
            "unix:gid=1",
            "",
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }

    #[test]
    fn approver_stands_beside_operator_and_admin_above_all() {
        let below =
            |role: Role| Role::ALL.into_iter().filter(|other| role.includes(*other)).collect::<Vec<_>>();
        assert_eq!(below(Role::Viewer), [Role::Viewer]);
        assert_eq!(below(Role::Operator), [Role::Viewer, Role::Operator]);
        assert_eq!(below(Role::Approver), [Role::Viewer, Role::Approver]);
        assert_eq!(below(Role::Admin), Role::ALL);
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().unwrap_err().to_string().contains("approver"));
    }
}
