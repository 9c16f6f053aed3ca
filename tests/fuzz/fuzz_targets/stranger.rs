//! What somebody sends who has proven nothing: tickets, messages of attestation, signing requests. No input panics; what
//! is read and written is read again as the same, and a signing request has one form.
//!
//! `tests/fuzz/run 60 stranger`

#![no_main]
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use signet_control::issue::{KeyAlgorithms, verify_request};
use signet_proto::spiffe::SpiffeId;
use signet_proto::ticket::JoinTicket;
use signet_proto::v1::attest_request::Proof;
use signet_proto::v1::{AttestRequest, ChallengeRequest, RenewRequest};

static ASSIGNED: LazyLock<SpiffeId> = LazyLock::new(|| "spiffe://mesh.local/orders".parse().expect("fixed"));
static KEYS: LazyLock<KeyAlgorithms> = LazyLock::new(|| {
    let all = ["p256", "p384", "ed25519", "rsa"].map(|name| name.parse().expect("a kind"));
    KeyAlgorithms::new(&all).expect("some")
});

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(ticket) = text.parse::<JoinTicket>()
    {
        let again: JoinTicket = ticket.to_string().parse().expect("what is written is read");
        assert_eq!(again.to_string(), ticket.to_string());
    }
    request(input);
    if let Ok(challenge) = ChallengeRequest::decode(input) {
        assert_eq!(ChallengeRequest::decode(&*challenge.encode_to_vec()), Ok(challenge));
    }
    if let Ok(renewal) = RenewRequest::decode(input) {
        request(&renewal.csr);
    }
    if let Ok(asked) = AttestRequest::decode(input) {
        request(&asked.csr);
        if let Some(Proof::Jwt(proof)) = &asked.proof {
            let _ = signet_proto::jose::Token::parse(&proof.token);
        }
        assert_eq!(AttestRequest::decode(&*asked.encode_to_vec()), Ok(asked));
    }
});

/// Accepted are only requests in the one form that they have; any byte more or less is refused.
fn request(der: &[u8]) {
    if verify_request(der, &ASSIGNED, &KEYS).is_err() {
        return;
    }
    let longer = [der, &[0]].concat();
    assert!(verify_request(&longer, &ASSIGNED, &KEYS).is_err());
    assert!(verify_request(&der[..der.len() - 1], &ASSIGNED, &KEYS).is_err());
}
