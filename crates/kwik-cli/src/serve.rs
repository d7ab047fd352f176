//! `kwik serve`: a primary, an edge, or both.

use std::{
    fmt::{Display, Write},
    io::Read,
    path::Path,
    pin::pin,
    sync::Arc,
    thread,
    time::Duration,
};

use kwik::{Identity, ServerConfig, escape};
use kwik_delivery::{Catalogue, Fingerprint, Link, ObjectName, Primaries, Server, Source, Survey};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time,
};

use crate::{
    access::AccessLog,
    admin::{Administration, Asked},
    args::serve::{Peers, Serve},
    config::read_again,
    door::Entrance,
    edges::EdgeList,
    failure::{Failure, Kind},
    listen::{self, Listening},
    notify::notify,
    print, qlog, say, sources, state,
    successors::Successors,
    voice::count,
};

/// How long the goodbye to clients may take.
const GOODBYE: Duration = Duration::from_secs(2);

pub(crate) async fn run(arguments: Serve) -> Result<(), Failure> {
    let mut signals = Signals::listen(arguments.end_with_stdin)?;
    let source = tokio::select! {
        source = sources::open(&arguments) => source?.with_hidden(arguments.hidden),
        // Standard input may not end.
        () = signals.end() => return Ok(()),
    };
    let folder = state::folder(arguments.state.folder.as_deref())?;
    let identity = Arc::new(identity(&folder)?);
    let entrance = Entrance::new(&arguments, &folder, &identity)?;
    qlog::open(arguments.records.qlog.as_deref())?;
    let source = without_secrets(source, &arguments, &folder)?;
    warn_of_hidden(&source, arguments.hidden);
    let fingerprint = identity.fingerprint();
    let catalogue = catalogue(&folder);
    let Peers { edges, edge_file, successors, .. } = &arguments.peers;
    let mut successors = Successors::new(successors)?;
    let mut edges = EdgeList::new(edges.clone(), edge_file.clone())?;
    let access = arguments.records.access_log.as_deref().map(AccessLog::open).transpose()?;
    let config = configuration(&arguments, identity, &entrance);
    let sockets = listen::open(&config, &arguments.listen).await?;
    let administration = Administration::open(&arguments.admin).await?;

    let first = source.list(1).await?.into_iter().next();
    let greeting = Greeting { arguments: &arguments, fingerprint, entrance: &entrance };
    print(&greeting.text(&sockets, !edges.is_empty(), first.as_ref())?)?;
    let looked = source.clone();
    // Beside the serving: a folder may be large.
    tokio::spawn(async move { warn_of_unserved(&looked.survey().await) });
    let server = Server::new(source, catalogue, edges.edges())
        .with_quarantine(arguments.quarantine)
        .with_door(entrance.door.clone());
    let server = Arc::new(with_options(server, &arguments, access.clone()));
    successors.tell(&server);
    if arguments.load.hash_ahead {
        let hashing = Arc::clone(&server);
        tokio::spawn(async move { hashing.hash_ahead().await });
    }
    for socket in &sockets {
        let (server, endpoint) = (Arc::clone(&server), socket.endpoint.clone());
        // Tasks of their own: sessions may have to outlive all that is done here.
        tokio::spawn(async move { server.run(&endpoint).await });
    }
    let endpoints = sockets.iter().map(|socket| socket.endpoint.clone()).collect();
    let mut wishes = administration.start(&arguments.admin, endpoints, &server, arguments.drain);
    notify("READY=1");
    loop {
        let (asked, done) = {
            let mut keeping = pin!(edges.keep_resolved(&server));
            tokio::select! {
                () = &mut keeping => continue,
                asked = signals.next() => (asked, None),
                asked = wishes.next() => asked,
            }
        };
        match asked {
            Asked::Reload => {
                if let Some(log) = &access {
                    log.reopen();
                }
                entrance.reload();
                wishes.reload();
                edges.reload(read_again("edge"), &server);
                successors.reload(read_again("successor"), &server);
                // Who asked may be gone.
                done.map(|done| done.send(()).ok());
            }
            // The usual end of a server, so no failure.
            Asked::End => break,
        }
    }
    // Who waits there for a reload is told that there is none.
    drop(wishes);
    end(&server, &sockets, &mut signals, arguments.drain, &mut successors).await;
    Ok(())
}

