//! gRPC's C core (Python, C++, PHP, Ruby) calls a unix socket by an `:authority` that is its path, `%`-encoded: no authority
//! by RFC 3986, so the HTTP/2 library resets the stream. Whom the caller means is the socket; the name is of no use here. So
//! each `%` in a literal `:authority` becomes a `-` as it is read: no length changes, and both ends' tables of header fields
//! agree. A value in Huffman's code is left alone, and so is whatever cannot be followed: the library judges it.

use std::io;
use std::num::Wrapping;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

const PREFACE: usize = 24;
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const NAME: &[u8] = b":authority";
/// Of `:authority` in the static table (RFC 7541, appendix A).
const INDEX: usize = 1;

/// Follows what a client sends, byte by byte.
#[derive(Debug, Default)]
struct Authorities {
    read: Frames,
    block: Block,
}

#[derive(Debug, Clone, Copy, Default)]
struct Frames {
    preface: usize,
    head: [u8; HEAD],
    got: usize,
    /// Of the payload.
    left: usize,
    /// Of that, in front of the header block: padding's length, priority.
    before: usize,
    padded: bool,
    padding: usize,
}

/// Where in a header block (RFC 7541, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Block {
    #[default]
    Field,
    Integer(usize, u32, After),
    Length(Text),
    Bytes(usize, Text),
    /// Nothing more of this connection is followed.
    Lost,
}

/// What an integer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Skipped,
    NameIndex,
    /// Of a text, in Huffman's code or not.
    TextLength(Text, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// So many bytes of it are those of `:authority`; none if one was not.
    Name(Option<usize>),
    Value {
        settled: bool,
    },
}

/// A connection whose requests name an authority that can be read.
#[derive(Debug)]
pub(super) struct Settled {
    stream: UnixStream,
    authorities: Authorities,
}

impl From<UnixStream> for Settled {
    fn from(stream: UnixStream) -> Self {
        Self { stream, authorities: Authorities::default() }
    }
}

