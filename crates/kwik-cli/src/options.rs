//! What several commands take, and how it is written.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU64,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::Args;
use kwik_delivery::{Fingerprint, Link, ObjectName, Pass, Primaries};

use crate::failure::{Failure, Kind};

#[derive(Debug, Default, Args)]
pub(crate) struct TrustOptions {
    /// Accept and remember the key of a server that the link does not pin and that is not known.
    #[arg(long)]
    pub(crate) trust_on_first_use: bool,
    /// Do not tell the server who this client is, though it has an identity.
    #[arg(long)]
    pub(crate) anonymous: bool,
    #[command(flatten)]
    pub(crate) state: State,
}

#[derive(Debug, Default, Args)]
pub(crate) struct State {
    /// Where identity, catalogue and known servers are kept [default: $XDG_STATE_HOME/kwik].
    #[arg(long = "state", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
}

/// The port that servers have unless they are told another.
pub(crate) const DEFAULT_PORT: u16 = 4433;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listen {
    Address(SocketAddr),
    /// On all addresses.
    Port(u16),
    /// By its name, or an address of a link with its zone.
    Host(String, u16),
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Address((ip, DEFAULT_PORT).into()));
        }
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let (host, port) = match text.rsplit_once(':') {
            _ if text.starts_with('[') && text.ends_with(']') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None if digits(text) => ("", Some(text)),
            None => (text, None),
        };
        let wrong = |what: &str| {
            format!(
                "{what}: for example 192.0.2.1:{DEFAULT_PORT}, [2001:db8::1]:{DEFAULT_PORT}, \
                 localhost:{DEFAULT_PORT} or :{DEFAULT_PORT}"
            )
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|_| digits(port)).ok_or_else(|| {
                wrong(&format!("{port:?} is no port, which is a number up to 65535"))
            })?,
        };
        if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let (ip, zone) = inner.split_once('%').unwrap_or((inner, "0"));
            return match ip.parse::<Ipv6Addr>() {
                Ok(ip) if !inner.contains('%') => Ok(Self::Address((ip, port).into())),
                Ok(_) if !zone.is_empty() => Ok(Self::Host(inner.to_owned(), port)),
                _ => Err(wrong(&format!("{inner:?} is no IPv6 address"))),
            };
        }
        if host.contains(':') {
            return Err(wrong("an IPv6 address stands in brackets before its port"));
        }
        // What looks like an IP address was none.
        let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        match host {
            "" | "*" if !text.is_empty() => Ok(Self::Port(port)),
            host if !numeric && host.bytes().all(named) => Ok(Self::Host(host.to_owned(), port)),
            host => Err(wrong(&format!("{host:?} is neither an IP address nor a host name"))),
        }
    }
}

/// A link to an object.
#[derive(Debug, Clone)]
pub(crate) struct ObjectLink {
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) pass: Option<Pass>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) name: ObjectName,
    /// Other servers that have it, the next choice first.
    pub(crate) others: Vec<Link>,
}

impl FromStr for ObjectLink {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let primaries: Primaries = text.parse().map_err(|error| format!("{error}"))?;
        let name = primaries.name().cloned();
        let name = name.ok_or("the link names no object: kwik://FINGERPRINT@HOST:PORT/NAME")?;
        let mut servers = primaries.servers().to_vec();
        let Link { fingerprint, pass, host, port, .. } = servers.remove(0);
        Ok(Self { fingerprint, pass, host, port, name, others: servers })
    }
}

impl ObjectLink {
    /// The same object at another server.
    pub(crate) fn at(&self, server: &Link) -> Self {
        let Link { fingerprint, pass, host, port, .. } = server.clone();
        Self { fingerprint, pass, host, port, name: self.name.clone(), others: Vec::new() }
    }

