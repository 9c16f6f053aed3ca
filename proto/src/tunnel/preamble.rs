//! The preamble: what a stream is for, said in its OPEN.
//!
//! A list of fields, each `type u8, length u16 big-endian, value`, in strictly ascending order of type, so
//! that one preamble has one encoding and no field comes twice. A field that a receiver does not know is
//! passed over if its type has the high bit set; otherwise the stream is refused, as its meaning is not
//! known whole. What cannot be read as such a list is a violation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use super::{TraceParent, TraceParentError};

const DESTINATION_PORT: u8 = 0x01;
const SOURCE: u8 = 0x81;
const TRACE_PARENT: u8 = 0x82;
/// Set in the type of a field that need not be understood.
const OPTIONAL: u8 = 0x80;

/// What a stream is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    /// The app's port, as in policies. The acceptor dials only what it serves there by configuration.
    pub destination_port: NonZeroU16,
    /// Where the initiator's app called from; none for a unix socket. Said by the peer and not proven: for
    /// logs, and for an app that is told, never for a decision. Without IPv6 scope or flow label.
    pub source: Option<SocketAddr>,
    /// The trace that the stream belongs to.
    pub trace: Option<TraceParent>,
}

/// A preamble that cannot be read. Whoever sent it does not keep to the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PreambleError {
    /// A field's header or value is longer than what is left.
    #[error("preamble ends within a field")]
    Truncated,
    /// A field comes twice or before one of lower type.
    #[error("preamble field {0:#04x} out of order: expected each field once, in ascending order of type")]
    Order(u8),
    /// A known field of a length that it cannot have.
    #[error("preamble field {field:#04x} with {length} bytes: expected {expected}")]
    Length {
        /// The field's type.
        field: u8,
        /// The value's length.
        length: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// No destination port.
    #[error("preamble without destination port: expected field 0x01")]
    NoDestination,
    /// Port zero, which nothing listens on.
    #[error("preamble with port 0: expected 1 to 65535")]
    PortZero,
    /// An IPv4 address in IPv6 form, which would give one source two spellings.
    #[error("preamble with the IPv4-mapped source address {0}: expected its IPv4 form")]
    Mapped(Ipv6Addr),
    /// The trace is malformed.
    #[error("preamble: {0}")]
    Trace(#[from] TraceParentError),
}

/// A preamble as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// All of it is known, or may be passed over.
    Understood(Preamble),
    /// It has this field, which is unknown and may not be passed over.
    Unsupported(u8),
}

impl Preamble {
    /// For a stream to this port, from nowhere in particular.
    #[must_use]
    pub fn to_port(port: NonZeroU16) -> Self {
        Self { destination_port: port, source: None, trace: None }
    }

    /// The payload of OPEN, at most 84 bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        put(&mut payload, DESTINATION_PORT, &[&self.destination_port.get().to_be_bytes()]);
        if let Some(source) = self.source {
            let port = source.port().to_be_bytes();
            match source.ip().to_canonical() {
                IpAddr::V4(address) => put(&mut payload, SOURCE, &[&address.octets(), &port]),
                IpAddr::V6(address) => put(&mut payload, SOURCE, &[&address.octets(), &port]),
            }
        }
        if let Some(trace) = &self.trace {
            put(&mut payload, TRACE_PARENT, &[trace.as_str().as_bytes()]);
        }
        payload
    }

    pub(super) fn parse(mut payload: &[u8]) -> Result<Reading, PreambleError> {
        let (mut destination_port, mut source, mut trace, mut unsupported) = (None, None, None, None);
        let mut previous = None;
        while !payload.is_empty() {
            let (field, value, rest) = split_field(payload).ok_or(PreambleError::Truncated)?;
            if previous >= Some(field) {
                return Err(PreambleError::Order(field));
            }
            match field {
                DESTINATION_PORT => destination_port = Some(parse_port(value)?),
                SOURCE => source = Some(parse_source(value)?),
                TRACE_PARENT => trace = Some(parse_trace(value)?),
                unknown if unknown & OPTIONAL == 0 => unsupported = unsupported.or(Some(unknown)),
                _ => {}
            }
            previous = Some(field);
            payload = rest;
        }
        // First: a field of a later revision may stand in for the destination.
        if let Some(field) = unsupported {
            return Ok(Reading::Unsupported(field));
        }
        let destination_port = destination_port.ok_or(PreambleError::NoDestination)?;
        Ok(Reading::Understood(Self { destination_port, source, trace }))
    }
}

