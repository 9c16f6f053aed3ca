//! The PROXY protocol, versions 1 and 2: a load balancer in front of us says whom it forwards. Believed only
//! from the addresses that the configuration names, and required from those.
//! Source: "The PROXY protocol", HAProxy Technologies, sections 2.1 and 2.2.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use proxy_header::{ParseConfig, Protocol, ProxyHeader, Tlv};
use tokio::io::AsyncRead;

use super::socket::{Remote, canonical};
use crate::config::Cidr;
use crate::forward::Prefixed;

/// From the accept to the end of the header.
pub const DEADLINE: Duration = Duration::from_secs(5);
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A line of version 1, its end included.
const LONGEST_LINE: usize = 107;
/// The fixed part of version 2, and the most that may follow it here: addresses and a few kilobytes of TLVs.
const FIXED: usize = 16;
const MOST_FOLLOWING: usize = 4096;
/// The value of a TLV with a CRC32c of the whole header, computed with zeros in its place (section 2.2.3).
const CHECKSUM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
const CHECKSUM_TLV: u8 = 0x03;

/// The load balancers in front of a listener.
#[derive(Debug)]
pub struct Balancers(Vec<IpNet>);

impl From<Vec<Cidr>> for Balancers {
    fn from(addresses: Vec<Cidr>) -> Self {
        Self(addresses.into_iter().map(|cidr| cidr.0).collect())
    }
}

