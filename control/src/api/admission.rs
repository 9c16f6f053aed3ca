//! In front of every call: who may make it at all, decided before a byte of its message is read. Whoever has
//! proven nothing must not make us hold messages.
//!
//! The calls ask the [`Gate`] again, for themselves: this is about memory, that about rights.
//!
//! Each call gets a name here: it is in its log lines, in what the audit says about it, and in the header
//! `x-request-id` of its answer. Whoever is denied is noted here, too, wherever that was decided.

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::{Extensions, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use super::caller::{self, Caller, Gate};
use super::refusals::{ADMIN, RENEW};
use crate::audit::RequestId;

/// The header that names a call in its answer.
pub(crate) const REQUEST_ID: &str = "x-request-id";
const ATTEST: &str = "/signet.v1.Identity/Attest";

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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that is ready goes with the call, a fresh one stays.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let gate = self.gate.clone();
        let id = RequestId::random();
        request.extensions_mut().insert(id);
        let span = tracing::info_span!("call", request_id = %id);
        let call = async move {
            let noted = noted(&request);
            let mut response = match admit(&gate, request.uri().path(), request.extensions()).await {
                Ok(()) => inner.call(request).await?,
                Err(status) => status.into_http(),
            };
            if let Ok(name) = HeaderValue::from_str(&id.to_string()) {
                response.headers_mut().insert(REQUEST_ID, name);
            }
            if let Some((caller, path)) = noted
                && let Some(status) = Status::from_header_map(response.headers())
            {
                gate.refusals().call(&caller, &path, &status, id).await;
            }
            Ok(response)
        };
        Box::pin(call.instrument(span))
    }
}

/// Who asks for what, if a refusal of it is for the audit.
fn noted(request: &Request<Body>) -> Option<(Caller, String)> {
    let path = request.uri().path();
    let noted = path == RENEW || path.starts_with(ADMIN);
    noted.then(|| request.extensions().get::<Caller>().cloned().zip(Some(path.to_owned()))).flatten()
}

async fn admit(gate: &Gate, path: &str, extensions: &Extensions) -> Result<(), Status> {
    caller::caller(extensions)?.asked.set();
    if path == ATTEST {
        Ok(())
    } else if path.starts_with(ADMIN) {
        gate.operator(extensions).await.map(drop)
    } else {
        gate.member(extensions).await.map(drop)
    }
}
