//! CONNECT requests: no input panics, every prefix of a head is unfinished, what follows does not change it,
//! and the destination has a host and a port.
//!
//! `tests/fuzz/run 60 connect`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use signet_proxy::capture::connect::parse;
use signet_proxy::config::Requested;

fuzz_target!(|input: &[u8]| {
    let Ok(Some((authority, length))) = parse(input) else { return };
    assert!(length <= input.len());
    for end in 0..length {
        assert!(matches!(parse(&input[..end]), Ok(None)), "finished at {end} of {length}");
    }
    let requested = Requested::new(authority.host(), authority.port_u16().expect("checked"));
    assert!(!requested.host.is_empty() && requested.port != 0);
    assert!(requested.to_string().chars().all(|c| c.is_ascii_graphic()), "goes into the log");
});
