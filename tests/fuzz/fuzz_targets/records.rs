//! TLS records after the handshake: no input is one by chance or panics, what was sealed is opened as it was, both ways
//! of opening agree, and nothing that was changed is.
//!
//! `tests/fuzz/run 60 records`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use signet_proto::record::{
    Content, HEADER_BYTES, Key, MAX_CONTENT, OVERHEAD, Opener, Sealer, Suite, length,
};

fuzz_target!(|input: &[u8]| {
    let Some((&[choice, bit, place], wire)) = input.split_first_chunk() else { return };
    assert_eq!(opened(choice, wire), None, "not ours");
    let content = wire.get(..wire.len().min(MAX_CONTENT)).unwrap_or_default();
    let kind = [Content::Data, Content::Alert, Content::Handshake][usize::from(bit >> 3) % 3];
    let mut record = vec![0; content.len() + OVERHEAD];
    let sealed = Sealer::new(key(choice)).seal(kind, content, &mut record);
    assert_eq!(sealed, Ok(record.len()));
    assert_eq!(opened(choice, &record), Some((kind, content.to_vec())));
    let at = usize::from(place) * record.len() / 256;
    record[at] ^= 1 << (bit & 7);
    assert_eq!(opened(choice, &record), None, "changed at {at}");
});

fn key(choice: u8) -> Key {
    let (suite, length) = [(Suite::Aes128Gcm, 16), (Suite::Aes256Gcm, 32), (Suite::Chacha20Poly1305, 32)]
        [usize::from(choice) % 3];
    Key::new(suite, &[choice; 32][..length], [choice; 12], u64::from(choice)).expect("it has its length")
}

fn opened(choice: u8, wire: &[u8]) -> Option<(Content, Vec<u8>)> {
    let whole = length(wire);
    let mut out = vec![0; Opener::room(wire.len())];
    let copied = Opener::new(key(choice)).open(wire, &mut out);
    let mut in_place = wire.to_vec();
    let other = Opener::new(key(choice)).open_in_place(&mut in_place);
    assert_eq!(copied, other);
    let (kind, count) = copied.ok()?;
    assert_eq!(whole, Ok(Some(wire.len())));
    assert_eq!(out[..count], in_place[HEADER_BYTES..HEADER_BYTES + count]);
    out.truncate(count);
    Some((kind, out))
}
