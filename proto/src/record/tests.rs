use std::io::IoSlice;

use aws_lc_rs::aead::Aad;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SUITES: [(Suite, usize); 3] =
    [(Suite::Aes128Gcm, 16), (Suite::Aes256Gcm, 32), (Suite::Chacha20Poly1305, 32)];

fn key(suite: Suite, sequence: u64) -> Key {
    let length = SUITES.iter().find(|(known, _)| *known == suite).unwrap().1;
    Key::new(suite, &[7; 32][..length], [9; 12], sequence).unwrap()
}

fn ends(suite: Suite) -> (Sealer, Opener) {
    (Sealer::new(key(suite, 0)), Opener::new(key(suite, 0)))
}

/// A record with anything in it, padding and all.
fn raw(key: &mut Key, inner: &[u8]) -> Vec<u8> {
    let header = header(u16::try_from(inner.len() + 16).unwrap());
    let mut sealed = inner.to_vec();
    let (aead, nonce) = key.next().unwrap();
    aead.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
    [&header[..], &sealed].concat()
}

fn opened(opener: &mut Opener, record: &[u8]) -> Result<(Content, Vec<u8>), RecordError> {
    let mut out = vec![0; Opener::room(record.len())];
    let (content, length) = opener.open(record, &mut out)?;
    out.truncate(length);
    Ok((content, out))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn the_record_of_rfc_8448_is_ours() {
    let key = || {
        let key = bytes("17422dda596ed5d9acd890e3c63f5051");
        let iv = bytes("5b78923dee08579033e523d9");
        Key::new(Suite::Aes128Gcm, &key, iv.try_into().unwrap(), 0).unwrap()
    };
    let record = bytes(
        "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19 a8 a5
         b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4",
    );
    let content: Vec<u8> = (0..50).collect();
    assert_eq!(opened(&mut Opener::new(key()), &record), Ok((Content::Data, content.clone())));
    let mut out = [0; 100];
    let length = Sealer::new(key()).seal(Content::Data, &content, &mut out).unwrap();
    assert_eq!(out[..length], record[..]);
}

/// Its trace of a simple 1-RTT handshake, as the server writes.
#[test]
fn keys_of_rfc_8448_come_from_its_secrets() {
    let their_key = || {
        let iv = bytes("cf782b88dd83549aadf1e984").try_into().unwrap();
        Key::new(Suite::Aes128Gcm, &bytes("9f02283b6c9c07efc26bb9f2ac92e356"), iv, 0).unwrap()
    };
    let secret = bytes("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
    let key = Secret::new(Suite::Aes128Gcm, &secret).unwrap().key().unwrap();
    let (mut sealer, mut opener) = (Sealer::new(key), Opener::new(their_key()));
    let mut record = [0; 4 + OVERHEAD];
    sealer.seal(Content::Data, b"same", &mut record).unwrap();
    assert!(opened(&mut opener, &record).is_ok());
}

#[test]
fn a_secret_has_the_length_of_its_hash() {
    for (suite, right) in [(Suite::Aes128Gcm, 32), (Suite::Aes256Gcm, 48), (Suite::Chacha20Poly1305, 32)] {
        for length in 0..=64 {
            assert_eq!(Secret::new(suite, &[7; 64][..length]).is_ok(), length == right, "{suite:?} {length}");
        }
    }
}

#[test]
fn every_bit_counts() {
    for (suite, _) in SUITES {
        let mut record = [0; 40 + OVERHEAD];
        ends(suite).0.seal(Content::Data, &[1; 40], &mut record).unwrap();
        assert!(opened(&mut ends(suite).1, &record).is_ok());
        for bit in 0..record.len() * 8 {
            let mut changed = record;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opened(&mut ends(suite).1, &changed).is_err(), "bit {bit}");
            assert!(ends(suite).1.open_in_place(&mut changed).is_err(), "bit {bit}, in place");
        }
        for length in 0..record.len() {
            assert!(opened(&mut ends(suite).1, &record[..length]).is_err(), "cut to {length}");
        }
        assert!(opened(&mut ends(suite).1, &[&record[..], &[0]].concat()).is_err(), "too long");
    }
}

#[test]
fn records_have_their_place() {
    for (suite, _) in SUITES {
        let (mut sealer, mut opener) = ends(suite);
        let mut records = [[0; 4 + OVERHEAD]; 3];
        for record in &mut records {
            sealer.seal(Content::Data, b"same", record).unwrap();
        }
        assert_ne!(records[0], records[1], "the number is part of it");
        assert!(opened(&mut opener, &records[0]).is_ok());
        assert_eq!(opened(&mut opener, &records[0]), Err(RecordError::Forged), "again");
        let (_, mut opener) = ends(suite);
        assert_eq!(opened(&mut opener, &records[1]), Err(RecordError::Forged), "too early");
    }
}

#[test]
fn numbers_end_and_do_not_repeat() {
    let mut sealer = Sealer::new(key(Suite::Aes128Gcm, u64::MAX - 1));
    let mut out = [0; 64];
    assert!(sealer.seal(Content::Data, b"last", &mut out).is_ok());
    for _ in 0..2 {
        assert_eq!(sealer.seal(Content::Data, b"more", &mut out), Err(SealError::Exhausted));
    }
    let mut opener = Opener::new(key(Suite::Aes128Gcm, u64::MAX));
    assert_eq!(opened(&mut opener, &out[..26]), Err(RecordError::Exhausted));
}

#[test]
fn a_header_is_judged_before_its_body_comes() {
    for kind in (0..=255_u8).filter(|kind| *kind != 23) {
        assert_eq!(length(&[kind]), Err(RecordError::Type(kind)));
    }
    for so_far in [&[][..], &[23], &[23, 3], &[23, 3, 3], &[23, 3, 3, 1]] {
        assert_eq!(length(so_far), Ok(None));
    }
    let announced = |sealed: u16| length(&header(sealed));
    assert_eq!(announced(16), Err(RecordError::Forged), "no room for a type");
    assert_eq!(announced(17), Ok(Some(22)));
    assert_eq!(announced(16_640), Ok(Some(MAX_RECORD)));
    assert_eq!(announced(16_641), Err(RecordError::Overflow(16_641)));
}

#[test]
fn what_is_inside_is_of_a_type_and_not_too_long() {
    let open = |inner: &[u8]| {
        let record = raw(&mut key(Suite::Aes128Gcm, 0), inner);
        let copied = opened(&mut ends(Suite::Aes128Gcm).1, &record);
        let mut in_place = record;
        let other = ends(Suite::Aes128Gcm).1.open_in_place(&mut in_place);
        assert_eq!(copied.as_ref().map(|(content, bytes)| (*content, bytes.len())), other.as_ref().copied());
        copied
    };
    assert_eq!(open(b"padded\x17\0\0\0"), Ok((Content::Data, b"padded".to_vec())));
    assert_eq!(open(b"\x16"), Ok((Content::Handshake, Vec::new())));
    assert_eq!(open(b"\x01\x00\x15"), Ok((Content::Alert, vec![1, 0])));
    assert_eq!(open(&[0; 50]), Err(RecordError::Content(0)), "nothing but padding");
    for kind in (1..=255_u8).filter(|kind| !(21..=23).contains(kind)) {
        assert_eq!(open(&[5, kind, 0]), Err(RecordError::Content(kind)));
    }
    let full = [&[5; MAX_CONTENT][..], &[23]].concat();
    assert_eq!(open(&full).unwrap().1.len(), MAX_CONTENT);
    let more = [&[5; MAX_CONTENT + 1][..], &[23]].concat();
    assert_eq!(open(&more), Err(RecordError::Overflow(MAX_CONTENT + 2)));
    let padded = [&full[..], &[0]].concat();
    assert_eq!(open(&padded), Err(RecordError::Overflow(MAX_CONTENT + 2)), "with its padding");
}

#[test]
fn there_is_room_or_there_is_no_record() {
    let (mut sealer, _) = ends(Suite::Aes256Gcm);
    let mut out = vec![0; MAX_RECORD + 100];
    for length in 0..10 + OVERHEAD {
        assert!(sealer.seal(Content::Data, &[1; 10], &mut out[..length]).is_err());
    }
    assert!(sealer.seal(Content::Data, &[1; MAX_CONTENT + 1], &mut out).is_err());
    assert!(sealer.seal_in_place(Content::Data, MAX_CONTENT + 1, &mut out).is_err());
    assert_eq!(sealer.records(), 0, "no number was used up");
    let slices = [IoSlice::new(&[1; 10])];
    assert!(sealer.seal_next(&mut Pieces::new(&slices), &mut out[..OVERHEAD]).is_err());
    let mut opener = ends(Suite::Aes256Gcm).1;
    let mut record = [0; 10 + OVERHEAD];
    sealer.seal(Content::Data, &[1; 10], &mut record).unwrap();
    assert!(opener.open(&record, &mut [0; 10]).is_err(), "no room for the type");
    assert!(opener.open(&record, &mut [0; 11]).is_ok());
}

#[test]
fn a_key_has_the_length_of_its_suite() {
    for (suite, right) in SUITES {
        for length in 0..64 {
            let made = Key::new(suite, &[0; 64][..length], [0; 12], 0);
            assert_eq!(made.is_ok(), length == right, "{suite:?} {length}");
        }
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_however_it_lies(
        suite in prop::sample::select(&SUITES[..]),
        pieces in vec(vec(any::<u8>(), 0..9000), 0..8),
        room in OVERHEAD + 1..3 * MAX_RECORD,
        in_place: bool,
        rests: bool,
    ) {
        let (mut sealer, mut opener) = ends(suite.0);
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = Pieces::new(&slices);
        let (mut out, mut stream) = (vec![0; room], Vec::new());
        while left.left() > 0 {
            if rests {
                sealer.rest();
                opener.rest();
            }
            let used = sealer.seal_next(&mut left, &mut out).unwrap();
            let record = &mut out[..used];
            prop_assert_eq!(length(record), Ok(Some(used)));
            if in_place {
                let (content, count) = opener.open_in_place(record).unwrap();
                prop_assert_eq!(content, Content::Data);
                stream.extend_from_slice(&record[HEADER_BYTES..HEADER_BYTES + count]);
            } else {
                let (content, bytes) = opened(&mut opener, record).unwrap();
                prop_assert_eq!(content, Content::Data);
                stream.extend(bytes);
            }
        }
        prop_assert_eq!(stream, pieces.concat());
    }

    #[test]
    fn no_input_is_a_record_by_chance(mut input in vec(any::<u8>(), 0..300)) {
        let mut opener = ends(Suite::Aes128Gcm).1;
        prop_assert!(opened(&mut opener, &input).is_err());
        prop_assert!(opener.open_in_place(&mut input).is_err());
    }
}
