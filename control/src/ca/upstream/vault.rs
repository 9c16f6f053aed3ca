//! The part of Vault's HTTP API that a CA below it needs; OpenBao has the same. `POST /v1/MOUNT/root/sign-intermediate`, or
//! that of one issuer, and, unless a token is at hand, a login before it.
//!
//! A token, and what it is got with, is read for each request, sent to that host only, and in no log or error.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::config::{Proof, UpstreamConfig, everywhere};
use super::error::UpstreamError;
use crate::fetch::{self, Answer, FetchError, Fetcher, Url, roots};
use crate::visible;

/// For a login, and for a signature.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_CA_BYTES: u64 = 1024 * 1024;
const MAX_SECRET_BYTES: u64 = 16 * 1024;
/// Of what it says.
const TOLD: usize = 300;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// An agent may want to be sure that no browser was tricked into asking.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// One Vault.
#[derive(Debug)]
pub(super) struct Vault {
    config: UpstreamConfig,
}

/// What is to be signed. All that it says of itself stands in the request (`use_csr_values`).
#[derive(Serialize)]
struct SignIntermediate<'a> {
    csr: &'a str,
    common_name: &'a str,
    ttl: String,
    max_path_length: u8,
    use_csr_values: bool,
    exclude_cn_from_sans: bool,
    format: &'a str,
}

#[derive(Deserialize)]
struct Signed {
    data: SignedData,
}

#[derive(Deserialize)]
struct SignedData {
    certificate: String,
    issuing_ca: String,
}

#[derive(Serialize)]
struct AppRoleLogin<'a> {
    role_id: &'a str,
    secret_id: &'a str,
}

#[derive(Serialize)]
struct KubernetesLogin<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Deserialize)]
struct LoggedIn {
    auth: LoggedInAuth,
}

#[derive(Deserialize)]
struct LoggedInAuth {
    client_token: String,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

impl Vault {
    /// One that can be called, as far as its authorities can be read now.
    pub(super) async fn new(config: UpstreamConfig) -> Result<Self, UpstreamError> {
        let vault = Self { config };
        vault.fetcher().await?;
        Ok(vault)
    }

    /// Where it signs.
    pub(super) fn url(&self) -> &Url {
        &self.config.sign
    }

    /// A certificate for a request in PEM, and the one that signed it, DER. Nothing of them is checked here.
    pub(super) async fn sign(
        &self,
        csr: &str,
        subject: &str,
        ttl: Duration,
    ) -> Result<Vec<Vec<u8>>, UpstreamError> {
        let fetcher = self.fetcher().await?;
        let token = self.token(&fetcher).await?;
        let asked = SignIntermediate {
            csr,
            common_name: subject,
            ttl: format!("{}s", ttl.as_secs()),
            max_path_length: 0,
            use_csr_values: true,
            exclude_cn_from_sans: true,
            format: "pem",
        };
        let url = self.url();
        let signed: Signed = self.post(&fetcher, url, Some(&token), &asked, "signed certificate").await?;
        let certificate = |pem: &str, missing| {
            let mut read = CertificateDer::pem_slice_iter(pem.as_bytes());
            match (read.next(), read.next()) {
                (Some(Ok(one)), None) => Ok(one.to_vec()),
                _ => Err(UpstreamError::Answer { url: url.to_string(), missing }),
            }
        };
        let intermediate = certificate(&signed.data.certificate, "`certificate` in PEM")?;
        Ok(vec![intermediate, certificate(&signed.data.issuing_ca, "`issuing_ca` in PEM")?])
    }