fn configuration(arguments: &Serve, identity: Arc<Identity>, entrance: &Entrance) -> ServerConfig {
    let mut config = ServerConfig::new(identity);
    config.authenticator = entrance.door.clone();
    config.trusted.extend(&arguments.peers.trusted);
    config.quic = qlog::quic();
    config.quic.congestion = arguments.load.congestion.into();
    if let Some(most) = arguments.load.max_sessions {
        config.max_sessions = most;
    }
    config
}

fn with_options(mut server: Server, arguments: &Serve, access: Option<AccessLog>) -> Server {
    if let Some(rate) = arguments.load.rate {
        server = server.with_rate(rate.get());
    }
    if let Some(log) = access {
        server = server.with_access_log(move |access| log.write(access));
    }
    server
}

/// What of the source is for others. After secrets were made: they are told by what they are,
/// whatever names lead to them.
fn without_secrets(
    mut source: Source,
    arguments: &Serve,
    folder: &Path,
) -> Result<Source, Failure> {
    // The files of the state, too: they may have other names elsewhere.
    let kept = state::SECRETS.map(|name| folder.join(name));
    let admin = &arguments.admin;
    let given = [
        &arguments.entry.secret_file,
        &admin.admin_token_file,
        &admin.admin_key,
        &arguments.records.qlog,
    ];
    let given = given.into_iter().flatten().cloned();
    let secrets = [folder.to_owned()].into_iter().chain(kept).chain(given);
    for secret in secrets.filter(|secret| secret.exists()) {
        source = source.excluding(&secret)?;
    }
    Ok(source)
}

/// Lets clients finish, for `patience` at the most, and says goodbye. What they have not finished
/// they go on with elsewhere, if there is a successor.
async fn end(
    server: &Server,
    sockets: &[Listening],
    signals: &mut Signals,
    patience: Duration,
    successors: &mut Successors,
) {
    notify("STOPPING=1");
    server.drain();
    let busy = server.busy_sessions();
    if busy > 0 && !patience.is_zero() {
        let (downloads, seconds) = (count(busy, "download"), patience.as_secs());
        say(&format!(
            "kwik: ending: {downloads} may finish, for {seconds} s at most; interrupt again to end \
             at once"
        ));
    }
    tokio::select! {
        _ = time::timeout(patience, server.drained()) => {}
        () = asked_again(server, signals, successors) => {}
    }
    let reason = b"the server is shutting down";
    let left = server.busy_sessions();
    if server.dismiss(reason) {
        // What is left fetches from the edges, and would end with the endpoints.
        say("kwik: ended: clients fetch the rest from the edges");
        return time::sleep(GOODBYE / 10).await;
    }
    if let Some(successor) = successors.first().filter(|_| left > 0) {
        say(&format!("kwik: ended: {} may go on with {successor}", count(left, "download")));
    }
    let goodbye = sockets.iter().map(async |socket| {
        socket.endpoint.close(0, reason);
        time::timeout(GOODBYE, socket.endpoint.wait_idle()).await.ok();
    });
    futures_util::future::join_all(goodbye).await;
}

/// Waits until it is asked to end once more. It is not too late to say where clients go on.
async fn asked_again(server: &Server, signals: &mut Signals, successors: &mut Successors) {
    while signals.next().await == Asked::Reload {
        successors.reload(read_again("successor"), server);
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Signals {
    fn listen(stdin: bool) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Kind::Transfer, format!("cannot wait for signals: {error}"))
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            stdin: stdin.then(end_of_stdin),
        })
    }

    /// Waits until the server is to end.
    async fn end(&mut self) {
        while self.next().await == Asked::Reload {}
    }

    async fn next(&mut self) -> Asked {
        let stdin = async {
            match self.stdin.as_mut() {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        };
        let asked = tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.terminate.recv() => Asked::End,
            () = stdin => Asked::End,
        };
        if asked == Asked::End {
            // It ends once.
            self.stdin = None;
        }
        asked
    }
}

/// Says when standard input ends. A thread of its own, as nothing else can stop a read.
fn end_of_stdin() -> oneshot::Receiver<()> {
    let (sender, ended) = oneshot::channel();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut buffer).is_ok_and(|length| length > 0) {}
        sender.send(()).ok();
    });
    ended
}

