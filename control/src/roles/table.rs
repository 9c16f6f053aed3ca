//! What each call takes: the one table of rights.
//!
//! The match has no catch-all: a call that is added to the service definition does not compile before it is
//! decided on here. The table of control's README is this one, and a test keeps it so.

use signet_proto::verbs::Verb;

use super::Role;

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Whoever has proven nothing yet: the call itself is the proof.
    Stranger,
    /// An attested instance, for itself. A role does not help.
    Member,
    /// Whoever has this role, or one that includes it.
    Role(Role, Reach),
}

/// What of a binding's scope a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The scope covers all that the call names; one that names nothing is about everything.
    Named,
    /// The answer holds what the scopes cover, and no more. If it names something, as [`Self::Named`].
    Visible,
    /// Only a role on everything counts: it is about the mesh as a whole.
    Mesh,
}

/// What `verb` takes.
#[must_use]
pub fn needs(verb: Verb) -> Needs {
    use Reach::{Mesh, Named, Visible};
    match verb {
        Verb::IdentityAttest | Verb::IdentityChallenge => Needs::Stranger,
        Verb::IdentityRenew
        | Verb::IdentityIssueToken
        | Verb::MeshWatch
        | Verb::MeshLeave
        | Verb::ReportReport
        | Verb::ReportReportSightings => Needs::Member,

        Verb::AdminStatus
        | Verb::AdminGetBundle
        | Verb::AdminListAuthorities
        | Verb::AdminListFederations
        | Verb::AdminGetAuditKey
        | Verb::AdminGetIntroduction
        | Verb::AdminListCheckpoints
        | Verb::AdminTailAudit => Needs::Role(Role::Viewer, Mesh),
        Verb::AdminListWorkloads
        | Verb::AdminListPolicies
        | Verb::AdminGetMesh
        | Verb::AdminExport
        | Verb::AdminListIdentities
        | Verb::AdminListCertificates
        | Verb::AdminListInstances
        | Verb::AdminListConnections
        | Verb::AdminListOutsiders
        | Verb::AdminFollowInventory
        | Verb::AdminListRoles
        | Verb::AdminListRequests
        | Verb::AdminListRestrictions
        | Verb::AdminAwaitApplied
        | Verb::AdminAwaitRotated => Needs::Role(Role::Viewer, Visible),
        Verb::AdminExplain | Verb::AdminListAudit => Needs::Role(Role::Viewer, Named),

        Verb::AdminCreateWorkload
        | Verb::AdminSetWorkloadStatus
        | Verb::AdminCreateToken
        | Verb::AdminApply
        | Verb::AdminApplyPolicy
        | Verb::AdminDeletePolicy
        | Verb::AdminRevoke
        | Verb::AdminRotate
        | Verb::AdminFreeze
        | Verb::AdminUnfreeze => Needs::Role(Role::Operator, Named),

        Verb::AdminApproveRequest | Verb::AdminDenyRequest => Needs::Role(Role::Approver, Named),

        Verb::AdminGrantRole | Verb::AdminWithdrawRole | Verb::AdminRequireApproval => {
            Needs::Role(Role::Admin, Named)
        }
        Verb::AdminDeleteMesh => Needs::Role(Role::Operator, Mesh),
        Verb::AdminRotateIntermediate
        | Verb::AdminPrepareAuthority
        | Verb::AdminActivateAuthority
        | Verb::AdminCompromisedAuthority
        | Verb::AdminRetireAuthority
        | Verb::AdminCreateFederation
        | Verb::AdminDeleteFederation
        | Verb::AdminRequestAuthority
        | Verb::AdminInstallAuthority
        | Verb::AdminRefreshFederation => Needs::Role(Role::Admin, Mesh),
    }
}
