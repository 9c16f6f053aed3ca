//! A full mutual TLS 1.3 handshake between two workloads: both ends, without a network.

#![forbid(unsafe_code)]

use criterion::Criterion;
use signet_benches::{Error, Mesh, shake_hands};

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    let mesh = Mesh::new()?;
    shake_hands(mesh.client(), mesh.server())?;
    criterion.bench_function("handshake/full, both ends", |bencher| {
        bencher.iter(|| shake_hands(mesh.client(), mesh.server()));
    });
    criterion.final_summary();
    Ok(())
}
