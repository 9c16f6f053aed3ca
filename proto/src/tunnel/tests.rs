//! Two ends and the wire between them, under everything that chance can do.

mod specification;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Ending, Event, HEADER_BYTES, MAX_OPEN_BYTES, Preamble, Refusal, RefuseCode, Tunnel};

fn hex_digits(count: usize) -> impl Strategy<Value = String> {
    vec(proptest::sample::select(&b"0123456789abcdef"[..]), count)
        .prop_map(|digits| digits.into_iter().map(char::from).collect())
}

/// Any preamble in its canonical form: no IPv4-mapped source.
pub(super) fn any_preamble() -> impl Strategy<Value = Preamble> {
    let trace = (hex_digits(31), hex_digits(15), hex_digits(2))
        .prop_map(|(trace, parent, flags)| format!("00-{trace}1-{parent}1-{flags}").parse().unwrap());
    let source =
        any::<SocketAddr>().prop_map(|source| SocketAddr::new(source.ip().to_canonical(), source.port()));
    (1..=u16::MAX, proptest::option::of(source), proptest::option::of(trace)).prop_map(
        |(port, source, trace)| Preamble { destination_port: NonZeroU16::new(port).unwrap(), source, trace },
    )
}

fn to_port(port: u16) -> Preamble {
    Preamble::to_port(NonZeroU16::new(port).unwrap())
}

// ---- bytes in pieces --------------------------------------------------------------------------------------

