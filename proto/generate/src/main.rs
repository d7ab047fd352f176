//! Writes the Rust of KWIK's messages into the crates that have them. With `--check` it writes
//! nothing, and fails where a file is not what it would write.

use std::{env, error::Error, fs, path::Path, process::ExitCode};

/// Where the Rust of some files of `proto/` goes.
struct Target {
    files: &'static [&'static str],
    folder: &'static str,
}

const TARGETS: [Target; 2] = [
    Target {
        files: &["common", "control", "data", "secondary_stream", "stream_metadata"],
        folder: "crates/kwik-proto/src/wire/generated",
    },
    Target { files: &["delivery"], folder: "crates/kwik-delivery/src/generated" },
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let check = match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [option] if option == "--check" => true,
        _ => return Err("usage: kwik-generate [--check]".into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut differ = false;
    for target in &TARGETS {
        let made = tempfile::tempdir()?;
        generate(&root.join("proto"), target.files, made.path())?;
        let folder = root.join(target.folder);
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(made.path())? {
            let entry = entry?;
            let (new, place) = (fs::read(entry.path())?, folder.join(entry.file_name()));
            if fs::read(&place).is_ok_and(|old| old == new) {
                continue;
            }
            if check {
                eprintln!("{} is not what proto/ says", place.display());
                differ = true;
            } else {
                fs::write(place, new)?;
            }
        }
    }
    if differ {
        eprintln!("run: cargo run --manifest-path proto/generate/Cargo.toml");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(proto: &Path, names: &[&str], folder: &Path) -> Result<(), Box<dyn Error>> {
    let files = names.iter().map(|name| proto.join(format!("{name}.proto")));
    let descriptors = protox::compile(files, [proto])?;
    prost_build::Config::new().bytes(["."]).out_dir(folder).compile_fds(descriptors)?;
    Ok(())
}
