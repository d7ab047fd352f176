//! `kwik serve`: a primary, an edge, or both.

use std::{
    fmt::Write,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use kwik::{Endpoint, ServerConfig, escape};
use kwik_delivery::{Catalogue, Edge, Fingerprint, Link, ObjectName, Server, Source};
use tokio::time;

use crate::{
    args::{EdgeLink, Listen, Serve},
    connect::resolve,
    failure::{Failure, Kind},
    interrupted, print, say, state,
};

/// How long the name server may take.
const RESOLVE: Duration = Duration::from_secs(30);
/// How long the goodbye to clients may take.
const GOODBYE: Duration = Duration::from_secs(2);

pub(crate) async fn run(arguments: Serve) -> Result<(), Failure> {
    let source = Source::folder(&arguments.source)?.with_hidden(arguments.hidden);
    let folder = state::folder(arguments.state.folder.as_deref())?;
    let identity = Arc::new(state::identity(&folder)?);
    // After it was made: the folder is told by what it is, whatever names lead to it.
    let source = source.excluding(&folder)?;
    warn_of_hidden(&source, arguments.hidden);
    let fingerprint = identity.fingerprint();
    let catalogue = Catalogue::open(&folder)?;
    let edges = resolve_edges(&arguments.edges).await?;

    let mut config = ServerConfig::new(identity);
    config.trusted.extend(&arguments.trusted);
    let (endpoint, address) = listen(config, &arguments.listen).await?;

    let first = source.list(1).await?.into_iter().next();
    print(&greeting(&arguments, fingerprint, address, first))?;
    let quarantine = Duration::from_secs(arguments.quarantine);
    let server = Server::new(source, catalogue, edges).with_quarantine(quarantine);
    let server = Arc::new(server);
    tokio::select! {
        () = server.run(&endpoint) => {}
        // The usual end of a server, so no failure.
        ended = interrupted() => ended?,
    }
    endpoint.close(0, b"the server is shutting down");
    time::timeout(GOODBYE, endpoint.wait_idle()).await.ok();
    Ok(())
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

/// Opens the socket; on all addresses of both families where the system has them.
async fn listen(config: ServerConfig, listen: &Listen) -> Result<(Endpoint, SocketAddr), Failure> {
    let (addresses, shown) = match listen {
        Listen::Address(address) => (vec![*address], address.to_string()),
        Listen::Port(port) => {
            let all = [IpAddr::from(Ipv6Addr::UNSPECIFIED), Ipv4Addr::UNSPECIFIED.into()];
            (all.map(|ip| (ip, *port).into()).to_vec(), format!(":{port}"))
        }
        Listen::Host(host, port) => {
            (resolve(host, *port, RESOLVE).await?, format!("{host}:{port}"))
        }
    };
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        let opened = Endpoint::server(config.clone(), address);
        match opened.and_then(|endpoint| Ok((endpoint.local_addr()?, endpoint))) {
            Ok((address, endpoint)) => return Ok((endpoint, address)),
            Err(error) => failed = error,
        }
    }
    Err(bind_failure(&shown, &failed))
}

async fn resolve_edges(links: &[EdgeLink]) -> Result<Vec<Edge>, Failure> {
    let mut edges = Vec::new();
    for EdgeLink { fingerprint, host, port } in links {
        let address = resolve(host, *port, RESOLVE).await?[0];
        edges.push(Edge::new(address, *fingerprint));
    }
    Ok(edges)
}

fn bind_failure(listen: &str, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the other server, or choose another port",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine, or 0.0.0.0",
        io::ErrorKind::PermissionDenied => "choose a port above 1023",
        _ => "choose another address with --listen",
    };
    Failure::new(Kind::Network, format!("cannot listen on {listen}: {error}: {advice}"))
}

/// What people and scripts need to go on: fingerprint, the line for clients, those for servers.
fn greeting(
    arguments: &Serve,
    fingerprint: Fingerprint,
    address: SocketAddr,
    first: Option<ObjectName>,
) -> String {
    let reachable = if address.ip().is_unspecified() { outgoing(address) } else { address.ip() };
    let link = |name| Link {
        fingerprint: Some(fingerprint),
        host: reachable.to_string(),
        port: address.port(),
        name,
    };
    let server = link(None);
    let get = match first {
        Some(name) => link(Some(name)).to_string(),
        None => format!("{server}/NAME"),
    };
    let mut text = format!("fingerprint  {fingerprint}\n");
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{name:<12} {value}").expect("invariant: a String takes all");
    };
    line("serving", &format_args!("{} on {address}", escape(arguments.source.display())));
    if reachable != address.ip() {
        line(
            "note",
            &format_args!("clients elsewhere may reach it by another address than {reachable}"),
        );
    }
    if !arguments.trusted.is_empty() {
        line("its primary", &format_args!("kwik serve ... --edge {server}"));
    }
    if !arguments.edges.is_empty() {
        line("its edges", &format_args!("kwik serve ... --trust {fingerprint}"));
    }
    line("clients", &format_args!("kwik get {get}"));
    text
}

/// The address by which this machine reaches others; no packet is sent to find out.
fn outgoing(address: SocketAddr) -> IpAddr {
    // Of documentation (RFC 5737, RFC 3849): routed like any other, and nobody's.
    let probes = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let found = probes.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    found.unwrap_or(address.ip())
}
