//! Documents: no text panics, what is read and written is read again as the same, and a policy that is read
//! is read from what is written too.
//!
//! `tests/fuzz/run 60 documents`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use signet_proto::document::{Limits, from_yaml, to_yaml};
use signet_proto::policy::parse_node;

/// Written out, an input may be longer than it was.
const LIMITS: Limits = Limits { bytes: 1 << 20, documents: 64 };

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(documents) = from_yaml("input", text, LIMITS) else { return };
    for document in &documents {
        let written = to_yaml(document);
        let read = from_yaml("written", &written, LIMITS).expect("what is written is read");
        assert_eq!(read.len(), 1, "{written}");
        assert_eq!(to_yaml(&read[0]), written, "one form");
        let policy = parse_node("input", document).ok();
        assert_eq!(parse_node("written", &read[0]).ok(), policy, "{written}");
    }
});
