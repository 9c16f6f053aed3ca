//! `SPEC.md` says what this room does: its examples are what we send and take, its numbers are ours.

use super::to_port;
use crate::tunnel::{
    ALPN, Event, HEADER_BYTES, MAX_DATA_BYTES, MAX_EARLY_BYTES, MAX_OPEN_BYTES, MAX_REASON_BYTES, RefuseCode,
    ResetCode, Tunnel,
};

const SPECIFICATION: &str = include_str!("../SPEC.md");

/// One line of an example.
struct Line {
    by_initiator: bool,
    kind: u8,
    bytes: Vec<u8>,
}

fn example(line: &str) -> Option<Line> {
    let (&[sender @ (b'I' | b'A'), kind @ (b'>' | b'!' | b'='), b' '], rest) =
        line.as_bytes().split_first_chunk()?
    else {
        return None;
    };
    let hex = std::str::from_utf8(rest).unwrap().split(';').next().unwrap();
    let bytes = hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    Some(Line { by_initiator: sender == b'I', kind, bytes })
}

/// Does at the sender what the receiver has seen.
fn redo(sender: &mut Tunnel, event: &Event<'_>) -> Vec<u8> {
    match event {
        Event::Opened(preamble) => sender.open(preamble).unwrap(),
        Event::Unsupported(_) => sender.open(&to_port(1)).unwrap(),
        Event::Accepted => sender.accept().unwrap().to_vec(),
        Event::Refused(refusal) => sender.refuse(refusal).unwrap(),
        Event::Data(chunk) => {
            let header = sender.data(chunk.len()).unwrap();
            sender.data_written();
            [&header, *chunk].concat()
        }
        Event::Ended => sender.end().unwrap().to_vec(),
        Event::Reset { code, .. } => sender.reset(*code).unwrap().to_vec(),
    }
}

#[test]
fn the_examples_of_the_specification_are_what_we_send_and_take() {
    let mut lines = 0;
    let (mut initiator, mut acceptor) = (Tunnel::initiator(), Tunnel::acceptor());
    for line in SPECIFICATION.lines() {
        if line.starts_with("```") {
            (initiator, acceptor) = (Tunnel::initiator(), Tunnel::acceptor());
        }
        let Some(Line { by_initiator, kind, bytes }) = example(line) else { continue };
        lines += 1;
        let (sender, receiver) =
            if by_initiator { (&mut initiator, &mut acceptor) } else { (&mut acceptor, &mut initiator) };
        let mut input = &bytes[..];
        let result = receiver.receive(&mut input);
        assert_eq!(result.is_err(), kind == b'!', "{line}: {result:?}");
        if let Ok(event) = result {
            let sent = redo(sender, &event.unwrap());
            assert!(sent == bytes || kind == b'=', "{line}: we send {sent:02x?}");
            assert!(input.is_empty(), "{line}");
        }
    }
    assert!(lines > 20, "{lines} lines of examples");
}

#[test]
fn the_specification_states_our_numbers() {
    for (what, number) in [
        ("DATA payload", MAX_DATA_BYTES),
        ("early DATA", MAX_EARLY_BYTES),
        ("OPEN payload", MAX_OPEN_BYTES),
        ("REFUSE text", MAX_REASON_BYTES),
        ("frame header", HEADER_BYTES),
    ] {
        let row = format!("| {what} | {number} bytes |");
        assert!(SPECIFICATION.contains(&row), "{row}");
    }
    for code in (0..=u8::MAX).filter(|code| RefuseCode::from(*code).as_str() != "other") {
        let row = format!("| {code} | {} |", RefuseCode::from(code).as_str());
        assert!(SPECIFICATION.contains(&row), "{row}");
    }
    for code in (0..=u8::MAX).filter(|code| ResetCode::from(*code).as_str() != "other") {
        let row = format!("| {code} | {} |", ResetCode::from(code).as_str());
        assert!(SPECIFICATION.contains(&row), "{row}");
    }
    assert!(SPECIFICATION.contains(&format!("`{}`", std::str::from_utf8(ALPN).unwrap())));
}
