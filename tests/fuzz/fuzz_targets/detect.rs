//! Detection: whatever bytes come, a request never passes as opaque bytes, and what is known stays known.
//!
//! `tests/fuzz/run 60 detect`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use signet_proxy::forward::detect::{Detected, classify};

fuzz_target!(|input: &[u8]| {
    let whole = classify(input);
    let mut known = None;
    for end in 0..=input.len().min(512) {
        let now = classify(&input[..end]);
        if known.is_some() {
            assert_eq!(now, known, "more bytes change nothing, at {end}");
        }
        known = now;
    }
    if is_request(input) {
        assert_ne!(whole, Some(Detected::Opaque), "a request passes as bytes");
    }
});

/// What a parser other than ours takes for the head of a request.
fn is_request(input: &[u8]) -> bool {
    let mut fields = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(input);
    request.version.is_some() && !matches!(parsed, Err(httparse::Error::Token | httparse::Error::Version))
}
