//! Proof by a JSON Web Token: an issuer that the operator trusts (a cluster, a CI system, a cloud) says who the
//! bearer is. What it says becomes selectors.
//!
//! The way of a token: its form and header ([`signet_proto::jose`]), the issuer's key, the signature, then its
//! claims, then selectors. Nothing of it is believed before the signature; what is verified are the bytes that
//! are parsed. Whoever sent it hears one answer, whatever was wrong: [`JwtError`] is for log, metrics and audit.
//!
//! Selectors are the attestor's name alone, and `NAME:KEY:VALUE` with these KEYs (those in brackets when the claim
//! is there):
//!
//! | profile | KEY: claim |
//! | --- | --- |
//! | `kubernetes` | `namespace` `serviceaccount` `serviceaccount_uid` [`pod` `pod_uid` `node` `node_uid`]: below `kubernetes.io` |
//! | `github` | `repository` `repository_id` `repository_owner` `ref` [`workflow` `environment` `job_workflow_ref` `event_name` `runner_environment`] |
//! | `gitlab` | `project_path` `namespace_path` `ref` `ref_type` [`ref_protected` `environment` `pipeline_source`] |
//! | `google` | `sub` [`email` if `email_verified`; `project_id` `project_number` `zone` `instance_name`: of `google.compute_engine`] |
//! | `azure` | `tid` `oid` [`appid`: `appid` or `azp`; `xms_mirid`] |
//! | `generic` | none |
//!
//! `claims` adds others to any profile. Strings are taken as they are, booleans and whole numbers as JSON writes
//! them; a list gives a selector for each of its values. A value that cannot be one refuses the token: with one
//! fact left out, another entry might match.
//!
//! A token proves the same to whoever holds it, for as long as it lives: ask issuers for short ones, with an
//! audience of this mesh's own. A job's token (`github`, `gitlab`) is good with the key that it was used with first
//! ([`Reuse`]); others are files that a restarted proxy reads again, and so with any.

mod claims;
mod config;
mod error;
mod keys;
mod profile;
mod source;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use signet_proto::jose::Token;
use tokio_util::sync::CancellationToken;

use self::source::Source;
use super::proven::{ProofUse, Proven};
use crate::fetch::{Fetcher, roots};
use crate::telemetry::metrics;
use crate::{hex, time};

pub use config::{JwtConfig, KeyOrigin, Reuse};
pub use error::JwtError;
pub use profile::{ClaimPath, ClaimPathError, Profile};

/// Longest text of a claim that the audit keeps.
const MAX_EVIDENCE: usize = 256;

/// Why the attestors cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A file of the settings.
    #[error("attestors.{attestor}: {}: {error}", path.display())]
    File {
        /// Whose.
        attestor: String,
        /// Which file.
        path: PathBuf,
        /// What the system says, or what is wrong in it.
        error: io::Error,
    },
    /// Nobody to believe.
    #[error("attestors.{attestor}: this system has no certificate authorities: set `ca-file`")]
    NoRoots {
        /// Whose.
        attestor: String,
    },
    /// TLS.
    #[error("attestors.{attestor}: TLS cannot be set up: {error}")]
    Tls {
        /// Whose.
        attestor: String,
        /// Why.
        error: rustls::Error,
    },
}

/// All attestors that take tokens.
#[derive(Clone)]
pub struct JwtAttestors(Arc<BTreeMap<String, Attestor>>);

struct Attestor {
    config: JwtConfig,
    source: Source,
}

impl JwtAttestors {
    /// Reads the files that the settings name. Keys are fetched once [`Self::run`] runs: an issuer that is down
    /// does not keep control from starting.
    ///
    /// # Errors
    /// When certificate authorities cannot be read.
    pub fn start(configs: impl IntoIterator<Item = (String, JwtConfig)>) -> Result<Self, StartError> {
        let attestor = |(name, config): (String, JwtConfig)| {
            let tls = tls(&name, &config)?;
            let source = Source::new(&name, &config, || Fetcher {
                tls,
                allowed: config.allow_addresses.clone(),
                bearer_file: config.bearer_file.clone(),
            });
            Ok((name, Attestor { config, source }))
        };
        configs.into_iter().map(attestor).collect::<Result<_, _>>().map(|all| Self(Arc::new(all)))
    }

    /// Keeps the keys of all issuers fresh until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        futures_util::future::join_all(self.0.values().map(|attestor| attestor.source.run(&stop))).await;
    }

    /// What a token proves. May wait some seconds for the issuer's keys.
    ///
    /// # Errors
    /// Why it proves nothing: not for whoever sent it.
    pub async fn verify(&self, attestor: &str, token: &str) -> Result<Proven, JwtError> {
        let verified = self.verify_at(attestor, token, time::now()).await;
        metrics::token_checked(verified.as_ref().map_or_else(JwtError::reason, |_| "believed"));
        verified
    }

    async fn verify_at(&self, name: &str, text: &str, now: SystemTime) -> Result<Proven, JwtError> {
        let attestor = self.0.get(name).ok_or(JwtError::AttestorUnknown)?;
        let token = Token::parse(text)?;
        if !attestor.config.algorithms.contains(&token.algorithm()) {
            return Err(JwtError::Algorithm(token.algorithm()));
        }
        let claims = attestor.source.verify(&token).await?;
        let ends = claims::check(&attestor.config, &claims, now)?;
        let config = &attestor.config;
        let selectors = profile::selectors(name, config.profile, &config.claims, &claims)?;
        let evidence = evidence(&token, text, &claims, ends);
        let proof = ProofUse { sha256: crate::sha256(token.signed()), ends: ends + config.leeway };
        let one_key = config.reuse == Reuse::SameKey;
        Ok(Proven { attestor: name.to_owned(), selectors, evidence, proof, one_key })
    }
}

/// Enough to find the token at its issuer; not the token.
fn evidence(token: &Token<'_>, text: &str, claims: &Value, ends: SystemTime) -> Value {
    let claim = |name: &str| claims.get(name).and_then(Value::as_str).map(short);
    json!({
        "issuer": claim("iss"),
        "subject": claim("sub"),
        "token_id": claim("jti"),
        "token_sha256": hex::encode(&crate::sha256(text.as_bytes())),
        "key_id": token.key_id().map(short),
        "algorithm": token.algorithm().as_str(),
        "expires": time::rfc3339(ends),
    })
}

fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_EVIDENCE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

fn tls(attestor: &str, config: &JwtConfig) -> Result<Arc<ClientConfig>, StartError> {
    let roots = match &config.ca_file {
        Some(path) => {
            let wrong = |error| StartError::File { attestor: attestor.to_owned(), path: path.clone(), error };
            std::fs::read(path).and_then(|pem| roots::of_pem(&pem)).map_err(wrong)?
        }
        None if matches!(config.keys, KeyOrigin::File(_)) => RootCertStore::empty(),
        None => roots::of_system().ok_or_else(|| StartError::NoRoots { attestor: attestor.to_owned() })?,
    };
    roots::client(roots).map_err(|error| StartError::Tls { attestor: attestor.to_owned(), error })
}

#[cfg(test)]
mod tests;
