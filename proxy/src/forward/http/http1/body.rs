//! Where a body ends, as it comes (RFC 9112 s6 and s7), and how it goes on. Nothing is passed over that is not as the
//! standard says: what one server forgives another one takes for the next request.

use http::HeaderMap;

use super::head::{self, Length, Malformed};

/// Of all extensions of the chunks of a body: nobody knows any.
const MOST_EXTENSION: usize = 16 * 1024;
/// Beside the size of one chunk.
const MOST_PADDING: usize = 256;
/// Of trailers.
const MOST_TRAILERS: usize = 16 * 1024;

/// Reads a body.
#[derive(Debug)]
pub(super) enum Decoder {
    /// So many bytes are to come.
    Exactly(u64),
    Chunked(Chunks),
    ToEnd,
    /// It is not as the standard says, and what follows is nothing that can be read.
    Malformed,
    /// All has come, with these trailers.
    Done(Option<Box<HeaderMap>>),
}

/// How far a chunked body was read.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk, as far as its size was read or its data was not.
    size: u64,
    /// Blanks and leading zeros of the size that is read.
    padding: usize,
    extension: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size {
        digits: bool,
    },
    /// Blanks after the size.
    Blank,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

impl Decoder {
    pub(super) fn new(length: Length) -> Self {
        match length {
            Length::Exactly(0) => Self::Done(None),
            Length::Exactly(length) => Self::Exactly(length),
            Length::Chunked => {
                Self::Chunked(Chunks { at: At::Size { digits: false }, size: 0, padding: 0, extension: 0 })
            }
            Length::ToEnd => Self::ToEnd,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// Reads what is between the data: how many bytes that was.
    pub(super) fn frame(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let chunks = match self {
            Self::Chunked(chunks) => chunks,
            Self::Malformed => return Err(Malformed::Chunk),
            Self::Exactly(_) | Self::ToEnd | Self::Done(_) => return Ok(0),
        };
        let (read, trailers) = match chunks.frame(input) {
            Ok(framed) => framed,
            Err(error) => {
                *self = Self::Malformed;
                return Err(error);
            }
        };
        if let Some(trailers) = trailers {
            *self = Self::Done((!trailers.is_empty()).then(|| Box::new(trailers)));
        }
        Ok(read)
    }

    /// How many bytes of data come next, at most.
    pub(super) fn data(&self) -> u64 {
        match self {
            Self::Exactly(left) => *left,
            Self::Chunked(Chunks { at: At::Data, size, .. }) => *size,
            Self::ToEnd => u64::MAX,
            Self::Chunked(_) | Self::Malformed | Self::Done(_) => 0,
        }
    }

    /// So many of them came.
    pub(super) fn took(&mut self, count: u64) {
        match self {
            Self::Exactly(left) => {
                *left = left.saturating_sub(count);
                if *left == 0 {
                    *self = Self::Done(None);
                }
            }
            Self::Chunked(chunks) => {
                chunks.size = chunks.size.saturating_sub(count);
                if chunks.size == 0 {
                    chunks.at = At::DataCr;
                }
            }
            Self::ToEnd | Self::Malformed | Self::Done(_) => {}
        }
    }

    /// Its connection ended: whether that is the end of it.
    pub(super) fn ended(&mut self) -> bool {
        let whole = matches!(self, Self::ToEnd | Self::Done(_));
        if whole && !self.is_done() {
            *self = Self::Done(None);
        }
        whole
    }
}

impl Chunks {
    fn frame(&mut self, input: &[u8]) -> Result<(usize, Option<HeaderMap>), Malformed> {
        let mut read = 0;
        while let Some(byte) = input.get(read) {
            match self.at {
                At::Data => break,
                At::Trailers => {
                    let rest = input.get(read..).unwrap_or_default();
                    return match head::trailers(rest)? {
                        Some((_, length)) if length > MOST_TRAILERS => Err(Malformed::Trailers),
                        Some((trailers, length)) => Ok((read + length, Some(trailers))),
                        None if rest.len() > MOST_TRAILERS => Err(Malformed::Trailers),
                        None => Ok((read, None)),
                    };
                }
                _ => self.at = self.next(*byte)?,
            }
            read += 1;
        }
        Ok((read, None))
    }

    /// One more blank or zero, of which some servers have a few in front of each chunk.
    fn pads(&mut self, next: At) -> Result<At, Malformed> {
        self.padding += 1;
        if self.padding > MOST_PADDING { Err(Malformed::Chunk) } else { Ok(next) }
    }

    fn next(&mut self, byte: u8) -> Result<At, Malformed> {
        Ok(match (self.at, byte) {
            (At::Size { .. }, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).ok_or(Malformed::Chunk)?;
                let size = self.size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
                self.size = size.ok_or(Malformed::Chunk)?;
                let next = At::Size { digits: true };
                if self.size == 0 { self.pads(next)? } else { next }
            }
            (At::Size { digits: true } | At::Blank, b' ' | b'\t') => self.pads(At::Blank)?,
            (At::Size { digits: true } | At::Blank, b';') => At::Extension,
            (At::Size { digits: true } | At::Blank | At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, b'\n') => return Err(Malformed::Chunk),
            (At::Extension, _) => {
                self.extension += 1;
                if self.extension > MOST_EXTENSION {
                    return Err(Malformed::Chunk);
                }
                At::Extension
            }
            (At::SizeEnd, b'\n') if self.size == 0 => At::Trailers,
            (At::SizeEnd, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                (self.size, self.padding) = (0, 0);
                At::Size { digits: false }
            }
            _ => return Err(Malformed::Chunk),
        })
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// As it is: its length was said, or is that of its connection.
    Plain,
    Chunked,
}

impl Coding {
    /// Writes what goes before so many bytes.
    pub(super) fn before(self, count: usize, out: &mut Vec<u8>) {
        if self == Self::Chunked {
            let mut digits = [0; usize::BITS as usize / 4];
            let mut rest = count;
            let mut first = digits.len();
            for digit in digits.iter_mut().rev() {
                let [low, ..] = rest.to_le_bytes();
                *digit = match low & 15 {
                    few @ 0..10 => b'0' + few,
                    many => b'a' + many - 10,
                };
                first -= 1;
                rest >>= 4;
                if rest == 0 {
                    break;
                }
            }
            out.extend_from_slice(digits.get(first..).unwrap_or_default());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Writes what goes after them.
    pub(super) fn after(self, out: &mut Vec<u8>) {
        if self == Self::Chunked {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Writes the end.
    pub(super) fn end(self, trailers: Option<&HeaderMap>, out: &mut Vec<u8>) {
        if self == Self::Chunked {
            out.extend_from_slice(b"0\r\n");
            if let Some(trailers) = trailers {
                head::write_fields(trailers, out);
            }
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a body that comes in such pieces is, and what is left after it.
    fn read(length: Length, input: &[u8], piece: usize) -> Result<(Vec<u8>, bool, Vec<u8>), Malformed> {
        let (mut decoder, mut held, mut body) = (Decoder::new(length), Vec::new(), Vec::new());
        for part in input.chunks(piece) {
            held.extend_from_slice(part);
            loop {
                let framed = decoder.frame(&held)?;
                held.drain(..framed);
                let count = usize::try_from(decoder.data()).unwrap_or(usize::MAX).min(held.len());
                if count == 0 {
                    break;
                }
                body.extend(held.drain(..count));
                decoder.took(count as u64);
            }
        }
        Ok((body, decoder.is_done(), held))
    }

    fn chunked(input: &str) -> Result<(Vec<u8>, bool, Vec<u8>), Malformed> {
        let whole = read(Length::Chunked, input.as_bytes(), usize::MAX);
        let by_one = read(Length::Chunked, input.as_bytes(), 1);
        assert_eq!(whole.is_ok(), by_one.is_ok(), "{input:?}");
        whole
    }

    #[test]
    fn chunks_are_put_together_and_what_follows_is_left() {
        for input in [
            "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\nGET",
            "5;a=b\r\nhello\r\n0;x\r\n\r\nGET",
            "0005 \t\r\nhello\r\n000\r\nx: y\r\nz: w\r\n\r\nGET",
        ] {
            let (body, done, rest) = chunked(input).unwrap();
            assert_eq!((&body[..], done, &rest[..]), (&b"hello"[..], true, &b"GET"[..]), "{input:?}");
        }
        let (body, done, _) = chunked("5\r\nhello\r\n").unwrap();
        assert_eq!((&body[..], done), (&b"hello"[..], false));
    }

    #[test]
    fn what_is_not_chunked_by_the_letter_is_refused() {
        let long = "x".repeat(MOST_EXTENSION + 2);
        for input in [
            "0x5\r\nhello",
            "+5\r\n",
            "-5\r\n",
            " 5\r\n",
            "g\r\n",
            "\r\nhello",
            ";a\r\n",
            "10000000000000005\r\n",
            "5\nhello",
            "5\rXhello",
            "5\r\nhello0\r\n",
            "5\r\nhello\n",
            "5;\n\r\n",
            "5;a\rb\r\n",
            "5 6\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
        ] {
            assert!(chunked(input).is_err(), "{input:?}");
        }
        assert!(chunked(&format!("5;{long}\r\nhello")).is_err());
        let (blanks, zeros) = (" ".repeat(MOST_PADDING + 1), "0".repeat(MOST_PADDING + 1));
        assert!(chunked(&format!("5{blanks}\r\nhello")).is_err());
        assert!(chunked(&format!("{zeros}5\r\nhello")).is_err());
        let padded = "0005    \r\nhello\r\n".repeat(MOST_PADDING);
        assert_eq!(chunked(&padded).unwrap().0.len(), 5 * MOST_PADDING, "each chunk may");
        assert!(chunked(&format!("0\r\nx: {long}\r\n\r\n")).is_err());
        assert!(chunked(&format!("0\r\nx: {long}")).is_err(), "before it ends");
    }

    #[test]
    fn what_was_refused_once_is_not_read_again_as_something_else() {
        let input = b"1\r\na\r\n0Z: x\r\n\r\nGET /next HTTP/1.1\r\n\r\n";
        let mut decoder = Decoder::new(Length::Chunked);
        let mut at = decoder.frame(input).unwrap();
        decoder.took(1);
        at += 1;
        for _ in 0..3 {
            assert!(decoder.frame(&input[at..]).is_err() && !decoder.is_done() && decoder.data() == 0);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 0..6), piece in 1_usize..700) {
            let mut out = Vec::new();
            for part in &parts {
                Coding::Chunked.before(part.len(), &mut out);
                out.extend_from_slice(part);
                Coding::Chunked.after(&mut out);
            }
            Coding::Chunked.end(None, &mut out);
            out.extend_from_slice(b"rest");
            let (body, done, rest) = read(Length::Chunked, &out, piece).unwrap();
            prop_assert_eq!(body, parts.concat());
            prop_assert!(done && rest == b"rest");
        }

        #[test]
        fn nothing_panics(input in prop::collection::vec(prop::sample::select(&b"0123af\r\n;:x \t"[..]), 0..80), piece in 1_usize..20) {
            let _ = read(Length::Chunked, &input, piece);
        }

        #[test]
        fn a_length_is_a_length(length in 0_u64..50, given in 0_usize..80, piece in 1_usize..20) {
            let input = vec![7; given];
            let (body, done, rest) = read(Length::Exactly(length), &input, piece).unwrap();
            let expected = given.min(usize::try_from(length).unwrap());
            prop_assert_eq!((body.len(), done, rest.len()), (expected, given as u64 >= length, given - expected));
        }
    }
}