    async fn token(&self, fetcher: &Fetcher) -> Result<HeaderValue, UpstreamError> {
        let token = match &self.config.proof {
            Proof::Token(path) => self.secret(path).await?,
            Proof::AppRole { login, role_id, secret_id_file } => {
                let secret_id = self.secret(secret_id_file).await?;
                self.log_in(fetcher, login, &AppRoleLogin { role_id, secret_id: &secret_id }).await?
            }
            Proof::Kubernetes { login, role, token_file } => {
                let jwt = self.secret(token_file).await?;
                self.log_in(fetcher, login, &KubernetesLogin { role, jwt: &jwt }).await?
            }
        };
        let mut value = HeaderValue::from_str(&token).map_err(|_| UpstreamError::Answer {
            url: self.url().to_string(),
            missing: "token that can be sent in a header",
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn log_in(
        &self,
        fetcher: &Fetcher,
        login: &Url,
        asked: &impl Serialize,
    ) -> Result<Zeroizing<String>, UpstreamError> {
        let logged: LoggedIn = self.post(fetcher, login, None, asked, "token of a login").await?;
        Ok(Zeroizing::new(logged.auth.client_token))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        fetcher: &Fetcher,
        url: &Url,
        token: Option<&HeaderValue>,
        asked: &impl Serialize,
        missing: &'static str,
    ) -> Result<T, UpstreamError> {
        let failed = |error| UpstreamError::Fetch { url: url.to_string(), error };
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        headers.extend(token.map(|token| (TOKEN, token.clone())));
        let namespace = self.config.namespace.as_deref().map(HeaderValue::from_str);
        headers.extend(namespace.and_then(Result::ok).map(|namespace| (NAMESPACE, namespace)));
        let json = serde_json::to_vec(asked)
            .map_err(|_| UpstreamError::Local("the request cannot be written".to_owned()))?;
        let json = Bytes::from_owner(Zeroizing::new(json));
        let answered = tokio::time::timeout(DEADLINE, fetcher.post(url, headers, json)).await;
        let Answer { status, body } = answered.unwrap_or(Err(FetchError::Deadline)).map_err(failed)?;
        if status != StatusCode::OK {
            return Err(UpstreamError::Refused { url: url.to_string(), status, told: told(&body) });
        }
        serde_json::from_slice(&body).map_err(|_| UpstreamError::Answer { url: url.to_string(), missing })
    }

    /// Anew for each request, so that what is renewed on disk counts.
    async fn fetcher(&self) -> Result<Fetcher, UpstreamError> {
        let roots = match &self.config.ca_file {
            Some(path) => {
                let pem = fetch::file(path, MAX_CA_BYTES).await.map_err(|error| self.failed(error))?;
                roots::of_pem(&pem)
                    .map_err(|error| self.failed(FetchError::File { path: path.clone(), error }))?
            }
            None => roots::of_system().unwrap_or_else(rustls::RootCertStore::empty),
        };
        let tls = roots::client(roots).map_err(|error| UpstreamError::Local(error.to_string()))?;
        Ok(Fetcher { tls, allowed: everywhere(), bearer_file: None })
    }

    async fn secret(&self, path: &Path) -> Result<Zeroizing<String>, UpstreamError> {
        let bytes =
            Zeroizing::new(fetch::file(path, MAX_SECRET_BYTES).await.map_err(|error| self.failed(error))?);
        match std::str::from_utf8(bytes.trim_ascii()) {
            Ok(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Zeroizing::new(text.to_owned()))
            }
            _ => {
                let error = std::io::Error::other("expected one line of text without spaces");
                Err(self.failed(FetchError::File { path: path.to_owned(), error }))
            }
        }
    }

    fn failed(&self, error: FetchError) -> UpstreamError {
        UpstreamError::Fetch { url: self.url().to_string(), error }
    }
}

/// What it says is wrong, for people: with a space before it, and not all of a long story.
fn told(body: &[u8]) -> String {
    let Ok(Errors { errors }) = serde_json::from_slice(body) else { return String::new() };
    let words = errors.join("; ");
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let text: String = visible::shown(&words).chars().take(TOLD).collect();
    if text.is_empty() { text } else { format!(" `{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_told_as_far_as_people_read() {
        assert_eq!(told(br#"{"errors":["Vault is sealed"]}"#), " `Vault is sealed`");
        let lines = br#"{"errors":["2 errors occurred:\n\t* a\n\t* b\u0007\n\n"]}"#;
        assert_eq!(told(lines), " `2 errors occurred: * a * b\\u{7}`");
        assert_eq!(told(br#"{"errors":[]}"#), "");
        assert_eq!(told(b"<html>"), "");
        let long = serde_json::json!({ "errors": ["x".repeat(5000)] }).to_string();
        assert_eq!(told(long.as_bytes()).len(), TOLD + 3);
    }
}
