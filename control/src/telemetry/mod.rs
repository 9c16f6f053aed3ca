//! What control says about itself: metrics by name, and the log.

pub mod log;
pub mod metrics;
