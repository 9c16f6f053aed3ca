//! How bytes go on, once it is known who speaks and that they may.

pub mod detect;
mod headers;
pub mod http1;
pub mod opaque;
pub mod upstream;
mod prefixed;
mod tracked;

pub use prefixed::Prefixed;
