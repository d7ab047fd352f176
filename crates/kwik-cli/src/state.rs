//! What the command keeps between runs: the state folder and the server's identity in it.

use std::{
    env,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
};

use kwik::Identity;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};

/// The folder in use: `given`, or `$XDG_STATE_HOME/kwik`, or `~/.local/state/kwik`. It may not
/// exist yet.
pub(crate) fn folder(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(folder) = given {
        return Ok(folder.to_path_buf());
    }
    // XDG: a relative path is invalid and to be ignored.
    let variable = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .ok_or_else(|| Failure::new(Kind::Disk, "no home folder is set: give --state DIR"))?;
    Ok(base.join("kwik"))
}

/// Makes the folder, for its owner alone, if it is not there.
pub(crate) fn create(folder: &Path) -> Result<(), Failure> {
    let missing: Vec<_> = folder.ancestors().take_while(|above| !above.exists()).collect();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    // Each new name shall survive a crash, and with it what is in there.
    missing.into_iter().for_each(sync_parent);
    made.map_err(|error| {
        let message = format!(
            "cannot create the state folder {}: {error}: give another with --state DIR",
            folder.display()
        );
        Failure::new(Kind::Disk, message)
    })
}

/// Makes a name durable, where the system can.
fn sync_parent(path: &Path) {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        folder.sync_all().ok();
    }
}

/// The server's identity: the 32 secret bytes in the file `identity`, made at the first start.
pub(crate) fn identity(folder: &Path) -> Result<Identity, Failure> {
    let path = folder.join("identity");
    if let Some(identity) = read(&path)? {
        return Ok(identity);
    }
    create(folder)?;
    let seed = random_seed()?;
    publish(&path, &seed).map_err(|error| {
        let message = format!(
            "cannot write {}: {error}: give another folder with --state DIR",
            path.display()
        );
        Failure::new(Kind::Disk, message)
    })?;
    // Read back: another process may have been first.
    read(&path)?.ok_or_else(|| {
        Failure::new(Kind::Disk, format!("{} was removed: start again", path.display()))
    })
}

/// An identity that nothing keeps.
pub(crate) fn passing_identity() -> Result<Identity, Failure> {
    Ok(Identity::from_seed(*random_seed()?))
}

fn random_seed() -> Result<Zeroizing<[u8; 32]>, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|error| {
        Failure::new(Kind::Disk, format!("the system gives no random bytes: {error}"))
    })?;
    Ok(seed)
}

/// Writes the file whole or not at all, and never over one that is there.
fn publish(path: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let draft = path.with_extension(process::id().to_string());
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(seed)?;
        file.sync_all()?;
        fs::hard_link(&draft, path)?;
        // The name, too, shall survive a crash: a server that comes back as another is trusted by
        // nobody.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    let removed = fs::remove_file(&draft);
    match written {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => removed,
    }
}

/// The identity at `path`: a file of this user alone, and no link to one.
fn read(path: &Path) -> Result<Option<Identity>, Failure> {
    let shown = path.display();
    let failed =
        |error: io::Error| Failure::new(Kind::Disk, format!("cannot read {shown}: {error}"));
    let refused = |message: String| Err(Failure::new(Kind::Trust, message));
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits() | OFlags::NONBLOCK.bits());
    let no_link = no_link.map_err(|_| failed(io::ErrorKind::Unsupported.into()))?;
    let mut file = match File::options().read(true).custom_flags(no_link).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) if path.is_symlink() => {
            return refused(format!(
                "the secret key {shown} is a symbolic link: put the file itself there"
            ));
        }
        Err(error) => return Err(failed(error)),
    };
    // Of the open file: another that takes its name meanwhile changes nothing.
    let metadata = file.metadata().map_err(failed)?;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return refused(format!(
            "the secret key {shown} belongs to the user {owner}, not to {user}: run `chown` on it, \
             or give another folder with --state DIR"
        ));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return refused(format!("others can read the secret key {shown}: run `chmod 600 {shown}`"));
    }
    if !metadata.is_file() || metadata.len() != 32 {
        let message = format!(
            "{shown} is damaged: restore it, or remove it and publish this server's new fingerprint"
        );
        return Err(Failure::new(Kind::Disk, message));
    }
    let mut seed = Zeroizing::new([0; 32]);
    file.read_exact(seed.as_mut()).map_err(failed)?;
    Ok(Some(Identity::from_seed(*seed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        let first = identity(&state).unwrap().fingerprint();
        assert_eq!(identity(&state).unwrap().fingerprint(), first);
        let path = state.join("identity");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = identity(&state).unwrap_err();
        assert_eq!(refused.kind, Kind::Trust);
        assert!(refused.message.contains("chmod 600 "), "{refused}");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert_eq!(identity(&state).unwrap_err().kind, Kind::Disk);
    }

    #[test]
    fn an_identity_of_another_or_behind_a_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("state"));
        identity(&real).unwrap();
        fs::create_dir(&link).unwrap();
        std::os::unix::fs::symlink(real.join("identity"), link.join("identity")).unwrap();
        let refused = identity(&link).unwrap_err();
        assert_eq!(refused.kind, Kind::Trust);
        assert!(refused.message.contains("symbolic link"), "{refused}");
        // Only root can give a file away.
        if std::os::unix::fs::chown(real.join("identity"), Some(12345), None).is_ok() {
            let refused = identity(&real).unwrap_err();
            assert_eq!(refused.kind, Kind::Trust);
            assert!(refused.message.contains("belongs to the user 12345"), "{refused}");
        }
    }

    #[test]
    fn whoever_comes_second_takes_the_first_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        publish(&path, &[1; 32]).unwrap();
        publish(&path, &[2; 32]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [1; 32]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
