//! Against rustls at the other end, in both roles and with every suite; and against an end that sends what it likes.

use std::io::{IoSlice, Read, Write};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection,
};

use super::*;
use crate::handshake::config::provider;
use crate::handshake::test_ca::TestCa;
use crate::handshake::{
    ALPN_HTTP1, ClientAuth, Exchange, Progress, client_config, server_config, server_name,
};
use crate::record::{MAX_RECORD, length};

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// Our end, and what it has not used of what came.
struct Ours {
    session: Session,
    input: Vec<u8>,
    stream: Vec<u8>,
    closed: bool,
}

impl Ours {
    /// Takes what came in.
    fn receive(&mut self, wire: &[u8]) -> Result<(), SessionError> {
        self.input.extend_from_slice(wire);
        while let Some(length) = length(&self.input)?.filter(|length| *length <= self.input.len()) {
            let mut record: Vec<u8> = self.input.drain(..length).collect();
            // Both ways of opening take turns.
            let (opened, bytes) = if self.stream.len().is_multiple_of(2) {
                let mut out = vec![0; Opener::room(length)];
                (self.session.open(&record, &mut out)?, out)
            } else {
                let opened = self.session.open_in_place(&mut record)?;
                (opened, record.split_off(HEADER_BYTES))
            };
            match opened {
                Opened::Data(count) => self.stream.extend_from_slice(&bytes[..count]),
                Opened::Nothing => {}
                Opened::Closed => self.closed = true,
            }
        }
        Ok(())
    }

    fn seal(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (front, back) = bytes.split_at(bytes.len() / 3);
        let slices = [IoSlice::new(front), IoSlice::new(&[]), IoSlice::new(back)];
        let (mut pieces, mut wire) = (Pieces::new(&slices), Vec::new());
        while pieces.left() > 0 {
            let mut out = vec![0; 2 * MAX_RECORD];
            let used = self.session.seal(&mut pieces, &mut out).unwrap();
            assert!(used > 0, "it goes on");
            wire.extend_from_slice(&out[..used]);
        }
        wire
    }

    fn error(&mut self, wire: &[u8]) -> SessionError {
        self.receive(wire).expect_err("it is refused")
    }
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// Both ends' configurations; `suite` is the only one that the caller offers.
fn configs(suite: CipherSuite) -> Configs {
    let ca = TestCa::new("td");
    let (caller, called, trust) = (ca.svid("/caller"), ca.svid("/called"), ca.trust());
    let offered = provider().cipher_suites.iter().filter(|known| known.suite() == suite).copied().collect();
    let narrow = Arc::new(CryptoProvider { cipher_suites: offered, ..provider().as_ref().clone() });
    let server = server_config(&called, Arc::clone(&trust), ClientAuth::Required, &[ALPN_HTTP1]).unwrap();
    let full = client_config(Some(&caller), trust, called.id().clone(), &[ALPN_HTTP1]).unwrap();
    let mut client = ClientConfig::builder_with_provider(narrow)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(crate::handshake::verifier::ServerVerifier {
            basis: crate::handshake::verifier::Basis::Bundle(ca.trust()),
            expected: called.id().clone(),
        }))
        .with_client_cert_resolver(Arc::clone(&full.client_auth_cert_resolver));
    client.alpn_protocols = full.alpn_protocols.clone();
    client.enable_secret_extraction = true;
    client.key_log = Arc::clone(&full.key_log);
    Configs { client: Arc::new(client), server }
}

