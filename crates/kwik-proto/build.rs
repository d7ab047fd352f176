//! Generates Rust from `proto/*.proto`, without protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let names = ["common", "control", "data", "secondary_stream", "stream_metadata"];
    let files: Vec<_> = names.iter().map(|name| root.join(format!("{name}.proto"))).collect();
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(&files, [root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
