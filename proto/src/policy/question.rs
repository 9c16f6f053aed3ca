//! A question about a hypothetical call, as people ask it, and its answer: the same for control's `signet explain`
//! and for the `/explain` of a proxy.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::PolicySet;
use super::decide::{HttpRequest, Layer, Request};
use super::document::Direction;
use crate::document::Excerpt;
use crate::settings::Settings;
use crate::spiffe::{SpiffeId, SpiffeIdError};

/// Most headers in one question.
const MAX_HEADERS: usize = 64;

/// The source of a call without TLS, of which nobody knows whose it is.
const PLAINTEXT: &str = "plaintext";

/// A question in text; what is empty was not asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked<'a> {
    /// Who calls; `plaintext`: somebody without TLS, and so without identity.
    pub source: &'a str,
    /// Who is called.
    pub destination: &'a str,
    /// The app's port.
    pub port: &'a str,
    /// The HTTP method; without method and path: bytes that are not HTTP.
    pub method: &'a str,
    /// The HTTP path; a query is cut off.
    pub path: &'a str,
    /// The host of the request.
    pub host: &'a str,
    /// Headers as `NAME: VALUE`.
    pub headers: Vec<&'a str>,
    /// The address of the caller.
    pub address: &'a str,
}

/// A question about one connection or request.
#[derive(Debug, Clone)]
pub struct Question {
    source: Option<SpiffeId>,
    destination: SpiffeId,
    port: u16,
    address: Option<IpAddr>,
    http: Option<Http>,
}

#[derive(Debug, Clone)]
struct Http {
    method: String,
    path: String,
    host: Option<String>,
    headers: HeaderMap,
}

/// What a proxy would decide.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Answer {
    /// `inbound`: in front of the destination; `egress`: beside the source.
    pub direction: &'static str,
    /// Whether it would pass.
    pub allowed: bool,
    /// As in logs and metrics; `path_refused` for a path that gets 400, `plaintext_refused` for a port that takes none.
    pub reason: &'static str,
    /// The document that decides; empty: none does.
    pub policy: String,
    /// The rule that decides; empty: none does.
    pub rule: String,
    /// In words.
    pub explanation: String,
}

/// Why a question cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// An ID does not parse.
    #[error("{field}: {error}")]
    Id {
        /// Source or destination.
        field: &'static str,
        /// What is wrong with it.
        error: SpiffeIdError,
    },
    /// No port, or none that there is.
    #[error("port: expected 1 to 65535, found \"{0}\"")]
    Port(String),
    /// Half an HTTP question.
    #[error("method and path go together: expected both, or neither for an opaque connection")]
    HalfHttp,
    /// HTTP without a request.
    #[error("{0} is of an HTTP request: expected method and path, too")]
    OnlyHttp(&'static str),
    /// No header.
    #[error("header: expected `NAME: VALUE`, found \"{0}\"")]
    Header(String),
    /// More headers than one request has.
    #[error("header: expected at most {MAX_HEADERS}")]
    TooManyHeaders,
    /// No address.
    #[error("address: expected an IP address, found \"{0}\"")]
    Address(String),
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(asked: &Asked<'_>) -> Result<Self, QuestionError> {
        use QuestionError as E;
        let id = |field, text: &str| text.parse().map_err(|error| E::Id { field, error });
        let excerpt = |text: &str| Excerpt(text).to_string();
        let Asked { source, destination, port, method, path, host, headers, address } = asked;
        let http = match (method.is_empty(), path.is_empty()) {
            (true, true) if !host.is_empty() => return Err(E::OnlyHttp("host")),
            (true, true) if !headers.is_empty() => return Err(E::OnlyHttp("header")),
            (true, true) => None,
            (false, false) => Some(Http {
                method: (*method).to_owned(),
                path: path.split_once('?').map_or(*path, |(path, _)| path).to_owned(),
                host: (!host.is_empty()).then(|| (*host).to_owned()),
                headers: read_headers(headers)?,
            }),
            _ => return Err(E::HalfHttp),
        };
        Ok(Self {
            source: (*source != PLAINTEXT).then(|| id("source", source)).transpose()?,
            destination: id("destination", destination)?,
            port: port.parse().ok().filter(|port| *port != 0).ok_or_else(|| E::Port(excerpt(port)))?,
            address: match *address {
                "" => None,
                text => Some(text.parse().map_err(|_| E::Address(excerpt(text)))?),
            },
            http,
        })
    }

    /// Who calls; `None`: somebody in plaintext.
    #[must_use]
    pub fn source(&self) -> Option<&SpiffeId> {
        self.source.as_ref()
    }

    /// Who is called.
    #[must_use]
    pub fn destination(&self) -> &SpiffeId {
        &self.destination
    }

    /// What the proxy on that side would decide, and why.
    #[must_use]
    pub fn answer(
        &self,
        direction: Direction,
        policies: &PolicySet,
        settings: &Settings,
        now: SystemTime,
    ) -> Answer {
        let Self { source, destination, port, address, http } = self;
        let whom = match (direction, source) {
            (Direction::Egress, Some(source)) => source,
            _ => destination,
        };
        let undecided = |reason, explanation| Answer {
            direction: direction.as_str(),
            allowed: false,
            reason,
            policy: String::new(),
            rule: String::new(),
            explanation,
        };
        if source.is_none() && !settings.accepts_plaintext(destination, *port, now) {
            let why = format!(
                "Denied: port {port} of {destination} takes no plaintext: a caller proves who it is by mutual TLS, unless the document of `kind: Mesh` is permissive there."
            );
            return undecided("plaintext_refused", why);
        }
        let ask = |layer| {
            let request = Request {
                direction,
                source: source.as_ref(),
                destination,
                port: Some(*port),
                address: *address,
                layer,
                now,
            };
            let (verdict, explanation) = match source {
                Some(_) => {
                    let explanation = policies.explain(&request);
                    let text = explanation.to_string();
                    (explanation.verdict, text)
                }
                None => (policies.decide_plaintext(&request), policies.explain_plaintext(&request)),
            };
            let name = |name: Option<Arc<str>>| name.as_deref().map(str::to_owned).unwrap_or_default();
            Answer {
                direction: direction.as_str(),
                allowed: verdict.allowed,
                reason: verdict.reason.as_str(),
                policy: name(verdict.policy),
                rule: name(verdict.rule),
                explanation,
            }
        };
        let Some(Http { method, path, host, headers }) = http else { return ask(Layer::Opaque) };
        match policies.path(direction, whom, path) {
            Ok(path) => ask(Layer::Http(HttpRequest::new(method, &path, host.as_deref(), headers))),
            Err(refused) => {
                let why = format!("Refused: \"{}\" is answered with 400, as {refused}.", Excerpt(path));
                undecided("path_refused", why)
            }
        }
    }
}

fn read_headers(texts: &[&str]) -> Result<HeaderMap, QuestionError> {
    if texts.len() > MAX_HEADERS {
        return Err(QuestionError::TooManyHeaders);
    }
    let mut headers = HeaderMap::new();
    for text in texts {
        let field = text.split_once(':').and_then(|(name, value)| {
            Some((HeaderName::try_from(name.trim()).ok()?, HeaderValue::try_from(value.trim()).ok()?))
        });
        let (name, value) = field.ok_or_else(|| QuestionError::Header(Excerpt(text).to_string()))?;
        headers.append(name, value);
    }
    Ok(headers)
}