/// A handshake of our end with rustls'. The wire is cut into pieces of `size`.
fn meet(role: Role, configs: &Configs, size: usize) -> (Ours, Connection) {
    let mut theirs = match role {
        Role::Client => Connection::Server(ServerConnection::new(Arc::clone(&configs.server)).unwrap()),
        Role::Server => {
            let connection = ClientConnection::new(Arc::clone(&configs.client), server_name());
            Connection::Client(connection.unwrap())
        }
    };
    let mut exchange = match role {
        Role::Client => Exchange::call(&configs.client).unwrap(),
        Role::Server => Exchange::answer(Arc::clone(&configs.server), Vec::new()).unwrap(),
    };
    let mut done = false;
    while !done || theirs.is_handshaking() {
        let wire = written(&mut theirs);
        for piece in wire.chunks(size).chain(wire.is_empty().then_some(&[][..])) {
            exchange.input().unwrap().extend_from_slice(piece);
            if !done {
                done = exchange.advance().unwrap() == Progress::Done;
            }
            fed(&mut theirs, &exchange.take_output()).unwrap();
        }
    }
    assert_eq!(exchange.alpn(), Some(ALPN_HTTP1));
    assert_eq!(exchange.peer_certificates().unwrap().len(), 2);
    let late = written(&mut theirs);
    exchange.input().unwrap().extend_from_slice(&late);
    let finished = exchange.finish().unwrap();
    let mut ours =
        Ours { session: finished.session, input: finished.input, stream: Vec::new(), closed: false };
    ours.receive(&[]).unwrap();
    (ours, theirs)
}

fn written(connection: &mut Connection) -> Vec<u8> {
    let mut wire = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut wire).unwrap();
    }
    wire
}

fn fed(connection: &mut Connection, wire: &[u8]) -> Result<Vec<u8>, rustls::Error> {
    let (mut rest, mut stream) = (wire, Vec::new());
    while !rest.is_empty() {
        connection.read_tls(&mut rest).unwrap();
        connection.process_new_packets()?;
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = connection.reader().read(&mut piece) {
            stream.extend_from_slice(&piece[..count]);
        }
    }
    Ok(stream)
}

fn sent(connection: &mut Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut rest, mut wire) = (bytes, Vec::new());
    while !rest.is_empty() {
        let count = connection.writer().write(rest).unwrap();
        rest = &rest[count..];
        wire.extend(written(connection));
    }
    wire
}

/// An end with the peer's keys that seals whatever it is told.
fn free(role: Role) -> (Ours, Sealer) {
    let (ours, theirs) = meet(role, &configs(SUITES[0]), usize::MAX);
    let secrets = match theirs {
        Connection::Client(theirs) => theirs.dangerous_extract_secrets(),
        Connection::Server(theirs) => theirs.dangerous_extract_secrets(),
    };
    (ours, Sealer::new(key(&secrets.unwrap().tx).unwrap().1))
}

fn record(sealer: &mut Sealer, content: Content, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; bytes.len() + OVERHEAD];
    sealer.seal(content, bytes, &mut out).unwrap();
    out
}

#[test]
fn handshake_comes_in_pieces_of_any_size() {
    let configs = configs(SUITES[0]);
    for role in ROLES {
        for size in [1, 2, 3, 5, 7, 64, 1000, usize::MAX] {
            let (mut ours, mut theirs) = meet(role, &configs, size);
            ours.receive(&sent(&mut theirs, b"hello")).unwrap();
            assert_eq!(ours.stream, b"hello");
            assert_eq!(fed(&mut theirs, &ours.seal(b"hello, too")).unwrap(), b"hello, too");
        }
    }
}

#[test]
fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let configs = configs(SUITES[0]);
    let mut theirs = ClientConnection::new(Arc::clone(&configs.client), server_name()).unwrap();
    let mut exchange = Exchange::answer(Arc::clone(&configs.server), Vec::new()).unwrap();
    let mut wire = Vec::new();
    theirs.write_tls(&mut wire).unwrap();
    exchange.input().unwrap().extend_from_slice(&wire);
    assert_eq!(exchange.advance().unwrap(), Progress::Blocked);
    let mut theirs = Connection::Client(theirs);
    fed(&mut theirs, &exchange.take_output()).unwrap();
    let mut wire = written(&mut theirs);
    wire.extend(sent(&mut theirs, &[3; 40_000]));
    wire.truncate(wire.len() - 10);
    exchange.input().unwrap().extend_from_slice(&wire);
    assert_eq!(exchange.advance().unwrap(), Progress::Done);
    let finished = exchange.finish().unwrap();
    let mut ours =
        Ours { session: finished.session, input: finished.input, stream: Vec::new(), closed: false };
    ours.receive(&[]).unwrap();
    assert_eq!(ours.stream, vec![3; 2 * MAX_CONTENT], "all that is whole");
}

