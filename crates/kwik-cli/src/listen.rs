//! Where a server listens, and by what address clients reach it.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use kwik::{Endpoint, ServerConfig};

use crate::{
    connect::resolve,
    failure::{Failure, Kind},
    options::{DEFAULT_PORT, Listen},
};

/// How long the name server may take.
const RESOLVE: Duration = Duration::from_secs(30);

/// A socket that is open, and how clients reach it.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
    /// What links have for it.
    pub(crate) host: String,
    /// What people have to know of that.
    pub(crate) note: Option<String>,
}

/// Opens all sockets: without a word of where, on the default port of all addresses.
pub(crate) async fn open(
    config: &ServerConfig,
    listens: &[Listen],
) -> Result<Vec<Listening>, Failure> {
    let default = [Listen::Port(DEFAULT_PORT)];
    let listens = if listens.is_empty() { &default } else { listens };
    let mut all = Vec::new();
    for listen in listens {
        match listen {
            Listen::Address(address) => {
                let opened = bind(config, *address);
                all.push(opened.map_err(|error| failure(&address.to_string(), &error))?);
            }
            Listen::Port(port) => {
                // One socket for both families where the system has them.
                let unspecified =
                    [IpAddr::from(Ipv6Addr::UNSPECIFIED), Ipv4Addr::UNSPECIFIED.into()];
                let bound = unspecified.map(|ip| (ip, *port).into()).into_iter();
                let opened = first(bound.map(|address| bind(config, address)));
                all.push(opened.map_err(|error| failure(&format!(":{port}"), &error))?);
            }
            Listen::Host(host, port) => all.extend(open_host(config, host, *port).await?),
        }
    }
    Ok(all)
}

/// Opens a socket on each address of a name, at the same port. One that cannot be opened is no
/// reason to do without the others.
async fn open_host(
    config: &ServerConfig,
    host: &str,
    mut port: u16,
) -> Result<Vec<Listening>, Failure> {
    let mut opened: Vec<Listening> = Vec::new();
    let mut failed = None;
    let addresses = resolve(host, port, RESOLVE).await?;
    for mut address in addresses {
        address.set_port(port);
        // A name server may say one twice.
        if opened.iter().any(|other| other.address == address) {
            continue;
        }
        match bind(config, address) {
            Ok(listening) => {
                port = listening.address.port();
                opened.push(listening);
            }
            Err(error) => failed = Some(error),
        }
    }
    match (opened.is_empty(), failed) {
        (true, failed) => {
            let error = failed.unwrap_or(io::ErrorKind::AddrNotAvailable.into());
            Err(failure(&format!("{host}:{port}"), &error))
        }
        (false, Some(_)) => Ok(opened),
        (false, None) => {
            // By the name, clients reach all of them. An address with its zone says so itself.
            if !host.contains('%') {
                opened.iter_mut().for_each(|listening| host.clone_into(&mut listening.host));
            }
            Ok(opened)
        }
    }
}

fn first(tries: impl Iterator<Item = io::Result<Listening>>) -> io::Result<Listening> {
    let mut failed = io::ErrorKind::AddrNotAvailable.into();
    for opened in tries {
        match opened {
            Ok(listening) => return Ok(listening),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn bind(config: &ServerConfig, address: SocketAddr) -> io::Result<Listening> {
    let endpoint = Endpoint::server(config.clone(), address)?;
    let address = endpoint.local_addr()?;
    let (host, note) = reachable(address);
    Ok(Listening { endpoint, address, host, note })
}

fn failure(listen: &str, error: &io::Error) -> Failure {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "stop the other server, or choose another port",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine, or 0.0.0.0",
        io::ErrorKind::PermissionDenied => "choose a port above 1023",
        _ => "choose another address with --listen",
    };
    Failure::new(Kind::Network, format!("cannot listen on {listen}: {error}: {advice}"))
}

/// The host by which clients reach a socket, and what there is to say of that.
fn reachable(address: SocketAddr) -> (String, Option<String>) {
    if let SocketAddr::V6(v6) = address
        && v6.scope_id() != 0
    {
        let zone = interface(v6.scope_id()).unwrap_or_else(|| v6.scope_id().to_string());
        let note = format!(
            "this address counts on one link alone: put the client's own interface for {zone}"
        );
        return (format!("{}%{zone}", v6.ip()), Some(note));
    }
    if !address.ip().is_unspecified() {
        return (address.ip().to_string(), None);
    }
    let outgoing = outgoing().or_else(|| fs::read_to_string(FIB).ok().and_then(|fib| local(&fib)));
    match outgoing {
        Some(ip) => {
            let note = format!("clients elsewhere may reach it by another address than {ip}");
            (ip.to_string(), Some(note))
        }
        None => {
            let note = "this machine has no address but its own loopback: no other reaches it";
            let loopback = match address {
                SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            (loopback.to_string(), Some(note.into()))
        }
    }
}

/// The name of an interface.
fn interface(index: u32) -> Option<String> {
    let interfaces = fs::read_dir("/sys/class/net").ok()?.flatten();
    interfaces.into_iter().find_map(|interface| {
        let found = fs::read_to_string(interface.path().join("ifindex")).ok()?;
        (found.trim().parse() == Ok(index)).then(|| interface.file_name().into_string().ok())?
    })
}

/// The address by which this machine reaches others; no packet is sent to find out.
fn outgoing() -> Option<IpAddr> {
    // Of documentation (RFC 5737, RFC 3849): routed like any other, and nobody's.
    let probes = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    probes.into_iter().find_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
    })
}

/// Where Linux has the addresses of this machine.
const FIB: &str = "/proc/net/fib_trie";

/// The first address of this machine but loopback, without any route to elsewhere.
fn local(fib: &str) -> Option<IpAddr> {
    let lines: Vec<_> = fib.lines().map(str::trim).collect();
    lines.windows(2).find_map(|pair| {
        let ip: Ipv4Addr = pair[0].strip_prefix("|-- ")?.parse().ok()?;
        let is_own = pair[1] == "/32 host LOCAL" && !ip.is_loopback();
        is_own.then_some(ip.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_route_still_has_an_address() {
        let fib = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 198.51.100.0/24 2 0 2
           |-- 198.51.100.0
              /24 link UNICAST
           |-- 198.51.100.7
              /32 host LOCAL
";
        assert_eq!(local(fib), Some("198.51.100.7".parse().unwrap()));
        assert_eq!(local(&fib[..fib.find("198").unwrap()]), None);
    }

    #[test]
    fn links_have_what_clients_reach() {
        assert_eq!(reachable("192.0.2.1:1".parse().unwrap()), ("192.0.2.1".into(), None));
        assert_eq!(reachable("[::1]:1".parse().unwrap()), ("::1".into(), None));
        for all in ["0.0.0.0:1", "[::]:1"] {
            let (host, note) = reachable(all.parse().unwrap());
            assert!(host != "0.0.0.0" && host != "::" && note.is_some(), "{host}");
        }
        let (host, note) = reachable("[fe80::1%1]:1".parse().unwrap());
        assert!(host.starts_with("fe80::1%") && note.unwrap().contains("interface"), "{host}");
    }
}
