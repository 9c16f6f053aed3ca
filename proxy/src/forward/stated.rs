//! What our app is told of who calls it: as header fields of each HTTP request, or as the PROXY protocol's header
//! before the bytes of a connection. Made once for each connection.
//!
//! | what | where | source |
//! | --- | --- | --- |
//! | `xfcc` | `x-forwarded-client-cert: By=..;Hash=..;URI=..` | Envoy, "x-forwarded-client-cert" |
//! | `client-cert` | `client-cert: :BASE64:` | RFC 9440 s2.2 |
//! | `client-cert-chain` | the same and `client-cert-chain: :BASE64:, ..` without the leaf | RFC 9440 s2.3 |
//! | `send-proxy` | version 2, with TLV 0x20 (TLS) and 0xE0 (the SPIFFE ID) | "The PROXY protocol", s2.2 |
//!
//! Invariant: what the app reads there is from us, or is not there. [`is_reserved`] names the fields in every spelling
//! that a server could take for one of them; nobody else's pass.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use proxy_header::{ProxiedAddress, ProxyHeader, SslInfo, Tlv};
use signet_proto::handshake::PeerIdentity;
use signet_proto::spiffe::SpiffeId;

use crate::config::Statement;

/// The identity of the caller, in Envoy's form.
pub const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The caller's leaf.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// What its leaf was signed with.
pub const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// Their names as bytes, of which the shorter one begins the longer one.
pub const RESERVED: [&[u8]; 2] = [b"x-forwarded-client-cert", b"client-cert"];
/// The TLV that holds the SPIFFE ID, of those that the specification leaves to applications (0xE0 to 0xEF).
pub const SPIFFE_ID_TLV: u8 = 0xe0;
/// A field that says more is left out: servers take heads of 8 KiB, and a certificate that is larger is none of ours.
const LONGEST_FIELD: usize = 16 * 1024;
/// A common name that is longer is left out.
const LONGEST_NAME: usize = 255;
/// Certificates of a chain that are told.
const MOST_OF_CHAIN: usize = 8;

/// What one connection's app is told.
#[derive(Debug, Clone, Default)]
pub struct Stated {
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Stated {
    /// Of a caller that proved who it is; nothing of another.
    #[must_use]
    pub fn new(statements: &[Statement], local: &SpiffeId, peer: Option<&PeerIdentity>) -> Self {
        let Some(peer) = peer else { return Self::default() };
        let mut fields = Vec::with_capacity(statements.len() + 1);
        let mut state = |name: HeaderName, value: Option<String>| {
            let value = value.filter(|value| value.len() <= LONGEST_FIELD);
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                fields.push((name, value));
            }
        };
        let chain = statements.contains(&Statement::ClientCertChain);
        if statements.contains(&Statement::Xfcc) {
            state(FORWARDED_CLIENT_CERT, Some(forwarded(local, &peer.leaf_sha256, &peer.id)));
        }
        if chain || statements.contains(&Statement::ClientCert) {
            state(CLIENT_CERT, peer.chain().next().map(byte_sequence));
        }
        if chain {
            state(CLIENT_CERT_CHAIN, chain_field(peer.chain().skip(1)));
        }
        Self { fields }
    }

    /// The header fields.
    pub fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.fields.iter().cloned()
    }
}

/// SPIFFE IDs and hex digits need no quotes in this field, whose separators are `;`, `,` and `=`.
#[must_use]
pub fn forwarded(local: &SpiffeId, leaf_sha256: &[u8; 32], peer: &SpiffeId) -> String {
    format!("By={local};Hash={};URI={peer}", hex(leaf_sha256))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().map_or('0', char::from);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

/// A byte sequence of structured fields (RFC 8941 s3.3.5).
#[must_use]
pub fn byte_sequence(bytes: &[u8]) -> String {
    format!(":{}:", STANDARD.encode(bytes))
}

/// A list of them; none if there is nothing to list.
#[must_use]
pub fn chain_field<'c>(chain: impl Iterator<Item = &'c [u8]>) -> Option<String> {
    let items: Vec<String> = chain.take(MOST_OF_CHAIN).map(byte_sequence).collect();
    (!items.is_empty()).then(|| items.join(", "))
}

/// Whether an app could take a field of this name for one of ours: also spelled with underscores, which CGI-like
/// interfaces do not tell apart from hyphens (Envoy CVE-2024-45806).
#[must_use]
pub fn is_reserved(name: &HeaderName) -> bool {
    let theirs = name.as_str().as_bytes();
    let alike = |ours: &[u8]| {
        theirs.len() == ours.len()
            && theirs.iter().zip(ours).all(|(theirs, ours)| match theirs {
                b'_' => *ours == b'-',
                theirs => theirs.to_ascii_lowercase() == *ours,
            })
    };
    let [forwarded, leaf] = RESERVED;
    alike(forwarded) || alike(leaf) || alike(CLIENT_CERT_CHAIN.as_str().as_bytes())
}

