//! A caller without TLS, at a port where the mesh takes plaintext: let in without an identity, unless a rule denies
//! it, and counted by where it comes from, so that whoever makes the mesh strict knows whom that will cut off.
//!
//! Who speaks first decides. A caller that begins like TLS is held to TLS, whatever comes of it. One that is silent
//! may wait for an app that speaks first: after a second the app is connected, and if it speaks, the caller is no TLS
//! client, as those speak first. One that nobody has spoken to in five seconds is taken for a plaintext caller that
//! has nothing to say yet. In both cases a ClientHello that comes later ends the connection: nothing that is meant to
//! be TLS goes on without.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::net::TcpStream;

use super::{App, Arrival, Inbound, Refusal, limited};
use crate::capture::Socket;
use crate::config;
use crate::connections::{Content, Peer, Subject};
use crate::forward::detect::Detected;
use crate::forward::{Prefixed, Screen, Screened, farewell};
use crate::mesh::Snapshot;
use crate::run::Shared;
use crate::telemetry::{AccessRecord, CloseReason, Direction, metrics};
use crate::tls::HELLO_DEADLINE;

/// How long a caller may be silent before the app is connected to hear whether it speaks first.
const SILENCE: Duration = Duration::from_secs(1);
/// What every TLS record of a handshake begins with: its type, and the major version (RFC 8446 s5.1).
const TLS: [u8; 2] = [0x16, 0x03];

/// How a connection begins.
#[derive(Debug)]
pub(super) enum Begins {
    /// Like TLS; or it ended before it began.
    Tls,
    /// Otherwise.
    Plaintext(Plaintext),
}

/// What is known of a plaintext connection.
#[derive(Debug, Default)]
pub(super) struct Plaintext {
    /// The app, if it is connected already.
    app: Option<Prefixed<TcpStream>>,
    /// The app has spoken and the caller has not.
    app_first: bool,
}

/// Finds out how `caller` begins. `app` is where to listen whether the app speaks first; `None`: it does not.
pub(super) async fn begins<S>(caller: &mut Prefixed<S>, app: Option<App>) -> Begins
where
    S: AsyncRead + Unpin,
{
    let (silence, deadline) = (tokio::time::sleep(SILENCE), tokio::time::sleep(HELLO_DEADLINE));
    tokio::pin!(silence, deadline);
    let (mut asked, mut found) = (false, Plaintext::default());
    loop {
        match is_tls(caller.ahead()) {
            Some(true) => return Begins::Tls,
            Some(false) => return Begins::Plaintext(found),
            None => {}
        }
        let silent = caller.ahead().is_empty();
        let spoken = async {
            match found.app.as_mut() {
                // Data, the end or an error: in each case the app did not wait to be spoken to.
                Some(app) => drop(app.read_ahead().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            read = caller.read_ahead() => match read {
                Ok(0) | Err(_) => return Begins::Tls,
                Ok(_) => {}
            },
            () = spoken => {
                found.app_first = true;
                return Begins::Plaintext(found);
            }
            () = &mut deadline => return if silent { Begins::Plaintext(found) } else { Begins::Tls },
            () = &mut silence, if silent && !asked => {
                asked = true;
                if let Some(app) = &app {
                    // If it cannot be reached, the caller is told when it speaks.
                    found.app = app.reach().await.ok();
                }
            }
        }
    }
}

/// Whether what begins so is TLS; `None` while more is needed.
fn is_tls(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [first, second, ..] => Some([*first, *second] == TLS),
        [first] if *first == TLS[0] => None,
        [_] => Some(false),
        [] => None,
    }
}

/// Whether the app may be asked if it speaks first: not if no plaintext caller would be let in, and not if it is
/// HTTP, where the client does.
pub(super) fn asks(
    snapshot: &Snapshot,
    protocol: config::Protocol,
    app: App,
    from: Option<IpAddr>,
) -> Option<App> {
    let subject = subject(snapshot, app.address, from);
    let allowed = subject.decide(snapshot).is_some_and(|verdict| verdict.allowed);
    (allowed && protocol != config::Protocol::Http).then_some(app)
}

fn subject(snapshot: &Snapshot, app: SocketAddr, address: Option<IpAddr>) -> Subject {
    Subject {
        direction: Direction::Inbound,
        peer: Peer::Plaintext,
        local: snapshot.svid.id().clone(),
        port: Some(app.port()),
        address,
        content: Content::Connection,
    }
}

/// authorize -> detect -> forward, for a caller that nobody knows.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    inbound: &Arc<Inbound>,
    snapshot: &Snapshot,
    app: App,
    caller: Prefixed<Socket>,
    begun: Plaintext,
    record: &mut AccessRecord,
) -> Result<(), Refusal> {
    let _counted = shared.limits.plaintext().ok_or_else(|| limited("plaintext"))?;
    let address = record.facts.remote.address();
    record.facts.edge =
        address.and_then(|address| shared.sightings.plaintext(address.ip(), app.address.port()));
    let arrival = Arrival {
        shared: Arc::clone(shared),
        subject: subject(snapshot, app.address, address.map(|address| address.ip())),
        inbound: Arc::clone(inbound),
        app,
        handshake: snapshot.generation,
        certificate: None,
    };
    let registration = arrival.register();
    record.closes_with(&registration);
    let expected = begun.app_first.then_some(Detected::Opaque);
    let mut caller = Some(Prefixed::new(Screened::new(caller, LateTls::default())));
    let ended = arrival.carry(&registration, &mut caller, expected, begun.app.map(Box::new), record).await;
    if let Err((CloseReason::Denied | CloseReason::PlaintextRefused, _)) = &ended {
        metrics::plaintext("refused");
    }
    drop(registration);
    if let (Err((CloseReason::Denied, _)), Some(caller)) = (&ended, &mut caller) {
        Box::pin(farewell(caller)).await;
    }
    ended
}

