//! Generates Rust from `proto/delivery.proto`, without protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let file = root.join("delivery.proto");
    println!("cargo:rerun-if-changed={}", file.display());
    let descriptors = protox::compile([file], [root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
