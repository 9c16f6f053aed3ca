//! How bytes go on, once it is known who speaks and that they may.

mod counted;
pub mod detect;
mod duplex;
mod farewell;
pub mod http;
pub mod opaque;
mod prefixed;
mod screen;
pub mod stated;
pub mod tunnel;
pub mod upstream;

pub use counted::Counted;
pub use duplex::Duplex;
pub use farewell::farewell;
pub use prefixed::Prefixed;
pub use screen::{IdentityFields, Screen, Screened};
