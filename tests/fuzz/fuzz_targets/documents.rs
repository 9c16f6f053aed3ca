//! Documents: no text panics, what is read and written is read again as the same, as a tree, as a policy and as a
//! workload.
//!
//! `tests/fuzz/run 60 documents`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use signet_control::registry::{DocumentSet, File, policy_yaml, workload_yaml};
use signet_proto::document::{Limits, from_yaml, to_yaml};

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
    }
    let Ok(set) = read(text) else { return };
    for workload in &set.workloads {
        let written = workload_yaml(&workload.document).expect("a workload is small");
        let again = read(&written).expect("what is written is read");
        assert_eq!(again.workloads[0].document, workload.document, "{written}");
    }
    for policy in &set.policies {
        let written = policy_yaml(&policy.document).expect("a policy is small");
        let again = read(&written).expect("what is written is read");
        assert_eq!(again.policies[0].document, policy.document, "{written}");
    }
});

fn read(text: &str) -> Result<DocumentSet, signet_control::registry::SetError> {
    DocumentSet::read([&File { name: "input".into(), yaml: text.into() }])
}
