//! HTTP/2 frame by frame (RFC 9113), for what no decent client sends: floods, malformed fields, provoked
//! errors. Fields are written as plain literals (RFC 7541 s6.2.2), so every byte of them is the test's.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, split};
use tokio::sync::watch;
use tokio::time::timeout;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Frame types (RFC 9113 s6).
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const WINDOW_UPDATE: u8 = 8;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;
/// Flags of DATA and HEADERS; END_STREAM is also ACK of SETTINGS and PING.
pub const END_STREAM: u8 = 1;
/// See [`END_STREAM`].
pub const END_HEADERS: u8 = 4;

/// A write that makes no progress for this long: the other side has stopped reading.
const STALLED: Duration = Duration::from_secs(1);
/// How long the last answers may take.
const LAST_WORDS: Duration = Duration::from_secs(10);
const LARGEST_PAYLOAD: usize = 16_384;
/// Waves that are written together.
const AT_ONCE: u32 = 512;
const LAST_PING: [u8; 8] = *b"the end?";

/// One frame as it is on the wire.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("a frame is small").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field block of literals, whatever is in them.
#[must_use]
pub fn fields(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(*text);
        }
    }
    block
}

/// The usual pseudo-header fields, for [`fields`].
#[must_use]
pub fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a [u8], &'a [u8])> {
    vec![
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", path.as_bytes()),
    ]
}

/// HEADERS, and CONTINUATION as far as needed.
#[must_use]
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut parts = block.chunks(LARGEST_PAYLOAD).peekable();
    let mut bytes = Vec::new();
    let (mut kind, mut flags) = (HEADERS, flags);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        bytes.extend(frame(kind, flags, stream, part));
        (kind, flags) = (CONTINUATION, 0);
    }
    bytes
}

/// RFC 7541 s5.1 with a prefix of 7 bits, Huffman bit off.
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push((value % 128) as u8 | 128);
        value /= 128;
    }
    block.push(value as u8);
}

/// How the sender of a flood behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Reads whatever comes while it writes.
    Reading,
    /// Reads nothing until it has written everything, or can write no more.
    Deaf,
    /// Ends each wave with a PING and awaits its answer: what came before it was taken up.
    InStep,
}

/// What came of a flood.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Waves that were written.
    pub waves: u32,
    /// The other side stopped reading while nobody read its answers.
    pub stalled: bool,
    /// Error code and debug data of the first GOAWAY with an error.
    pub goaway: Option<(u32, String)>,
    /// RST_STREAM received, by error code.
    pub resets: BTreeMap<u32, u64>,
    /// The connection ended.
    pub closed: bool,
    /// A PING at the end was answered.
    pub alive: bool,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.goaway {
            Some((code, why)) => write!(f, "GOAWAY {code} {why:?}")?,
            None if self.alive => f.write_str("borne")?,
            None => f.write_str("closed without a word")?,
        }
        let stalled = if self.stalled { ", reading stopped meanwhile" } else { "" };
        write!(f, " after at most {} waves{stalled}", self.waves)
    }
}

