//! The decision on a connection or request, by the number of documents in force.

#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use signet_benches::{Error, documents, nobody, somebody};
use signet_proto::clock;
use signet_proto::policy::{Direction, HttpRequest, Layer, Request};

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    decide(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

fn decide(criterion: &mut Criterion) -> Result<(), Error> {
    let stranger = nobody()?;
    let now = clock::now();
    let mut group = criterion.benchmark_group("policy/decide");
    for count in [1, 100, 1000] {
        let policies = documents(count)?;
        let (shop, destination) = somebody(count)?;
        let http = Layer::Http(HttpRequest {
            method: "GET",
            path: "/orders/17",
            host: Some("shop"),
            grpc: false,
            headers: None,
        });
        let cases = [
            ("connection allowed", Some(&shop), Layer::Connection),
            ("request allowed", Some(&shop), http),
            ("request refused", Some(&stranger), http),
        ];
        for (name, source, layer) in cases {
            let (direction, port) = (Direction::Inbound, Some(8080));
            let request =
                Request { direction, source, destination: &destination, port, address: None, layer, now };
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| black_box(policies.decide(black_box(&request))));
            });
        }
    }
    group.finish();
    Ok(())
}
