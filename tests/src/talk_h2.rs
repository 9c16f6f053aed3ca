//! An HTTP/2 client that reads frame by frame what it is told, and answers PINGs meanwhile.

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::raw_h2::{
    END_STREAM, Frame, PING, PREFACE, SETTINGS, fields, frame, headers, read_frame, request,
};
use crate::ways::Duplex;

/// One connection.
#[derive(Debug)]
pub struct TalkH2(Box<dyn Duplex>);

impl TalkH2 {
    /// Begins on a connection.
    ///
    /// # Panics
    /// When it is not open.
    pub async fn new(stream: Box<dyn Duplex>) -> Self {
        let mut client = Self(stream);
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        client
    }

    /// Sends these frames.
    ///
    /// # Panics
    /// When the connection is not open.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("it is open");
        self.0.flush().await.expect("it is open");
    }

    /// Sends `GET path`.
    ///
    /// # Panics
    /// As [`TalkH2::send`].
    pub async fn ask(&mut self, stream: u32, path: &str) {
        let block = fields(&request("GET", path));
        self.send(&headers(stream, END_STREAM, &block)).await;
    }

    /// The next frame like that; PINGs that ask whether we have read so far are answered.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn reads(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let read = async {
            loop {
                let next = read_frame(&mut self.0).await.expect("more frames");
                if next.kind == PING && next.flags == 0 {
                    self.send(&frame(PING, END_STREAM, 0, &next.payload)).await;
                }
                if wanted(&next) {
                    return next;
                }
            }
        };
        timeout(PATIENCE, read).await.expect("the frame comes")
    }

    /// Waits until the other side closes.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ends(&mut self) {
        let read = async { while read_frame(&mut self.0).await.is_ok() {} };
        timeout(PATIENCE, read).await.expect("the connection ends");
    }
}
