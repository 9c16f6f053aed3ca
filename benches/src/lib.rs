//! What the benchmarks measure with: a small mesh made in memory, policies of any number, thousands of simulated
//! proxies, and pairs of real ones.

#![forbid(unsafe_code)]

mod control;
mod limits;
mod mesh;
pub mod micro;
mod numbers;
pub mod pair;
mod policies;
mod process;
pub mod programs;
pub mod scale;

pub use mesh::{Mesh, shake_hands};
pub use policies::{documents, nobody, somebody};

/// Anything that keeps a benchmark from being set up.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
