//! The join ticket: the one string an operator hands to a new workload.
//!
//! It names control's addresses, pins the root certificate, and carries a one-time secret. Whoever reads it
//! can become the workload it was made for, once, until it expires; so its secret is wiped on drop and
//! neither `Debug` nor an error shows it.
//!
//! A ticket without a secret is an introduction: it says where control is and by which root it is known, to those
//! who prove otherwise who they are. It is public, and good for any number of them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use crate::spiffe::{Pins, TrustDomain};
use crate::v1;

const PREFIX: &str = "signet-join-v1.";
/// A ticket holds a few addresses, a name and two 32-byte values; more than this was not made by control.
const MAX_LENGTH: usize = 4096;
const SECRET_LENGTH: usize = 32;

/// What a workload needs in order to join: where to, whom to trust, and proof that it may.
#[derive(Clone)]
pub struct JoinTicket {
    /// `host:port` of control's gRPC listeners. Never empty.
    pub control: Vec<String>,
    /// The trust domain that the workload joins.
    pub trust_domain: TrustDomain,
    /// SHA-256 of the root certificate's DER, checked on the first connection.
    pub root_sha256: [u8; 32],
    /// The same of roots that take its place, or whose place it takes: any of them will do.
    pub other_roots_sha256: Vec<[u8; 32]>,
    /// The one-time secret, 32 bytes. Without it this is an introduction, which proves nothing.
    pub secret: Option<Zeroizing<Vec<u8>>>,
}

/// Why a text is not a join ticket. Never quotes the text, which may hold a secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TicketError {
    /// The text does not start like a ticket.
    #[error(
        "not a join ticket: expected text that starts with `{PREFIX}`, as printed by `signet token create`"
    )]
    Prefix,
    /// Longer than any ticket.
    #[error("join ticket is longer than {MAX_LENGTH} characters")]
    TooLong,
    /// The part after the prefix is damaged.
    #[error("join ticket is damaged ({0}): copy it whole, or create another with `signet token create`")]
    Damaged(&'static str),
}

impl JoinTicket {
    /// The roots by which control is known.
    #[must_use]
    pub fn pins(&self) -> Pins {
        std::iter::once(self.root_sha256).chain(self.other_roots_sha256.iter().copied()).collect()
    }
}

impl fmt::Display for JoinTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut message = v1::JoinTicket {
            control: self.control.clone(),
            trust_domain: self.trust_domain.to_string(),
            root_sha256: self.root_sha256.to_vec(),
            other_root_sha256: self.other_roots_sha256.iter().map(|root| root.to_vec()).collect(),
            secret: self.secret.as_ref().map(|secret| secret.to_vec()).unwrap_or_default(),
        };
        let bytes = Zeroizing::new(message.encode_to_vec());
        message.secret.zeroize();
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes))
    }
}

impl fmt::Debug for JoinTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTicket")
            .field("control", &self.control)
            .field("trust_domain", &self.trust_domain)
            .field("introduction", &self.secret.is_none())
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        if text.len() > MAX_LENGTH {
            return Err(TicketError::TooLong);
        }
        let bytes = Zeroizing::new(
            URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TicketError::Damaged("not base64url"))?,
        );
        let message =
            v1::JoinTicket::decode(&**bytes).map_err(|_| TicketError::Damaged("not a ticket message"))?;
        let secret = Zeroizing::new(message.secret);
        if message.control.is_empty() || message.control.iter().any(|address| !is_host_port(address)) {
            return Err(TicketError::Damaged("no usable control address"));
        }
        let secret = match secret.len() {
            0 => None,
            SECRET_LENGTH => Some(secret),
            _ => return Err(TicketError::Damaged("secret of the wrong length")),
        };
        let wrong_root = |_| TicketError::Damaged("root fingerprint of the wrong length");
        Ok(Self {
            control: message.control,
            trust_domain: message
                .trust_domain
                .parse()
                .map_err(|_| TicketError::Damaged("no usable trust domain"))?,
            root_sha256: message.root_sha256.try_into().map_err(wrong_root)?,
            other_roots_sha256: message
                .other_root_sha256
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()
                .map_err(wrong_root)?,
            secret,
        })
    }
}

fn is_host_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket() -> JoinTicket {
        JoinTicket {
            control: vec!["control.example:8443".into(), "[::1]:8443".into()],
            trust_domain: "prod.example".parse().unwrap(),
            root_sha256: [7; 32],
            other_roots_sha256: vec![[8; 32]],
            secret: Some(Zeroizing::new(vec![9; SECRET_LENGTH])),
        }
    }

    fn introduction() -> JoinTicket {
        JoinTicket { secret: None, ..ticket() }
    }

    #[test]
    fn printed_ticket_reads_back() {
        let read: JoinTicket = format!(" {}\n", ticket()).parse().unwrap();
        assert_eq!(read.to_string(), ticket().to_string());
        assert_eq!(read.pins(), [[7; 32], [8; 32]].into_iter().collect());
        assert_eq!(read.secret.unwrap().as_slice(), [9; SECRET_LENGTH]);
    }

    #[test]
    fn introduction_is_a_ticket_without_a_secret() {
        let read: JoinTicket = introduction().to_string().parse().unwrap();
        assert_eq!((read.control, read.root_sha256), (ticket().control, ticket().root_sha256));
        assert!(read.secret.is_none());
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", ticket()).contains('9'));
        assert!(format!("{:?}", introduction()).contains("introduction: true"));
    }

    #[test]
    fn wrong_texts_are_refused() {
        let text = ticket().to_string();
        assert_eq!("hello".parse::<JoinTicket>().unwrap_err(), TicketError::Prefix);
        assert!(matches!(text[..text.len() - 9].parse::<JoinTicket>(), Err(TicketError::Damaged(_))));
        assert!(matches!(format!("{text}!").parse::<JoinTicket>(), Err(TicketError::Damaged(_))));
        for broken in [
            JoinTicket { control: vec![], ..ticket() },
            JoinTicket { control: vec!["nowhere".into()], ..ticket() },
            JoinTicket { control: vec!["host:0".into()], ..ticket() },
            JoinTicket { secret: Some(Zeroizing::new(vec![1])), ..ticket() },
        ] {
            assert!(matches!(broken.to_string().parse::<JoinTicket>(), Err(TicketError::Damaged(_))));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(signet-join-v1\\.)?[A-Za-z0-9_-]{0,80}") {
            let _ = text.parse::<JoinTicket>();
        }
    }
}
