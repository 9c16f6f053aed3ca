//! What the benchmarks measure with: a small mesh made in memory, and policies of any number.

#![forbid(unsafe_code)]

mod mesh;
mod policies;

pub use mesh::{Mesh, shake_hands};
pub use policies::{documents, nobody, somebody};

/// Anything that keeps a benchmark from being set up.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
