//! Frames: a header of four bytes, then the payload.
//!
//! ```text
//!   0        1                    4
//!   | type u8 | length u24, big-endian | payload ...
//! ```
//!
//! A header is judged as soon as it is complete, before any of its payload is read or held. The payload of
//! DATA passes through in pieces as they come; that of the other frames is handed over whole, borrowed from
//! the input if it lies there in one piece. So what the [`Decoder`] holds is bounded by the longest control
//! frame, and is nothing at all between frames.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 4;
/// Most bytes that one DATA frame carries.
pub const MAX_DATA_BYTES: usize = 65_536;
/// Longest payload of OPEN, which is the longest of all control frames.
pub const MAX_OPEN_BYTES: usize = 1024;
/// Longest text of REFUSE, in bytes of UTF-8.
pub const MAX_REASON_BYTES: usize = 256;

/// The six frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameType {
    /// The initiator begins a stream; carries the preamble.
    Open,
    /// The acceptor takes the stream.
    Accept,
    /// The acceptor does not take the stream; carries a code and a text.
    Refuse,
    /// Bytes of the stream.
    Data,
    /// The sender has no more bytes for this stream.
    End,
    /// The sender gives up the stream, and the connection with it; carries a code.
    Reset,
}

impl FrameType {
    const ALL: [Self; 6] = [Self::Open, Self::Accept, Self::Refuse, Self::Data, Self::End, Self::Reset];

    const fn code(self) -> u8 {
        match self {
            Self::Open => 0x01,
            Self::Accept => 0x02,
            Self::Refuse => 0x03,
            Self::Data => 0x04,
            Self::End => 0x05,
            Self::Reset => 0x06,
        }
    }

    /// How long the payload may be.
    const fn lengths(self) -> RangeInclusive<usize> {
        match self {
            Self::Open => 0..=MAX_OPEN_BYTES,
            Self::Accept | Self::End => 0..=0,
            Self::Refuse => 1..=1 + MAX_REASON_BYTES,
            // An empty one would cost the receiver work and bring the stream no further.
            Self::Data => 1..=MAX_DATA_BYTES,
            Self::Reset => 1..=1,
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "OPEN",
            Self::Accept => "ACCEPT",
            Self::Refuse => "REFUSE",
            Self::Data => "DATA",
            Self::End => "END",
            Self::Reset => "RESET",
        })
    }
}

/// Bytes that are no frame of this protocol. The place of the next frame is lost: close the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No frame has this type.
    #[error("unknown frame type {0:#04x}: expected 0x01 (OPEN) to 0x06 (RESET)")]
    UnknownType(u8),
    /// The frame's length is outside its bounds.
    #[error("{frame} with {length} bytes: expected {} to {}", .frame.lengths().start(), .frame.lengths().end())]
    Length {
        /// Which frame.
        frame: FrameType,
        /// What its header says.
        length: usize,
    },
}

/// What the four bytes say. One that exists is within the bounds of its type, whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) frame: FrameType,
    pub(super) length: usize,
}

impl Header {
    pub(super) fn new(frame: FrameType, length: usize) -> Result<Self, FrameError> {
        if frame.lengths().contains(&length) {
            Ok(Self { frame, length })
        } else {
            Err(FrameError::Length { frame, length })
        }
    }

    pub(super) const fn encode(self) -> [u8; HEADER_BYTES] {
        let [.., high, middle, low] = self.length.to_be_bytes();
        [self.frame.code(), high, middle, low]
    }

    fn decode([code, high, middle, low]: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let frame = FrameType::ALL
            .into_iter()
            .find(|frame| frame.code() == code)
            .ok_or(FrameError::UnknownType(code))?;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        Self::new(frame, length)
    }
}

/// A piece of what came in, in the order of the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// A frame begins. Its payload follows in the parts after this one.
    Header(Header),
    /// Some of the payload of a DATA frame, never empty.
    Chunk(&'a [u8]),
    /// The whole payload of any other frame.
    Control(FrameType, Cow<'a, [u8]>),
}

/// What the next bytes of the other end are: who reads no further takes nothing for what it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// So many bytes to the end of a header or of a control frame.
    Rest(usize),
    /// So many bytes of the stream, to the end of their frame.
    Data(usize),
    /// Nothing that would mean anything.
    Nothing,
}

/// Takes frames from a byte stream that comes in any pieces.
#[derive(Debug)]
pub(super) struct Decoder {
    place: Place,
    /// The beginning of a control frame's payload; empty in every other place.
    held: Vec<u8>,
}

/// Where in the byte stream we are.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In a header, of which so many bytes are there, as the low bytes of the word.
    Header { word: u32, bytes: usize },
    /// In the payload of a control frame, with so many bytes to come.
    Control { frame: FrameType, left: usize },
    /// In the payload of a DATA frame, with so many bytes to come.
    Data { left: usize },
    /// Nowhere: what comes means nothing any more.
    Lost,
}

