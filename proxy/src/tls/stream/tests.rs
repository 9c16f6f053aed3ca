//! Both roles over real streams, with tokio-rustls at the other end.

use std::sync::Arc;

use jiff::SignedDuration;
use proptest::collection::vec;
use proptest::prelude::*;
use rcgen::KeyPair;
use rustls::{ClientConfig, ServerConfig};
use signet_proto::handshake::{
    ALPN_H2, ALPN_HTTP1, ClientAuth, Revocations, Svid, Trust, WorkloadKey, client_config, server_config,
    server_name,
};
use signet_proto::spiffe::InstanceId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::testing::{DOMAIN, TestAuthority, bundle};
use crate::tls::{HandshakeError, OffersBoth, accept, connect};

type Theirs = tokio_rustls::TlsStream<DuplexStream>;

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

fn configs() -> Configs {
    let authority = TestAuthority::new();
    let trust = Arc::new(Trust::new([bundle([&authority])], Revocations::default()));
    let svid = |path: &str| {
        let key = KeyPair::generate().unwrap();
        let id = format!("spiffe://{DOMAIN}{path}");
        let leaf = authority.leaf(&key, &id, InstanceId::random().unwrap(), SignedDuration::from_hours(1));
        let key = WorkloadKey::signing_key_from_pem(key.serialize_pem().as_bytes()).unwrap();
        Svid::new(vec![leaf], key).unwrap()
    };
    let (caller, called) = (svid("/caller"), svid("/called"));
    let alpn: &[&[u8]] = &[ALPN_HTTP1, ALPN_H2];
    let client = client_config(Some(&caller), Arc::clone(&trust), called.id().clone(), alpn).unwrap();
    Configs { client, server: server_config(&called, trust, ClientAuth::Required, alpn).unwrap() }
}

/// Our end and theirs, on a wire that holds so much; as caller, or as the called side.
async fn meet(we_call: bool, wire: usize) -> (TlsStream<DuplexStream>, Theirs) {
    let Configs { client, server } = configs();
    let (ours, theirs) = duplex(wire);
    if we_call {
        let (ours, theirs) = tokio::join!(connect(ours, &client), TlsAcceptor::from(server).accept(theirs));
        (ours.unwrap().0, theirs.unwrap().into())
    } else {
        let choose = async |both| {
            assert_eq!(both, OffersBoth(true));
            server
        };
        let theirs = TlsConnector::from(client).connect(server_name(), theirs);
        let (ours, theirs) = tokio::join!(accept(ours, choose), theirs);
        (ours.unwrap().0, theirs.unwrap().into())
    }
}

fn has_no_buffer<S>(stream: &TlsStream<S>) -> bool {
    let (input, output) = (format!("{:?}", stream.input), format!("{:?}", stream.output));
    input.contains("buffer: None") && output.contains("buffer: None")
}

