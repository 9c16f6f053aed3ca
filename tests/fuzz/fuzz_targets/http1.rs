//! HTTP/1 as callers speak it: where one request ends and the next begins does not depend on the pieces in which they
//! come, and what goes on is read as the same by the next server.
//!
//! `tests/fuzz/run 60 http1`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use signet_proxy::forward::http::http1::requests;

fuzz_target!(|input: &[u8]| {
    let whole = requests(input, usize::MAX);
    for piece in [1, 3, 64] {
        assert_eq!(requests(input, piece), whole, "in pieces of {piece}");
    }
    for (head, _) in &whole.requests {
        let again = requests(head, usize::MAX);
        // Its body is another matter.
        if let [(same, _)] = &again.requests[..] {
            assert_eq!(same, head);
        }
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Request::new(&mut fields);
        assert_eq!(parsed.parse(head), Ok(httparse::Status::Complete(head.len())), "one head");
    }
});