impl Place {
    const BOUNDARY: Self = Self::Header { word: 0, bytes: 0 };
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self { place: Place::BOUNDARY, held: Vec::new() }
    }

    /// The next part, taken from the front of `input`; none when `input` is used up. After an error the
    /// caller calls [`Decoder::lose`].
    pub(super) fn decode<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, FrameError> {
        match self.place {
            Place::Header { word, bytes } => self.header(word, bytes, input),
            Place::Control { frame, left } => Ok(self.control(frame, left, input)),
            Place::Data { left } => {
                let chunk = take(input, left);
                let left = left.saturating_sub(chunk.len());
                self.place = if left == 0 { Place::BOUNDARY } else { Place::Data { left } };
                Ok((!chunk.is_empty()).then_some(Part::Chunk(chunk)))
            }
            Place::Lost => {
                *input = &[];
                Ok(None)
            }
        }
    }

    /// What the next bytes are.
    pub(super) const fn wants(&self) -> Wants {
        match self.place {
            Place::Header { bytes, .. } => Wants::Rest(HEADER_BYTES.saturating_sub(bytes)),
            Place::Control { left, .. } => Wants::Rest(left),
            Place::Data { left } => Wants::Data(left),
            Place::Lost => Wants::Nothing,
        }
    }

    /// From here on everything is swallowed.
    pub(super) fn lose(&mut self) {
        *self = Self { place: Place::Lost, held: Vec::new() };
    }

    /// Whether the next byte is not the first of a frame.
    pub(super) const fn mid_frame(&self) -> bool {
        !matches!(self.place, Place::Header { bytes: 0, .. })
    }

    /// How many bytes are held.
    pub(super) const fn held(&self) -> usize {
        self.held.len()
    }

    pub(super) fn check_invariants(&self) -> Result<(), &'static str> {
        match self.place {
            Place::Header { bytes, .. } if bytes >= HEADER_BYTES => Err("a complete header was not read"),
            Place::Header { .. } | Place::Data { .. } | Place::Lost if !self.held.is_empty() => {
                Err("bytes are held outside of a control frame")
            }
            Place::Control { left, .. } if self.held.len() + left > MAX_OPEN_BYTES => {
                Err("a control frame is longer than any may be")
            }
            Place::Data { left } if left == 0 || left > MAX_DATA_BYTES => {
                Err("the rest of a DATA frame is out of bounds")
            }
            _ => Ok(()),
        }
    }

    fn header<'a>(
        &mut self,
        mut word: u32,
        mut bytes: usize,
        input: &mut &'a [u8],
    ) -> Result<Option<Part<'a>>, FrameError> {
        for &byte in take(input, HEADER_BYTES.saturating_sub(bytes)) {
            word = word << 8 | u32::from(byte);
            bytes += 1;
        }
        if bytes < HEADER_BYTES {
            self.place = Place::Header { word, bytes };
            return Ok(None);
        }
        let header = Header::decode(word.to_be_bytes())?;
        self.place = match header {
            Header { frame: FrameType::Data, length } => Place::Data { left: length },
            Header { frame, length } => Place::Control { frame, left: length },
        };
        Ok(Some(Part::Header(header)))
    }

    fn control<'a>(&mut self, frame: FrameType, left: usize, input: &mut &'a [u8]) -> Option<Part<'a>> {
        let piece = take(input, left);
        let left = left.saturating_sub(piece.len());
        if left > 0 {
            // Exact: a peer that dribbles makes us hold its frame, and not a byte more.
            if !piece.is_empty() {
                self.held.reserve_exact(piece.len() + left);
                self.held.extend_from_slice(piece);
            }
            self.place = Place::Control { frame, left };
            return None;
        }
        self.place = Place::BOUNDARY;
        if self.held.is_empty() {
            return Some(Part::Control(frame, Cow::Borrowed(piece)));
        }
        let mut payload = std::mem::take(&mut self.held);
        payload.extend_from_slice(piece);
        Some(Part::Control(frame, Cow::Owned(payload)))
    }
}

