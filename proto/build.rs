//! Compiles `signet/v1/*.proto` with protox, so that no `protoc` is needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["identity", "mesh", "report", "admin"].map(|name| format!("signet/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=signet");
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
