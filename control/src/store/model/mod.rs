//! The store's vocabulary: what goes in and what comes out, free of any engine's types.

mod authority;
mod crl;
mod federation;
mod issued;
mod jwt;
mod listed;
mod mesh;
mod registered;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use signet_proto::spiffe::SpiffeId;

use crate::audit::RequestId;
use crate::roles::Binding;

pub use authority::*;
pub use crl::*;
pub use federation::*;
pub use issued::*;
pub use jwt::*;
pub use listed::*;
pub use mesh::*;
pub use registered::*;

/// Who makes a change, as the audit names it: `unix:uid=0`, a SPIFFE ID, or `control` itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    name: Arc<str>,
    request_id: Option<RequestId>,
    roles: Option<Arc<[Binding]>>,
}

impl Actor {
    /// Control's own duties.
    #[must_use]
    pub fn control() -> Self {
        Self::named("control")
    }

    /// A local user, by the credentials of its socket.
    #[must_use]
    pub fn unix(uid: u32) -> Self {
        Self::named(format!("unix:uid={uid}"))
    }

    /// A verified identity.
    #[must_use]
    pub fn identity(id: &SpiffeId) -> Self {
        Self::named(id.as_str())
    }

    /// Someone not yet identified, at this address.
    #[must_use]
    pub fn anonymous(address: IpAddr) -> Self {
        Self::named(format!("anonymous@{address}"))
    }

    fn named(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), request_id: None, roles: None }
    }

    /// The same, in a call: what it does there is recorded with the call's name.
    #[must_use]
    pub fn in_call(self, request_id: Option<RequestId>) -> Self {
        Self { request_id, ..self }
    }

    /// The same, who may only as long as these stored roles are theirs: asked again in the commit.
    #[must_use]
    pub fn by_roles(self, roles: impl Into<Arc<[Binding]>>) -> Self {
        Self { roles: Some(roles.into()), ..self }
    }

    /// The stored roles by which it may, if it is by those.
    #[must_use]
    pub fn roles(&self) -> Option<&[Binding]> {
        self.roles.as_deref()
    }

    /// The call, if it is one.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        self.request_id
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A committed change of what proxies see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Its place in the total order.
    pub revision: u64,
    /// When.
    pub at: SystemTime,
}

/// A committed change, told to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The revision it became, or the newest one if it changed nothing.
    pub commit: Commit,
    /// What it touched, one line each.
    pub effects: Vec<String>,
}

/// Numbers for `signet status` and the metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Registered and not retired.
    pub workloads: u64,
    /// Newest SVIDs, not revoked, that have not ended.
    pub live_svids: u64,
}