/// Opens HTTP/2, writes `waves` waves at that `pace`, or as many as the other side bears, and tells how it ended.
///
/// # Panics
/// When the other side neither answers nor closes at the end.
pub async fn flood<S>(stream: S, pace: Pace, waves: u32, wave: impl Fn(u32) -> Vec<u8>) -> Outcome
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, mut writer) = split(stream);
    let (seen, progress) = watch::channel(Outcome::default());
    let (allowed, mut go) = watch::channel(pace != Pace::Deaf);
    let reading = tokio::spawn(async move {
        let _ = go.wait_for(|go| *go).await;
        read_all(BufReader::with_capacity(LARGEST_PAYLOAD, reader), &seen).await;
        seen.send_modify(|outcome| outcome.closed = true);
    });

    let mut written = 0;
    let mut acknowledged = progress.clone();
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut wrote = write(&mut writer, opening).await;
    while matches!(wrote, Wrote::All) && written < waves && !progress.borrow().closed {
        let mut bytes = Vec::new();
        let until = if pace == Pace::InStep { written + 1 } else { waves.min(written + AT_ONCE) };
        for number in written..until {
            bytes.extend(wave(number));
        }
        if pace == Pace::InStep {
            bytes.extend(frame(PING, 0, 0, &u64::from(until).to_be_bytes()));
        }
        wrote = write(&mut writer, bytes).await;
        written = until;
        if pace == Pace::InStep && matches!(wrote, Wrote::All) {
            let answered = acknowledged.wait_for(|outcome| outcome.closed || outcome.waves >= until);
            let answered = timeout(LAST_WORDS, answered).await;
            assert!(answered.is_ok(), "wave {until} is not taken up: {:?}", progress.borrow());
        }
    }

    // Whoever is still there takes up what was begun, and answers.
    allowed.send_replace(true);
    let stalled = matches!(wrote, Wrote::Part(_));
    let mut last = if let Wrote::Part(rest) = wrote { rest } else { Vec::new() };
    last.extend(frame(PING, 0, 0, &LAST_PING));
    let _ = timeout(LAST_WORDS, async {
        writer.write_all(&last).await?;
        writer.flush().await
    })
    .await;
    let over = acknowledged.wait_for(|outcome| outcome.closed || outcome.alive);
    let over = timeout(LAST_WORDS, over).await.is_ok_and(|over| over.is_ok());
    reading.abort();
    let mut outcome = progress.borrow().clone();
    assert!(over, "after {written} waves neither an answer nor an end: {outcome:?}");
    (outcome.waves, outcome.stalled) = (written, stalled);
    outcome
}

enum Wrote {
    All,
    /// The other side reads no more; this is what is left.
    Part(Vec<u8>),
    Nothing,
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), mut bytes: Vec<u8>) -> Wrote {
    let mut done = 0;
    while done < bytes.len() {
        match timeout(STALLED, writer.write(&bytes[done..])).await {
            Ok(Ok(count)) if count > 0 => done += count,
            Ok(_) => return Wrote::Nothing,
            Err(_) => return Wrote::Part(bytes.split_off(done)),
        }
    }
    match timeout(STALLED, writer.flush()).await {
        Ok(Ok(())) => Wrote::All,
        Ok(Err(_)) => Wrote::Nothing,
        Err(_) => Wrote::Part(Vec::new()),
    }
}

async fn read_all(mut reader: impl AsyncRead + Unpin, seen: &watch::Sender<Outcome>) {
    while let Ok(frame) = read_frame(&mut reader).await {
        let code = |at: usize| {
            frame.payload.get(at..at + 4).map(|code| u32::from_be_bytes(code.try_into().expect("four bytes")))
        };
        seen.send_modify(|outcome| match frame.kind {
            RST_STREAM => *outcome.resets.entry(code(0).unwrap_or_default()).or_default() += 1,
            GOAWAY if outcome.goaway.is_none() && code(4) != Some(0) => {
                let debug = frame.payload.get(8..).unwrap_or_default();
                outcome.goaway =
                    Some((code(4).unwrap_or_default(), String::from_utf8_lossy(debug).into_owned()));
            }
            PING if frame.flags & END_STREAM != 0 && frame.payload == LAST_PING => outcome.alive = true,
            PING if frame.flags & END_STREAM != 0 && frame.payload.len() == 8 => {
                let number = u64::from_be_bytes(frame.payload[..].try_into().expect("eight bytes"));
                outcome.waves = u32::try_from(number).unwrap_or_default();
            }
            _ => {}
        });
    }
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Reads one frame.
///
/// # Errors
/// When the connection ends or fails.
pub async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; 9];
    reader.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok(Frame { kind: head[3], flags: head[4], stream, payload })
}

/// What became of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A response with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended without a word.
    Closed,
}

