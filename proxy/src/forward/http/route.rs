//! Where the requests of one caller's connection go: to one app, or each to an endpoint of a peer that is chosen for
//! it, and again for each time that it is sent.

use std::future::Future;
use std::sync::{Arc, LazyLock};

use signet_proto::spiffe::SpiffeId;
use signet_proto::traffic::{Budget, Retries, Timeouts};

use super::Pool;
use crate::balance::Turn;
use crate::forward::upstream::{Upstream, UpstreamError};

/// Where requests go.
pub trait Route: Send + Sync + 'static {
    /// What they are sent to.
    type Upstream: Upstream;
    /// What one request remembers.
    type Trip: Trip<Upstream = Self::Upstream>;

    /// A request begins.
    fn set_out(&self) -> impl Future<Output = Result<Self::Trip, UpstreamError>> + Send;
}

/// The way of one request, from its first try to its last.
pub trait Trip: Send + Sync {
    /// What it is sent to.
    type Upstream: Upstream;

    /// Whose connections are next. Without `again` it is an endpoint that was not tried, or none; with it, one that
    /// was if there is no other.
    ///
    /// # Errors
    /// When nobody can be called.
    fn next(&mut self, again: bool) -> Result<Option<Stop<Self::Upstream>>, UpstreamError>;

    /// Whom it is for, if that is a peer.
    fn callee(&self) -> Option<&SpiffeId>;

    /// Whom our app named, if that is a peer: a document may split its calls.
    fn named(&self) -> Option<&SpiffeId> {
        self.callee()
    }

    /// What is tried again.
    fn retries(&self) -> &Retries;

    /// How long its phases may take.
    fn timeouts(&self) -> Timeouts;

    /// Takes a retry from the budget, if there is one.
    fn grants_retry(&self) -> bool;

    /// An endpoint could not be connected; `last`: and no other is tried.
    fn unreached(&self, error: &UpstreamError, last: bool);
}

/// A place where a request is tried.
pub struct Stop<U: Upstream> {
    /// The connections to it.
    pub pool: Arc<Pool<U>>,
    /// The endpoint, if there are several.
    pub turn: Option<Turn>,
}

/// There is only one place to go.
pub struct Direct<U: Upstream>(pub Arc<Pool<U>>);

/// A trip there; whether it has been there.
pub struct DirectTrip<U: Upstream>(Arc<Pool<U>>, bool);

impl<U: Upstream> Route for Direct<U> {
    type Upstream = U;
    type Trip = DirectTrip<U>;

    async fn set_out(&self) -> Result<Self::Trip, UpstreamError> {
        Ok(DirectTrip(Arc::clone(&self.0), false))
    }
}

impl<U: Upstream> Trip for DirectTrip<U> {
    type Upstream = U;

    fn next(&mut self, again: bool) -> Result<Option<Stop<U>>, UpstreamError> {
        let been_there = std::mem::replace(&mut self.1, true);
        Ok((again || !been_there).then(|| Stop { pool: Arc::clone(&self.0), turn: None }))
    }

    fn callee(&self) -> Option<&SpiffeId> {
        None
    }

    fn retries(&self) -> &Retries {
        // What broke a fresh connection to the only app there is would break the next one, too.
        static NONE: LazyLock<Retries> = LazyLock::new(|| Retries {
            on: [].into(),
            budget: Budget { percent: 0, per_second: 0 },
            ..Retries::default()
        });
        &NONE
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts::default()
    }

    fn grants_retry(&self) -> bool {
        false
    }

    fn unreached(&self, _: &UpstreamError, _: bool) {}
}
