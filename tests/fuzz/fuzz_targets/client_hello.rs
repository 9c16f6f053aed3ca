//! The look at a ClientHello before the handshake: no input panics or takes for ever, and it makes no
//! difference in which pieces the bytes come (RUSTSEC-2024-0399).
//!
//! `tests/fuzz/run 60 client_hello`

#![no_main]
#![forbid(unsafe_code)]

use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|input: &[u8]| {
    let Some((&size, wire)) = input.split_first() else { return };
    let whole = read(wire, wire.len().max(1));
    let pieces = read(wire, usize::from(size).max(1));
    assert_eq!(whole, pieces, "in pieces of {size}");
});

/// What became of the hello: not finished, refused, or what it offers.
fn read(wire: &[u8], size: usize) -> Result<Option<String>, ()> {
    let mut acceptor = Acceptor::default();
    for piece in wire.chunks(size) {
        let mut piece = piece;
        while !piece.is_empty() {
            match acceptor.read_tls(&mut piece) {
                Ok(0) | Err(_) => return Err(()),
                Ok(_) => {}
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let offered = (
                        hello.server_name().map(str::to_owned),
                        hello.alpn().map(|names| names.map(<[u8]>::to_vec).collect::<Vec<_>>()),
                        hello.signature_schemes().to_vec(),
                        hello.cipher_suites().to_vec(),
                    );
                    return Ok(Some(format!("{offered:?}")));
                }
                Err(_) => return Err(()),
            }
        }
    }
    Ok(None)
}
