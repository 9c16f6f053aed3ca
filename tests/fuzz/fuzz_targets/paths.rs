//! Paths: the form that is forwarded is one that nobody reads in another way, and that rules decided on. What a rule
//! lets through below `/public` no server serves from elsewhere, and what passes beside a rule that denies `/admin` is
//! below it for none. The servers are readings of several kinds, written here once more.
//!
//! `tests/fuzz/run 60 paths`

#![no_main]
#![forbid(unsafe_code)]

use std::sync::LazyLock;
use std::time::SystemTime;

use http::header::{HOST, HeaderValue};
use http::{Request, Uri};
use libfuzzer_sys::fuzz_target;
use signet_proto::policy::{self, Direction, HttpRequest, Layer, PolicySet, normalize, parse_yaml};
use signet_proto::spiffe::SpiffeId;
use signet_proxy::connections::Head;
use signet_proxy::forward::http::{Version, settle_path, to_forwarded_form};

const DOCUMENTS: &str = "
kind: Policy
name: public
target: spiffe://td/public
rules: [{ name: public, allow: { http: { paths: [\"/public/*\"] } } }]
---
kind: Policy
name: all
target: spiffe://td/all
rules:
  - { name: all, allow: {} }
  - { name: not-admin, deny: { http: { paths: [\"/admin/*\"] } } }
";

struct World {
    policy: PolicySet,
    caller: SpiffeId,
    public: SpiffeId,
    all: SpiffeId,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let id = |text: &str| text.parse().expect("an identity");
    let documents = parse_yaml("policy.yaml", DOCUMENTS).expect("documents");
    World {
        policy: PolicySet::compile(documents).expect("they go together"),
        caller: id("spiffe://td/caller"),
        public: id("spiffe://td/public"),
        all: id("spiffe://td/all"),
    }
});

// Lines: the target of a request, and its host.
fuzz_target!(|input: &[u8]| {
    let World { policy, public, all, .. } = &*WORLD;
    let (target, host) = input.split_at(input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len()));
    let Ok(uri) = Uri::try_from(target) else { return };
    let mut request = Request::new(());
    *request.uri_mut() = uri.clone();
    if let Ok(host) = HeaderValue::from_bytes(host.get(1..).unwrap_or_default()) {
        request.headers_mut().insert(HOST, host);
    }

    let settled = settle_path(&mut request, policy, Direction::Inbound, public);
    let Ok(changed) = settled else {
        assert!(normalize(uri.path()).is_err(), "{uri} was refused, though it has a normal form");
        return;
    };
    to_forwarded_form(&mut request, Version::Http1, "app:80");
    let forwarded = request.uri();
    let path = forwarded.path();
    assert_eq!(changed, !uri.path().is_empty() && path != uri.path(), "{uri}");
    assert_eq!((forwarded.query(), forwarded.authority()), (uri.query(), None), "{uri}");
    assert_eq!(normalize(path).as_deref(), Ok(path), "one form of {uri}");
    if let Some(segments) = path.strip_prefix('/') {
        assert!(!segments.split('/').any(|segment| matches!(segment, "." | "..")), "{path}");
        assert!(!path.contains("//") && path.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
    }
    assert_eq!(Head::of(&request, policy).path(), path, "what policy sees");
    let written = forwarded.to_string();
    if path.starts_with('/') && written.is_ascii() && !written.contains('\x7f') {
        assert_eq!(received(&format!("GET {written} HTTP/1.1\r\n\r\n")), written);
    }

    let readings = readings(path);
    if allows(public, path) {
        for reading in &readings {
            assert!(reading.starts_with("/public/") || reading == "/public", "{uri} is {path}, or {reading}");
        }
    }
    if allows(all, path) {
        for reading in &readings {
            assert!(!reading.starts_with("/admin/"), "{uri} is {path}, or {reading}");
        }
    }
});

fn allows(destination: &SpiffeId, path: &str) -> bool {
    let World { policy, caller, .. } = &*WORLD;
    let headers = http::HeaderMap::new();
    let request = policy::Request {
        direction: Direction::Inbound,
        source: Some(caller),
        destination,
        port: Some(80),
        address: None,
        layer: Layer::Http(HttpRequest::new("GET", path, None, &headers)),
        now: SystemTime::UNIX_EPOCH,
    };
    policy.decide(&request).allowed
}

/// The target as an app reads it from the request line.
fn received(head: &str) -> String {
    let mut fields = [httparse::EMPTY_HEADER; 1];
    let mut request = httparse::Request::new(&mut fields);
    let read = request.parse(head.as_bytes()).expect("a request");
    assert!(read.is_complete(), "{head}");
    request.path.unwrap_or_default().to_owned()
}

/// What servers make of a path before they look for what is there.
fn readings(path: &str) -> Vec<String> {
    let cut = |path: &str| {
        let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        segments.collect::<Vec<_>>().join("/")
    };
    let once = decoded(path);
    vec![
        // As it is; Go, which folds what it decoded.
        once.clone(),
        folded(&once),
        decoded(&folded(path)),
        // nginx; Tomcat; those that decode twice; IIS.
        folded(&merged(&once)),
        folded(&decoded(&cut(path))),
        folded(&decoded(&once)),
        folded(&once.replace('\\', "/")),
        // Those that end a path where a text in C ends.
        once.split('\0').next().unwrap_or_default().to_owned(),
    ]
}

/// Every escape decoded.
fn decoded(path: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let digits = (*byte == b'%').then(|| after.get(..2)).flatten();
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Without dot segments; nothing is above the root.
fn folded(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let (rooted, mut open) = (path.starts_with('/'), false);
    for segment in path.strip_prefix('/').unwrap_or(path).split('/') {
        open = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let root = if rooted { "/" } else { "" };
    let end = if open && !segments.is_empty() { "/" } else { "" };
    format!("{root}{}{end}", segments.join("/"))
}

/// Slashes that follow one another as one.
fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}
