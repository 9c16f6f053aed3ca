//! In front of every call: who may make it at all, decided before a byte of its message is read. Whoever has
//! proven nothing must not make us hold messages.
//!
//! The calls ask the [`Gate`] again, for themselves: this is about memory, that about rights.

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Extensions, Status};
use tower::{Layer, Service};

use super::caller::{self, Gate};

/// For whoever has no SVID yet.
const JOINING: [&str; 2] = ["/signet.v1.Identity/Attest", "/signet.v1.Identity/Challenge"];
const ADMIN: &str = "/signet.v1.Admin/";

/// Puts [`Admitted`] in front of a service.
#[derive(Clone)]
pub(super) struct Admission {
    gate: Gate,
}

/// A service that only those reach who may.
#[derive(Clone)]
pub(super) struct Admitted<S> {
    gate: Gate,
    inner: S,
}

impl Admission {
    pub(super) fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { gate: self.gate.clone(), inner }
    }
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready goes with the call, a fresh one stays.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let gate = self.gate.clone();
        Box::pin(async move {
            match admit(&gate, request.uri().path(), request.extensions()).await {
                Ok(()) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

async fn admit(gate: &Gate, path: &str, extensions: &Extensions) -> Result<(), Status> {
    caller::caller(extensions)?.asked.set();
    if JOINING.contains(&path) {
        Ok(())
    } else if path.starts_with(ADMIN) {
        gate.operator(extensions).await.map(drop)
    } else {
        gate.member(extensions).await.map(drop)
    }
}
