//! For systems outside of the mesh that take bearer tokens: who signs JWT-SVIDs, and the keys to check them with (OpenID
//! Connect Discovery 1.0 section 4). Without `--oidc-issuer` nothing is there: tokens name no issuer.
//!
//! A key is published for longer than readers may keep what they read before it signs anything.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;

use crate::ca::Authority;

const KEYS: &str = "/keys";

/// What is told.
#[derive(Clone)]
struct Told {
    authority: Arc<Authority>,
    /// The discovery document: it never changes.
    document: Arc<str>,
}

/// The two documents of `issuer`, each also below the path that its URL may have: whatever stands in front of control
/// can pass requests on as they are.
pub(super) fn routes(authority: Arc<Authority>, issuer: Option<&str>) -> Router {
    let Some(issuer) = issuer else { return Router::new() };
    let document = json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}{KEYS}"),
        // Nobody logs in here; the standard wants the member.
        "authorization_endpoint": "",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    let told = Told { authority, document: document.to_string().into() };
    let path = issuer.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
    let documents = Router::new()
        .route("/.well-known/openid-configuration", get(configuration))
        .route(KEYS, get(keys))
        .with_state(told);
    match path {
        None => documents,
        Some(path) => documents.clone().nest(&format!("/{path}"), documents),
    }
}

async fn configuration(State(told): State<Told>) -> impl IntoResponse {
    answer(&told.authority, told.document.to_string())
}

async fn keys(State(told): State<Told>) -> impl IntoResponse {
    answer(&told.authority, told.authority.bundle().jwt_authorities().to_oidc_jwks())
}

fn answer(authority: &Authority, document: String) -> impl IntoResponse + use<> {
    let kept = format!("public, max-age={}", authority.jwt_keys_cached().as_secs());
    ([(CONTENT_TYPE, "application/json".to_owned()), (CACHE_CONTROL, kept)], document)
}