/// Up to `most` bytes from the front of `input`, which then begins behind them.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (front, rest) = input.split_at_checked(most).unwrap_or((input, &[]));
    *input = rest;
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(mut input: &[u8]) -> Vec<Part<'_>> {
        let mut decoder = Decoder::new();
        let mut parts = Vec::new();
        while let Some(part) = decoder.decode(&mut input).unwrap() {
            decoder.check_invariants().unwrap();
            parts.push(part);
        }
        assert!(input.is_empty());
        parts
    }

    fn header(frame: FrameType, length: usize) -> Part<'static> {
        Part::Header(Header { frame, length })
    }

    #[test]
    fn each_frame_has_its_vector() {
        for (bytes, frame, payload) in [
            (&[1, 0, 0, 2, 8, 9][..], FrameType::Open, &[8, 9][..]),
            (&[2, 0, 0, 0], FrameType::Accept, &[]),
            (&[3, 0, 0, 3, 1, b'n', b'o'], FrameType::Refuse, &[1, b'n', b'o']),
            (&[5, 0, 0, 0], FrameType::End, &[]),
            (&[6, 0, 0, 1, 4], FrameType::Reset, &[4]),
        ] {
            assert_eq!(
                parts(bytes),
                [header(frame, payload.len()), Part::Control(frame, Cow::Borrowed(payload))]
            );
        }
        assert_eq!(parts(&[4, 0, 0, 3, b'a', b'b', b'c']), [header(FrameType::Data, 3), Part::Chunk(b"abc")]);
    }

    #[test]
    fn headers_read_back_at_both_ends_of_their_range() {
        for frame in FrameType::ALL {
            let lengths = frame.lengths();
            for length in [*lengths.start(), *lengths.end()] {
                let header = Header::new(frame, length).unwrap();
                assert_eq!(Header::decode(header.encode()), Ok(header), "{frame}");
            }
            let too_long = lengths.end() + 1;
            assert_eq!(Header::new(frame, too_long), Err(FrameError::Length { frame, length: too_long }));
            if let Some(too_short) = lengths.start().checked_sub(1) {
                assert_eq!(
                    Header::new(frame, too_short),
                    Err(FrameError::Length { frame, length: too_short })
                );
            }
        }
        assert_eq!(
            Header::new(FrameType::Data, MAX_DATA_BYTES).unwrap().encode(),
            [4, 1, 0, 0],
            "the largest DATA frame"
        );
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_any_payload() {
        for (bytes, frame, length) in [
            ([1, 0, 4, 1], FrameType::Open, 1025),
            ([2, 0, 0, 1], FrameType::Accept, 1),
            ([3, 0, 0, 0], FrameType::Refuse, 0),
            ([3, 0, 1, 2], FrameType::Refuse, 258),
            ([4, 0, 0, 0], FrameType::Data, 0),
            ([4, 1, 0, 1], FrameType::Data, 65_537),
            ([4, 255, 255, 255], FrameType::Data, 16_777_215),
            ([5, 0, 0, 1], FrameType::End, 1),
            ([6, 0, 0, 0], FrameType::Reset, 0),
            ([6, 0, 0, 2], FrameType::Reset, 2),
        ] {
            let error = Decoder::new().decode(&mut &bytes[..]).unwrap_err();
            assert_eq!(error, FrameError::Length { frame, length });
        }
        assert_eq!(
            FrameError::Length { frame: FrameType::Refuse, length: 258 }.to_string(),
            "REFUSE with 258 bytes: expected 1 to 257"
        );
    }

    #[test]
    fn unknown_types_are_refused() {
        for code in (0..=u8::MAX).filter(|code| !(1..=6).contains(code)) {
            let error = Decoder::new().decode(&mut &[code, 0, 0, 0][..]).unwrap_err();
            assert_eq!(error, FrameError::UnknownType(code));
        }
        assert_eq!(
            FrameError::UnknownType(7).to_string(),
            "unknown frame type 0x07: expected 0x01 (OPEN) to 0x06 (RESET)"
        );
    }

    #[test]
    fn data_passes_before_its_frame_is_whole() {
        let mut decoder = Decoder::new();
        let mut input = &[4, 0, 1, 0, 7, 7][..];
        assert_eq!(decoder.decode(&mut input).unwrap(), Some(header(FrameType::Data, 256)));
        assert_eq!(decoder.decode(&mut input).unwrap(), Some(Part::Chunk(&[7, 7])));
        assert_eq!(decoder.decode(&mut input).unwrap(), None);
        assert_eq!(decoder.held(), 0);
        assert!(decoder.mid_frame());
        let rest = [8; 255];
        assert_eq!(decoder.decode(&mut &rest[..]).unwrap(), Some(Part::Chunk(&rest[..254])));
        assert!(!decoder.mid_frame());
    }

    #[test]
    fn dribbled_control_frame_is_held_exactly() {
        let mut decoder = Decoder::new();
        let mut frame = vec![1, 0, 4, 0];
        frame.resize(4 + MAX_OPEN_BYTES, 5);
        for size in [1, 300] {
            let mut last = None;
            for mut input in frame.chunks(size) {
                while let Some(part) = decoder.decode(&mut input).unwrap() {
                    last = Some(part);
                }
                decoder.check_invariants().unwrap();
                assert!(decoder.held.capacity() <= MAX_OPEN_BYTES);
            }
            assert_eq!(last, Some(Part::Control(FrameType::Open, Cow::Owned(vec![5; MAX_OPEN_BYTES]))));
        }
        assert_eq!((decoder.held(), decoder.held.capacity()), (0, 0));
    }
}
