//! What is read from every peer: its SPIFFE ID, and its certificate against the X.509-SVID profile.

#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::Criterion;
use signet_benches::{Error, Mesh};
use signet_proto::spiffe::{SpiffeId, check_leaf};

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let mesh = Mesh::new()?;
    check_leaf(mesh.leaf())?;
    criterion.bench_function("identity/parse SPIFFE ID", |bencher| {
        bencher.iter(|| black_box("spiffe://prod.example/ns/payments/sa/checkout").parse::<SpiffeId>());
    });
    criterion.bench_function("identity/check SVID profile", |bencher| {
        bencher.iter(|| check_leaf(black_box(mesh.leaf())));
    });
    criterion.final_summary();
    Ok(())
}