impl Balancers {
    /// Who calls: whom a load balancer at `remote` says, if there is one, otherwise `remote` itself.
    ///
    /// # Errors
    /// When a load balancer does not say it as it should.
    pub async fn caller<S: AsyncRead + Unpin>(
        &self,
        remote: Remote,
        stream: &mut Prefixed<S>,
    ) -> Result<Remote, ProxyProtocolError> {
        let is_one = |address: SocketAddr| self.0.iter().any(|net| net.contains(&address.ip()));
        if !remote.address().is_some_and(is_one) {
            return Ok(remote);
        }
        Ok(match read(stream).await? {
            Said::From(source) => Remote::Ip(source),
            Said::Unknown => remote,
        })
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The connection comes from there.
    From(SocketAddr),
    /// It is the load balancer's own, or it does not know.
    Unknown,
}

/// No header, or none that can be believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyProtocolError {
    /// It does not begin like one.
    #[error("a PROXY protocol header was expected from this address and did not come")]
    Missing,
    /// It breaks the specification.
    #[error("PROXY protocol header: {0}")]
    Malformed(&'static str),
    /// Its end did not come.
    #[error("PROXY protocol header not complete within {} s", DEADLINE.as_secs())]
    Deadline,
    /// The connection broke.
    #[error("connection broke before the PROXY protocol header ended: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header off a connection; what follows it stays.
///
/// # Errors
/// When none comes in time, or it breaks the specification.
async fn read<S: AsyncRead + Unpin>(stream: &mut Prefixed<S>) -> Result<Said, ProxyProtocolError> {
    let complete = async {
        loop {
            if let Some((said, length)) = parse(stream.ahead())? {
                stream.discard(length);
                return Ok(said);
            }
            if stream.read_ahead().await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    };
    tokio::time::timeout(DEADLINE, complete).await.unwrap_or(Err(ProxyProtocolError::Deadline))
}

/// The header at the start of `bytes` and its length, or `None` while more are needed. Pure.
///
/// # Errors
/// When the bytes cannot become a header.
pub fn parse(bytes: &[u8]) -> Result<Option<(Said, usize)>, ProxyProtocolError> {
    let version = bytes.get(..SIGNATURE.len().min(bytes.len())).unwrap_or_default();
    let length = if SIGNATURE.starts_with(version) {
        match length_of_binary(bytes)? {
            Some(length) => length,
            None => return Ok(None),
        }
    } else {
        match length_of_line(bytes)? {
            Some(length) => length,
            None => return Ok(None),
        }
    };
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let (parsed, used) = ProxyHeader::parse(header, ParseConfig { include_tlvs: true, ..Default::default() })
        .map_err(|_| ProxyProtocolError::Malformed("not as specified"))?;
    if used != length {
        return Err(ProxyProtocolError::Malformed("its length is wrong"));
    }
    check_tlvs(header, &parsed)?;
    let said = match parsed.proxied_address() {
        Some(address) if address.protocol != Protocol::Stream => {
            return Err(ProxyProtocolError::Malformed("datagrams are not carried"));
        }
        Some(address) => Said::From(canonical(address.source)),
        None => Said::Unknown,
    };
    Ok(Some((said, length)))
}

/// Version 1: one line of visible ASCII.
fn length_of_line(bytes: &[u8]) -> Result<Option<usize>, ProxyProtocolError> {
    const START: &[u8] = b"PROXY ";
    if !START.starts_with(bytes.get(..START.len().min(bytes.len())).unwrap_or_default()) {
        return Err(ProxyProtocolError::Missing);
    }
    let line = bytes.get(..LONGEST_LINE.min(bytes.len())).unwrap_or_default();
    match line.windows(2).position(|end| end == b"\r\n") {
        Some(end)
            if line.get(..end).is_some_and(|text| text.iter().all(|byte| (b' '..=b'~').contains(byte))) =>
        {
            Ok(Some(end + 2))
        }
        Some(_) => Err(ProxyProtocolError::Malformed("not visible ASCII")),
        None if bytes.len() >= LONGEST_LINE => Err(ProxyProtocolError::Malformed("line too long")),
        None => Ok(None),
    }
}

fn length_of_binary(bytes: &[u8]) -> Result<Option<usize>, ProxyProtocolError> {
    let Some([high, low]) = bytes.get(14..FIXED).and_then(|length| <[u8; 2]>::try_from(length).ok()) else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        length if length <= MOST_FOLLOWING => Ok(Some(FIXED + length)),
        _ => Err(ProxyProtocolError::Malformed("longer than 4 KiB")),
    }
}

/// Every TLV must be whole, and a checksum must be right.
fn check_tlvs(header: &[u8], parsed: &ProxyHeader<'_>) -> Result<(), ProxyProtocolError> {
    for tlv in parsed.tlvs() {
        match tlv {
            Err(_) => return Err(ProxyProtocolError::Malformed("a broken TLV")),
            Ok(Tlv::Crc32c(expected)) => {
                let zeroed = without_checksum(header)
                    .ok_or(ProxyProtocolError::Malformed("a checksum out of place"))?;
                if CHECKSUM.checksum(&zeroed) != expected {
                    return Err(ProxyProtocolError::Malformed("wrong checksum"));
                }
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// A copy of a version 2 header with zeros for its checksum.
fn without_checksum(header: &[u8]) -> Option<Vec<u8>> {
    let addresses = match header.get(13)? >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let mut copy = header.to_vec();
    let mut at = FIXED + addresses;
    loop {
        let length = usize::from(u16::from_be_bytes([*header.get(at + 1)?, *header.get(at + 2)?]));
        if *header.get(at)? == CHECKSUM_TLV {
            copy.get_mut(at + 3..at + 3 + length)?.fill(0);
            return Some(copy);
        }
        at += 3 + length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn version_2(source: &str, tlvs: &[Tlv<'_>]) -> Vec<u8> {
        let destination = if source.starts_with('[') { "[2001:db8::2]:80" } else { "10.0.0.2:80" };
        let addresses = ProxiedAddress::stream(source.parse().unwrap(), destination.parse().unwrap());
        let mut header = ProxyHeader::with_address(addresses);
        tlvs.iter().for_each(|tlv| header.append_tlv(tlv.clone()));
        let mut bytes = vec![0; 8192];
        let length = header.encode_to_slice_v2(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn both_versions_and_both_families() {
        let cases = [
            (
                b"PROXY TCP4 10.0.0.1 10.0.0.2 4711 443\r\n".to_vec(),
                Said::From("10.0.0.1:4711".parse().unwrap()),
            ),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(),
                Said::From("[2001:db8::1]:1".parse().unwrap()),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), Said::Unknown),
            (version_2("10.0.0.1:4711", &[]), Said::From("10.0.0.1:4711".parse().unwrap())),
            (version_2("[2001:db8::1]:1", &[Tlv::Noop(3)]), Said::From("[2001:db8::1]:1".parse().unwrap())),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00".to_vec(), Said::Unknown),
        ];
        for (header, said) in cases {
            let text = header.escape_ascii().to_string();
            for end in 0..header.len() {
                assert!(parse(&header[..end]).unwrap().is_none(), "{text} at {end}");
            }
            let followed = [&header[..], b"\x16\x03\x01"].concat();
            assert_eq!(parse(&followed).unwrap(), Some((said, header.len())), "{text}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_that_is_certain() {
        let too_long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 107]].concat();
        let mut datagram = version_2("10.0.0.1:1", &[]);
        datagram[13] = 0x12;
        let mut version_3 = version_2("10.0.0.1:1", &[]);
        version_3[12] = 0x31;
        let mut short = version_2("10.0.0.1:1", &[]);
        short[15] = 4;
        let mut huge = version_2("10.0.0.1:1", &[]);
        huge[14] = 0xff;
        for refused in [
            &b"\x16\x03\x01"[..],
            b"GET / HTTP/1.1\r\n",
            b"PROXYX",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 4711\r\n",
            b"PROXY TCP4 10.0.0.256 10.0.0.2 1 2\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 99999\r\n",
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
            b"PROXY TCP4 2001:db8::1 10.0.0.2 1 2\r\n",
            b"PROXY UNKNOWN \x07\r\n",
            &too_long,
            &datagram,
            &version_3,
            &short,
            &huge,
        ] {
            assert!(parse(refused).is_err(), "{}", refused.escape_ascii());
        }
    }

    #[test]
    fn checksum_is_checked_where_there_is_one() {
        let tlvs = |sum| [Tlv::Noop(2), Tlv::Crc32c(sum), Tlv::UniqueId(b"x"[..].into())];
        let right = CHECKSUM.checksum(&version_2("10.0.0.1:1", &tlvs(0)));
        assert!(parse(&version_2("10.0.0.1:1", &tlvs(right))).unwrap().is_some());
        assert!(parse(&version_2("10.0.0.1:1", &tlvs(right ^ 1))).is_err());
        assert!(parse(&version_2("10.0.0.2:1", &tlvs(right))).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn header_may_come_in_pieces_but_not_for_ever() {
        let (mut balancer, ours) = tokio::io::duplex(64);
        let mut stream = Prefixed::new(ours);
        let send = async {
            for byte in b"PROXY TCP4 10.0.0.1 10.0.0.2 4711 443\r\nhello" {
                balancer.write_all(&[*byte]).await.unwrap();
            }
        };
        let (said, ()) = tokio::join!(read(&mut stream), send);
        assert_eq!(said.unwrap(), Said::From("10.0.0.1:4711".parse().unwrap()));
        let mut rest = [0; 5];
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"hello");

        balancer.write_all(b"PROXY ").await.unwrap();
        assert!(matches!(read(&mut stream).await, Err(ProxyProtocolError::Deadline)));
    }

    proptest! {
        #[test]
        fn no_input_panics_and_no_more_is_used_than_there_is(
            start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", b"PROXY UNKNOWN", SIGNATURE, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00"]),
            rest in any::<Vec<u8>>(),
        ) {
            let bytes = [start, &rest].concat();
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
