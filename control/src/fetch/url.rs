//! URLs that documents are fetched from: https to any host; http only to this machine, where the operator allows it.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;
use ipnet::IpNet;
use rustls::pki_types::ServerName;

/// Longest URL.
const MAX_BYTES: usize = 1024;

/// A URL that may be fetched, as far as its text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    uri: Uri,
    secure: bool,
    host: ServerName<'static>,
    port: u16,
}

/// Why a text is not such a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(&'static str);

impl Url {
    /// Reads one. `allowed` decides about http only; addresses are judged when they are connected to.
    pub(crate) fn parse(text: &str, allowed: &[IpNet]) -> Result<Self, UrlError> {
        if text.len() > MAX_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlError("a URL of at most 1024 printable ASCII characters"));
        }
        if text.contains(['#', '@', '\\', '"', '<', '>']) {
            return Err(UrlError("a URL without fragment, user and password"));
        }
        let uri: Uri = text.parse().map_err(|_| UrlError("a URL such as https://issuer.example"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError("a URL such as https://issuer.example")),
        };
        let host = uri.host().ok_or(UrlError("a URL with a host"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = ServerName::try_from(bare.to_owned()).map_err(|_| UrlError("a URL with a host name"))?;
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            // `:` without a number, or with one that is too large.
            None if uri.authority().is_some_and(|authority| has_port(authority.as_str())) => 0,
            None if secure => 443,
            None => 80,
        };
        if port == 0 {
            return Err(UrlError("a URL with a port from 1 to 65535"));
        }
        let url = Self { uri, secure, host, port };
        if !url.path_and_query().starts_with('/') {
            return Err(UrlError("a URL with a path before its query"));
        }
        let local =
            |address: IpAddr| address.is_loopback() && allowed.iter().any(|net| net.contains(&address));
        if !secure && !url.address().is_some_and(local) {
            return Err(UrlError(
                "https (http only to a loopback address, such as http://127.0.0.1:8080, that is in `allow-addresses`)",
            ));
        }
        Ok(url)
    }

    /// The address in it, if it has one in place of a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match &self.host {
            ServerName::IpAddress(address) => Some((*address).into()),
            _ => None,
        }
    }

    /// The host, for certificates.
    pub(super) fn host(&self) -> &ServerName<'static> {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is https.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// For the request's `Host`.
    pub(super) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// For the request's first line.
    pub(super) fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Where a path is at this server, below that of the URL.
    pub(crate) fn join(&self, path: &str, allowed: &[IpNet]) -> Result<Self, UrlError> {
        Self::parse(&format!("{}/{path}", self.to_string().trim_end_matches('/')), allowed)
    }

    pub(crate) fn has_query(&self) -> bool {
        self.uri.query().is_some()
    }

    /// Whether both are served by the same host, port and protocol.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        (self.secure, &self.host, self.port) == (other.secure, &other.host, other.port)
    }
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, after)| !after.contains(']'))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Url, UrlError> {
        Url::parse(text, &["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()])
    }

    #[test]
    fn https_to_any_host() {
        for (text, host, port, path) in [
            ("https://issuer.example", "issuer.example", 443, "/"),
            ("https://Issuer.example:8443/a/b?c=d", "Issuer.example", 8443, "/a/b?c=d"),
            ("https://10.0.0.1/keys", "10.0.0.1", 443, "/keys"),
            ("https://[2606:4700::1]:444/keys", "2606:4700::1", 444, "/keys"),
            ("http://127.0.0.1:8080/keys", "127.0.0.1", 8080, "/keys"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!((url.host().to_str().as_ref(), url.port(), url.path_and_query()), (host, port, path));
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for text in [
            "",
            "issuer.example",
            "//issuer.example",
            "/keys",
            "https://",
            "https:///keys",
            "ftp://issuer.example",
            "file:///etc/passwd",
            "unix:///run/x",
            "https://user@issuer.example",
            "https://a:b@issuer.example",
            "https://issuer.example#x",
            "https://issuer.example:0/",
            "https://issuer.example:70000/",
            "https://issuer.example:/",
            "https://issuer_.example:x/",
            "https://iss uer.example",
            "https://issuer.example/\u{e9}",
            "https://issuer.example\\@127.0.0.1/",
            "https://[::1",
            "https://%31/",
            "https://-a.example/",
            "https://a..example/",
            "http://issuer.example/",
            "http://localhost/",
            "https://issuer.example?x",
            "http://10.0.0.1/",
            "http://[::1]/",
            "http://1.1.1.1/",
            "HTTPS",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(Url::parse("http://127.0.0.1/", &[]).is_err(), "not even to this machine unless allowed");
        assert!(parse(&format!("https://issuer.example/{}", "a".repeat(MAX_BYTES))).is_err());
    }

    #[test]
    fn the_same_origin_is_host_port_and_protocol() {
        let same = |a: &str, b: &str| parse(a).unwrap().same_origin(&parse(b).unwrap());
        assert!(same("https://a.example/x", "https://A.example:443/y"));
        assert!(!same("https://a.example/", "https://b.example/"));
        assert!(!same("https://a.example/", "https://a.example:444/"));
        assert!(!same("https://127.0.0.1:80/", "http://127.0.0.1/"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(https?://)?[a-z0-9.:\\[\\]@#/%_-]{0,30}") {
            if let Ok(url) = parse(&text) {
                prop_assert!(url.port() != 0);
                prop_assert!(url.path_and_query().starts_with('/'));
            }
        }
    }
}