/// The header of version 2 that goes before all bytes of a connection to our app. `proven`: the caller's identity, and
/// the common name of its leaf.
#[must_use]
pub fn proxy_header(
    source: Option<SocketAddr>,
    destination: SocketAddr,
    proven: Option<(&SpiffeId, Option<&str>)>,
) -> Option<Bytes> {
    let mut header = match source {
        Some(source) => {
            ProxyHeader::with_address(ProxiedAddress::stream(source, beside(source, destination)))
        }
        None => ProxyHeader::with_local(),
    };
    if let Some((id, name)) = proven {
        let mut tls = SslInfo::new(true, true, true, 0);
        tls.append_tlv(Tlv::SslVersion("TLSv1.3".into()));
        if let Some(name) = name.filter(|name| name.len() <= LONGEST_NAME) {
            tls.append_tlv(Tlv::SslCn(name.into()));
        }
        header.append_tlv(Tlv::Ssl(tls));
        header.append_tlv(Tlv::Custom(SPIFFE_ID_TLV, id.as_str().as_bytes().into()));
    }
    let mut bytes = Vec::with_capacity(512);
    header.encode_v2(&mut bytes).ok().map(|()| bytes.into())
}

/// Both ends are of one family: an address of the other one is not said, rather than wrongly.
fn beside(source: SocketAddr, destination: SocketAddr) -> SocketAddr {
    match source {
        SocketAddr::V4(_) if destination.is_ipv6() => (Ipv4Addr::UNSPECIFIED, destination.port()).into(),
        SocketAddr::V6(_) if destination.is_ipv4() => (Ipv6Addr::UNSPECIFIED, destination.port()).into(),
        _ => destination,
    }
}

/// The header of a connection that is our own: nobody is behind it.
#[must_use]
pub fn own_proxy_header() -> Option<Bytes> {
    let mut bytes = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut bytes).ok().map(|()| bytes.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> HeaderName {
        text.parse().unwrap()
    }

    #[test]
    fn reserved_names_are_known_in_every_spelling_and_others_pass() {
        for ours in ["X-Forwarded-Client-Cert", "x_forwarded_client_cert", "Client_Cert", "client-cert_CHAIN"]
        {
            assert!(is_reserved(&name(ours)), "{ours}");
        }
        for other in ["client-certs", "x-client-cert", "client-cert-chain-2", "forwarded"] {
            assert!(!is_reserved(&name(other)), "{other}");
        }
    }

    #[test]
    fn who_proved_nothing_is_not_stated() {
        let all = [Statement::Xfcc, Statement::ClientCertChain];
        assert_eq!(Stated::new(&all, &"spiffe://td/a".parse().unwrap(), None).fields().count(), 0);
    }

    type Tlvs = Vec<(u8, Vec<u8>)>;

    /// What the specification says, read without the library that writes it.
    fn read_header(bytes: &[u8]) -> (u8, Vec<u8>, Tlvs) {
        assert_eq!(&bytes[..12], b"\r\n\r\n\0\r\nQUIT\n");
        let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
        assert_eq!(bytes.len(), 16 + length);
        let addresses = match bytes[13] >> 4 {
            1 => 12,
            2 => 36,
            _ => 0,
        };
        let (ends, mut rest) = bytes[16..].split_at(addresses);
        let mut tlvs = Vec::new();
        while let [kind, high, low, after @ ..] = rest {
            let (value, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            tlvs.push((*kind, value.to_vec()));
            rest = after;
        }
        assert!(rest.is_empty());
        (bytes[12], ends.to_vec(), tlvs)
    }

    #[test]
    fn header_of_a_caller_without_identity_has_addresses_of_one_family_and_no_more() {
        let v4 = "10.0.0.9:4711".parse().unwrap();
        let bytes = proxy_header(Some(v4), "127.0.0.1:80".parse().unwrap(), None).unwrap();
        let (command, ends, tlvs) = read_header(&bytes);
        assert_eq!((command, tlvs.len()), (0x21, 0));
        assert_eq!(ends, [10, 0, 0, 9, 127, 0, 0, 1, 0x12, 0x67, 0, 80]);
        let bytes = proxy_header(Some(v4), "[::1]:80".parse().unwrap(), None).unwrap();
        assert_eq!(read_header(&bytes).1, [10, 0, 0, 9, 0, 0, 0, 0, 0x12, 0x67, 0, 80]);
        let own = read_header(&own_proxy_header().unwrap());
        assert_eq!((own.0, own.2.len()), (0x20, 0), "LOCAL");
    }

    proptest! {
        #[test]
        fn byte_sequences_read_as_what_was_written(chain in prop::collection::vec(any::<Vec<u8>>(), 0..5)) {
            let text = chain_field(chain.iter().map(Vec::as_slice)).unwrap_or_default();
            let read: Vec<Vec<u8>> = text
                .split(", ")
                .filter(|item| !item.is_empty())
                .map(|item| {
                    let inner = item.strip_prefix(':').and_then(|item| item.strip_suffix(':')).unwrap();
                    STANDARD.decode(inner).unwrap()
                })
                .collect();
            prop_assert_eq!(read, chain);
            prop_assert!(HeaderValue::try_from(text).is_ok());
        }
    }
}
