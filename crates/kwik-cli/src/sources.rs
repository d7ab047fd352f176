//! What a server serves: one folder or file, several, or what comes on standard input.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use kwik_delivery::{ObjectName, Source, limits::MAX_OBJECT};
use tokio::task::spawn_blocking;

use crate::{
    args::serve::Serve,
    failure::{Failure, Kind},
    progress::Waiting,
    summary::Size,
};

/// Bytes that are read of standard input at once.
const BLOCK: usize = 1024 * 1024;

/// All that the arguments name. One source is served as it is; of several, each is a folder of its
/// name.
pub(crate) async fn open(arguments: &Serve) -> Result<Source, Failure> {
    let stdin = |path: &PathBuf| path == Path::new("-");
    let name = arguments.name.as_ref();
    match (arguments.sources.iter().filter(|path| stdin(path)).count(), name) {
        (1, None) => {
            return Err(usage("standard input has no name: give it one with --name NAME"));
        }
        (0, Some(_)) => {
            return Err(usage("--name is that of standard input: serve - too, or leave it out"));
        }
        (0 | 1, _) => {}
        _ => return Err(usage("there is one standard input: give - once")),
    }
    if let ([path], false) = (&arguments.sources[..], arguments.sources.iter().any(stdin))
        && named(path).is_none()
    {
        return Ok(Source::folder(path)?);
    }
    let mut sources = Vec::new();
    for path in &arguments.sources {
        let (name, source) = match (name.filter(|_| stdin(path)), named(path)) {
            (Some(name), _) => (name.clone(), read_stdin(name, arguments).await?),
            (None, Some((name, path))) => (object_name(name)?, Source::folder(path)?),
            (None, None) => (own_name(path)?, Source::folder(path)?),
        };
        sources.push((name, source));
    }
    if let (1, Some(_)) = (sources.len(), name) {
        return Ok(sources.remove(0).1);
    }
    Ok(Source::several(sources)?)
}

/// The sources as people gave them.
pub(crate) fn shown(arguments: &Serve) -> String {
    let all: Vec<_> = arguments.sources.iter().map(|path| path.display().to_string()).collect();
    all.join(" ")
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Usage, message)
}

/// `NAME=PATH`, unless a file of that name is there.
fn named(path: &Path) -> Option<(&OsStr, &Path)> {
    let bytes = path.as_os_str().as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    let (name, rest) = (&bytes[..at], &bytes[at + 1..]);
    let is_name = !name.is_empty() && !name.contains(&b'/') && !rest.is_empty();
    (is_name && !path.exists())
        .then(|| (OsStr::from_bytes(name), Path::new(OsStr::from_bytes(rest))))
}

fn object_name(name: &OsStr) -> Result<ObjectName, Failure> {
    ObjectName::new(name.as_bytes())
        .map_err(|error| usage(format!("{} is no name: {error}", name.display())))
}

/// The last part of a path, wherever that leads.
fn own_name(path: &Path) -> Result<ObjectName, Failure> {
    if let Some(name) = path.file_name() {
        return object_name(name);
    }
    let absolute = path.canonicalize().map_err(|error| {
        Failure::new(Kind::Disk, format!("cannot read {}: {error}", path.display()))
    })?;
    let name = absolute.file_name();
    let name = name.ok_or_else(|| usage("/ has no name: give it one, NAME=/"))?;
    object_name(name)
}

/// All of standard input, in a file without a name: nobody can read it twice otherwise.
async fn read_stdin(name: &ObjectName, arguments: &Serve) -> Result<Source, Failure> {
    if arguments.end_with_stdin {
        return Err(usage("--end-with-stdin waits for standard input, which is served"));
    }
    let folder = env::temp_dir();
    let read = Arc::new(AtomicU64::new(0));
    let (place, counted) = (folder.clone(), Arc::clone(&read));
    let spooling = spawn_blocking(move || spool(&place, &counted));
    let what = || format!("reading standard input: {}", Size(read.load(Relaxed)));
    let spooled = Waiting::new().for_work(spooling, what).await;
    let spooled = spooled.unwrap_or_else(|error| Err(io::Error::other(error)));
    let file = spooled.map_err(|error| {
        let (folder, read) = (folder.display(), Size(read.load(Relaxed)));
        let advice = match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::QuotaExceeded => ": set TMPDIR to a folder with more room",
            _ => "",
        };
        let message = format!(
            "cannot keep standard input in {folder}, of which {read} were read: {error}{advice}"
        );
        Failure::new(Kind::Disk, message)
    })?;
    Ok(Source::held(name.clone(), file)?)
}

fn spool(folder: &Path, read: &AtomicU64) -> io::Result<File> {
    let mut stdin = File::from(rustix::io::dup(io::stdin())?);
    let metadata = stdin.metadata()?;
    if metadata.file_type().is_char_device() && rustix::termios::isatty(&stdin) {
        return Err(io::Error::other("it is a terminal: pipe something into it"));
    }
    let mut file = tempfile::tempfile_in(folder)?;
    let room = rustix::fs::fstatvfs(&file)?;
    let room = room.f_bavail.saturating_mul(room.f_frsize);
    // Said at once where it is known: a pipe does not say how much comes.
    if metadata.is_file() && metadata.len() > room {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let mut block = vec![0; BLOCK];
    loop {
        let length = match stdin.read(&mut block) {
            Ok(0) => return Ok(file),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        file.write_all(&block[..length])?;
        if read.fetch_add(length as u64, Relaxed) + length as u64 > MAX_OBJECT {
            return Err(io::Error::other("it is longer than 1 TiB, the most that an object has"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_may_have_another_name_than_its_path() {
        let named = |text: &'static str| named(Path::new(text));
        let some =
            |name: &'static str, path: &'static str| Some((OsStr::new(name), Path::new(path)));
        assert_eq!(named("b=/srv/files"), some("b", "/srv/files"));
        assert_eq!(named("b=c=d"), some("b", "c=d"));
        for plain in ["/srv/files", "a", "=a", "a=", "/a=b", "a/b=c"] {
            assert_eq!(named(plain), None, "{plain}");
        }
        assert_eq!(own_name(Path::new("/srv/files/")).unwrap().to_str(), Some("files"));
        assert!(own_name(Path::new("/")).unwrap_err().message.contains("NAME=/"));
    }
}
