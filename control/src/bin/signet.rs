//! `signet`: the operators' command line. All of it is in the library's `cli` room.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    signet_control::cli::main()
}