/// The server's identity; where the state folder cannot be written, one for this run.
fn identity(folder: &Path) -> Result<Identity, Failure> {
    match state::identity(folder) {
        Err(failure)
            if !folder.join("identity").exists()
                && matches!(failure.kind, Kind::Disk | Kind::Full) =>
        {
            say(&format!(
                "kwik: {failure}: until then this server has another fingerprint after each start"
            ));
            state::passing_identity()
        }
        made => made,
    }
}

/// The catalogue; where the state folder cannot be written, in memory.
fn catalogue(folder: &Path) -> Catalogue {
    Catalogue::open(folder).unwrap_or_else(|error| {
        say(&format!("kwik: {}: hashes are kept in memory until then", escape(error)));
        Catalogue::in_memory()
    })
}

fn warn_of_hidden(source: &Source, shown: bool) {
    let Some(path) = source.find_hidden() else { return };
    let path = path.display();
    let (is, advice) = match shown {
        true => ("are served, as --hidden says", "leave it out to keep them back"),
        false => ("are not served", "give --hidden to serve them"),
    };
    say(&format!("kwik: hidden files and folders such as {} {is}: {advice}", escape(path)));
}

fn warn_of_unserved(survey: &Survey) {
    let Survey { unreadable, unnamed } = survey;
    if let Some(example) = &unreadable.example {
        let (folders, example) = (count(unreadable.count, "folder"), escape(example));
        say(&format!("kwik: {folders} cannot be read, such as {example}: left out"));
    }
    if let Some(example) = &unnamed.example {
        let (names, example) = (count(unnamed.count, "name"), escape(example));
        say(&format!("kwik: {names} cannot be served, such as {example}: rename it"));
    }
}

/// What people and scripts need to go on: fingerprint, the line for clients, those for servers.
struct Greeting<'a> {
    arguments: &'a Serve,
    fingerprint: Fingerprint,
    entrance: &'a Entrance,
}

impl Greeting<'_> {
    fn text(
        &self,
        sockets: &[Listening],
        has_edges: bool,
        first: Option<&ObjectName>,
    ) -> Result<String, Failure> {
        let Self { arguments, fingerprint, entrance } = self;
        let mut text = format!("fingerprint  {fingerprint}\n");
        let mut line = |name: &str, value: &dyn Display| {
            writeln!(text, "{name:<12} {value}").expect("invariant: a String takes all");
        };
        let mut said = Vec::new();
        for socket in sockets {
            let served = sources::shown(arguments);
            let served = escape(&served);
            line("serving", &format_args!("{served} on {}", socket.address));
            // Sockets of one name have one link.
            let server = self.link(socket, None);
            if said.contains(&server) {
                continue;
            }
            if let Some(note) = &socket.note {
                line("note", note);
            }
            if !arguments.peers.trusted.is_empty() {
                let link = Link { pass: None, ..server.clone() };
                line("its primary", &format_args!("kwik serve ... --edge {link}"));
            }
            if has_edges && said.is_empty() {
                line("its edges", &format_args!("kwik serve ... --trust {fingerprint}"));
            }
            let clients = |name| self.for_clients(&self.link(socket, name));
            match first {
                _ if entrance.is_edge_alone => {}
                Some(name) => {
                    line("clients", &format_args!("kwik get {}", clients(Some(name.clone()))?));
                }
                None => line("clients", &format_args!("kwik get {}/NAME", clients(None)?)),
            }
            said.push(server);
        }
        line("may read", &entrance.readers);
        Ok(text)
    }

    /// A link with the other primaries that clients may go to.
    fn for_clients(&self, link: &Link) -> Result<Primaries, Failure> {
        let also: Vec<_> = self.arguments.peers.also.iter().map(|other| other.0.clone()).collect();
        Primaries::new(link, &also)
            .map_err(|error| Failure::new(Kind::Usage, format!("--also: {error}")))
    }

    fn link(&self, socket: &Listening, name: Option<ObjectName>) -> Link {
        Link {
            fingerprint: Some(self.fingerprint),
            pass: self.entrance.pass.clone(),
            host: socket.host.clone(),
            port: socket.address.port(),
            name,
        }
    }
}
