//! Who may read from a server.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use kwik::Identity;
use kwik_delivery::{Door, Fingerprint, Pass, Ticket};

use crate::{
    args::serve::Serve,
    failure::{Failure, Kind},
    say, state,
    voice::count,
};

/// Bytes of a list of keys.
const MAX_LIST: u64 = 1024 * 1024;

/// The door of a server, as it is configured.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) door: Arc<Door>,
    /// What links have so that their holders are let in.
    pub(crate) pass: Option<Pass>,
    /// Whom it lets in, for people.
    pub(crate) readers: String,
    /// Whether nobody gets in without a primary's grant.
    pub(crate) is_edge_alone: bool,
    allowed: Vec<Fingerprint>,
    file: Option<PathBuf>,
}

impl Entrance {
    pub(crate) fn new(
        arguments: &Serve,
        folder: &Path,
        identity: &Identity,
    ) -> Result<Self, Failure> {
        let no_random = |error: io::Error| {
            Failure::new(Kind::Disk, format!("the system gives no random bytes: {error}"))
        };
        let (allowed, file) = (arguments.entry.allow.clone(), arguments.entry.allow_file.clone());
        let names_clients = !allowed.is_empty() || file.is_some();
        let secret = secret(arguments, folder)?;
        let mut entrance = Self {
            door: Arc::new(Door::open().map_err(no_random)?),
            pass: None,
            readers: "everybody who reaches this address".into(),
            is_edge_alone: false,
            allowed,
            file,
        };
        if secret.is_none() && !names_clients && arguments.entry.link_expires.is_none() {
            // An edge that let everybody in would undo what its primary asks for.
            if !arguments.peers.trusted.is_empty() && !arguments.entry.public {
                entrance.door = Arc::new(Door::closed().map_err(no_random)?);
                entrance.readers = "clients of its primaries, with their grants".into();
                entrance.is_edge_alone = true;
            }
            return Ok(entrance);
        }
        let mut readers = Vec::new();
        let mut door = Door::closed().map_err(no_random)?.with_tickets(identity);
        if let Some(secret) = secret {
            door = door.with_secret(&secret);
            readers.push("whoever has the link".to_owned());
            entrance.pass = Some(secret);
        }
        if let Some(lifetime) = arguments.entry.link_expires {
            let ticket = Ticket { expires: SystemTime::now() + lifetime, scope: None };
            entrance.pass = Some(ticket.sign(identity));
            readers.push("whoever has the link, until it ends".into());
        }
        if names_clients {
            let clients = entrance.clients()?;
            readers.push(format!("{} by key", count(clients.len(), "client")));
            door = door.with_clients(clients);
        }
        (entrance.door, entrance.readers) = (Arc::new(door), readers.join(", "));
        Ok(entrance)
    }

    /// Those that were given, and those that a file lists.
    fn clients(&self) -> Result<BTreeSet<Fingerprint>, Failure> {
        let listed = self.file.as_deref().map(read_list).transpose()?.unwrap_or_default();
        Ok(self.allowed.iter().copied().chain(listed).collect())
    }

    /// The list was changed: reads it again.
    pub(crate) fn reload(&self) {
        if self.file.is_none() {
            return;
        }
        match self.clients() {
            Ok(clients) => {
                let number = count(clients.len(), "client");
                self.door.set_clients(clients);
                say(&format!("kwik: reloaded: {number} may read"));
            }
            Err(failure) => say(&format!("kwik: {failure}: who may read stays as it is")),
        }
    }
}

/// The secret that is asked for, if one is.
fn secret(arguments: &Serve, folder: &Path) -> Result<Option<Pass>, Failure> {
    if let Some(path) = &arguments.entry.secret_file {
        return read_secret_file(path).map(Some);
    }
    if !arguments.entry.secret {
        return Ok(None);
    }
    match state::secret(folder) {
        Err(failure)
            if !folder.join("secret").exists()
                && matches!(failure.kind, Kind::Disk | Kind::Full) =>
        {
            say(&format!(
                "kwik: {failure}: until then this server has another secret after each start"
            ));
            state::passing_secret().map(Some)
        }
        made => made.map(Some),
    }
}

/// One that the operator keeps.
fn read_secret_file(path: &Path) -> Result<Pass, Failure> {
    state::parse_secret(open_kept(path, "secret")?, path)
}

/// Opens a file that others may not read. A link to it is fine, as systems that hand secrets out
/// make such.
pub(crate) fn open_kept(path: &Path, what: &str) -> Result<File, Failure> {
    let shown = kwik::escape(path.display());
    let failed = |error: io::Error| {
        Failure::new(Kind::Disk, format!("cannot read the {what} {shown}: {error}"))
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o007 != 0 {
        let message = format!("everybody can read the {what} {shown}: run `chmod 600 {shown}`");
        return Err(Failure::new(Kind::Trust, message));
    }
    Ok(file)
}

/// A key a line, and behind it whose it is; empty lines and those that begin with `#` count for
/// nothing.
fn read_list(path: &Path) -> Result<Vec<Fingerprint>, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| {
        Failure::new(Kind::Disk, format!("cannot read the list of keys {shown}: {error}"))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_LIST).read_to_string(&mut text).map_err(failed)?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let key = |(number, line): (usize, &str)| {
        let key = line.split_whitespace().next().unwrap_or_default();
        key.parse().map_err(|error| {
            Failure::new(Kind::Usage, format!("line {number} of {shown}: {error}"))
        })
    };
    keys.map(key).collect()
}