/// Whether a stream begins like TLS after all.
#[derive(Debug)]
struct LateTls {
    /// Of its first bytes, as long as they are those of TLS; `None` once they are not.
    alike: Option<usize>,
}

impl Default for LateTls {
    fn default() -> Self {
        Self { alike: Some(0) }
    }
}

impl LateTls {
    /// Whether it does with these bytes.
    fn is_tls(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            let Some(alike) = self.alike else { return false };
            self.alike = (TLS.get(alike) == Some(byte)).then_some(alike + 1);
            if self.alike == Some(TLS.len()) {
                return true;
            }
        }
        false
    }
}

impl Screen for LateTls {
    fn refuses(&mut self, bytes: &[u8]) -> Option<&'static str> {
        if !self.is_tls(bytes) {
            return None;
        }
        metrics::plaintext("late_tls");
        Some("a ClientHello came too late: what is meant to be TLS is not carried without")
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn begun(bytes: &[u8]) -> Begins {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(bytes).await.unwrap();
        begins(&mut Prefixed::new(server), None).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_begins_like_tls_is_tls_and_all_else_is_not() {
        for hello in [&b"\x16\x03\x01\x02\x00\x01"[..], b"\x16\x03", b"\x16"] {
            assert!(matches!(begun(hello).await, Begins::Tls), "{hello:?}");
        }
        for plain in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x00\x00\x00", b"\x00\x00\x00\x08", b"\x17\x03\x03", b"*"]
        {
            assert!(matches!(begun(plain).await, Begins::Plaintext(_)), "{plain:?}");
        }
    }

    #[tokio::test]
    async fn who_leaves_without_a_word_is_no_plaintext_caller() {
        let (client, server) = tokio::io::duplex(64);
        drop(client);
        assert!(matches!(begins(&mut Prefixed::new(server), None).await, Begins::Tls));
    }

    #[tokio::test(start_paused = true)]
    async fn late_hello_is_still_tls_until_the_deadline_and_then_ends_the_connection() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut caller = Prefixed::new(server);
        let late = async {
            tokio::time::sleep(HELLO_DEADLINE - Duration::from_millis(100)).await;
            client.write_all(b"\x16\x03\x01").await.unwrap();
        };
        let (begun, ()) = tokio::join!(begins(&mut caller, None), late);
        assert!(matches!(begun, Begins::Tls));

        let (mut client, server) = tokio::io::duplex(64);
        let mut caller = Prefixed::new(server);
        let Begins::Plaintext(silent) = begins(&mut caller, None).await else { panic!("nobody spoke") };
        assert!(!silent.app_first);
        client.write_all(b"\x16\x03\x01").await.unwrap();
        let refused = Screened::new(caller, LateTls::default()).read_exact(&mut [0; 2]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn app_that_speaks_first_is_heard_and_one_that_does_not_is_kept_for_the_caller() {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = app.local_addr().unwrap();
        let (_client, server) = tokio::io::duplex(64);
        let mut caller = Prefixed::new(server);
        let speak = async {
            app.accept().await.unwrap().0.write_all(b"220 ready\r\n").await.unwrap();
        };
        let (begun, ()) = tokio::join!(begins(&mut caller, Some(App { address, header: None })), speak);
        let Begins::Plaintext(begun) = begun else { panic!("the app spoke first") };
        assert!(begun.app_first);
        assert_eq!(begun.app.unwrap().ahead(), b"220 ready\r\n");

        let (mut client, server) = tokio::io::duplex(64);
        let mut caller = Prefixed::new(server);
        let late = async {
            let accepted = app.accept().await.unwrap();
            client.write_all(b"PING\r\n").await.unwrap();
            accepted
        };
        let (begun, _accepted) = tokio::join!(begins(&mut caller, Some(App { address, header: None })), late);
        let Begins::Plaintext(begun) = begun else { panic!("the caller spoke") };
        assert!(!begun.app_first && begun.app.is_some());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in prop::collection::vec(prop::sample::select(&b"\x16\x03\x01G"[..]), 0..6), size in 1_usize..4,
        ) {
            let (mut whole, mut pieces) = (LateTls::default(), LateTls::default());
            let found = whole.is_tls(&bytes);
            prop_assert_eq!(found, bytes.chunks(size).any(|piece| pieces.is_tls(piece)));
            prop_assert_eq!(found, is_tls(&bytes) == Some(true));
        }
    }
}
