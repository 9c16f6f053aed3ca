//! Floods of HTTP/2 frames that are cheap to send and were expensive to bear in one server or another, each with
//! the way in which a connection that brings it ends.

use crate::raw_h2::{
    CONTINUATION, DATA, END_STREAM, HEADERS, Outcome, PING, Pace, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    fields, frame, headers, request,
};

/// Error codes of HTTP/2 (RFC 9113 s7).
pub const PROTOCOL_ERROR: u32 = 1;
/// See [`PROTOCOL_ERROR`].
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A flood, and how it must end.
#[derive(Debug)]
pub struct Attack {
    /// For messages.
    pub name: &'static str,
    /// How its sender behaves.
    pub pace: Pace,
    /// How many waves there are.
    pub waves: u32,
    /// The frames of each.
    pub wave: fn(u32) -> Vec<u8>,
    /// How it ends.
    pub end: End,
}

/// How a flood ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The proxy has had enough: GOAWAY with this code.
    GoAway(u32),
    /// It was borne to the end, and the connection lives on.
    Borne,
    /// Either, as it depends on how fast the proxy takes up what is sent.
    BorneOr(u32),
}

/// All of them.
pub const ALL: &[Attack] = &[
    Attack {
        name: "rapid reset (CVE-2023-44487)",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| [get(n, "/x"), frame(RST_STREAM, 0, stream(n), &8_u32.to_be_bytes())].concat(),
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "reset of 100 requests at a time, after they were taken up",
        pace: Pace::InStep,
        waves: 500,
        wave: opened_and_reset::<100>,
        end: End::BorneOr(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "CONTINUATION without end",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| {
            let block = fields(&[(b"x-a", &[b'a'; 100])]);
            let (kind, block) =
                if n == 0 { (HEADERS, fields(&request("GET", "/x"))) } else { (CONTINUATION, block) };
            frame(kind, 0, 1, &block)
        },
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "empty CONTINUATION without end",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| frame(if n == 0 { HEADERS } else { CONTINUATION }, 0, 1, &[]),
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        // As many as make more answers than sockets hold: they would pile up in the proxy.
        name: "PING, answers unread",
        pace: Pace::Deaf,
        waves: 300_000,
        wave: |n| frame(PING, 0, 0, &u64::from(n).to_be_bytes()),
        end: End::Borne,
    },
    Attack {
        name: "SETTINGS, answers unread",
        pace: Pace::Deaf,
        waves: 600_000,
        // SETTINGS_INITIAL_WINDOW_SIZE, another one each time.
        wave: |n| frame(SETTINGS, 0, 0, &[&[0, 4][..], &(n % 60_000).to_be_bytes()].concat()),
        end: End::Borne,
    },
    Attack {
        name: "empty DATA (RUSTSEC-2026-0258)",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| if n == 0 { post("/x") } else { frame(DATA, 0, 1, &[]) },
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "DATA of one byte each that nobody reads",
        pace: Pace::Reading,
        waves: 80_000,
        wave: |n| if n == 0 { post("/hold") } else { frame(DATA, 0, 1, b"x") },
        end: End::BorneOr(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "MadeYouReset by WINDOW_UPDATE of 0",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| [get(n, "/hold"), frame(WINDOW_UPDATE, 0, stream(n), &[0; 4])].concat(),
        end: End::GoAway(PROTOCOL_ERROR),
    },
    Attack {
        name: "MadeYouReset by WINDOW_UPDATE beyond the largest window",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| {
            [get(n, "/hold"), frame(WINDOW_UPDATE, 0, stream(n), &0x7fff_ffff_u32.to_be_bytes())].concat()
        },
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "MadeYouReset by DATA after the end",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| [get(n, "/hold"), frame(DATA, 0, stream(n), b"x")].concat(),
        end: End::GoAway(PROTOCOL_ERROR),
    },
    Attack {
        name: "MadeYouReset by a malformed field",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| {
            let malformed = [request("GET", "/x"), vec![(b"connection", b"close")]].concat();
            headers(stream(n), END_STREAM, &fields(&malformed))
        },
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "MadeYouReset by more bytes than announced",
        pace: Pace::Reading,
        waves: 50_000,
        wave: |n| {
            let announced = [request("POST", "/x"), vec![(b"content-length", b"1")]].concat();
            [headers(stream(n), 0, &fields(&announced)), frame(DATA, END_STREAM, stream(n), b"xy")].concat()
        },
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "WINDOW_UPDATE of 0 for the connection",
        pace: Pace::Reading,
        waves: 1,
        wave: |_| frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        end: End::GoAway(PROTOCOL_ERROR),
    },
    Attack {
        name: "more requests at once than allowed",
        pace: Pace::Reading,
        waves: 20_000,
        wave: |n| get(n, "/hold"),
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
    Attack {
        name: "small field blocks that unpack to 44 MB each",
        pace: Pace::InStep,
        waves: 50,
        wave: |n| {
            let mut block = fields(&request("GET", "/x"));
            // A field of 4000 bytes into the dynamic table, then 11,000 times that one (RFC 7541 s6.2.1, s6.1).
            block.extend([0x40, 1, b'x', 127, 0xa1, 0x1e]);
            block.extend([b'x'; 4000]);
            block.extend([0xbe; 11_000]);
            headers(stream(n), END_STREAM, &block)
        },
        end: End::GoAway(ENHANCE_YOUR_CALM),
    },
];

/// As many requests as `COUNT`, and the resets of those of the wave before.
#[must_use]
pub fn opened_and_reset<const COUNT: u32>(n: u32) -> Vec<u8> {
    let opened = (0..COUNT).map(|i| get(COUNT * n + i, "/hold"));
    let reset = (0..COUNT)
        .filter(|_| n > 0)
        .map(|i| frame(RST_STREAM, 0, stream(COUNT * (n - 1) + i), &8_u32.to_be_bytes()));
    reset.chain(opened).flatten().collect()
}

fn stream(n: u32) -> u32 {
    2 * n + 1
}

fn get(n: u32, path: &str) -> Vec<u8> {
    headers(stream(n), END_STREAM, &fields(&request("GET", path)))
}

fn post(path: &str) -> Vec<u8> {
    headers(1, 0, &fields(&request("POST", path)))
}

impl Attack {
    /// Whether it ended as it must.
    #[must_use]
    pub fn ended_well(&self, outcome: &Outcome) -> bool {
        let goaway = outcome.goaway.as_ref().map(|(code, _)| *code);
        let borne = goaway.is_none() && outcome.alive;
        match self.end {
            End::GoAway(code) => goaway == Some(code),
            End::Borne => borne,
            End::BorneOr(code) => borne || goaway == Some(code),
        }
    }
}
