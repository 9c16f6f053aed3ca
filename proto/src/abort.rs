//! What a program does when it meets a defect of its own.

use std::panic;

/// From now on a panic in any thread is printed and ends the program at once, in every build: what half a program
/// does next nobody has thought through, and whoever supervises it starts a whole one.
pub fn on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
