//! One end against bytes written by hand: what each frame does, and what each wrong one is answered with.

use std::num::NonZeroU16;

use super::*;
use crate::tunnel::{MAX_EARLY_BYTES, MAX_OPEN_BYTES, RefuseCode};

const OPEN: &[u8] = &[1, 0, 0, 5, 1, 0, 2, 0x1f, 0x90];
const STRANGE_OPEN: &[u8] = &[1, 0, 0, 8, 1, 0, 2, 0x1f, 0x90, 2, 0, 0];
const ACCEPT: &[u8] = &[2, 0, 0, 0];
const REFUSE: &[u8] = &[3, 0, 0, 3, 1, b'n', b'o'];
const DATA: &[u8] = &[4, 0, 0, 2, b'h', b'i'];
const END: &[u8] = &[5, 0, 0, 0];
const RESET: &[u8] = &[6, 0, 0, 1, 2];

fn preamble() -> Preamble {
    Preamble::to_port(NonZeroU16::new(8080).unwrap())
}

fn no() -> Refusal {
    Refusal::new(RefuseCode::Denied, "no")
}

/// All events of this input, until it is used up.
fn feed<'a>(tunnel: &mut Tunnel, frames: &[&'a [u8]]) -> Result<Vec<Event<'a>>, Violation> {
    let mut events = Vec::new();
    for mut input in frames.iter().copied() {
        while let Some(event) = tunnel.receive(&mut input)? {
            events.push(event);
        }
        assert!(input.is_empty());
    }
    Ok(events)
}

/// An initiator that has opened a stream.
fn asking() -> Tunnel {
    let mut tunnel = Tunnel::initiator();
    assert_eq!(tunnel.open(&preamble()).unwrap(), OPEN);
    tunnel
}

/// An acceptor that has been asked for a stream.
fn asked() -> Tunnel {
    let mut tunnel = Tunnel::acceptor();
    assert_eq!(feed(&mut tunnel, &[OPEN]).unwrap(), [Event::Opened(preamble())]);
    tunnel
}

fn write(tunnel: &mut Tunnel, length: usize) {
    tunnel.data(length).unwrap();
    tunnel.data_written();
}

#[test]
fn a_stream_from_open_to_idle_and_the_next() {
    let (mut initiator, mut acceptor) = (asking(), asked());
    for _ in 0..2 {
        assert!(!initiator.is_idle() && !acceptor.is_idle());
        assert_eq!(acceptor.accept().unwrap(), ACCEPT);
        assert_eq!(feed(&mut initiator, &[ACCEPT]).unwrap(), [Event::Accepted]);
        assert_eq!(initiator.data(2).unwrap(), DATA[..4]);
        initiator.data_written();
        assert_eq!(initiator.end().unwrap(), END);
        assert_eq!(feed(&mut acceptor, &[DATA, END]).unwrap(), [Event::Data(b"hi"), Event::Ended]);
        // Half-closed: the answer still comes.
        write(&mut acceptor, 2);
        assert_eq!(acceptor.end().unwrap(), END);
        assert!(acceptor.is_idle() && !initiator.is_idle());
        assert_eq!(feed(&mut initiator, &[DATA, END]).unwrap(), [Event::Data(b"hi"), Event::Ended]);
        assert!(initiator.is_idle());
        assert_eq!(initiator.open(&preamble()).unwrap(), OPEN);
        assert_eq!(feed(&mut acceptor, &[OPEN]).unwrap(), [Event::Opened(preamble())]);
    }
}

#[test]
fn the_acceptor_may_end_first() {
    let (mut initiator, mut acceptor) = (asking(), asked());
    acceptor.accept().unwrap();
    acceptor.end().unwrap();
    assert_eq!(feed(&mut initiator, &[ACCEPT, END]).unwrap(), [Event::Accepted, Event::Ended]);
    write(&mut initiator, 2);
    initiator.end().unwrap();
    assert_eq!(feed(&mut acceptor, &[DATA, END]).unwrap(), [Event::Data(b"hi"), Event::Ended]);
    assert!(initiator.is_idle() && acceptor.is_idle());
}

