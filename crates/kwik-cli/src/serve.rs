//! `kwik serve`: a primary, an edge, or both.

use std::{
    fmt::Write,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use kwik::{Endpoint, ServerConfig};
use kwik_delivery::{Catalogue, Edge, Fingerprint, Link, ObjectName, Server, Source};
use tokio::time;

use crate::{
    args::{EdgeLink, Serve},
    connect::resolve,
    failure::{Failure, Kind},
    interrupted, print, state,
};

/// How long the goodbye to clients may take.
const GOODBYE: Duration = Duration::from_secs(2);

pub(crate) async fn run(arguments: Serve) -> Result<(), Failure> {
    let source = Source::folder(&arguments.source)?;
    let folder = state::folder(arguments.state.folder.as_deref())?;
    let identity = Arc::new(state::identity(&folder)?);
    let fingerprint = identity.fingerprint();
    let catalogue = Catalogue::open(&folder)?;
    let edges = resolve_edges(&arguments.edges).await?;

    let mut config = ServerConfig::new(identity);
    config.trusted.extend(&arguments.trusted);
    let listen = arguments.listen;
    let endpoint =
        Endpoint::server(config, listen).map_err(|error| bind_failure(listen, &error))?;
    let address = endpoint.local_addr().map_err(|error| bind_failure(listen, &error))?;

    let first = source.list(1).await?.into_iter().next();
    print(&greeting(&arguments, fingerprint, address, first))?;
    let server = Arc::new(Server::new(source, catalogue, edges));
    tokio::select! {
        () = server.run(&endpoint) => {}
        // The usual end of a server, so no failure.
        ended = interrupted() => ended?,
    }
    endpoint.close(0, b"the server is shutting down");
    time::timeout(GOODBYE, endpoint.wait_idle()).await.ok();
    Ok(())
}

async fn resolve_edges(links: &[EdgeLink]) -> Result<Vec<Edge>, Failure> {
    let mut edges = Vec::new();
    for EdgeLink { fingerprint, host, port } in links {
        let address = resolve(host, *port).await?[0];
        edges.push(Edge { address, fingerprint: *fingerprint });
    }
    Ok(edges)
}

fn bind_failure(listen: SocketAddr, error: &io::Error) -> Failure {
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
    line("serving", &format_args!("{} on {address}", arguments.source.display()));
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