/// Opens HTTP/2, sends `frames`, which use stream 1, and awaits its answer.
///
/// # Panics
/// When nothing comes in time.
pub async fn ask<S>(stream: S, frames: &[u8]) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut reader, mut writer) = split(stream);
    let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat();
    // It may refuse before it has read everything.
    let write = async {
        let _ = writer.write_all(&bytes).await;
        let _ = writer.flush().await;
        std::future::pending::<()>().await;
    };
    let read = async {
        loop {
            let Ok(frame) = read_frame(&mut reader).await else { return Answer::Closed };
            let code = |at: usize| {
                let code = frame.payload.get(at..at + 4).and_then(|code| code.try_into().ok());
                u32::from_be_bytes(code.unwrap_or_default())
            };
            match (frame.kind, frame.stream) {
                (HEADERS, 1) => return Answer::Status(status(&frame.payload)),
                (RST_STREAM, 1) => return Answer::Reset(code(0)),
                (GOAWAY, _) if code(4) != 0 => return Answer::GoAway(code(4)),
                _ => {}
            }
        }
    };
    let answer = async {
        tokio::select! {
            () = write => Answer::Closed,
            answer = read => answer,
        }
    };
    timeout(LAST_WORDS, answer).await.expect("an answer or an end in time")
}

/// The status in the first field block of a connection, in which `:status` is indexed or a literal of digits
/// (RFC 7541 s6.1, s6.2; appendix B for their codes).
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let resizes = block.iter().take_while(|byte| **byte & 0xe0 == 0x20).count();
    let block = &block[resizes..];
    if let Some(indexed) = block[0].checked_sub(0x88) {
        return STATIC[usize::from(indexed)];
    }
    assert!(matches!(block[0], 0x08 | 0x18 | 0x48..=0x4e), "not a status: {block:02x?}");
    let length = usize::from(block[1] & 0x7f);
    let value = &block[2..2 + length];
    let text = if block[1] & 0x80 == 0 { String::from_utf8_lossy(value).into_owned() } else { digits(value) };
    text.parse().unwrap_or_else(|_| panic!("not a status: {text}"))
}

/// Huffman-coded digits: 0, 1 and 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> String {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut text = String::new();
    loop {
        let Some(five) = (0..5).try_fold(0, |code, _| bits.next().map(|bit| code << 1 | bit)) else {
            return text;
        };
        let digit = match five {
            0..=2 => five,
            _ => match bits.next() {
                Some(sixth) if (25..32).contains(&(five << 1 | sixth)) => (five << 1 | sixth) - 22,
                _ => return text,
            },
        };
        text.push(char::from(b'0' + digit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_form_of_the_rfc() {
        assert_eq!(frame(PING, 1, 0, &[7; 8])[..9], [0, 0, 8, 6, 1, 0, 0, 0, 0]);
        assert_eq!(fields(&[(b"a", b"bc")]), [0, 1, b'a', 2, b'b', b'c']);
        let long = fields(&[(b"a", &[b'x'; 300])]);
        assert_eq!(long[3..6], [127, 128 + 45, 1]);
        let split = headers(1, END_STREAM, &[0; 20_000]);
        assert_eq!((split[3], split[4]), (HEADERS, END_STREAM));
        let second = 9 + LARGEST_PAYLOAD;
        assert_eq!((split[second + 3], split[second + 4]), (CONTINUATION, END_HEADERS));
    }

    #[test]
    fn statuses_are_read() {
        assert_eq!(status(&[0x88, 0x40]), 200);
        assert_eq!(status(&[0x20, 0x8c]), 400);
        assert_eq!(status(b"\x48\x03431"), 431);
        // "431": 011010 011001 00001, padded with ones.
        assert_eq!(status(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]), 431);
        // "403": 011010 00000 011001.
        assert_eq!(status(&[0x48, 0x83, 0b0110_1000, 0b0000_1100, 0b1111_1111]), 403);
    }
}
