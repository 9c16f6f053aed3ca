//! What the benchmarks measure with: a small mesh made in memory, policies of any number, and thousands of
//! simulated proxies.

#![forbid(unsafe_code)]

mod mesh;
pub mod micro;
mod policies;
pub mod scale;

pub use mesh::{Mesh, shake_hands};
pub use policies::{documents, nobody, somebody};

/// Anything that keeps a benchmark from being set up.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
