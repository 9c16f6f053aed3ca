//! What apps are told of their callers, read by readers of our own that know only the specifications: Envoy's grammar of
//! `x-forwarded-client-cert`, byte sequences of RFC 8941, and the PROXY protocol with its TLVs. Whatever the identity,
//! the certificates and the addresses are, the app reads those and nothing else, and no field can be broken out of.
//!
//! `tests/fuzz/run 60 stated`

#![no_main]
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use signet_proto::spiffe::SpiffeId;
use signet_proxy::capture::proxy_protocol::{Said, parse};
use signet_proxy::forward::stated::{SPIFFE_ID_TLV, chain_field, forwarded, proxy_header};

// Lines: two SPIFFE IDs, a common name, and certificates; whatever they are.
fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (local, peer) = (id(next()), id(next()));
    let name = String::from_utf8_lossy(next()).into_owned();
    let certificates: Vec<&[u8]> = lines.collect();

    let mut hash = [0; 32];
    hash.iter_mut().zip(input).for_each(|(to, from)| *to = *from);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let expected = vec![pair("By", local.as_str()), pair("Hash", &hex), pair("URI", peer.as_str())];
    assert_eq!(elements(&forwarded(&local, &hash, &peer)), expected);

    let told = chain_field(certificates.iter().copied());
    let read: Vec<Vec<u8>> = told.as_deref().map(byte_sequences).unwrap_or_default();
    assert_eq!(read, certificates[..certificates.len().min(8)]);

    let source = SocketAddr::new(address(input), 4711);
    let called = SocketAddr::new(address(input.get(17..).unwrap_or_default()), 443);
    let header = proxy_header(Some(source), called, Some((&peer, Some(&name)))).expect("it fits");
    let (said, length) = parse(&header).expect("a header").expect("a whole one");
    assert_eq!((said, length), (Said::From(source), header.len()));
    let tlvs = tlvs(&header[16 + if source.is_ipv4() { 12 } else { 36 }..]);
    assert_eq!(tlvs[&SPIFFE_ID_TLV], peer.as_str().as_bytes());
    let tls = &tlvs[&0x20];
    assert_eq!(tls[..5], [7, 0, 0, 0, 0], "over TLS, with a certificate, which was verified");
    let within = self::tlvs(&tls[5..]);
    assert_eq!(within[&0x21], b"TLSv1.3");
    assert_eq!(within.get(&0x22).map(Vec::as_slice), (name.len() <= 255).then_some(name.as_bytes()));
    assert_eq!(tlvs.len(), 2);
});

fn id(text: &[u8]) -> SpiffeId {
    let text = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    text.unwrap_or_else(|| "spiffe://td/other".parse().expect("an identity"))
}

/// Never one that is written in two ways.
fn address(bytes: &[u8]) -> IpAddr {
    match bytes {
        [0..=127, a, b, c, ..] => IpAddr::from([10, *a, *b, *c]),
        _ => {
            let mut octets = [0xfd; 16];
            octets[1..].iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            octets.into()
        }
    }
}

/// Envoy: elements between commas, pairs between semicolons, values that may be quoted. One element, no quotes.
fn elements(field: &str) -> Vec<(String, String)> {
    assert!(
        field.bytes().all(|byte| byte.is_ascii_graphic()) && !field.contains(['"', ',', '\\']),
        "{field}"
    );
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=').expect("a pair");
        (key.to_owned(), value.to_owned())
    };
    field.split(';').map(pair).collect()
}

/// RFC 8941 s4.2.7, of each item of a list.
fn byte_sequences(field: &str) -> Vec<Vec<u8>> {
    let item = |item: &str| {
        let text =
            item.trim_matches(' ').strip_prefix(':').and_then(|item| item.strip_suffix(':')).expect("colons");
        decoded(text)
    };
    field.split(',').map(item).collect()
}

/// RFC 4648 s4, with padding.
fn decoded(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 4, 0);
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is no digit"),
    };
    let digits = text.trim_end_matches('=');
    assert!(text.len() - digits.len() <= 2);
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for byte in digits.bytes() {
        held = held << 6 | u32::from(digit(byte));
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    assert_eq!(held, 0, "what is left over is nothing");
    bytes
}

/// Each once.
fn tlvs(mut bytes: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut found = BTreeMap::new();
    while let [kind, high, low, after @ ..] = bytes {
        let (value, rest) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        assert!(found.insert(*kind, value.to_vec()).is_none(), "{kind:#04x} twice");
        bytes = rest;
    }
    assert!(bytes.is_empty());
    found
}