#[test]
fn peer_that_is_refused_is_told_why() {
    let (configs, other) = (configs(SUITES[0]), configs(SUITES[0]));
    let mut theirs = ClientConnection::new(Arc::clone(&other.client), server_name()).unwrap();
    let mut exchange = Exchange::answer(Arc::clone(&configs.server), Vec::new()).unwrap();
    let mut wire = Vec::new();
    theirs.write_tls(&mut wire).unwrap();
    exchange.input().unwrap().extend_from_slice(&wire);
    exchange.advance().unwrap();
    // It does not believe us: its alert is an error of ours.
    let mut theirs = Connection::Client(theirs);
    assert!(fed(&mut theirs, &exchange.take_output()).is_err());
    exchange.input().unwrap().extend_from_slice(&written(&mut theirs));
    assert!(matches!(exchange.advance(), Err(rustls::Error::AlertReceived(_))));

    let mut exchange = Exchange::answer(Arc::clone(&configs.server), Vec::new()).unwrap();
    exchange.input().unwrap().extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    assert!(exchange.advance().is_err(), "at once");
    let alert = exchange.take_output();
    assert!(matches!(*alert, [21, 3, _, 0, 2, 2, _]), "{alert:?}");
}

#[test]
fn refusal_amid_several_messages_is_told_and_is_the_end() {
    let (configs, other) = (configs(SUITES[0]), configs(SUITES[0]));
    for size in [1, 100, usize::MAX] {
        let server = ServerConnection::new(Arc::clone(&other.server)).unwrap();
        let (mut theirs, mut exchange) =
            (Connection::Server(server), Exchange::call(&configs.client).unwrap());
        assert_eq!(exchange.advance().unwrap(), Progress::Blocked);
        fed(&mut theirs, &exchange.take_output()).unwrap();
        // Its certificate is followed by what proves its key, often in the same record.
        let wire = written(&mut theirs);
        let refused = wire.chunks(size).find_map(|piece| {
            exchange.input().unwrap().extend_from_slice(piece);
            let refused = exchange.advance().err();
            if refused.is_none() {
                fed(&mut theirs, &exchange.take_output()).unwrap();
            }
            refused
        });
        assert!(matches!(refused, Some(rustls::Error::InvalidCertificate(_))), "{refused:?}");
        let told = fed(&mut theirs, &exchange.take_output()).unwrap_err();
        assert!(matches!(told, rustls::Error::AlertReceived(_)), "{told}");
    }
}

#[test]
fn closing_is_told_both_ways_and_only_once() {
    for role in ROLES {
        let (mut ours, mut theirs) = meet(role, &configs(SUITES[0]), usize::MAX);
        theirs.send_close_notify();
        ours.receive(&written(&mut theirs)).unwrap();
        assert!(ours.closed);
        assert_eq!(fed(&mut theirs, &ours.seal(b"still open")).unwrap(), b"still open");
        let mut out = [0; 64];
        let used = ours.session.close(&mut out).unwrap();
        fed(&mut theirs, &out[..used]).unwrap();
        assert_eq!(theirs.reader().read(&mut [0; 8]).unwrap(), 0, "a clean end");
        assert_eq!(ours.session.close(&mut out).unwrap(), 0);
        let slices = [IoSlice::new(b"late")];
        let late = ours.session.seal(&mut Pieces::new(&slices), &mut out);
        assert!(matches!(late, Err(SessionError::Closed)));
    }
}