#[test]
fn refused_stream_leaves_the_connection_idle() {
    let (mut initiator, mut acceptor) = (asking(), asked());
    write(&mut initiator, 2);
    assert_eq!(feed(&mut acceptor, &[DATA]).unwrap(), [Event::Data(b"hi")]);
    assert_eq!(acceptor.refuse(&no()).unwrap(), REFUSE);
    // What was on its way is dropped.
    write(&mut initiator, 2);
    assert_eq!(feed(&mut acceptor, &[DATA]).unwrap(), []);
    assert_eq!(feed(&mut initiator, &[REFUSE]).unwrap(), [Event::Refused(no())]);
    assert_eq!(initiator.sendable(), 0);
    assert_eq!(
        initiator.data(1).unwrap_err().to_string(),
        "cannot send DATA now: expected END or RESET, as the stream is refused"
    );
    initiator.end().unwrap();
    assert_eq!(feed(&mut acceptor, &[END]).unwrap(), [Event::Ended]);
    assert!(initiator.is_idle() && acceptor.is_idle());
}

#[test]
fn refusal_of_a_stream_that_has_ended_is_idle_at_once() {
    let (mut initiator, mut acceptor) = (asking(), asked());
    initiator.end().unwrap();
    assert_eq!(feed(&mut acceptor, &[END]).unwrap(), [Event::Ended]);
    acceptor.refuse(&no()).unwrap();
    assert_eq!(feed(&mut initiator, &[REFUSE]).unwrap(), [Event::Refused(no())]);
    assert!(initiator.is_idle() && acceptor.is_idle());
}

#[test]
fn refusal_within_a_data_frame_drops_the_rest_of_it() {
    let mut acceptor = asked();
    assert_eq!(feed(&mut acceptor, &[&DATA[..5]]).unwrap(), [Event::Data(b"h")]);
    acceptor.refuse(&no()).unwrap();
    assert_eq!(feed(&mut acceptor, &[&DATA[5..], END]).unwrap(), [Event::Ended]);
    assert!(acceptor.is_idle());
}

#[test]
fn a_preamble_from_the_future_can_only_be_refused() {
    let mut acceptor = Tunnel::acceptor();
    assert_eq!(feed(&mut acceptor, &[STRANGE_OPEN]).unwrap(), [Event::Unsupported(2)]);
    assert_eq!(
        acceptor.accept().unwrap_err().to_string(),
        "cannot send ACCEPT now: expected REFUSE or RESET, as the preamble is not understood"
    );
    acceptor.refuse(&Refusal::new(RefuseCode::Unsupported, "field 0x02")).unwrap();
    assert_eq!(feed(&mut acceptor, &[END]).unwrap(), [Event::Ended]);
    assert!(acceptor.is_idle());
}

