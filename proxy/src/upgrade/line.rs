//! The line between two processes: frames (length, protobuf) on a unix stream, listening sockets beside them.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{Buf, BytesMut};
use prost::Message;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use signet_proto::v1;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::UpgradeError;

/// A signing request, or a chain with its bundles: far less than this.
const LARGEST_FRAME: usize = 1024 * 1024;
/// Of one listener: a port has a socket for each family.
const MOST_SOCKETS: usize = 2;
/// That wait for the frame they belong to.
const MOST_WAITING: usize = 256;
const LENGTH: usize = 4;

/// What is said.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Word {
    /// First of all, by the new process.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// A listener, by the old one; its sockets come along.
    #[prost(message, tag = "2")]
    Listener(Listener),
    /// These were all.
    #[prost(message, tag = "3")]
    All(Nothing),
    /// The new process wants a certificate.
    #[prost(message, tag = "4")]
    Certify(Certify),
    /// Here it is.
    #[prost(message, tag = "5")]
    Certified(v1::AttestResponse),
    /// There is none.
    #[prost(message, tag = "6")]
    Refused(Refused),
    /// The new process can serve.
    #[prost(message, tag = "7")]
    Ready(Nothing),
    /// The old one does not, any more.
    #[prost(message, tag = "8")]
    Yours(Nothing),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(super) form: u32,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Listener {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(uint32, tag = "2")]
    pub(super) sockets: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Certify {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) csr: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) ttl_seconds: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Refused {
    #[prost(string, tag = "1")]
    pub(super) reason: String,
    #[prost(bool, tag = "2")]
    pub(super) is_final: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct Frame {
    #[prost(oneof = "Word", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    word: Option<Word>,
}

/// One end of the line.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    received: BytesMut,
    sockets: VecDeque<OwnedFd>,
}

impl Line {
    /// Only to a process of our own user.
    pub(super) fn with(stream: UnixStream) -> Result<Self, UpgradeError> {
        let found = stream.peer_cred().map_err(UpgradeError::Gone)?.uid();
        let expected = rustix::process::geteuid().as_raw();
        if found != expected {
            return Err(UpgradeError::Stranger { found, expected });
        }
        Ok(Self { stream, received: BytesMut::new(), sockets: VecDeque::new() })
    }

    /// Says something, and gives `sockets` along with it.
    pub(super) async fn say(&self, word: Word, sockets: &[BorrowedFd<'_>]) -> Result<(), UpgradeError> {
        let frame = Frame { word: Some(word) };
        let length =
            u32::try_from(frame.encoded_len()).map_err(|_| UpgradeError::Unexpected("a frame too long"))?;
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&frame.encode_to_vec());
        // They go with the first byte that goes.
        let mut sockets = sockets;
        while !bytes.is_empty() {
            let sent =
                self.stream.async_io(Interest::WRITABLE, || send(self.stream.as_fd(), &bytes, sockets)).await;
            bytes.advance(sent.map_err(UpgradeError::Gone)?);
            sockets = &[];
        }
        Ok(())
    }

    /// What the other end says next.
    pub(super) async fn hear(&mut self) -> Result<Word, UpgradeError> {
        loop {
            if let Some(frame) = self.frame()? {
                return frame.word.ok_or(UpgradeError::Unexpected("a word of a newer version"));
            }
            let mut bytes = vec![0; 16 * 1024];
            let (length, sockets) = self
                .stream
                .async_io(Interest::READABLE, || receive(self.stream.as_fd(), &mut bytes))
                .await
                .map_err(UpgradeError::Gone)?;
            if length == 0 {
                return Err(UpgradeError::Gone(io::ErrorKind::UnexpectedEof.into()));
            }
            self.received.extend_from_slice(bytes.get(..length).unwrap_or_default());
            self.sockets.extend(sockets);
            if self.sockets.len() > MOST_WAITING {
                return Err(UpgradeError::Unexpected("sockets that belong to nothing"));
            }
        }
    }

    /// The sockets that came with a listener.
    pub(super) fn sockets_of(&mut self, listener: &Listener) -> Result<Vec<OwnedFd>, UpgradeError> {
        let count = usize::try_from(listener.sockets).unwrap_or(usize::MAX);
        if count > MOST_SOCKETS || count > self.sockets.len() {
            return Err(UpgradeError::Unexpected("a listener without its sockets"));
        }
        Ok(self.sockets.drain(..count).collect())
    }

    fn frame(&mut self) -> Result<Option<Frame>, UpgradeError> {
        let Some((length, rest)) = self.received.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > LARGEST_FRAME {
            return Err(UpgradeError::Unexpected("a frame too long"));
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let frame = Frame::decode(frame).map_err(|_| UpgradeError::Unexpected("a damaged frame"))?;
        self.received.advance(LENGTH + length);
        Ok(Some(frame))
    }
}

fn send(stream: BorrowedFd<'_>, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("more sockets than one listener has"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

fn receive(stream: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    Ok((received.bytes, sockets))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line() -> (Line, Line) {
        let (one, other) = UnixStream::pair().unwrap();
        (Line::with(one).unwrap(), Line::with(other).unwrap())
    }

    #[tokio::test]
    async fn sockets_arrive_with_the_listener_that_they_belong_to() {
        let (old, mut new) = line();
        let sockets: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let listener = |name: &str, sockets| Word::Listener(Listener { name: name.into(), sockets });
        old.say(listener("both families", 2), &[sockets[0].as_fd(), sockets[1].as_fd()]).await.unwrap();
        old.say(listener("one", 1), &[sockets[2].as_fd()]).await.unwrap();
        old.say(Word::All(Nothing {}), &[]).await.unwrap();
        let mut taken = Vec::new();
        while let Word::Listener(listener) = new.hear().await.unwrap() {
            taken.extend(new.sockets_of(&listener).unwrap());
        }
        let addresses =
            taken.into_iter().map(|socket| std::net::TcpListener::from(socket).local_addr().unwrap());
        let expected: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses.collect::<Vec<_>>(), expected);
        drop(old);
        assert!(matches!(new.hear().await, Err(UpgradeError::Gone(_))));
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        let huge = u32::MAX.to_be_bytes().to_vec();
        let damaged = [&3_u32.to_be_bytes()[..], &[0xff; 3]].concat();
        let unknown = [&3_u32.to_be_bytes()[..], &[0xfa, 0x01, 0x00]].concat();
        for bytes in [huge, damaged, unknown] {
            let (old, mut new) = line();
            let mut stream = old.stream.into_std().unwrap();
            stream.write_all(&bytes).unwrap();
            assert!(matches!(new.hear().await, Err(UpgradeError::Unexpected(_))));
        }
        let (_, mut new) = line();
        let without = Listener { name: "tcp".into(), sockets: 1 };
        assert!(matches!(new.sockets_of(&without), Err(UpgradeError::Unexpected(_))));
    }
}
