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
use kwik_delivery::{InvalidPass, Pass, limits::MAX_SECRET};
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
    kept(folder, SERVER, read_key, || random_seed().map(|seed| seed.to_vec().into()))
}

/// Whether the folder has a server's identity.
pub(crate) fn has_identity(folder: &Path) -> bool {
    folder.join(SERVER).exists()
}

/// By what servers know this client: as [`identity`], in the file `client-identity`. Another key,
/// as who serves does not have to be known as who fetches.
pub(crate) fn client_identity(folder: &Path) -> Result<Identity, Failure> {
    let made = || random_seed().map(|seed| seed.to_vec().into());
    kept(folder, CLIENT, read_key, made)
}

/// The same if it was made.
pub(crate) fn find_client_identity(folder: &Path) -> Result<Option<Identity>, Failure> {
    read_key(&folder.join(CLIENT))
}

/// What links to this server have so that their holders are let in: in the file `secret`, made when
/// it is first wanted.
pub(crate) fn secret(folder: &Path) -> Result<Pass, Failure> {
    kept(folder, SECRET, read_secret, || {
        let made = Pass::random().map_err(|error| no_random(&error))?;
        Ok(made.as_str().as_bytes().to_vec().into())
    })
}

/// A secret that nothing keeps.
pub(crate) fn passing_secret() -> Result<Pass, Failure> {
    Pass::random().map_err(|error| no_random(&error))
}

/// Whether what is there can be used; makes nothing.
pub(crate) fn check(folder: &Path) -> Result<(), Failure> {
    read_key(&folder.join(SERVER))?;
    read_key(&folder.join(CLIENT))?;
    read_secret(&folder.join(SECRET)).map(drop)
}

const SERVER: &str = "identity";
const CLIENT: &str = "client-identity";
const SECRET: &str = "secret";

/// What of the folder nobody else may see.
pub(crate) const SECRETS: [&str; 3] = [SERVER, CLIENT, SECRET];

/// What `read` finds in the file `name`, which is made first if it is not there.
fn kept<T>(
    folder: &Path,
    name: &str,
    read: impl Fn(&Path) -> Result<Option<T>, Failure>,
    make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, Failure>,
) -> Result<T, Failure> {
    let path = folder.join(name);
    if let Some(found) = read(&path)? {
        return Ok(found);
    }
    create(folder)?;
    publish(&path, &make()?).map_err(|error| {
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
    getrandom::fill(seed.as_mut()).map_err(|error| no_random(&error.into()))?;
    Ok(seed)
}

fn no_random(error: &io::Error) -> Failure {
    Failure::new(Kind::Disk, format!("the system gives no random bytes: {error}"))
}

/// Writes the file whole or not at all, and never over one that is there.
fn publish(path: &Path, secret: &[u8]) -> io::Result<()> {
    let draft = path.with_extension(process::id().to_string());
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(secret)?;
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

/// The identity at `path`.
fn read_key(path: &Path) -> Result<Option<Identity>, Failure> {
    let Some((mut file, length)) = open_secret(path, "secret key")? else { return Ok(None) };
    if length != 32 {
        let message = format!(
            "{} is damaged: restore it, or remove it and publish the new fingerprint",
            path.display()
        );
        return Err(Failure::new(Kind::Disk, message));
    }
    let mut seed = Zeroizing::new([0; 32]);
    file.read_exact(seed.as_mut()).map_err(|error| unreadable(path, &error))?;
    Ok(Some(Identity::from_seed(*seed)))
}

fn read_secret(path: &Path) -> Result<Option<Pass>, Failure> {
    let Some((file, _)) = open_secret(path, "secret")? else { return Ok(None) };
    parse_secret(file, path).map(Some)
}

/// The secret in an open file: a word, and perhaps the end of its line.
pub(crate) fn parse_secret(file: File, path: &Path) -> Result<Pass, Failure> {
    let mut text = Zeroizing::new(String::new());
    // One more than it may have, so that more shows.
    let most = MAX_SECRET as u64 + 3;
    file.take(most).read_to_string(&mut text).map_err(|error| unreadable(path, &error))?;
    let secret = text.trim_end().parse::<Pass>().ok().filter(|secret| !secret.is_ticket());
    secret.ok_or_else(|| {
        let shown = path.display();
        Failure::new(Kind::Disk, format!("{shown} has no secret: {InvalidPass}"))
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Kind::Disk, format!("cannot read {}: {error}", path.display()))
}

/// The file at `path`, of this user alone and no link to one, and its length; none if it is not
/// there.
fn open_secret(path: &Path, what: &str) -> Result<Option<(File, u64)>, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| unreadable(path, &error);
    let refused = |message: String| Err(Failure::new(Kind::Trust, message));
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits() | OFlags::NONBLOCK.bits());
    let no_link = no_link.map_err(|_| failed(io::ErrorKind::Unsupported.into()))?;
    let file = match File::options().read(true).custom_flags(no_link).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) if path.is_symlink() => {
            return refused(format!(
                "the {what} {shown} is a symbolic link: put the file itself there"
            ));
        }
        Err(error) => return Err(failed(error)),
    };
    // Of the open file: another that takes its name meanwhile changes nothing.
    let metadata = file.metadata().map_err(failed)?;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return refused(format!(
            "the {what} {shown} belongs to the user {owner}, not to {user}: run `chown` on it, or \
             give another folder with --state DIR"
        ));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return refused(format!("others can read the {what} {shown}: run `chmod 600 {shown}`"));
    }
    // What is no file has no length that fits.
    let length = if metadata.is_file() { metadata.len() } else { 0 };
    Ok(Some((file, length)))
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
    fn a_secret_is_kept_as_carefully_as_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = secret(&state).unwrap();
        assert_eq!(secret(&state).unwrap(), first);
        let path = state.join("secret");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // As an editor leaves it.
        fs::write(&path, "another-secret-by-hand\n").unwrap();
        assert_eq!(secret(&state).unwrap().as_str(), "another-secret-by-hand");
        for text in ["", "short", "t.0123456789abcdef", &"x".repeat(1000)] {
            fs::write(&path, text).unwrap();
            let refused = secret(&state).unwrap_err();
            assert!(refused.message.contains("16 to 128 letters"), "{refused}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert_eq!(secret(&state).unwrap_err().kind, Kind::Trust);
    }

    #[test]
    fn who_fetches_is_nobody_until_an_identity_is_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(find_client_identity(folder.path()).unwrap().is_none());
        let server = identity(folder.path()).unwrap().fingerprint();
        assert!(find_client_identity(folder.path()).unwrap().is_none());
        let client = client_identity(folder.path()).unwrap().fingerprint();
        assert!(client != server);
        let found = find_client_identity(folder.path()).unwrap().unwrap();
        assert_eq!(found.fingerprint(), client);
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