#[test]
fn every_frame_out_of_turn_is_a_violation() {
    const FRAMES: [&[u8]; 7] = [OPEN, STRANGE_OPEN, ACCEPT, REFUSE, DATA, END, RESET];
    type Setup = (&'static str, fn() -> Tunnel, &'static [&'static [u8]]);
    let setups: [Setup; 12] = [
        ("idle initiator", Tunnel::initiator, &[RESET]),
        ("idle acceptor", Tunnel::acceptor, &[OPEN, STRANGE_OPEN, RESET]),
        ("asking", asking, &[ACCEPT, REFUSE, RESET]),
        ("asked", asked, &[DATA, END, RESET]),
        ("asking, ended", || ended(asking()), &[ACCEPT, REFUSE, RESET]),
        ("asked, ended", || fed(asked(), &[END]), &[RESET]),
        ("initiator of an accepted stream", || fed(asking(), &[ACCEPT]), &[DATA, END, RESET]),
        ("acceptor of an accepted stream", || accepted(asked()), &[DATA, END, RESET]),
        ("initiator, acceptor ended", || fed(asking(), &[ACCEPT, END]), &[RESET]),
        ("acceptor, both ended", || ended(accepted(fed(asked(), &[END]))), &[OPEN, STRANGE_OPEN, RESET]),
        ("refused initiator", || fed(asking(), &[REFUSE]), &[RESET]),
        ("refusing acceptor", || refused(asked()), &[DATA, END, RESET]),
    ];
    for (name, setup, legal) in setups {
        for bytes in FRAMES {
            let mut tunnel = setup();
            let result = feed(&mut tunnel, &[bytes]);
            assert_eq!(result.is_ok(), legal.contains(&bytes), "{name}: {bytes:?} gave {result:?}");
            if let Err(violation) = result {
                assert!(matches!(violation, Violation::OutOfState { .. }), "{name}: {violation}");
                is_over(tunnel);
            }
        }
    }
}

/// After a violation: nothing is read, nothing is pooled, and the peer can be told.
fn is_over(mut tunnel: Tunnel) {
    tunnel.check_invariants().unwrap();
    assert!(!tunnel.is_idle());
    assert!(tunnel.open(&preamble()).is_err());
    assert_eq!(feed(&mut tunnel, &[ACCEPT, DATA, END, OPEN]).unwrap(), []);
    assert_eq!(tunnel.reset(ResetCode::Protocol), Some([6, 0, 0, 1, 5]));
    assert_eq!(tunnel.reset(ResetCode::Protocol), None);
}

fn fed(mut tunnel: Tunnel, frames: &[&[u8]]) -> Tunnel {
    feed(&mut tunnel, frames).unwrap();
    tunnel
}

fn ended(mut tunnel: Tunnel) -> Tunnel {
    tunnel.end().unwrap();
    tunnel
}

fn accepted(mut tunnel: Tunnel) -> Tunnel {
    tunnel.accept().unwrap();
    tunnel
}

fn refused(mut tunnel: Tunnel) -> Tunnel {
    tunnel.refuse(&no()).unwrap();
    tunnel
}

#[test]
fn violations_say_what_was_expected() {
    for (mut tunnel, frame, text) in [
        (
            Tunnel::acceptor(),
            DATA,
            "peer sent DATA out of turn: expected OPEN or RESET, as no stream is open",
        ),
        (asking(), DATA, "peer sent DATA out of turn: expected ACCEPT, REFUSE or RESET"),
        (
            Tunnel::initiator(),
            END,
            "peer sent END out of turn: expected nothing but RESET, as no stream is open",
        ),
        (asked(), OPEN, "peer sent OPEN out of turn: expected DATA, END or RESET"),
        (
            Tunnel::acceptor(),
            b"GET ",
            "peer sent unknown frame type 0x47: expected 0x01 (OPEN) to 0x06 (RESET)",
        ),
        (asked(), &[4, 0, 0, 0], "peer sent DATA with 0 bytes: expected 1 to 65536"),
        (
            Tunnel::acceptor(),
            &[1, 0, 0, 0],
            "peer sent a malformed OPEN: preamble without destination port: expected field 0x01",
        ),
        (
            asking(),
            &[3, 0, 0, 2, 1, b'\n'],
            "peer sent a malformed REFUSE: reason has a control character: expected a single line of text",
        ),
    ] {
        assert_eq!(feed(&mut tunnel, &[frame]).unwrap_err().to_string(), text);
        is_over(tunnel);
    }
}

#[test]
fn a_frame_out_of_turn_is_judged_by_its_header() {
    // Nothing of the payload of 64 KiB that it announces has come.
    assert!(feed(&mut Tunnel::acceptor(), &[&[4, 1, 0, 0]]).is_err());
    assert!(feed(&mut asking(), &[&[1, 0, 4, 0]]).is_err());
}

#[test]
fn early_data_is_bounded_at_both_ends() {
    let (mut initiator, mut acceptor) = (asking(), asked());
    assert_eq!(initiator.sendable(), MAX_DATA_BYTES.min(MAX_EARLY_BYTES));
    write(&mut initiator, 65_530);
    assert_eq!(initiator.sendable(), 6);
    assert_eq!(initiator.data(7), Err(SendError::Length { length: 7, most: 6 }));
    let payload = vec![1; 65_530];
    assert_eq!(feed(&mut acceptor, &[&[4, 0, 0xff, 0xfa], &payload]).unwrap(), [Event::Data(&payload)]);
    assert_eq!(
        feed(&mut acceptor, &[&[4, 0, 0, 7]]).unwrap_err(),
        Violation::TooEarly { length: 7, room: 6 }
    );
    write(&mut initiator, 6);
    assert_eq!(initiator.sendable(), 0);
    assert_eq!(initiator.data(1), Err(SendError::Length { length: 1, most: 0 }));
    feed(&mut initiator, &[ACCEPT]).unwrap();
    assert_eq!(initiator.sendable(), MAX_DATA_BYTES);
    write(&mut initiator, MAX_DATA_BYTES);
    for length in [0, MAX_DATA_BYTES + 1, usize::MAX] {
        assert_eq!(initiator.data(length), Err(SendError::Length { length, most: MAX_DATA_BYTES }));
    }
}

#[test]
fn what_we_may_not_send_changes_nothing() {
    let mut idle = Tunnel::acceptor();
    assert_eq!(
        idle.open(&preamble()).unwrap_err().to_string(),
        "cannot send OPEN now: expected nothing but RESET, as no stream is open"
    );
    assert!(idle.accept().is_err() && idle.refuse(&no()).is_err() && idle.end().is_err());
    assert!(idle.data(0).is_err() && idle.data(1).is_err());
    assert!(idle.is_idle());
    let mut asked = asked();
    assert_eq!(
        asked.data(1).unwrap_err().to_string(),
        "cannot send DATA now: expected ACCEPT, REFUSE or RESET",
        "no byte of the app before ACCEPT"
    );
    assert!(asked.end().is_err());
    asked.accept().unwrap();
    assert!(asked.accept().is_err() && asked.refuse(&no()).is_err());
    let mut asking = asking();
    assert!(asking.open(&preamble()).is_err() && asking.accept().is_err());
}

#[test]
fn a_connection_on_which_something_comes_is_not_reused() {
    let mut tunnel = fed(Tunnel::initiator(), &[&RESET[..1]]);
    assert!(!tunnel.is_idle());
    assert_eq!(
        tunnel.open(&preamble()).unwrap_err().to_string(),
        "cannot send OPEN now: expected nothing but RESET, as the peer has begun a frame"
    );
}

#[test]
fn nothing_is_sent_within_a_data_frame() {
    let mut tunnel = asking();
    tunnel.data(5).unwrap();
    assert_eq!(tunnel.data(5), Err(SendError::WithinData(FrameType::Data)));
    assert_eq!(
        tunnel.end().unwrap_err().to_string(),
        "cannot send END within a DATA frame: write its payload and call data_written first"
    );
    tunnel.data_written();
    tunnel.data(5).unwrap();
    assert_eq!(tunnel.reset(ResetCode::App), None, "it would be read as payload");
    let mut reset_by_peer = asking();
    reset_by_peer.data(5).unwrap();
    feed(&mut reset_by_peer, &[RESET]).unwrap();
    assert!(reset_by_peer.end().is_err());
}

#[test]
fn reset_ends_the_connection_in_every_state() {
    for (mut tunnel, unanswered) in [
        (Tunnel::initiator(), false),
        (Tunnel::acceptor(), false),
        (asking(), true),
        (ended(asking()), true),
        (asked(), false),
        (fed(asking(), &[ACCEPT]), false),
        (fed(asking(), &[REFUSE]), false),
        (accepted(asked()), false),
    ] {
        assert_eq!(
            feed(&mut tunnel, &[RESET, OPEN, b"anything at all"]).unwrap(),
            [Event::Reset { code: ResetCode::Idle, unanswered }]
        );
        assert!(!tunnel.is_idle());
        assert_eq!(tunnel.sendable(), 0);
        assert!(tunnel.open(&preamble()).is_err() && tunnel.end().is_err() && tunnel.data(1).is_err());
        assert_eq!(tunnel.reset(ResetCode::App), None);
    }
    let mut ours = asked();
    assert_eq!(ours.reset(ResetCode::Withdrawn), Some([6, 0, 0, 1, 3]));
    assert_eq!(feed(&mut ours, &[DATA, OPEN]).unwrap(), []);
}

#[test]
fn the_end_of_the_connection_means_what_it_cut() {
    for (name, tunnel, close_notify, ending) in [
        ("idle initiator", Tunnel::initiator as fn() -> Tunnel, true, Ending::Between),
        ("idle acceptor that broke", Tunnel::acceptor, false, Ending::Between),
        ("half an OPEN", || fed(Tunnel::acceptor(), &[&OPEN[..6]]), true, Ending::Cut),
        ("half a header", || fed(Tunnel::initiator(), &[&RESET[..1]]), true, Ending::Cut),
        ("asking, retired", asking, true, Ending::Unanswered),
        ("asking, ended, retired", || ended(asking()), true, Ending::Unanswered),
        // An ACCEPT may have been lost with it.
        ("asking, broke", asking, false, Ending::Cut),
        ("asking, half an ACCEPT", || fed(asking(), &[&ACCEPT[..3]]), true, Ending::Cut),
        ("asked", asked, true, Ending::Cut),
        ("accepted", || fed(asking(), &[ACCEPT]), true, Ending::Cut),
        ("half-closed", || fed(asking(), &[ACCEPT, END]), true, Ending::Cut),
        ("refused", || fed(asking(), &[REFUSE]), false, Ending::Between),
        ("refusing", || refused(asked()), false, Ending::Between),
        ("reset", || fed(asking(), &[RESET]), false, Ending::Between),
    ] {
        let mut tunnel = tunnel();
        assert_eq!(tunnel.closed_by_peer(close_notify), ending, "{name}");
        assert!(!tunnel.is_idle(), "{name}");
        tunnel.check_invariants().unwrap();
    }
}

#[test]
fn bytes_after_the_end_of_a_stream_wait_for_their_turn() {
    let mut acceptor = accepted(asked());
    acceptor.end().unwrap();
    let bytes = [END, OPEN].concat();
    let mut input = &bytes[..];
    assert_eq!(acceptor.receive(&mut input).unwrap(), Some(Event::Ended));
    assert_eq!(input, OPEN, "one event at a time");
    assert!(acceptor.is_idle());
    assert_eq!(acceptor.receive(&mut input).unwrap(), Some(Event::Opened(preamble())));
}

#[test]
fn payload_is_borrowed_from_the_input() {
    let mut tunnel = accepted(asked());
    let bytes = [DATA, DATA].concat();
    let mut input = &bytes[..];
    while let Some(event) = tunnel.receive(&mut input).unwrap() {
        let Event::Data(chunk) = event else { panic!("{event:?}") };
        assert!(bytes.as_ptr_range().contains(&chunk.as_ptr()));
    }
    assert_eq!(tunnel.held(), 0);
}

#[test]
fn an_idle_end_is_small() {
    assert!(size_of::<Tunnel>() <= 112, "{}", size_of::<Tunnel>());
    let mut tunnel = Tunnel::acceptor();
    feed(&mut tunnel, &[&OPEN[..7]]).unwrap();
    assert!(tunnel.is_mid_frame() && tunnel.held() <= MAX_OPEN_BYTES);
    feed(&mut tunnel, &[&OPEN[7..]]).unwrap();
    assert_eq!((tunnel.is_mid_frame(), tunnel.held()), (false, 0));
}
