//! What is asked of the admin listener, and by whom: read and bounded once, before any endpoint sees it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use super::reply::Refused;

/// Says that no web page sent the request: a page needs leave to send it, which nobody here gives.
pub const MARK: HeaderName = HeaderName::from_static("signet-admin");

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const LARGEST_BODY: usize = 64 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(10);
const MOST_PARAMETERS: usize = 32;

/// A request to an endpoint.
#[derive(Debug, Default)]
pub struct Ask {
    /// What stands in the path where the endpoint's path says `ID`.
    pub id: Option<String>,
    /// Whether JSON is wanted where there is something more readable.
    pub wants_json: bool,
    parameters: BTreeMap<String, Vec<String>>,
    body: Bytes,
}

impl Ask {
    /// Reads a request of this machine; `id` is of its path.
    pub(super) async fn read(
        request: Request<Incoming>,
        id: Option<String>,
        over_tcp: bool,
    ) -> Result<Self, Refused> {
        let headers = request.headers();
        of_this_machine(headers, request.uri().authority(), over_tcp)?;
        if request.method() != Method::GET {
            marked(headers)?;
        }
        let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let wants_json = accepts.contains("application/json");
        let parameters = parameters(request.uri().query().unwrap_or_default())?;
        let body = Limited::new(request.into_body(), LARGEST_BODY).collect();
        let body = tokio::time::timeout(BODY_DEADLINE, body)
            .await
            .map_err(|_| Refused::new(StatusCode::REQUEST_TIMEOUT, "the body of the request did not come"))?
            .map_err(|error| Refused::new(StatusCode::PAYLOAD_TOO_LARGE, error))?
            .to_bytes();
        Ok(Self { id, wants_json, parameters, body })
    }

    /// One with this query, for tests.
    #[cfg(test)]
    pub(super) fn of_query(query: &str) -> Result<Self, Refused> {
        Ok(Self { parameters: parameters(query)?, ..Self::default() })
    }

    /// Takes a parameter of the query.
    ///
    /// # Errors
    /// When it is not what it should be.
    pub fn take<T: FromStr<Err: Display>>(&mut self, name: &str) -> Result<Option<T>, Refused> {
        let mut values = self.take_all(name);
        let Some(value) = values.pop() else { return Ok(None) };
        if !values.is_empty() {
            return Err(Refused::bad(format!("`{name}` is given twice")));
        }
        value.parse().map(Some).map_err(|error| Refused::bad(format!("`{name}`: {error} (found `{value}`)")))
    }

    /// Takes a parameter of the query that may be given several times.
    #[must_use]
    pub fn take_all(&mut self, name: &str) -> Vec<String> {
        self.parameters.remove(name).unwrap_or_default()
    }

    /// Refuses parameters that nobody took: a filter that is misspelled would show too much.
    ///
    /// # Errors
    /// When there are some.
    pub fn nothing_else(&self, known: &str) -> Result<(), Refused> {
        match self.parameters.keys().next() {
            Some(name) => Err(Refused::bad(format!("`{name}` is no parameter here; expected {known}"))),
            None => Ok(()),
        }
    }

    /// The body, as JSON.
    ///
    /// # Errors
    /// When it is not what it should be.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        serde_json::from_slice(&self.body).map_err(|error| Refused::bad(format!("the body: {error}")))
    }
}

