//! The tunnel under bytes that nobody would send.
//!
//! The first byte of the input chooses: one end that reads the rest as a byte stream, in one piece and in
//! small ones, with the same result; or two ends that try what the rest says, legal or not, of which neither
//! may ever report a violation.
//!
//! `tests/fuzz/run 60 tunnel`

#![no_main]
#![forbid(unsafe_code)]

use std::num::NonZeroU16;

use libfuzzer_sys::fuzz_target;
use signet_proto::tunnel::{
    Ending, Event, MAX_OPEN_BYTES, Preamble, Refusal, RefuseCode, ResetCode, Tunnel, Violation,
};

fuzz_target!(|input: &[u8]| {
    let Some((&mode, rest)) = input.split_first() else { return };
    match mode {
        b'i' => read_in_pieces(Tunnel::initiator, rest),
        b'a' => read_in_pieces(Tunnel::acceptor, rest),
        _ => converse(rest),
    }
});

fn preamble() -> Preamble {
    Preamble::to_port(NonZeroU16::MIN)
}

fn refusal(code: u8) -> Refusal {
    Refusal::new(code.into(), "by chance")
}

fn check(tunnel: &Tunnel) {
    tunnel.check_invariants().expect("invariants");
    assert!(tunnel.held() <= MAX_OPEN_BYTES);
}

// ---- one end ----------------------------------------------------------------------------------------------

fn read_in_pieces(end: fn() -> Tunnel, wire: &[u8]) {
    let whole = Reader::new(end()).read(wire, usize::MAX);
    for size in [1, 3, 7] {
        let split = Reader::new(end()).read(wire, size);
        assert_eq!(whole.seen, split.seen, "in pieces of {size}");
        assert_eq!(whole.tunnel.is_idle(), split.tunnel.is_idle());
    }
}

/// Does the obvious: opens whenever it can, takes all but every third stream, ends when the other has.
struct Reader {
    tunnel: Tunnel,
    seen: Seen,
    opened: usize,
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Each with the number of bytes that came before it.
    events: Vec<(usize, Event<'static>)>,
    bytes: Vec<u8>,
    violation: Option<Violation>,
}

impl Reader {
    fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, seen: Seen::default(), opened: 0 }
    }

    fn read(mut self, wire: &[u8], size: usize) -> Self {
        let _ = self.tunnel.open(&preamble());
        for mut piece in wire.chunks(size.min(wire.len().max(1))) {
            let ends = piece.as_ptr_range();
            loop {
                let result = self.tunnel.receive(&mut piece);
                check(&self.tunnel);
                match result {
                    Ok(None) => break,
                    Ok(Some(Event::Data(chunk))) => {
                        assert!(
                            !chunk.is_empty() && ends.contains(&chunk.as_ptr()),
                            "borrowed from the input"
                        );
                        self.seen.bytes.extend_from_slice(chunk);
                    }
                    Ok(Some(event)) => self.answer(event),
                    Err(violation) => {
                        assert_eq!(self.seen.violation.replace(violation), None, "only one");
                        assert!(!self.tunnel.is_idle());
                    }
                }
            }
            assert!(piece.is_empty());
        }
        self
    }

    fn answer(&mut self, event: Event<'_>) {
        let event = match event {
            Event::Opened(preamble) => {
                let mut again = Tunnel::acceptor();
                let open = Tunnel::initiator().open(&preamble).expect("idle");
                let read = again.receive(&mut &open[..]).expect("our own");
                assert_eq!(read, Some(Event::Opened(preamble.clone())), "what was read can be written");
                self.opened += 1;
                if self.opened.is_multiple_of(3) {
                    self.tunnel.refuse(&refusal(5)).expect("asked");
                } else {
                    self.tunnel.accept().expect("asked");
                }
                Event::Opened(preamble)
            }
            Event::Unsupported(field) => {
                assert!(field < 0x80);
                let text = Refusal::new(RefuseCode::Unsupported, "field");
                self.tunnel.refuse(&text).expect("asked");
                Event::Unsupported(field)
            }
            Event::Accepted => Event::Accepted,
            Event::Refused(refusal) => {
                assert!(!refusal.reason().chars().any(char::is_control));
                self.tunnel.end().expect("ours is open");
                Event::Refused(refusal)
            }
            Event::Ended => {
                if !self.tunnel.is_idle() {
                    self.tunnel.end().expect("ours is open");
                }
                Event::Ended
            }
            Event::Reset { code, unanswered } => Event::Reset { code, unanswered },
            Event::Data(_) => return,
        };
        self.seen.events.push((self.seen.bytes.len(), event));
        if self.tunnel.is_idle() {
            let _ = self.tunnel.open(&preamble());
        }
    }
}