#[test]
fn peer_is_told_what_it_did() {
    for role in ROLES {
        let (mut ours, mut theirs) = meet(role, &configs(SUITES[0]), usize::MAX);
        let mut wire = sent(&mut theirs, b"to be changed");
        *wire.last_mut().unwrap() ^= 1;
        let error = ours.error(&wire);
        let mut out = [0; 64];
        let used = ours.session.give_up(&error, &mut out).unwrap();
        let told = fed(&mut theirs, &out[..used]).unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
    }
}

#[test]
fn tickets_are_taken_and_nothing_is_resumed() {
    let Configs { client, server } = configs(SUITES[0]);
    let mut generous = server.as_ref().clone();
    generous.send_tls13_tickets = 3;
    generous.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let mut keeping = client.as_ref().clone();
    keeping.resumption = Resumption::in_memory_sessions(8);
    let configs = Configs { client: Arc::new(keeping), server: Arc::new(generous) };
    for _ in 0..2 {
        let (mut ours, mut theirs) = meet(Role::Client, &configs, 100);
        assert_eq!(theirs.handshake_kind(), Some(HandshakeKind::Full));
        ours.receive(&sent(&mut theirs, b"after the tickets")).unwrap();
        assert_eq!(ours.stream, b"after the tickets");
    }
}

#[test]
fn a_ticket_is_whole_and_alone() {
    let whole = [&[0; 8][..], &[2, 7, 7], &[0, 3, 1, 2, 3], &[0, 8, 0, 42, 0, 4, 0, 0, 0, 9]].concat();
    assert!(ticket(&whole).is_some());
    for end in 0..whole.len() {
        assert!(ticket(&whole[..end]).is_none(), "cut to {end}");
    }
    assert!(ticket(&[&whole[..], &[0]].concat()).is_none(), "and more");
    assert!(ticket(&[&[0; 8][..], &[0], &[0, 0], &[0, 0]].concat()).is_none(), "without a ticket");
    assert!(ticket(&[&[0; 8][..], &[0], &[0, 1, 5], &[0, 0]].concat()).is_some(), "the least");
    assert!(
        ticket(&[&[0; 8][..], &[0], &[0, 1, 5], &[0, 3, 0, 42, 0]].concat()).is_none(),
        "half an extension"
    );
}

#[test]
fn keys_are_replaced_before_they_have_sealed_too_much() {
    for suite in SUITES {
        for role in ROLES {
            let (mut ours, mut theirs) = meet(role, &configs(suite), usize::MAX);
            ours.session.limit_keys(RESERVE + 5);
            let mut most = 0;
            for round in 0..100_u8 {
                let bytes = vec![round; 1000];
                assert_eq!(fed(&mut theirs, &ours.seal(&bytes)).unwrap(), bytes);
                most = most.max(ours.session.sealer.records());
            }
            assert!(most <= 6, "{most} records with one key");
        }
    }
}

#[test]
fn a_tiny_buffer_is_no_reason_to_keep_a_key() {
    let (mut ours, mut theirs) = meet(Role::Client, &configs(SUITES[0]), usize::MAX);
    ours.session.update_owed = true;
    let slices = [IoSlice::new(b"x")];
    let mut pieces = Pieces::new(&slices);
    assert_eq!(ours.session.seal(&mut pieces, &mut [0; LEAST_ROOM - 1]).unwrap(), 0);
    let mut out = [0; LEAST_ROOM];
    let used = ours.session.seal(&mut pieces, &mut out).unwrap();
    assert_eq!(fed(&mut theirs, &out[..used]).unwrap(), b"x");
}

