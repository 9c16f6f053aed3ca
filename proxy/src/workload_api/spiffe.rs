//! The SPIFFE Workload API: its calls, and what they answer about X.509-SVIDs.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use signet_proto::spiffe::TrustBundle;
use signet_proto::standard::spiffe::spiffe_workload_api_server::SpiffeWorkloadApi;
use signet_proto::standard::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

use super::board::Streaming;
use super::feed::{Feed, Material};
use super::{Asking, WorkloadApi, jwt};
use crate::identity::Lent;

/// So that nobody asks who does not know what it asks, such as a server that was made to fetch an address.
const SECURITY_HEADER: &str = "workload.spiffe.io";
const SVID: &str = "FetchX509SVID";
const BUNDLES: &str = "FetchX509Bundles";
const TOKEN: &str = "FetchJWTSVID";
const KEYS: &str = "FetchJWTBundles";
const VALIDATE: &str = "ValidateJWTSVID";

/// The service.
pub(super) struct Spiffe(pub(super) Arc<WorkloadApi>);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Spiffe {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let asking = self.admitted(SVID, request.metadata(), request.extensions())?;
        let standing = asking.svid().map_err(|status| self.0.refused(SVID, "denied", status))?;
        let streaming = self.0.begin(&asking, SVID)?;
        Ok(Response::new(messages(self.0.feed(Some(standing)), streaming, svids)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let asking = self.admitted(BUNDLES, request.metadata(), request.extensions())?;
        let streaming = self.0.begin(&asking, BUNDLES)?;
        Ok(Response::new(messages(self.0.feed(None), streaming, |material| Ok(bundles(material)))))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let asking = self.admitted(TOKEN, request.metadata(), request.extensions())?;
        let _place = self.0.place(&asking, TOKEN)?;
        self.0.answered(TOKEN, self.0.token(&asking, request.into_inner()).await)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let asking = self.admitted(KEYS, request.metadata(), request.extensions())?;
        let streaming = self.0.begin(&asking, KEYS)?;
        Ok(Response::new(messages(self.0.feed(None), streaming, |material| Ok(jwt::bundles(material)))))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.admitted(VALIDATE, request.metadata(), request.extensions())?;
        self.0.answered(VALIDATE, self.0.validated(request.get_ref()))
    }
}

impl Spiffe {
    /// Who asks, if it may. The header comes first: without it nobody learns whether it may.
    fn admitted(
        &self,
        method: &'static str,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Asking, Status> {
        if metadata.get(SECURITY_HEADER).is_none_or(|value| value != "true") {
            return Err(self.0.refused(method, "invalid", Status::invalid_argument(format!(
                "expected the metadata `{SECURITY_HEADER}: true`, as clients of the SPIFFE Workload API send it"
            ))));
        }
        self.0.admitted(method, extensions)
    }
}

/// A message for each state that `feed` shows; nothing is made before the one before it is taken.
fn messages<T: Send + 'static>(
    feed: Feed,
    streaming: Streaming,
    make: impl Fn(&Material) -> Result<T, Status> + Send + 'static,
) -> Messages<T> {
    Box::pin(stream::unfold(Some((feed, streaming, make)), |open| async {
        let (mut feed, streaming, make) = open?;
        match feed.next().await.and_then(|material| make(&material)) {
            Ok(message) => {
                streaming.updated();
                Some((Ok(message), Some((feed, streaming, make))))
            }
            Err(status) => Some((Err(status), None)),
        }
    }))
}

fn svids(material: &Material) -> Result<X509svidResponse, Status> {
    let (Some(lent), Some(own)) = (&material.lent, material.own_bundle()) else {
        return Err(Status::unavailable("no bundle of the own trust domain yet"));
    };
    let foreign = material.bundles.iter().filter(|bundle| *bundle.trust_domain() != material.domain);
    Ok(X509svidResponse {
        svids: vec![svid(lent, own)],
        crl: Vec::new(),
        federated_bundles: by_domain(foreign),
    })
}

fn svid(lent: &Lent, own: &TrustBundle) -> X509svid {
    let svid = lent.svid();
    X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain().iter().flat_map(|certificate| certificate.iter().copied()).collect(),
        x509_svid_key: lent.key().to_vec(),
        bundle: der(own),
        hint: String::new(),
    }
}

fn bundles(material: &Material) -> X509BundlesResponse {
    X509BundlesResponse { crl: Vec::new(), bundles: by_domain(material.bundles.iter()) }
}

fn by_domain<'a>(bundles: impl Iterator<Item = &'a TrustBundle>) -> HashMap<String, Vec<u8>> {
    bundles.map(|bundle| (format!("spiffe://{}", bundle.trust_domain()), der(bundle))).collect()
}

fn der(bundle: &TrustBundle) -> Vec<u8> {
    bundle.authorities().iter().flat_map(|authority| authority.iter().copied()).collect()
}