// ---- two ends ---------------------------------------------------------------------------------------------

/// One end and what is on the wire towards it.
struct End {
    tunnel: Tunnel,
    wire: Vec<u8>,
    /// How many streams reached the app.
    accepted: usize,
    opened: usize,
    reset: bool,
}

impl End {
    fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, wire: Vec::new(), accepted: 0, opened: 0, reset: false }
    }

    /// Tries what the byte says; gives what goes on the wire.
    fn attempt(&mut self, what: u8, length: usize) -> Vec<u8> {
        let sent = match what % 6 {
            0 => self.tunnel.open(&preamble()).inspect(|_| self.opened += 1),
            1 => self.tunnel.accept().map(Vec::from).inspect(|_| self.accepted += 1),
            2 => self.tunnel.refuse(&refusal(what)),
            3 => self.tunnel.end().map(Vec::from),
            4 => self.tunnel.data(length).map(|header| {
                self.tunnel.data_written();
                let mut frame = header.to_vec();
                frame.resize(header.len() + length, what);
                frame
            }),
            _ if length == 0 => {
                self.reset = true;
                Ok(self.tunnel.reset(ResetCode::from(what)).map(Vec::from).unwrap_or_default())
            }
            _ => Ok(Vec::new()),
        };
        check(&self.tunnel);
        sent.unwrap_or_default()
    }

    /// So many bytes arrive. Tells whether a stream may be tried again.
    fn arrive(&mut self, count: usize) -> bool {
        let bytes: Vec<u8> = self.wire.drain(..count.min(self.wire.len())).collect();
        let mut input = &bytes[..];
        let mut again = false;
        while let Some(event) = self.tunnel.receive(&mut input).expect("the other end keeps to the protocol")
        {
            match event {
                Event::Opened(_) => self.opened += 1,
                Event::Unsupported(_) => panic!("not sent"),
                Event::Accepted => self.accepted += 1,
                Event::Reset { unanswered, .. } => {
                    self.reset = true;
                    again |= unanswered;
                }
                Event::Refused(_) | Event::Data(_) | Event::Ended => {}
            }
        }
        check(&self.tunnel);
        again
    }
}

/// Three bytes a step: who tries what, and how much of it.
fn converse(script: &[u8]) {
    let (mut initiator, mut acceptor) = (End::new(Tunnel::initiator()), End::new(Tunnel::acceptor()));
    for step in script.chunks_exact(3) {
        let (who, what, length) = (step[0] % 2 == 0, step[1], usize::from(step[2]));
        let length = if step[0] & 2 == 0 { length } else { length << 8 };
        let (actor, other) =
            if who { (&mut initiator, &mut acceptor) } else { (&mut acceptor, &mut initiator) };
        if what < 128 {
            if actor.arrive(length) {
                assert_eq!(actor.accepted, other.accepted, "no app was reached");
            }
        } else {
            other.wire.extend(actor.attempt(what, length));
        }
    }
    if script.len() % 3 == 1 {
        initiator.arrive(usize::MAX);
        if initiator.tunnel.closed_by_peer(true) == Ending::Unanswered {
            assert_eq!(initiator.accepted, acceptor.accepted, "no app was reached");
        }
        return;
    }
    for _ in 0..4 {
        initiator.arrive(usize::MAX);
        acceptor.arrive(usize::MAX);
        for what in [1, 3] {
            initiator.wire.extend(acceptor.attempt(what, 0));
        }
        acceptor.wire.extend(initiator.attempt(3, 0));
    }
    if !initiator.reset && !acceptor.reset {
        assert!(initiator.tunnel.is_idle() && acceptor.tunnel.is_idle(), "both have ended");
        assert_eq!((initiator.opened, initiator.accepted), (acceptor.opened, acceptor.accepted));
    }
}
