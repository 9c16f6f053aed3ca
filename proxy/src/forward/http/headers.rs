//! What is changed in a request or response on its way: hop-by-hop fields end here (RFC 9110 s7.6.1), the
//! caller's identity is ours to state, and nothing else is touched.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery};
use http::{Request, Uri};
use signet_proto::policy::{Direction, PathRefused, PolicySet};
use signet_proto::spiffe::SpiffeId;

use super::{Version, framing};
use crate::forward::stated::{Stated, is_reserved};
use crate::telemetry::traces::Context;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const LONGEST_REQUEST_ID: usize = 128;
/// Of 64 bits.
const HEX_DIGITS: usize = 16;
/// Fields that say something of this hop only.
static ENDS_HERE: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    UPGRADE,
    EXPECT,
    HTTP2_SETTINGS,
];

/// Whether this message asks to change the protocol of the connection to one that may be. WebSocket is a
/// stream within the request that was decided; `h2c` or TLS would bring more requests past the decision.
pub(super) fn asks_upgrade(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let websocket = protocols.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    websocket
        && protocols.next().is_none()
        && connection_names(headers).any(|name| name.eq_ignore_ascii_case("upgrade"))
}

/// Removes what concerns only this hop. An upgrade stays, as it is meant for the other end; so do the wish for
/// trailers, without which gRPC servers do not answer (RFC 9113 s8.2.2), and for being asked for a body.
pub(super) fn end_hop(headers: &mut HeaderMap, version: Version) {
    // Nearly no message has any: a look at each name costs less than to look each of these up.
    if !headers.keys().any(|name| ENDS_HERE.contains(name)) {
        return;
    }
    let trailers = wants_trailers(headers);
    let upgrade = asks_upgrade(headers).then(|| headers.get(UPGRADE).cloned()).flatten();
    let waits = version == Version::Http1 && framing::expects_continue(headers);
    let nominated: Vec<HeaderName> = connection_names(headers)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !is_vital(name))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    while let Some(name) = headers.keys().find(|name| ENDS_HERE.contains(name)).cloned() {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if version == Version::Http1 {
            headers.append(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if waits {
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// A peer cannot have the fields removed that frame the message or say who it is for.
fn is_vital(name: &HeaderName) -> bool {
    [TRANSFER_ENCODING, http::header::CONTENT_LENGTH, HOST, TRAILER].contains(name) || is_reserved(name)
}

fn connection_names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Removes every field that an app could take for one of ours, whoever sent it.
pub(super) fn remove_identity(headers: &mut HeaderMap) {
    let spoofed: Vec<HeaderName> = headers.keys().filter(|name| is_reserved(name)).cloned().collect();
    for name in spoofed {
        headers.remove(name);
    }
}

/// Removes what says where a message ends, or is of one hop only.
pub(super) fn remove_framing(headers: &mut HeaderMap) {
    let framing: Vec<HeaderName> =
        headers.keys().filter(|name| is_vital(name) || ENDS_HERE.contains(name)).cloned().collect();
    for name in framing {
        headers.remove(name);
    }
}

/// States who calls, as far as that is known and wanted.
pub(super) fn state_identity(headers: &mut HeaderMap, stated: &Stated) {
    remove_identity(headers);
    for (name, value) in stated.fields() {
        headers.append(name, value);
    }
}

/// The request's id: the caller's if it is a short visible text, otherwise a new one that is set.
pub(super) fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    let given = headers.get(&REQUEST_ID).filter(|id| {
        (1..=LONGEST_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    if let Some(id) = given {
        return id.clone();
    }
    let id = new_id();
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// Unique in the mesh for all practical purposes, and not a secret: the process and a number, in hexadecimal.
fn new_id() -> HeaderValue {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut id = [b'-'; 2 * HEX_DIGITS + 1];
    let (process, number) = id.split_at_mut(HEX_DIGITS);
    hexadecimal(*PROCESS, process);
    hexadecimal(NEXT.fetch_add(1, Ordering::Relaxed), number.get_mut(1..).unwrap_or_default());
    HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("none"))
}

/// Every request gets one: formatting would cost more than all else of it.
fn hexadecimal(mut number: u64, text: &mut [u8]) {
    for digit in text.iter_mut().rev() {
        let [.., low] = number.to_be_bytes();
        *digit = match low & 15 {
            few @ 0..10 => b'0' + few,
            many => b'a' + many - 10,
        };
        number >>= 4;
    }
}

/// The caller's trace, if it says which in the form that the standard knows (W3C Trace Context, section 3.2).
pub(super) fn trace(headers: &HeaderMap) -> (Option<Context>, &str) {
    let mut given = headers.get_all(TRACE_PARENT).iter();
    let parent = given.next().and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    match (parent, given.next()) {
        (Some(parent), None) => {
            let state = headers.get(TRACE_STATE).and_then(|value| value.to_str().ok());
            (Some(parent), state.unwrap_or_default())
        }
        _ => (None, ""),
    }
}

/// Tells the called side its trace. State without a trace that it belongs to means nothing (section 3.3).
pub(super) fn tell_trace(headers: &mut HeaderMap, own: &Context, begins: bool) {
    if begins {
        headers.remove(TRACE_STATE);
    }
    if let Ok(value) = HeaderValue::try_from(own.to_string()) {
        headers.insert(TRACE_PARENT, value);
    }
}

/// Puts a request into the form that its called side expects, so that what policy saw is what the app sees:
/// in HTTP/1 the origin form, with the authority of an absolute target as `Host` (RFC 9112 s3.2.2); in HTTP/2
/// the target with its authority, and no `Host` that could contradict it (RFC 9113 s8.3.1). `fallback` is the
/// host of a request that names none, as HTTP/1.0 allows.
pub fn to_forwarded_form<B>(request: &mut Request<B>, version: Version, fallback: &str) {
    let uri = request.uri();
    // Of `http://host#fragment` and `http://host?query` it begins with no `/`, and only says that it does.
    let path = uri.path_and_query().filter(|path| path.as_str() != "/").cloned();
    let path = path
        .and_then(
            |path| if path.as_str().starts_with('?') { path.to_string().parse().ok() } else { Some(path) },
        )
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let named = uri.authority().map(Authority::as_str).map(without_userinfo).map(str::to_owned);
    match version {
        Version::Http1 => {
            let host = named.or_else(|| (!request.headers().contains_key(HOST)).then(|| fallback.to_owned()));
            if let Some(Ok(value)) = host.map(HeaderValue::try_from) {
                request.headers_mut().insert(HOST, value);
            }
            *request.uri_mut() = Uri::from(path);
            *request.version_mut() = http::Version::HTTP_11;
        }
        Version::Http2 => {
            let host = request.headers_mut().remove(HOST);
            let host = named.or_else(|| host.and_then(|host| host.to_str().ok().map(str::to_owned)));
            let authority = host.unwrap_or_else(|| fallback.to_owned());
            let target = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
            if let Ok(target) = target {
                *request.uri_mut() = target;
            }
            *request.version_mut() = http::Version::HTTP_2;
        }
    }
}

/// Why a request has no target in the one form.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Its path has no normal form.
    #[error(transparent)]
    Path(#[from] PathRefused),
    /// The whole is no target.
    #[error(transparent)]
    Target(#[from] http::Error),
}

/// Brings the path of a request into the one form that `policy` decides on and that is forwarded, where rules about
/// `whom` look at paths. Whether it is another one than what came.
///
/// # Errors
/// When there is no such form: nobody is to decide on it, and nothing is forwarded.
pub fn settle_path<B>(
    request: &mut Request<B>,
    policy: &PolicySet,
    direction: Direction,
    whom: &SpiffeId,
) -> Result<bool, TargetError> {
    let path = policy.path(direction, whom, request.uri().path())?;
    if path == request.uri().path() {
        return Ok(false);
    }
    let path = path.into_owned();
    let mut parts = request.uri().clone().into_parts();
    let target = match request.uri().query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path.as_str()),
    };
    parts.path_and_query = Some(target.map_err(http::Error::from)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(http::Error::from)?;
    Ok(true)
}

fn without_userinfo(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use signet_proto::policy::parse_yaml;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    #[test]
    fn every_spelling_of_the_identity_header_is_removed() {
        let mut map = headers(&[
            ("X-Forwarded-Client-Cert", "URI=spiffe://td/admin"),
            ("x_forwarded_client_cert", "URI=spiffe://td/admin"),
            ("X-Forwarded_Client-CERT", "URI=spiffe://td/admin"),
            ("Client-Cert", ":AA==:"),
            ("client_cert", ":AA==:"),
            ("Client-Cert_Chain", ":AA==:, :AA==:"),
            ("client-cert-chains", "another's"),
            ("x-forwarded-for", "10.0.0.1"),
        ]);
        remove_identity(&mut map);
        assert_eq!(map, headers(&[("client-cert-chains", "another's"), ("x-forwarded-for", "10.0.0.1")]));
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_framing_does_not() {
        let mut map = headers(&[
            ("connection", "close, X-Trace , content-length, host, client-cert"),
            ("client-cert", ":AA==:"),
            ("keep-alive", "timeout=5"),
            ("x-trace", "1"),
            ("te", "gzip"),
            ("content-length", "5"),
            ("host", "app"),
            ("accept", "*/*"),
        ]);
        end_hop(&mut map, Version::Http1);
        assert_eq!(
            map,
            headers(&[
                ("client-cert", ":AA==:"),
                ("content-length", "5"),
                ("host", "app"),
                ("accept", "*/*")
            ])
        );
    }

    #[test]
    fn upgrade_passes() {
        let mut map = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert!(asks_upgrade(&map));
        end_hop(&mut map, Version::Http1);
        assert_eq!(map, headers(&[("upgrade", "websocket"), ("connection", "upgrade")]));
    }

    #[test]
    fn upgrade_that_would_carry_more_requests_ends_here() {
        for protocols in [&["h2c"][..], &["H2C"], &["TLS/1.0"], &["websocket, h2c"], &["websocket", "h2c"]] {
            let mut map =
                headers(&[("connection", "upgrade, http2-settings"), ("http2-settings", "AAMAAABk")]);
            for protocol in protocols {
                map.append("upgrade", protocol.parse().unwrap());
            }
            assert!(!asks_upgrade(&map));
            end_hop(&mut map, Version::Http1);
            assert!(map.is_empty(), "{map:?}");
        }
    }

    #[test]
    fn absolute_target_wins_over_the_host_field() {
        let mut request =
            Request::get("http://user@real.example:81/a?b=c").header("host", "fake").body(()).unwrap();
        to_forwarded_form(&mut request, Version::Http1, "fallback");
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()["host"], "real.example:81");

        let mut request = Request::get("/a").body(()).unwrap();
        to_forwarded_form(&mut request, Version::Http1, "127.0.0.1:8080");
        assert_eq!(request.headers()["host"], "127.0.0.1:8080");

        for target in ["http://real.example", "http://real.example#fragment", "http://real.example/#fragment"]
        {
            let mut request = Request::get(target).body(()).unwrap();
            to_forwarded_form(&mut request, Version::Http1, "fallback");
            assert_eq!(request.uri().to_string(), "/", "{target}");
        }
        for target in ["http://real.example?a=/b", "http://real.example?a=/b#fragment"] {
            let mut request = Request::get(target).body(()).unwrap();
            to_forwarded_form(&mut request, Version::Http1, "fallback");
            assert_eq!(request.uri().path_and_query().unwrap().as_str(), "/?a=/b", "{target}");
        }
    }

    #[test]
    fn path_is_settled_where_rules_look_at_it_and_all_else_of_the_target_is_kept() {
        let (whom, other) = ("spiffe://td/a".parse().unwrap(), "spiffe://td/b".parse().unwrap());
        let document = "{kind: Policy, name: p, target: spiffe://td/a, rules: [\
            {name: r, allow: {http: {paths: [/a]}}}]}";
        let policy = PolicySet::compile(parse_yaml("p.yaml", document).unwrap()).unwrap();
        for (target, settled, differs) in [
            ("/a//b?c=%2F..", "/a/b?c=%2F..", true),
            ("/a//b?", "/a/b?", true),
            ("http://host:81/a/%62", "http://host:81/a/b", true),
            ("/a/b", "/a/b", false),
            ("/a;b", "/a;b", false),
        ] {
            let mut request = Request::get(target).body(()).unwrap();
            let changed = settle_path(&mut request, &policy, Direction::Inbound, &whom).unwrap();
            assert_eq!((request.uri().to_string().as_str(), changed), (settled, differs));
            let mut request = Request::get(target).body(()).unwrap();
            assert!(!settle_path(&mut request, &policy, Direction::Inbound, &other).unwrap());
            assert_eq!(request.uri(), target, "nobody looks at it");
        }
        let mut request = Request::get("/a/%2e%2e/..").body(()).unwrap();
        let refused = settle_path(&mut request, &policy, Direction::Inbound, &whom);
        assert!(matches!(refused, Err(TargetError::Path(PathRefused::AboveRoot))), "{refused:?}");
    }

    #[test]
    fn request_ids_are_kept_if_decent_and_made_otherwise() {
        assert_eq!(request_id(&mut headers(&[("x-request-id", "abc-1")])), "abc-1");
        let long = "a".repeat(129);
        for poor in [&[("x-request-id", long.as_str())][..], &[("x-request-id", "a b")], &[]] {
            let mut map = headers(poor);
            let id = request_id(&mut map);
            assert_eq!(map["x-request-id"], id);
            assert!(id.len() < 40);
        }
    }

    #[test]
    fn made_request_ids_are_different_and_of_one_form() {
        let ids = [new_id(), new_id()].map(|id| id.to_str().unwrap().to_owned());
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            let (process, number) = id.split_once('-').unwrap();
            assert!([process, number].iter().all(|text| text.len() == HEX_DIGITS), "{id}");
            assert!(u64::from_str_radix(number, 16).unwrap() < 1_000_000, "{id}");
        }
        let mut text = [0; HEX_DIGITS];
        hexadecimal(0x0123_4567_89ab_cdef, &mut text);
        assert_eq!(&text, b"0123456789abcdef");
    }

    #[test]
    fn http2_keeps_its_authority_and_te_trailers() {
        let mut request = Request::post("http://real.example/a.B/C")
            .header("host", "fake")
            .header("te", "trailers")
            .body(())
            .unwrap();
        to_forwarded_form(&mut request, Version::Http2, "fallback");
        end_hop(request.headers_mut(), Version::Http2);
        assert_eq!(request.uri(), "http://real.example/a.B/C");
        assert_eq!(*request.headers(), headers(&[("te", "trailers")]));

        let mut request = Request::post("/a").body(()).unwrap();
        to_forwarded_form(&mut request, Version::Http2, "127.0.0.1:8080");
        assert_eq!(request.uri(), "http://127.0.0.1:8080/a");
    }
}