/// Frames in any order, most of them well formed, and noise.
fn any_wire() -> impl Strategy<Value = Vec<u8>> {
    let frame = |code: u8, payload: Vec<u8>| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[code], &length[1..], &payload[..]].concat()
    };
    let piece = prop_oneof![
        4 => any_preamble().prop_map(move |preamble| frame(1, preamble.encode())),
        1 => vec(any::<u8>(), 0..40).prop_map(move |payload| frame(1, payload)),
        4 => Just(vec![2, 0, 0, 0]),
        2 => any::<String>().prop_map(move |text| {
            let refusal = Refusal::new(RefuseCode::Denied, &text);
            frame(3, refusal.encode())
        }),
        1 => vec(any::<u8>(), 0..40).prop_map(move |payload| frame(3, payload)),
        8 => vec(any::<u8>(), 1..300).prop_map(move |payload| frame(4, payload)),
        1 => vec(Just(7), 30_000..65_536).prop_map(move |payload| frame(4, payload)),
        6 => Just(vec![5, 0, 0, 0]),
        1 => any::<u8>().prop_map(move |code| frame(6, vec![code])),
        1 => (0..8_u8, vec(any::<u8>(), 0..40)).prop_map(move |(code, payload)| frame(code, payload)),
        1 => vec(any::<u8>(), 0..40),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// An end that does the obvious: an initiator opens whenever it can, an acceptor takes all but every third
/// stream, and both end when the other has. Writes down what came, DATA joined.
struct Obvious {
    tunnel: Tunnel,
    log: Vec<String>,
    data: Vec<u8>,
    opened: usize,
}

impl Obvious {
    fn new(tunnel: Tunnel) -> Self {
        let mut end = Self { tunnel, log: Vec::new(), data: Vec::new(), opened: 0 };
        let _ = end.tunnel.open(&to_port(1));
        end
    }

    fn receive(&mut self, mut input: &[u8]) {
        loop {
            let result = self.tunnel.receive(&mut input);
            self.tunnel.check_invariants().unwrap();
            assert!(self.tunnel.held() <= MAX_OPEN_BYTES);
            match result {
                Ok(None) => break,
                Ok(Some(Event::Data(chunk))) => self.data.extend_from_slice(chunk),
                other => self.other(&format!("{other:?}"), other.ok().flatten().as_ref()),
            }
        }
        assert!(input.is_empty());
    }

    fn other(&mut self, text: &str, event: Option<&Event<'_>>) {
        let data = std::mem::take(&mut self.data);
        self.log.extend([format!("{data:?}"), text.to_owned()]);
        match event {
            Some(Event::Opened(_)) => {
                self.opened += 1;
                if self.opened.is_multiple_of(3) {
                    self.tunnel.refuse(&Refusal::new(RefuseCode::Overloaded, "third")).unwrap();
                } else {
                    self.tunnel.accept().unwrap();
                }
            }
            Some(Event::Unsupported(_)) => {
                self.tunnel.refuse(&Refusal::new(RefuseCode::Unsupported, "")).unwrap();
            }
            Some(Event::Refused(_)) => {
                self.tunnel.end().unwrap();
            }
            Some(Event::Ended) if !self.tunnel.is_idle() => {
                self.tunnel.end().unwrap();
            }
            _ => {}
        }
        if self.tunnel.is_idle() {
            let _ = self.tunnel.open(&to_port(1));
        }
    }

    fn seen(mut self) -> (Vec<String>, bool, bool) {
        self.log.push(format!("{:?}", self.data));
        (self.log, self.tunnel.is_idle(), self.tunnel.is_mid_frame())
    }
}

proptest! {
    #[test]
    fn any_split_gives_the_same_events(wire in any_wire(), cuts in vec(any::<prop::sample::Index>(), 0..40)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        for end in [Tunnel::initiator, Tunnel::acceptor] {
            let mut whole = Obvious::new(end());
            whole.receive(&wire);
            let mut split = Obvious::new(end());
            for cut in cuts.windows(2) {
                split.receive(&wire[cut[0]..cut[1]]);
            }
            let whole = whole.seen();
            prop_assert_eq!(&whole, &split.seen());
            if wire.len() < 3000 {
                let mut dribbled = Obvious::new(end());
                wire.iter().for_each(|byte| dribbled.receive(std::slice::from_ref(byte)));
                prop_assert_eq!(&whole, &dribbled.seen());
            }
        }
    }

    #[test]
    fn random_bytes_do_no_harm(pieces in vec(vec(any::<u8>(), 0..2000), 0..6)) {
        for end in [Tunnel::initiator, Tunnel::acceptor] {
            let mut end = Obvious::new(end());
            pieces.iter().for_each(|piece| end.receive(piece));
        }
    }
}

// ---- two ends ---------------------------------------------------------------------------------------------

/// What chance makes an end try, legal or not.
#[derive(Debug, Clone)]
enum Try {
    Open(u16),
    Accept,
    Refuse(u8),
    Data(usize),
    End,
    Reset(u8),
    /// So many bytes of what is on the wire arrive.
    Receive(usize),
}

fn any_try() -> impl Strategy<Value = Try> {
    prop_oneof![
        20 => (1..=u16::MAX).prop_map(Try::Open),
        20 => Just(Try::Accept),
        6 => any::<u8>().prop_map(Try::Refuse),
        30 => (0..400_usize).prop_map(Try::Data),
        4 => (0..70_000_usize).prop_map(Try::Data),
        20 => Just(Try::End),
        1 => any::<u8>().prop_map(Try::Reset),
        60 => (1..500_usize).prop_map(Try::Receive),
        20 => Just(Try::Receive(usize::MAX)),
    ]
}

/// One end, the wire towards it, and its memory of each stream.
struct End {
    tunnel: Tunnel,
    wire: VecDeque<u8>,
    streams: Vec<Remembered>,
    next_byte: u8,
    closed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Remembered {
    port: u16,
    sent: Vec<u8>,
    received: Vec<u8>,
    accepted: bool,
    refused: bool,
    retried: bool,
    ended: bool,
}

impl End {
    fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, wire: VecDeque::new(), streams: Vec::new(), next_byte: 0, closed: false }
    }

    fn stream(&mut self) -> &mut Remembered {
        self.streams.last_mut().unwrap()
    }

    /// Tries it, and gives what goes on the wire. What may not be done must change nothing.
    fn attempt(&mut self, what: &Try) -> Vec<u8> {
        let before = format!("{:?}", self.tunnel);
        let sent = match what {
            Try::Open(port) => self.tunnel.open(&to_port(*port)).inspect(|_| {
                self.streams.push(Remembered { port: *port, ..Remembered::default() });
            }),
            Try::Accept => self.tunnel.accept().map(Vec::from).inspect(|_| self.stream().accepted = true),
            Try::Refuse(code) => {
                let refusal = Refusal::new((*code).into(), "by chance");
                self.tunnel.refuse(&refusal).inspect(|_| self.stream().refused = true)
            }
            Try::Data(length) => {
                let sendable = self.tunnel.sendable();
                let sent = self.tunnel.data(*length).map(|header| self.with_payload(header, *length));
                assert_eq!(sent.is_ok(), (1..=sendable).contains(length));
                sent
            }
            Try::End => self.tunnel.end().map(Vec::from),
            Try::Reset(code) => {
                let frame = self.tunnel.reset((*code).into());
                assert_eq!(frame.is_some(), !self.closed);
                self.closed = true;
                Ok(frame.map(Vec::from).unwrap_or_default())
            }
            Try::Receive(_) => Ok(Vec::new()),
        };
        self.tunnel.check_invariants().unwrap();
        sent.unwrap_or_else(|_| {
            assert_eq!(before, format!("{:?}", self.tunnel));
            Vec::new()
        })
    }

    fn with_payload(&mut self, header: [u8; HEADER_BYTES], length: usize) -> Vec<u8> {
        self.tunnel.data_written();
        let mut frame = header.to_vec();
        for _ in 0..length {
            self.next_byte = self.next_byte.wrapping_add(1);
            frame.push(self.next_byte);
        }
        self.stream().sent.extend_from_slice(&frame[HEADER_BYTES..]);
        frame
    }

    /// So many bytes arrive; whatever the other end has sent, it was no violation.
    fn arrive(&mut self, count: usize) {
        let count = count.min(self.wire.len());
        let bytes: Vec<u8> = self.wire.drain(..count).collect();
        let mut input = &bytes[..];
        while let Some(event) = self.tunnel.receive(&mut input).expect("legal") {
            match event {
                Event::Opened(preamble) => {
                    assert_eq!(preamble, to_port(preamble.destination_port.get()));
                    let port = preamble.destination_port.get();
                    self.streams.push(Remembered { port, ..Remembered::default() });
                }
                Event::Unsupported(field) => panic!("nobody sent field {field}"),
                Event::Accepted => self.stream().accepted = true,
                Event::Refused(_) => self.stream().refused = true,
                Event::Data(chunk) => self.stream().received.extend_from_slice(chunk),
                Event::Ended => self.stream().ended = true,
                Event::Reset { unanswered, .. } => {
                    self.closed = true;
                    if unanswered {
                        self.stream().retried = true;
                    }
                }
            }
        }
        assert!(input.is_empty() && self.tunnel.held() <= MAX_OPEN_BYTES);
    }
}

