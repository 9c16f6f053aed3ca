//! In front of every call: who may make it at all, by the table of [`crate::roles`], decided before a byte of its
//! message is read. Whoever has proven nothing must not make us hold messages.
//!
//! The calls ask the [`Gate`] again, for themselves, once it is known what they are about: this is about memory,
//! that about rights. An operator's call that was answered without having been judged by what it is about is a
//! defect, and its answer does not leave.
//!
//! Each call gets a name here: it is in its log lines, in what the audit says about it, and in the header
//! `x-request-id` of its answer. Whoever is denied is noted here, too, wherever that was decided.

use std::pin::Pin;
use std::task::{Context, Poll};

use signet_proto::verbs::Verb;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::{Extensions, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use super::caller::{self, Caller, Gate};
use super::status::ToStatus;
use crate::audit::RequestId;
use crate::roles::{Judged, Needs, needs};

/// The header that names a call in its answer.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Which call a request is; in the extensions of those that were admitted.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) verb: Verb,
    /// Set when it was decided whether its caller may, on what it is about.
    pub(super) judged: Judged,
}

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
            let caller = request.extensions().get::<Caller>().cloned();
            let verb = Verb::from_path(request.uri().path());
            let mut response = answer(&gate, &mut inner, verb, request).await?;
            if let Ok(name) = HeaderValue::from_str(&id.to_string()) {
                response.headers_mut().insert(REQUEST_ID, name);
            }
            if let Some((caller, verb)) = caller.zip(verb)
                && let Some(status) = Status::from_header_map(response.headers())
            {
                gate.refusals().call(&caller, verb, &status, id).await;
            }
            Ok(response)
        };
        Box::pin(call.instrument(span))
    }
}

async fn answer<S>(
    gate: &Gate,
    inner: &mut S,
    verb: Option<Verb>,
    mut request: Request<Body>,
) -> Result<Response<Body>, S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    let judged = Judged::default();
    if let Some(verb) = verb {
        request.extensions_mut().insert(Call { verb, judged: judged.clone() });
    }
    if let Err(status) = admit(gate, verb, request.extensions()).await {
        return Ok(status.into_http());
    }
    let answer = inner.call(request).await?;
    let needs_judgement = verb.is_some_and(|verb| matches!(needs(verb), Needs::Role(..)));
    if needs_judgement && !judged.is_set() && !is_refusal(&answer) {
        tracing::error!(?verb, "answer held back: nobody judged whether its caller may have it");
        return Ok(Status::internal("this call was not judged: a defect of control").into_http());
    }
    Ok(answer)
}

async fn admit(gate: &Gate, verb: Option<Verb>, extensions: &Extensions) -> Result<(), Status> {
    caller::caller(extensions)?.asked.set();
    match verb.map(needs) {
        Some(Needs::Stranger) => Ok(()),
        // Whoever asks for what there is not is told so only as a member.
        Some(Needs::Member) | None => gate.member(extensions).await.map(drop),
        Some(Needs::Role(..)) => {
            gate.operator(extensions).await?.may_try().map_err(|refused| refused.to_status())
        }
    }
}

/// Answers that are not a message carry their status in front.
fn is_refusal(answer: &Response<Body>) -> bool {
    answer.headers().contains_key("grpc-status")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::convert::Infallible;
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use tokio::sync::watch;
    use tonic::Code;
    use tower::{ServiceExt, service_fn};

    use super::super::caller::{Caller, Peer};
    use super::super::connection::Asked;
    use super::*;
    use crate::publish::Publisher;
    use crate::store::Store;

    async fn gate() -> (tempfile::TempDir, Gate) {
        let directory = tempfile::tempdir().unwrap();
        let domain: signet_proto::spiffe::TrustDomain = "mesh.local".parse().unwrap();
        let store = Store::open(directory.path(), &domain).unwrap();
        let endpoints = Arc::new(crate::publish::Endpoints::restore(Vec::new(), std::time::Instant::now()));
        let publisher =
            Publisher::load(store.clone(), endpoints, Arc::default(), domain.clone()).await.unwrap();
        let state: watch::Receiver<_> = publisher.subscribe();
        (directory, Gate::new(store, state, domain, HashSet::from([0])))
    }

    fn request(path: &str, uid: u32) -> Request<Body> {
        let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let caller = Caller { peer: Peer::Local { uid }, address, asked: Asked::default() };
        Request::builder().uri(path).extension(caller).body(Body::empty()).unwrap()
    }

    async fn code<S>(admission: &Admission, service: S, request: Request<Body>) -> Code
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let answer = admission.layer(service).oneshot(request).await.unwrap();
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    }

    #[tokio::test]
    async fn answer_that_nobody_judged_does_not_leave() {
        let (_directory, gate) = gate().await;
        let admission = Admission::new(gate.clone());
        let forgetful = service_fn(|_| async { Ok(Response::new(Body::empty())) });
        let refusing = service_fn(|_| async { Ok(Status::not_found("no such thing").into_http()) });
        let judging = service_fn(move |request: Request<Body>| {
            let gate = gate.clone();
            async move {
                let operator = gate.operator(request.extensions()).await.unwrap();
                operator.on_everything().unwrap();
                Ok(Response::new(Body::empty()))
            }
        });
        for &verb in Verb::ALL.iter().filter(|&&verb| matches!(needs(verb), Needs::Role(..))) {
            let request = || request(verb.path(), 0);
            assert_eq!(code(&admission, forgetful, request()).await, Code::Internal, "{verb:?}");
            assert_eq!(code(&admission, refusing, request()).await, Code::NotFound, "{verb:?}");
            assert_eq!(code(&admission, judging.clone(), request()).await, Code::Ok, "{verb:?}");
            let nobody = self::request(verb.path(), 65_534);
            assert_eq!(code(&admission, forgetful, nobody).await, Code::PermissionDenied, "{verb:?}");
        }
    }

    #[tokio::test]
    async fn paths_of_no_call_reach_nothing_even_for_root() {
        let (_directory, gate) = gate().await;
        let admission = Admission::new(gate);
        let answering = service_fn(|_| async { Ok(Response::new(Body::empty())) });
        for path in ["/signet.v1.Admin/Nothing", "/signet.v1.Admin/status", "/signet.v1.Admin/Status/", "/"] {
            let code = code(&admission, answering, request(path, 0)).await;
            assert_eq!(code, Code::Unauthenticated, "{path}");
        }
    }
}