fn put(payload: &mut Vec<u8>, field: u8, value: &[&[u8]]) {
    let value = value.concat();
    // Values are a port, an address or a trace: lengths far below the bound.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    payload.push(field);
    payload.extend_from_slice(&length.to_be_bytes());
    payload.extend_from_slice(&value);
}

/// Type, value, and what follows.
fn split_field(payload: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[field, high, low], rest) = payload.split_first_chunk::<3>()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    Some((field, value, rest))
}

fn parse_port(value: &[u8]) -> Result<NonZeroU16, PreambleError> {
    let port: [u8; 2] = value.try_into().map_err(|_| PreambleError::Length {
        field: DESTINATION_PORT,
        length: value.len(),
        expected: "2",
    })?;
    NonZeroU16::new(u16::from_be_bytes(port)).ok_or(PreambleError::PortZero)
}

/// The length tells the family: 4 + 2 or 16 + 2 bytes.
fn parse_source(value: &[u8]) -> Result<SocketAddr, PreambleError> {
    let length = || PreambleError::Length {
        field: SOURCE,
        length: value.len(),
        expected: "6 (IPv4 address and port) or 18 (IPv6 address and port)",
    };
    let (address, port) = value.split_last_chunk::<2>().ok_or_else(length)?;
    let address = match address.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(address).map_err(|_| length())?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(address).map_err(|_| length())?)),
        _ => return Err(length()),
    };
    if let IpAddr::V6(mapped) = address
        && mapped.to_ipv4_mapped().is_some()
    {
        return Err(PreambleError::Mapped(mapped));
    }
    Ok(SocketAddr::new(address, u16::from_be_bytes(*port)))
}

