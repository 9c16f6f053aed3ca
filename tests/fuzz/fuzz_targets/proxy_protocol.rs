//! PROXY protocol headers: no input panics, every prefix of a header is unfinished, and what follows a header
//! does not change it.
//!
//! `tests/fuzz/run 60 proxy_protocol`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use signet_proxy::capture::proxy_protocol::parse;

fuzz_target!(|input: &[u8]| {
    let Ok(Some((said, length))) = parse(input) else { return };
    assert!(length <= input.len() && length <= 16 + 4096);
    for end in 0..length {
        assert!(matches!(parse(&input[..end]), Ok(None)), "finished at {end} of {length}");
    }
    let alone = parse(&input[..length]).expect("it was one").expect("whole");
    assert_eq!(alone, (said, length));
});