#[test]
fn nothing_in_the_clear_counts_after_the_handshake() {
    for role in ROLES {
        for kind in [20, 21, 22, 24, 0, 255] {
            let (mut ours, _) = meet(role, &configs(SUITES[0]), usize::MAX);
            let error = ours.error(&[kind, 3, 3, 0, 1, 1]);
            assert_eq!(error.alert(), Some(AlertDescription::UnexpectedMessage), "{error}");
        }
        let (mut ours, _) = meet(role, &configs(SUITES[0]), usize::MAX);
        let error = ours.error(&[23, 3, 3, 0x41, 1]);
        assert_eq!(error.alert(), Some(AlertDescription::RecordOverflow), "{error}");
    }
}

#[test]
fn messages_that_do_not_belong_here_end_the_connection() {
    let unexpected = AlertDescription::UnexpectedMessage;
    let malformed = AlertDescription::DecodeError;
    let ticket = [&[NEW_SESSION_TICKET, 0, 0, 100][..], &[0; 10]].concat();
    let update = [KEY_UPDATE, 0, 0, 1, 0];
    type Case = (&'static str, Vec<(Content, Vec<u8>)>, AlertDescription);
    let cases: [Case; 13] = [
        ("an empty piece", vec![(Content::Handshake, vec![])], unexpected),
        ("Finished", vec![(Content::Handshake, vec![20, 0, 0, 0])], unexpected),
        ("CertificateRequest", vec![(Content::Handshake, vec![13, 0, 0, 0])], unexpected),
        ("ClientHello", vec![(Content::Handshake, vec![1, 0, 0, 0])], unexpected),
        ("a long key update", vec![(Content::Handshake, vec![KEY_UPDATE, 0, 0, 2])], malformed),
        ("a strange key update", vec![(Content::Handshake, vec![KEY_UPDATE, 0, 0, 1, 2])], malformed),
        ("two key updates at once", vec![(Content::Handshake, [update, update].concat())], unexpected),
        ("a key update and more", vec![(Content::Handshake, [&update[..], &[4]].concat())], unexpected),
        (
            "data amid a message",
            vec![(Content::Handshake, update[..3].to_vec()), (Content::Data, vec![1])],
            unexpected,
        ),
        (
            "an alert amid a message",
            vec![(Content::Handshake, update[..1].to_vec()), (Content::Alert, vec![1, 0])],
            unexpected,
        ),
        ("a short alert", vec![(Content::Alert, vec![1])], malformed),
        ("a long alert", vec![(Content::Alert, vec![1, 0, 0])], malformed),
        ("no alert", vec![(Content::Alert, vec![])], malformed),
    ];
    for role in ROLES {
        for (what, records, alert) in &cases {
            let (mut ours, mut sealer) = free(role);
            let wire: Vec<u8> =
                records.iter().flat_map(|(content, bytes)| record(&mut sealer, *content, bytes)).collect();
            assert_eq!(ours.error(&wire).alert(), Some(*alert), "{what}");
        }
    }
    let (mut ours, mut sealer) = free(Role::Server);
    let error = ours.error(&record(&mut sealer, Content::Handshake, &ticket));
    assert_eq!(error.alert(), Some(unexpected), "a client has no tickets");
    let (mut ours, mut sealer) = free(Role::Client);
    ours.receive(&record(&mut sealer, Content::Handshake, &ticket)).unwrap();
    let error = ours.error(&record(&mut sealer, Content::Handshake, &[0xff; 90]));
    assert_eq!(error.alert(), Some(malformed), "no ticket");
    let (mut ours, mut sealer) = free(Role::Client);
    let error = ours.error(&record(&mut sealer, Content::Handshake, &[NEW_SESSION_TICKET, 1, 0, 0]));
    assert_eq!(error.alert(), Some(malformed), "longer than any");
}

#[test]
fn fatal_alerts_are_the_end_and_their_words_are_told() {
    for role in ROLES {
        let (mut ours, mut sealer) = free(role);
        let error = ours.error(&record(&mut sealer, Content::Alert, &[2, 45]));
        assert_eq!(error.to_string(), "received fatal alert: CertificateExpired");
        let mut out = [0; 64];
        assert_eq!(ours.session.give_up(&error, &mut out).unwrap(), 0, "it is not answered");
        // The level says nothing in TLS 1.3.
        let (mut ours, mut sealer) = free(role);
        assert!(ours.receive(&record(&mut sealer, Content::Alert, &[1, 45])).is_err());
    }
}

#[test]
fn floods_of_nothing_are_bounded_and_honest_use_is_not() {
    for (what, content, bytes) in
        [("empty records", Content::Data, &[][..]), ("alerts that mean nothing", Content::Alert, &[1, 90])]
    {
        let (mut ours, mut sealer) = free(Role::Server);
        for _ in 0..MOST_IDLE_RECORDS {
            ours.receive(&record(&mut sealer, content, bytes)).unwrap();
        }
        let error = ours.error(&record(&mut sealer, content, bytes));
        assert!(matches!(error, SessionError::Flood), "{what}: {error}");
    }
    // With data between them there may be any number.
    for role in ROLES {
        let (mut ours, mut theirs) = meet(role, &configs(SUITES[0]), usize::MAX);
        for round in 0..3 * MOST_IDLE_RECORDS {
            theirs.refresh_traffic_keys().unwrap();
            ours.receive(&sent(&mut theirs, &[round])).unwrap();
        }
        assert_eq!(ours.stream.len(), 3 * usize::from(MOST_IDLE_RECORDS));
        for _ in 0..MOST_IDLE_RECORDS {
            theirs.refresh_traffic_keys().unwrap();
            ours.receive(&written(&mut theirs)).unwrap();
        }
        theirs.refresh_traffic_keys().unwrap();
        assert!(matches!(ours.receive(&written(&mut theirs)), Err(SessionError::Flood)));
    }
}

#[derive(Debug, Clone)]
enum Act {
    We(usize),
    They(usize),
    TheirKeys,
    OurKeys,
    Rest,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..40_000_usize).prop_map(Act::We),
        3 => (0..40_000_usize).prop_map(Act::They),
        1 => Just(Act::TheirKeys),
        1 => Just(Act::OurKeys),
        1 => Just(Act::Rest),
    ];
    vec(act, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rustls_and_we_understand_each_other(
        suite in prop::sample::select(&SUITES[..]),
        role in prop::sample::select(&ROLES[..]),
        acts in acts(),
        piece in prop_oneof![1..50_usize, 1000..30_000_usize],
    ) {
        let (mut ours, mut theirs) = meet(role, &configs(suite), piece);
        let (mut from_us, mut from_them, mut heard) = (Vec::new(), Vec::new(), Vec::new());
        for (index, act) in acts.iter().enumerate() {
            let bytes = |length: usize| -> Vec<u8> { (0..length).map(|n| (n * 31 + index) as u8).collect() };
            match act {
                Act::We(length) => {
                    from_us.extend(bytes(*length));
                    for piece in ours.seal(&bytes(*length)).chunks(piece) {
                        heard.extend(fed(&mut theirs, piece).unwrap());
                    }
                }
                Act::They(length) => {
                    from_them.extend(bytes(*length));
                    for piece in sent(&mut theirs, &bytes(*length)).chunks(piece) {
                        ours.receive(piece).unwrap();
                    }
                }
                Act::TheirKeys => {
                    theirs.refresh_traffic_keys().unwrap();
                    ours.receive(&written(&mut theirs)).unwrap();
                }
                Act::OurKeys => ours.session.update_owed = true,
                Act::Rest => ours.session.rest(),
            }
            // Its answers to our updates, if it has any.
            ours.receive(&written(&mut theirs)).unwrap();
        }
        prop_assert_eq!(heard, from_us);
        prop_assert_eq!(ours.stream, from_them);
    }
}
