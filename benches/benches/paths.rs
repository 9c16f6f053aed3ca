//! The time that each case of [`signet_benches::micro`] takes.

#![forbid(unsafe_code)]

use criterion::Criterion;
use signet_benches::{Error, micro};

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    for mut case in micro::cases()? {
        let mut failed = None;
        criterion.bench_function(case.name, |bencher| {
            bencher.iter(|| {
                if let Err(error) = case.once() {
                    failed = Some(error);
                }
            });
        });
        if let Some(error) = failed {
            return Err(format!("{}: {error}", case.name).into());
        }
    }
    criterion.final_summary();
    Ok(())
}