impl AsyncRead for Settled {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, authorities } = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(context, buffer);
        authorities.settle(buffer.filled_mut().get_mut(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for Settled {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Authorities {
    /// Settles what was read.
    fn settle(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.take(byte);
        }
    }

    fn take(&mut self, byte: &mut u8) {
        let frames = &mut self.read;
        if frames.preface < PREFACE {
            frames.preface += 1;
            return;
        }
        if frames.left == 0 {
            if let Some(place) = frames.head.get_mut(frames.got) {
                *place = *byte;
                frames.got += 1;
            }
            if frames.got == HEAD {
                frames.begin();
                if frames.kind() == HEADERS && self.block != Block::Lost {
                    self.block = Block::Field;
                }
            }
            return;
        }
        frames.left -= 1;
        if frames.padded {
            (frames.padded, frames.padding) = (false, usize::from(*byte));
        } else if frames.before > 0 {
            frames.before -= 1;
        } else if frames.is_block() && frames.left >= frames.padding {
            self.block = self.block.after(byte);
        }
    }
}

impl Frames {
    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.got = 0;
        self.padding = 0;
        self.padded = kind == HEADERS && flags & PADDED != 0;
        self.before = if kind == HEADERS && flags & PRIORITY != 0 { 5 } else { 0 };
    }

    fn kind(&self) -> u8 {
        let [_, _, _, kind, ..] = self.head;
        kind
    }

    fn is_block(&self) -> bool {
        matches!(self.kind(), HEADERS | CONTINUATION)
    }
}

impl Block {
    fn after(self, byte: &mut u8) -> Self {
        match self {
            Self::Lost => Self::Lost,
            Self::Field => match *byte {
                byte if byte & 0x80 != 0 => Self::integer(byte, 7, After::Skipped),
                byte if byte & 0x40 != 0 => Self::integer(byte, 6, After::NameIndex),
                byte if byte & 0x20 != 0 => Self::integer(byte, 5, After::Skipped),
                byte => Self::integer(byte, 4, After::NameIndex),
            },
            Self::Integer(value, shift, after) => {
                if shift > 21 {
                    return Self::Lost;
                }
                let value = (Wrapping(value) + Wrapping(usize::from(*byte & 0x7f) << shift)).0;
                if *byte & 0x80 != 0 {
                    Self::Integer(value, shift + 7, after)
                } else {
                    Self::known(value, after)
                }
            }
            Self::Length(text) => Self::integer(*byte, 7, After::TextLength(text, *byte & 0x80 != 0)),
            Self::Bytes(left, text) => {
                let text = match text {
                    Text::Name(Some(same)) if NAME.get(same) == Some(byte) => Text::Name(Some(same + 1)),
                    Text::Name(_) => Text::Name(None),
                    Text::Value { settled } => {
                        if settled && *byte == b'%' {
                            *byte = b'-';
                        }
                        text
                    }
                };
                Self::left(left - 1, text)
            }
        }
    }

    fn integer(byte: u8, bits: u32, after: After) -> Self {
        let most = (1_usize << bits) - 1;
        match usize::from(byte) & most {
            value if value == most => Self::Integer(value, 0, after),
            value => Self::known(value, after),
        }
    }

    fn known(value: usize, after: After) -> Self {
        match after {
            After::Skipped => Self::Field,
            After::NameIndex if value == 0 => Self::Length(Text::Name(Some(0))),
            After::NameIndex => Self::Length(Text::Value { settled: value == INDEX }),
            // What is in Huffman's code cannot be compared or settled.
            After::TextLength(Text::Name(_), true) => Self::left(value, Text::Name(None)),
            After::TextLength(Text::Value { .. }, true) => Self::left(value, Text::Value { settled: false }),
            After::TextLength(text, false) => Self::left(value, text),
        }
    }

    fn left(left: usize, text: Text) -> Self {
        match (left, text) {
            (0, Text::Name(same)) => Self::Length(Text::Value { settled: same == Some(NAME.len()) }),
            (0, Text::Value { .. }) => Self::Field,
            (left, text) => Self::Bytes(left, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &[0, 0, 0, 1], payload].concat()
    }

    fn text(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        if bytes.len() < 127 {
            text.push(u8::try_from(bytes.len()).unwrap());
        } else {
            text.extend([127, u8::try_from((bytes.len() - 127) % 128).unwrap() | 128]);
            text.push(u8::try_from((bytes.len() - 127) / 128).unwrap());
        }
        text.extend(bytes);
        text
    }

    fn with(prefix: &[u8], value: &[u8]) -> Vec<u8> {
        [prefix, &text(value)].concat()
    }

    /// In every way to cut it in two.
    fn settled(frames: &[u8]) -> Vec<u8> {
        let sent = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], frames].concat();
        let whole = {
            let mut bytes = sent.clone();
            Authorities::default().settle(&mut bytes);
            bytes
        };
        for cut in 0..sent.len() {
            let mut bytes = sent.clone();
            let mut authorities = Authorities::default();
            let (one, other) = bytes.split_at_mut(cut);
            authorities.settle(one);
            authorities.settle(other);
            assert_eq!(bytes, whole, "cut at {cut}");
        }
        whole[PREFACE..].to_vec()
    }

    const PATH: &[u8] = b"tmp%2Fsignet%2Fworkload.sock";
    const BETTER: &[u8] = b"tmp-2Fsignet-2Fworkload.sock";

    #[test]
    fn an_authority_that_is_a_path_is_settled_in_every_form() {
        let before =
            [&[0x83, 0x86][..], &with(&[0x44], b"/a%2Fb"), &with(&with(&[0x40], b"te"), b"a%b")].concat();
        let literal = |first: u8| with(&[first], NAME);
        let long = [b"%2F".repeat(90)].concat();
        for (prefix, value, expected) in [
            (vec![0x41], PATH.to_vec(), BETTER.to_vec()),
            (vec![0x01], PATH.to_vec(), BETTER.to_vec()),
            (vec![0x11], PATH.to_vec(), BETTER.to_vec()),
            (literal(0x40), PATH.to_vec(), BETTER.to_vec()),
            (literal(0x00), PATH.to_vec(), BETTER.to_vec()),
            (vec![0x41], long, b"-2F".repeat(90)),
            (vec![0x41], b"localhost".to_vec(), b"localhost".to_vec()),
        ] {
            let block = |value: &[u8]| {
                [&before[..], &with(&prefix, value), &[0xff, 0x10], &with(&[0x0f, 0x02], b"1%")].concat()
            };
            for flags in [4, 5] {
                assert_eq!(settled(&frame(1, flags, &block(&value))), frame(1, flags, &block(&expected)));
            }
            let around = |block: Vec<u8>| {
                frame(1, 4 | PADDED | PRIORITY, &[&[3], &[0, 0, 0, 0, 9][..], &block, b"%%%"].concat())
            };
            assert_eq!(settled(&around(block(&value))), around(block(&expected)));
            let parted = |block: Vec<u8>| {
                let (one, other) = block.split_at(before.len() + 2);
                [frame(1, 0, one), frame(9, 4, other)].concat()
            };
            assert_eq!(settled(&parted(block(&value))), parted(block(&expected)));
        }
    }

    #[test]
    fn nothing_else_is_touched() {
        let data = frame(0, 1, &with(&[0x41], PATH));
        let huffman = frame(1, 4, &[&[0x41, 0x80 | 3], &b"%%%"[..]].concat());
        let settings = frame(4, 0, b"%%%%%%");
        let other = frame(1, 4, &with(&with(&[0x40], b":authoritx"), PATH));
        let longer = frame(1, 4, &with(&with(&[0x40], b":authority2"), PATH));
        let endless = frame(1, 4, &[&[0xff][..], &[0xff; 12], &with(&[0x41], PATH)].concat());
        for sent in [data, huffman, settings, other, longer, endless] {
            assert_eq!(settled(&sent), sent);
        }
        let mut noise = [&[0_u8; PREFACE][..], &(0..=255).cycle().take(4096).collect::<Vec<u8>>()].concat();
        Authorities::default().settle(&mut noise);
    }
}