    /// Whether one session does for both.
    pub(crate) fn leads_to_server_of(&self, other: &Self) -> bool {
        let server = |link: &Self| (link.fingerprint, link.port);
        // A session is what its pass lets in to.
        server(self) == server(other)
            && self.host == other.host
            && self.pass == other.pass
            && self.others == other.others
    }
}

/// A link to a server that pins its key.
#[derive(Debug, Clone)]
pub(crate) struct EdgeLink {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for EdgeLink {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let Link { fingerprint, pass, host, port, name } =
            text.parse().map_err(|error| format!("{error}"))?;
        if pass.is_some() {
            return Err("an edge knows its primary's key: leave out the `:` and what follows it \
                        before the `@`"
                .into());
        }
        if name.is_some() {
            return Err("an edge serves all objects: leave out the name after the port".into());
        }
        let fingerprint = fingerprint
            .ok_or("an edge needs its fingerprint: kwik://FINGERPRINT@HOST:PORT, see `kwik id`")?;
        Ok(Self { fingerprint, host, port })
    }
}

/// A link to a server with the same objects, that clients are told of.
#[derive(Debug, Clone)]
pub(crate) struct PeerLink(pub(crate) Link);

impl FromStr for PeerLink {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let link: Link = text.parse().map_err(|error| format!("{error}"))?;
        if link.name.is_some() {
            return Err("that server has all objects: leave out the name after the port".into());
        }
        if link.fingerprint.is_none() {
            return Err("clients have to know that server by its key: \
                        kwik://FINGERPRINT@HOST:PORT, see `kwik id`"
                .into());
        }
        Ok(Self(link))
    }
}

/// Seconds, or a number with its unit.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no time from 1 s to a day: 30, 30s, 5m or 1h");
    let units = [('s', 1), ('m', 60), ('h', 3600)];
    let found =
        units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let (number, unit) = found.unwrap_or((text, 1_u64));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(unit).filter(|seconds| (1..=86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// The same, or none at all.
pub(crate) fn duration_or_none(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => duration(text),
    }
}

/// Bytes a second, or a number with its unit, a power of 1,024 as in other downloaders.
pub(crate) fn rate(text: &str) -> Result<NonZeroU64, String> {
    let wrong = || format!("{text} is no rate in bytes a second: 100000, 500K, 20M or 1G");
    let units = [('K', 10), ('M', 20), ('G', 30)];
    let upper = text.to_ascii_uppercase();
    let found = units.iter().find_map(|(unit, bits)| Some((upper.strip_suffix(*unit)?, *bits)));
    let (number, bits) = found.unwrap_or((&upper, 0_u32));
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    let bytes = number.checked_mul(1 << bits).and_then(NonZeroU64::new);
    bytes.ok_or_else(wrong)
}

/// What the environment and the file say of an option now.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) values: Vec<String>,
    /// Where they stand, for people.
    pub(crate) origin: String,
}