/// A page that had its name resolve to this machine still sends that name (DNS rebinding), and browsers say from
/// which page a request comes. No page has any business here.
fn of_this_machine(headers: &HeaderMap, target: Option<&Authority>, over_tcp: bool) -> Result<(), Refused> {
    let forbidden = |text: &str| Err(Refused::new(StatusCode::FORBIDDEN, text));
    if headers.contains_key(ORIGIN)
        || headers.get(FETCH_SITE).is_some_and(|site| site != "none" && site != "same-origin")
    {
        return forbidden("requests of web pages are refused");
    }
    if !over_tcp {
        return Ok(());
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return forbidden("expected one Host");
    };
    let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
    if host.as_ref().is_some_and(is_loopback) && target.is_none_or(is_loopback) {
        return Ok(());
    }
    forbidden("expected a Host of localhost or a loopback address")
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What forms and simple requests of a page cannot send (Fetch, "CORS-safelisted request-header").
fn marked(headers: &HeaderMap) -> Result<(), Refused> {
    let is_json = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"));
    if is_json || headers.contains_key(MARK) {
        return Ok(());
    }
    let text =
        "what changes anything needs the header `signet-admin: yes` or `content-type: application/json`";
    Err(Refused::new(StatusCode::FORBIDDEN, text))
}

fn parameters(query: &str) -> Result<BTreeMap<String, Vec<String>>, Refused> {
    let mut parameters = BTreeMap::<String, Vec<String>>::new();
    for (number, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?;
        if number == MOST_PARAMETERS {
            return Err(Refused::bad(format!("more than {MOST_PARAMETERS} parameters")));
        }
        parameters.entry(name).or_default().push(decoded(value)?);
    }
    Ok(parameters)
}

fn decoded(text: &str) -> Result<String, Refused> {
    let text = text.replace('+', " ");
    let decoded = percent_decode_str(&text).decode_utf8();
    decoded.map(Into::into).map_err(|_| Refused::bad("the query is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn only_this_machine_is_a_host() {
        for (host, fine) in [
            ("localhost", true),
            ("LOCALHOST:15021", true),
            ("127.0.0.1:15021", true),
            ("127.9.9.9", true),
            ("[::1]:15021", true),
            ("evil.example:15021", false),
            ("localhost.evil.example", false),
            ("10.0.0.1", false),
            ("localhost, evil.example", false),
            ("", false),
        ] {
            let asked = of_this_machine(&headers(&[(HOST, host)]), None, true);
            assert_eq!(asked.is_ok(), fine, "{host}");
        }
        assert!(of_this_machine(&headers(&[]), None, true).is_err());
        assert!(of_this_machine(&headers(&[]), None, false).is_ok());
        let elsewhere = Authority::from_static("evil.example");
        assert!(of_this_machine(&headers(&[(HOST, "localhost")]), Some(&elsewhere), true).is_err());
    }

    #[test]
    fn pages_are_refused_by_either_header() {
        for (name, value) in
            [(ORIGIN, "http://localhost:15021"), (ORIGIN, "null"), (FETCH_SITE, "cross-site")]
        {
            let asked = headers(&[(HOST, "localhost"), (name.clone(), value)]);
            for over_tcp in [true, false] {
                assert!(of_this_machine(&asked, None, over_tcp).is_err(), "{name}: {value}");
            }
        }
        assert!(of_this_machine(&headers(&[(HOST, "localhost"), (FETCH_SITE, "none")]), None, true).is_ok());
    }

    #[test]
    fn changes_need_what_a_form_cannot_send() {
        for (name, value, fine) in [
            (CONTENT_TYPE, "application/json; charset=utf-8", true),
            (MARK, "yes", true),
            (CONTENT_TYPE, "text/plain", false),
            (CONTENT_TYPE, "application/x-www-form-urlencoded", false),
            (CONTENT_TYPE, "text/plain; application/json", false),
        ] {
            assert_eq!(marked(&headers(&[(name, value)])).is_ok(), fine, "{value}");
        }
    }

    #[test]
    fn queries_are_decoded_and_say_one_thing() {
        let mut ask =
            Ask { parameters: parameters("a=1&path=%2Fcharge%20it+now&b").unwrap(), ..Ask::default() };
        assert_eq!(ask.take::<u8>("a").unwrap(), Some(1));
        assert_eq!(ask.take::<String>("path").unwrap().unwrap(), "/charge it now");
        assert!(ask.nothing_else("`a`").unwrap_err().to_string().starts_with("`b` is no parameter"));
        assert!(parameters("a=%ff").is_err());
        let twice = || Ask { parameters: parameters("a=1&a=2").unwrap(), ..Ask::default() };
        assert!(twice().take::<u8>("a").is_err());
        assert_eq!(twice().take_all("a"), ["1", "2"]);
    }
}
