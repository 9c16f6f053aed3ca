//! The SPIFFE Workload API's profile of JWT-SVIDs: tokens for an audience, the keys that others' tokens are checked with,
//! and the check itself, for apps that have no library for it.

use std::collections::HashMap;

use prost_types::value::Kind;
use prost_types::{ListValue, NullValue, Struct, Value};
use signet_proto::spiffe::{CertificateHandle, JwtSvid, SpiffeId, TrustBundle};
use signet_proto::standard::spiffe::{
    JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse,
};
use tonic::{Code, Status};

use super::feed::Material;
use super::{Asking, WorkloadApi};
use crate::control::ControlError;
use crate::identity::{Holder, IdentityError};

/// As control bounds them.
const MOST_AUDIENCES: usize = 8;
const LONGEST_AUDIENCE: usize = 255;

impl WorkloadApi {
    /// A token of the caller's instance, as soon as that has an SVID.
    pub(super) async fn token(
        &self,
        asking: &Asking,
        request: JwtsvidRequest,
    ) -> Result<JwtsvidResponse, Status> {
        let JwtsvidRequest { audience, spiffe_id } = request;
        require_audience(&audience)?;
        let wanted = match spiffe_id.as_str() {
            "" => None,
            text => {
                let malformed = |error| Status::invalid_argument(format!("spiffe_id: {error}"));
                Some(text.parse::<SpiffeId>().map_err(malformed)?)
            }
        };
        let material = self.feed(Some(asking.svid()?)).next().await?;
        let Some(lent) = material.lent.clone() else {
            return Err(Status::unavailable("no SVID for the app yet"));
        };
        if let Some(other) = wanted.filter(|wanted| wanted != lent.svid().id()) {
            return Err(Status::permission_denied(format!("this process is not `{other}`")));
        }
        let kept = asking.tokens()?.of(audience);
        let jwt = kept.token(&Holder::App(lent)).await.map_err(|error| refused(&error))?;
        let svid =
            Jwtsvid { spiffe_id: jwt.id().to_string(), svid: jwt.token().to_owned(), hint: String::new() };
        Ok(JwtsvidResponse { svids: vec![svid] })
    }

    /// Whether a token that the caller got is for it, and whom it names.
    pub(super) fn validated(
        &self,
        request: &ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let ValidateJwtsvidRequest { audience, svid } = request;
        if audience.is_empty() || svid.is_empty() {
            return Err(Status::invalid_argument("expected `audience`, who asks, and `svid`, the token"));
        }
        let (_, trust) =
            self.mesh.credentials().ok_or_else(|| Status::unavailable("the proxy has no identity yet"))?;
        let keys = |domain: &_| trust.bundle(domain).map(TrustBundle::jwt_authorities);
        let believed = JwtSvid::verify(svid, audience, keys, signet_proto::clock::now())
            .map_err(|error| Status::invalid_argument(format!("the token is not believed: {error}")))?;
        let nothing = std::iter::empty::<&CertificateHandle>();
        if let Some(because) = trust.revocations().matching(&believed.id, None, nothing) {
            let text = format!("the token is not believed: {}", because.as_str());
            return Err(Status::invalid_argument(text));
        }
        let claims = believed.claims.into_iter().map(|(name, value)| (name, message(value))).collect();
        Ok(ValidateJwtsvidResponse {
            spiffe_id: believed.id.to_string(),
            claims: Some(Struct { fields: claims }),
        })
    }
}

/// The keys of all trust domains.
pub(super) fn bundles(material: &Material) -> JwtBundlesResponse {
    let keys = |bundle: &TrustBundle| {
        (format!("spiffe://{}", bundle.trust_domain()), bundle.jwt_authorities().to_jwks().into_bytes())
    };
    JwtBundlesResponse { bundles: material.bundles.iter().map(keys).collect::<HashMap<_, _>>() }
}

fn require_audience(audience: &[String]) -> Result<(), Status> {
    let good = |name: &String| {
        (1..=LONGEST_AUDIENCE).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if (1..=MOST_AUDIENCES).contains(&audience.len()) && audience.iter().all(good) {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "expected `audience`: 1 to 8 names of 1 to 255 bytes each, printable ASCII without spaces",
    ))
}

/// In the words of the standard: what somebody decided is PERMISSION_DENIED, all else may be better later.
fn refused(error: &IdentityError) -> Status {
    let text = format!("no token: {error}");
    match error {
        IdentityError::Control(ControlError::Refused { code: Code::InvalidArgument, .. }) => {
            Status::invalid_argument(text)
        }
        error if error.is_final() => Status::permission_denied(text),
        _ => Status::unavailable(text),
    }
}

fn message(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(NullValue::NullValue.into()),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        serde_json::Value::String(value) => Kind::StringValue(value),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(message).collect() })
        }
        serde_json::Value::Object(members) => {
            let fields = members.into_iter().map(|(name, value)| (name, message(value))).collect();
            Kind::StructValue(Struct { fields })
        }
    };
    Value { kind: Some(kind) }
}