impl Again {
    pub(crate) fn parse<T: FromStr<Err = String>>(&self) -> Result<Vec<T>, Failure> {
        let parse = |text: &String| {
            let wrong = |error| Failure::new(Kind::Usage, format!("{}: {error}", self.origin));
            text.parse().map_err(wrong)
        };
        self.values.iter().map(parse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_listens_on_what_people_write() {
        let listen = |text: &str| text.parse::<Listen>();
        assert_eq!(listen("127.0.0.1:1"), Ok(Listen::Address("127.0.0.1:1".parse().unwrap())));
        assert_eq!(listen("[::1]:1"), Ok(Listen::Address("[::1]:1".parse().unwrap())));
        for all in [":4433", "4433", "*:4433"] {
            assert_eq!(listen(all), Ok(Listen::Port(4433)));
        }
        assert_eq!(listen("localhost:0"), Ok(Listen::Host("localhost".into(), 0)));
        assert_eq!(listen("localhost"), Ok(Listen::Host("localhost".into(), 4433)));
        for (text, address) in [
            ("1.2.3.4", "1.2.3.4:4433"),
            ("::1", "[::1]:4433"),
            ("[::1]", "[::1]:4433"),
            ("[fe80::1%2]:1", "[fe80::1%2]:1"),
        ] {
            assert_eq!(listen(text), Ok(Listen::Address(address.parse().unwrap())), "{text}");
        }
        assert_eq!(listen("[fe80::1%eth0]:1"), Ok(Listen::Host("fe80::1%eth0".into(), 1)));
        for wrong in [
            "",
            ":",
            "h:",
            "h:+1",
            "h:x",
            "::1:x",
            "1.2.3:4",
            "1.2.3",
            "a b:1",
            ":65536",
            "[h]:1",
            "[fe80::1%]:1",
            "2001:db8::g:1",
            "h:1:2",
        ] {
            let error = listen(wrong).unwrap_err();
            assert!(error.contains("localhost:4433 or :4433"), "{wrong}: {error}");
        }
    }

    #[test]
    fn durations_have_units() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(["4", "30s", "5m", "1h"].map(|text| seconds(text).unwrap()), [4, 30, 300, 3600]);
        assert_eq!(duration_or_none("0"), Ok(Duration::ZERO));
        assert_eq!(duration_or_none("90"), Ok(Duration::from_secs(90)));
        for wrong in ["", "0", "s", "-1", "1.5", "25h", "1 s", "99999999999999999999h"] {
            assert!(seconds(wrong).unwrap_err().contains("5m"), "{wrong}");
        }
    }

    #[test]
    fn rates_have_units() {
        let bytes = |text| rate(text).map(NonZeroU64::get);
        assert_eq!(["7", "2k", "3M"].map(|text| bytes(text).unwrap()), [7, 2048, 3 << 20]);
        for wrong in ["", "0", "M", "-1", "+1", "1.5M", "1MB", "1T", "99999999999G", "é"] {
            assert!(bytes(wrong).unwrap_err().contains("500K"), "{wrong}");
        }
    }

    #[test]
    fn links_are_checked_for_their_place() {
        let pin = "ab".repeat(32);
        assert!(format!("kwik://{pin}@h:1/x").parse::<ObjectLink>().is_ok());
        assert!("kwik://h:1/x".parse::<ObjectLink>().is_ok());
        assert!("kwik://h:1".parse::<ObjectLink>().unwrap_err().contains("names no object"));
        assert!("kwik://h:1/a/../b".parse::<ObjectLink>().unwrap_err().contains(".."));
        assert!(format!("kwik://{pin}@h:1").parse::<EdgeLink>().is_ok());
        assert!("kwik://h:1".parse::<EdgeLink>().unwrap_err().contains("fingerprint"));
        assert!(format!("kwik://{pin}@h:1/x").parse::<EdgeLink>().unwrap_err().contains("name"));
        let two = format!("kwik://{pin}@h:1,{pin}@i:1");
        let link: ObjectLink = format!("{two}/x").parse().unwrap();
        assert_eq!((&*link.host, &*link.others[0].host, link.others.len()), ("h", "i", 1));
        let one: ObjectLink = format!("kwik://{pin}@h:1/y").parse().unwrap();
        assert!(!one.leads_to_server_of(&link) && link.leads_to_server_of(&link));
        assert!(two.parse::<EdgeLink>().unwrap_err().contains("one server is wanted"));
        assert!(two.parse::<PeerLink>().unwrap_err().contains("one server is wanted"));
        let successor = |text: &str| text.parse::<PeerLink>().map(|it| it.0.to_string());
        for good in [format!("kwik://{pin}@h:1"), format!("kwik://{pin}:{pin}@h:1")] {
            assert_eq!(successor(&good), Ok(good));
        }
        assert!(successor("kwik://h:1").unwrap_err().contains("kwik id"));
        assert!(successor(&format!("kwik://{pin}@h:1/x")).unwrap_err().contains("name"));
    }
}
