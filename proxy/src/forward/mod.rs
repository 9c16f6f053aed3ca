//! How bytes go on, once it is known who speaks and that they may.

pub mod detect;
mod headers;
pub mod http1;
pub mod opaque;
mod prefixed;
mod tracked;
pub mod upstream;

pub use prefixed::Prefixed;
