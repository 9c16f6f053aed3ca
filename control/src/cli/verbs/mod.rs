//! The verbs, by what they are about.

pub(super) mod audit;
pub(super) mod authority;
pub(super) mod ca;
pub(super) mod documents;
pub(super) mod federation;
pub(super) mod freeze;
pub(super) mod identities;
pub(super) mod login;
pub(super) mod mesh;
pub(super) mod policy;
pub(super) mod requests;
pub(super) mod role;
pub(super) mod workload;

mod applied;