/// The initiator's and the acceptor's memory of the same streams.
fn check_memories(initiator: &End, acceptor: &End) {
    for (index, ours) in initiator.streams.iter().enumerate() {
        let Some(theirs) = acceptor.streams.get(index) else {
            assert!(!ours.accepted && !ours.refused);
            continue;
        };
        assert_eq!(ours.port, theirs.port);
        assert!(ours.sent.starts_with(&theirs.received) && theirs.sent.starts_with(&ours.received));
        assert!(!ours.accepted || theirs.accepted);
        assert!(!ours.refused || theirs.refused);
        assert!(!(theirs.accepted && theirs.refused));
        // The promise on which an initiator tries again.
        assert!(!ours.retried || !theirs.accepted, "stream {index} reached an app and is tried again");
        assert!(!ours.refused || !theirs.accepted);
        // The promise on which an app believes that it has read everything.
        assert!(!theirs.ended || theirs.refused || theirs.received == ours.sent);
        assert!(!ours.ended || ours.received == theirs.sent);
    }
}

/// Runs what chance said, then either lets both finish or has the acceptor retire the connection.
fn converse(tries: &[(bool, Try)], retire: bool) -> (End, End) {
    let (mut initiator, mut acceptor) = (End::new(Tunnel::initiator()), End::new(Tunnel::acceptor()));
    for (by_initiator, what) in tries {
        let (actor, other) =
            if *by_initiator { (&mut initiator, &mut acceptor) } else { (&mut acceptor, &mut initiator) };
        match what {
            Try::Receive(count) => actor.arrive(*count),
            what => other.wire.extend(actor.attempt(what)),
        }
    }
    if retire {
        initiator.arrive(usize::MAX);
        match initiator.tunnel.closed_by_peer(true) {
            Ending::Unanswered => initiator.stream().retried = true,
            Ending::Between => {}
            Ending::Cut => assert!(initiator.stream().accepted && !initiator.stream().refused),
        }
        return (initiator, acceptor);
    }
    for _ in 0..6 {
        initiator.arrive(usize::MAX);
        acceptor.arrive(usize::MAX);
        for what in [Try::Accept, Try::End] {
            initiator.wire.extend(acceptor.attempt(&what));
        }
        acceptor.wire.extend(initiator.attempt(&Try::End));
    }
    assert!(initiator.wire.is_empty() && acceptor.wire.is_empty());
    (initiator, acceptor)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn two_ends_never_violate_and_end_idle(
        tries in vec((any::<bool>(), any_try()), 0..120),
        retire in any::<bool>(),
    ) {
        let (initiator, acceptor) = converse(&tries, retire);
        check_memories(&initiator, &acceptor);
        if !retire {
            let closed = initiator.closed || acceptor.closed;
            prop_assert_eq!(initiator.tunnel.is_idle(), !closed);
            prop_assert_eq!(acceptor.tunnel.is_idle(), !closed);
            if !closed {
                prop_assert_eq!(initiator.streams.len(), acceptor.streams.len());
            }
        }
    }
}

#[test]
fn chance_reaches_the_interesting_places() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = vec((any::<bool>(), any_try()), 0..120);
    let (mut finished, mut refused, mut retried, mut bytes) = (0, 0, 0, 0);
    for round in 0..300 {
        let tries = strategy.new_tree(&mut runner).unwrap().current();
        let (initiator, _) = converse(&tries, round % 2 == 0);
        for stream in initiator.streams {
            finished += usize::from(stream.ended);
            refused += usize::from(stream.refused);
            retried += usize::from(stream.retried);
            bytes += stream.received.len();
        }
    }
    assert!(
        finished > 100 && refused > 20 && retried > 20 && bytes > 10_000,
        "{finished} {refused} {retried} {bytes}"
    );
}
