//! Errors in full: gRPC, HTTP and TLS errors name the reason only in the innermost of their causes.

use std::error::Error;
use std::fmt::Write;

/// An error with all its causes, outermost first, none said twice.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        next = cause.source();
    }
    text
}