fn parse_trace(value: &[u8]) -> Result<TraceParent, PreambleError> {
    if value.len() != super::traceparent::TRACE_PARENT_BYTES {
        return Err(PreambleError::Length { field: TRACE_PARENT, length: value.len(), expected: "55" });
    }
    Ok(value.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::any_preamble;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const PORT: &[u8] = &[0x01, 0, 2, 0x1f, 0x90];

    fn read(parts: &[&[u8]]) -> Result<Reading, PreambleError> {
        Preamble::parse(&parts.concat())
    }

    fn to_8080() -> Preamble {
        Preamble::to_port(NonZeroU16::new(8080).unwrap())
    }

    #[test]
    fn each_field_has_its_vector() {
        assert_eq!(to_8080().encode(), PORT);
        let from_v4 = Preamble { source: Some("10.0.0.7:41000".parse().unwrap()), ..to_8080() };
        assert_eq!(from_v4.encode(), [PORT, &[0x81, 0, 6, 10, 0, 0, 7, 0xa0, 0x28]].concat());
        let from_v6 = Preamble { source: Some("[2001:db8::7]:41000".parse().unwrap()), ..to_8080() };
        assert_eq!(
            from_v6.encode(),
            [PORT, &[0x81, 0, 18, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0xa0, 0x28]]
                .concat()
        );
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let traced = Preamble { trace: Some(text.parse().unwrap()), ..to_8080() };
        assert_eq!(traced.encode(), [PORT, &[0x82, 0, 55], text.as_bytes()].concat());
    }

    #[test]
    fn a_mapped_source_leaves_as_ipv4_and_is_refused_otherwise() {
        let mapped = Preamble { source: Some("[::ffff:10.0.0.7]:9".parse().unwrap()), ..to_8080() };
        let plain = Preamble { source: Some("10.0.0.7:9".parse().unwrap()), ..to_8080() };
        assert_eq!(mapped.encode(), plain.encode());
        let address: Ipv6Addr = "::ffff:10.0.0.7".parse().unwrap();
        let field = [&[0x81, 0, 18][..], &address.octets(), &[0, 9]].concat();
        assert_eq!(read(&[PORT, &field]), Err(PreambleError::Mapped(address)));
    }

    #[test]
    fn unknown_fields_refuse_the_stream_unless_optional() {
        assert_eq!(
            read(&[PORT, &[0x80, 0, 1, 9], &[0xff, 0, 0]]),
            Ok(Reading::Understood(to_8080())),
            "high bit set: passed over"
        );
        assert_eq!(read(&[PORT, &[0x02, 0, 1, 9], &[0x7f, 0, 0]]), Ok(Reading::Unsupported(0x02)));
        assert_eq!(read(&[&[0x00, 0, 0], PORT]), Ok(Reading::Unsupported(0x00)));
        // Another kind of destination, without a port.
        assert_eq!(read(&[&[0x02, 0, 1, 9]]), Ok(Reading::Unsupported(0x02)));
        // Not understood is no excuse for being malformed.
        assert_eq!(read(&[&[0x02, 0, 1, 9, 0x03]]), Err(PreambleError::Truncated));
    }

    #[test]
    fn malformed_preambles_say_what_was_expected() {
        for (parts, error) in [
            (&[][..], PreambleError::NoDestination),
            (&[&[0x82_u8][..]], PreambleError::Truncated),
            (&[&[0x01, 0]], PreambleError::Truncated),
            (&[&[0x01, 0, 3, 0, 80]], PreambleError::Truncated),
            (&[&[0x01, 0xff, 0xff, 0, 80]], PreambleError::Truncated),
            (&[PORT, PORT], PreambleError::Order(0x01)),
            (&[&[0xff, 0, 0], &[0xff, 0, 0]], PreambleError::Order(0xff)),
            (&[&[0x81, 0, 6, 1, 2, 3, 4, 0, 1], PORT], PreambleError::Order(0x01)),
            (&[&[0x01, 0, 2, 0, 0]], PreambleError::PortZero),
            (&[&[0x01, 0, 0]], PreambleError::Length { field: 1, length: 0, expected: "2" }),
            (&[&[0x01, 0, 3, 1, 2, 3]], PreambleError::Length { field: 1, length: 3, expected: "2" }),
            (&[PORT, &[0x82, 0, 1, b'0']], PreambleError::Length { field: 0x82, length: 1, expected: "55" }),
            (&[PORT, &[0x82, 0, 55], &[b'-'; 55]], PreambleError::Trace(TraceParentError::Shape)),
        ] {
            assert_eq!(read(parts), Err(error));
        }
        for length in (0..=20).filter(|length| ![6, 18].contains(length)) {
            let field = [&[0x81, 0, length][..], &vec![1; length.into()]].concat();
            assert!(
                matches!(read(&[PORT, &field]), Err(PreambleError::Length { field: 0x81, .. })),
                "source of {length} bytes"
            );
        }
        assert_eq!(
            PreambleError::Order(0x81).to_string(),
            "preamble field 0x81 out of order: expected each field once, in ascending order of type"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(preamble in any_preamble()) {
            let payload = preamble.encode();
            prop_assert!(payload.len() <= 84);
            prop_assert_eq!(Preamble::parse(&payload), Ok(Reading::Understood(preamble)));
        }

        #[test]
        fn what_is_read_has_one_encoding(
            fields in vec((any::<u8>(), vec(any::<u8>(), 0..20)), 0..5),
            noise in vec(any::<u8>(), 0..90),
        ) {
            let mut payload = Vec::new();
            for (field, value) in &fields {
                put(&mut payload, *field, &[value]);
            }
            for payload in [payload, noise] {
                if let Ok(Reading::Understood(preamble)) = Preamble::parse(&payload) {
                    let encoded = preamble.encode();
                    prop_assert!(encoded.len() <= payload.len());
                    prop_assert_eq!(Preamble::parse(&encoded), Ok(Reading::Understood(preamble)));
                }
            }
        }
    }
}