#[tokio::test]
async fn each_direction_ends_on_its_own() {
    for we_call in [true, false] {
        let (mut ours, mut theirs) = meet(we_call, 1 << 16).await;
        assert_eq!(ours.alpn(), Some(ALPN_HTTP1));
        ours.write_all(b"question").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut heard = String::new();
        theirs.read_to_string(&mut heard).await.unwrap();
        theirs.write_all(b"answer").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        assert_eq!((heard.as_str(), answer.as_str()), ("question", "answer"));
        assert_eq!(ours.write_all(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);

        let (mut ours, mut theirs) = meet(we_call, 1 << 16).await;
        theirs.write_all(b"first").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut first = String::new();
        ours.read_to_string(&mut first).await.unwrap();
        ours.write_all(b"and last").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut last = String::new();
        theirs.read_to_string(&mut last).await.unwrap();
        assert_eq!((first.as_str(), last.as_str()), ("first", "and last"));
    }
}

#[tokio::test]
async fn peer_that_goes_without_a_word_has_not_finished() {
    for we_call in [true, false] {
        let (mut ours, mut theirs) = meet(we_call, 1 << 16).await;
        theirs.write_all(b"half of it").await.unwrap();
        theirs.flush().await.unwrap();
        drop(theirs);
        let mut heard = [0; 10];
        ours.read_exact(&mut heard).await.unwrap();
        for _ in 0..2 {
            let error = ours.read(&mut heard).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

#[tokio::test]
async fn who_breaks_the_protocol_is_told_and_gets_nothing_more() {
    for we_call in [true, false] {
        let (mut ours, theirs) = meet(we_call, 1 << 16).await;
        let mut raw = match theirs {
            tokio_rustls::TlsStream::Client(theirs) => theirs.into_inner().0,
            tokio_rustls::TlsStream::Server(theirs) => theirs.into_inner().0,
        };
        raw.write_all(&[23, 3, 3, 0, 30]).await.unwrap();
        raw.write_all(&[9; 30]).await.unwrap();
        let error = ours.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("cannot be opened"), "{error}");
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(ours.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        ours.shutdown().await.unwrap();
        drop(ours);
        let mut told = Vec::new();
        raw.read_to_end(&mut told).await.unwrap();
        assert_eq!(told.len(), 2 + OVERHEAD, "one alert, and no close_notify after it");
    }
}

#[tokio::test]
async fn handshake_that_fails_says_so_to_the_other_side() {
    let (Configs { server, .. }, Configs { client: stranger, .. }) = (configs(), configs());
    let (ours, theirs) = duplex(1 << 16);
    let theirs = async { TlsConnector::from(stranger).connect(server_name(), theirs).await.err() };
    let (ours, theirs) = tokio::join!(accept(ours, async |_| server), theirs);
    let Err(HandshakeError::Tls(_)) = &ours else { panic!("{ours:?}") };
    assert_eq!(ours.unwrap_err().reason(), "refused_by_peer");
    assert!(theirs.is_some(), "it did not believe us");

    let (Configs { client, .. }, Configs { server: stranger, .. }) = (configs(), configs());
    let (ours, theirs) = duplex(1 << 16);
    let theirs = async { TlsAcceptor::from(stranger).accept(theirs).await.err() };
    let (ours, theirs) = tokio::join!(connect(ours, &client), theirs);
    assert_eq!(ours.unwrap_err().reason(), "untrusted");
    let told = theirs.unwrap().to_string();
    assert!(told.contains("fatal alert"), "{told}");
}

#[tokio::test]
async fn hello_that_is_none_gets_an_alert_at_once() {
    let Configs { server, .. } = configs();
    let (ours, mut raw) = duplex(1 << 16);
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = accept(ours, async |_| server).await.unwrap_err();
    assert_eq!(error.reason(), "protocol");
    let mut told = Vec::new();
    raw.read_to_end(&mut told).await.unwrap();
    assert!(matches!(*told, [21, 3, _, 0, 2, 2, _]), "{told:?}");
}

#[tokio::test]
async fn connection_that_waits_has_no_buffer() {
    let (mut ours, mut theirs) = meet(true, 1 << 20).await;
    let mut room = vec![0; 300_000];
    for length in [1, 1000, 20_000, 300_000] {
        theirs.write_all(&room[..length]).await.unwrap();
        theirs.flush().await.unwrap();
        ours.read_exact(&mut room[..length]).await.unwrap();
        ours.write_all(&room[..length]).await.unwrap();
        ours.flush().await.unwrap();
        theirs.read_exact(&mut room[..length]).await.unwrap();
        let waits = tokio::time::timeout(std::time::Duration::from_millis(1), ours.read(&mut room)).await;
        assert!(waits.is_err() && has_no_buffer(&ours), "{ours:?}");
    }
}

#[tokio::test]
async fn half_a_record_holds_no_more_than_a_record() {
    let (mut ours, theirs) = meet(true, 1 << 20).await;
    let mut raw = match theirs {
        tokio_rustls::TlsStream::Server(mut theirs) => {
            theirs.write_all(&[5; 300_000]).await.unwrap();
            theirs.flush().await.unwrap();
            theirs.into_inner().0
        }
        tokio_rustls::TlsStream::Client(_) => unreachable!(),
    };
    raw.write_all(&[23, 3, 3, 0x40, 0]).await.unwrap();
    let mut heard = vec![0; 300_000];
    ours.read_exact(&mut heard).await.unwrap();
    let waits = tokio::time::timeout(std::time::Duration::from_millis(1), ours.read(&mut heard)).await;
    assert!(waits.is_err());
    assert!(format!("{:?}", ours.input).contains("Buffer(Small)"), "{ours:?}");
}

#[tokio::test]
async fn several_records_are_one_write_and_pieces_are_one_record() {
    let (mut ours, theirs) = meet(true, 1 << 20).await;
    let mut raw = match theirs {
        tokio_rustls::TlsStream::Server(theirs) => theirs.into_inner().0,
        tokio_rustls::TlsStream::Client(_) => unreachable!(),
    };
    let pieces = [IoSlice::new(b"header"), IoSlice::new(&[7; 100]), IoSlice::new(b"")];
    assert_eq!(ours.write_vectored(&pieces).await.unwrap(), 106);
    let mut wire = vec![0; 1 << 20];
    assert_eq!(raw.read(&mut wire).await.unwrap(), 106 + OVERHEAD);
    let much = vec![1; 8 * MAX_CONTENT];
    assert_eq!(ours.write(&much).await.unwrap(), much.len());
    assert_eq!(raw.read(&mut wire).await.unwrap(), much.len() + 8 * OVERHEAD);
    assert_eq!(ours.write(&[1; 9 * MAX_CONTENT]).await.unwrap(), much.len(), "no record for a scrap of room");
    assert_eq!(ours.write(&[]).await.unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn all_bytes_arrive_in_their_order(
        we_call: bool,
        wire in prop_oneof![40..300_usize, 1000..200_000_usize],
        from_us in vec(1..60_000_usize, 0..6),
        from_them in vec(1..60_000_usize, 0..6),
        room in prop_oneof![1..200_usize, 10_000..70_000_usize],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = meet(we_call, wire).await;
            let (our_reader, our_writer) = tokio::io::split(ours);
            let (their_reader, their_writer) = tokio::io::split(theirs);
            let (_, _, heard, told) = tokio::join!(
                say(our_writer, &from_us), say(their_writer, &from_them),
                hear(our_reader, room), hear(their_reader, 10_000),
            );
            prop_assert!(heard == said(&from_them), "what they said");
            prop_assert!(told == said(&from_us), "what we said");
            Ok(())
        })?;
    }
}

fn said(lengths: &[usize]) -> Vec<u8> {
    lengths.iter().flat_map(|length| (0..*length).map(move |n| (n * 7 + length) as u8)).collect()
}

async fn say(mut writer: impl AsyncWrite + Unpin, lengths: &[usize]) {
    for length in lengths {
        writer.write_all(&said(&[*length])).await.unwrap();
        writer.flush().await.unwrap();
    }
    writer.shutdown().await.unwrap();
}

async fn hear(mut reader: impl AsyncRead + Unpin, room: usize) -> Vec<u8> {
    let (mut all, mut piece) = (Vec::new(), vec![0; room]);
    loop {
        match reader.read(&mut piece).await.unwrap() {
            0 => return all,
            count => all.extend_from_slice(&piece[..count]),
        }
    }
}
