//! Links to servers and objects.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::{
    Fingerprint, InvalidName, InvalidPass, ObjectName, Pass,
    limits::{MAX_HOST, MAX_NAME, MAX_PRIMARIES, MAX_ZONE},
};

/// What a name keeps unencoded: the unreserved characters of RFC 3986 section 2.3, and `/`.
const NAME: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// `kwik://FINGERPRINT@HOST:PORT/NAME`: an object on a server; without NAME, a server. With a pass,
/// `kwik://FINGERPRINT:PASS@HOST:PORT/NAME`: whoever has that may use it, so such a link is shown
/// to its holder alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Link {
    /// The pin of the server's key; without it, the caller decides whom to trust.
    pub fingerprint: Option<Fingerprint>,
    /// What lets its holder in; only with a fingerprint, as it is told to that server alone.
    pub pass: Option<Pass>,
    /// A DNS name or an IP address, without brackets; an IPv6 address of a link may have its zone.
    pub host: String,
    /// UDP port, never 0.
    pub port: u16,
    /// The object, unless the link is a server's own.
    pub name: Option<ObjectName>,
}

impl ObjectName {
    /// As a link has it: percent-encoded.
    #[must_use]
    pub fn in_link(&self) -> String {
        percent_encode(self.as_bytes(), NAME).to_string()
    }
}

impl Link {
    /// What each link begins with.
    pub(crate) const SCHEME: &str = "kwik://";

    /// `HOST:PORT`, with brackets around an IPv6 address.
    #[must_use]
    pub fn address(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::SCHEME)?;
        if let Some(fingerprint) = &self.fingerprint {
            write!(f, "{fingerprint}")?;
            if let Some(pass) = &self.pass {
                write!(f, ":{}", pass.as_str())?;
            }
            f.write_str("@")?;
        }
        f.write_str(&self.address())?;
        if let Some(name) = &self.name {
            write!(f, "/{}", percent_encode(name.as_bytes(), NAME))?;
        }
        Ok(())
    }
}

impl FromStr for Link {
    type Err = InvalidLink;
    fn from_str(link: &str) -> Result<Self, InvalidLink> {
        let rest = link.strip_prefix(Self::SCHEME).ok_or(InvalidLink::Scheme)?;
        let (server, name) = rest.split_once('/').unwrap_or((rest, ""));
        if server.contains(',') {
            return Err(InvalidLink::SeveralServers);
        }
        let (fingerprint, pass, address) = match server.split_once('@') {
            Some((who, address)) => {
                let (pin, pass) = match who.split_once(':') {
                    Some((pin, pass)) => (pin, Some(pass.parse()?)),
                    None => (who, None),
                };
                (Some(pin.parse().map_err(|_| InvalidLink::Fingerprint)?), pass, address)
            }
            None => (None, None, server),
        };
        let (host, port) = parse_address(address)?;
        let name = if name.is_empty() { None } else { Some(parse_name(name)?) };
        Ok(Self { fingerprint, pass, host, port, name })
    }
}

fn parse_address(address: &str) -> Result<(String, u16), InvalidLink> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(InvalidLink::Host)?;
        if !is_ipv6(host) {
            return Err(InvalidLink::Host);
        }
        (host, port.strip_prefix(':').ok_or(InvalidLink::NoPort)?)
    } else {
        if address.parse::<Ipv6Addr>().is_ok() {
            return Err(InvalidLink::Brackets);
        }
        let (host, port) = address.rsplit_once(':').ok_or(InvalidLink::NoPort)?;
        if host.contains(':') {
            return Err(InvalidLink::Brackets);
        }
        if !is_host(host) {
            return Err(InvalidLink::Host);
        }
        (host, port)
    };
    if port.is_empty() {
        return Err(InvalidLink::NoPort);
    }
    // `parse` alone would take `+1`.
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port != 0 => Ok((host.to_owned(), port)),
        _ => Err(InvalidLink::Port),
    }
}

/// Whether `host` is an IPv6 address; one of a link may have its zone, which is an interface's name
/// or number.
fn is_ipv6(host: &str) -> bool {
    let Some((address, zone)) = host.split_once('%') else {
        return host.parse::<Ipv6Addr>().is_ok();
    };
    let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_unicast_link_local())
        && (1..=MAX_ZONE).contains(&zone.len())
        && zone.bytes().all(named)
}

/// Whether `host` is a DNS name or an IPv4 address.
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // All digits and dots is meant as an address, so it has to be one.
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    host.len() <= MAX_HOST
        && host.split('.').all(label)
        && (!numeric || host.parse::<Ipv4Addr>().is_ok())
}

fn parse_name(encoded: &str) -> Result<ObjectName, InvalidLink> {
    // Three characters encode one byte at the most.
    if encoded.len() > 3 * MAX_NAME {
        return Err(InvalidName::TooLong { length: encoded.len() / 3 }.into());
    }
    let malformed = encoded.bytes().any(|byte| matches!(byte, b'?' | b'#' | b' '))
        || encoded.split('%').skip(1).any(|rest| {
            !rest.as_bytes().get(..2).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
        });
    if malformed {
        return Err(InvalidLink::Encoding);
    }
    let name: Vec<u8> = percent_decode_str(encoded).collect();
    Ok(ObjectName::new(name)?)
}

/// Why a text is not a link; each message shows the right form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLink {
    /// It does not start with `kwik://`.
    #[error("a link starts with `kwik://`: kwik://FINGERPRINT@HOST:PORT/NAME")]
    Scheme,
    /// What stands before the `@` is no fingerprint.
    #[error(
        "the fingerprint before `@` is 64 hexadecimal digits: kwik://FINGERPRINT@HOST:PORT/NAME"
    )]
    Fingerprint,
    /// What stands between the fingerprint and the `@` is neither a secret nor a ticket.
    #[error("{0}: kwik://FINGERPRINT:SECRET@HOST:PORT/NAME")]
    Pass(#[from] InvalidPass),
    /// The host is empty, or neither a DNS name nor an IP address.
    #[error(
        "the host is a DNS name, an IPv4 address or an IPv6 address in brackets: \
         kwik://FINGERPRINT@HOST:PORT/NAME"
    )]
    Host,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets: kwik://FINGERPRINT@[2001:db8::1]:PORT/NAME")]
    Brackets,
    /// No port.
    #[error("the port is missing, and there is no default: kwik://FINGERPRINT@HOST:PORT/NAME")]
    NoPort,
    /// The port is no number from 1 to 65535.
    #[error("the port is a number from 1 to 65535: kwik://FINGERPRINT@HOST:PORT/NAME")]
    Port,
    /// Where one server is asked for.
    #[error("one server is wanted here, and these are several: kwik://FINGERPRINT@HOST:PORT")]
    SeveralServers,
    /// Nothing before or behind a comma.
    #[error(
        "a comma stands between two servers: \
         kwik://FINGERPRINT@HOST:PORT,FINGERPRINT@HOST:PORT/NAME"
    )]
    NoServer,
    /// Of several servers one has no key.
    #[error(
        "of several servers each is known by its key: \
         kwik://FINGERPRINT@HOST:PORT,FINGERPRINT@HOST:PORT/NAME"
    )]
    Unpinned,
    /// The same server twice.
    #[error("{address} is there twice: kwik://FINGERPRINT@HOST:PORT,FINGERPRINT@HOST:PORT/NAME")]
    Twice {
        /// Its host and port.
        address: String,
    },
    /// More than [`MAX_PRIMARIES`](crate::limits::MAX_PRIMARIES).
    #[error(
        "there are {count} servers, and a link names {MAX_PRIMARIES} at the most: \
         kwik://FINGERPRINT@HOST:PORT,FINGERPRINT@HOST:PORT/NAME"
    )]
    TooManyServers {
        /// How many there are.
        count: usize,
    },
    /// The name is not percent-encoded.
    #[error(
        "in a link the name is percent-encoded: a space is %20, `#` is %23, `%` is %25, \
         `?` is %3F: kwik://FINGERPRINT@HOST:PORT/a%20name"
    )]
    Encoding,
    /// The decoded name is not allowed.
    #[error("{0}: kwik://FINGERPRINT@HOST:PORT/folder/name")]
    Name(#[from] InvalidName),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn forms_round_trip() {
        for link in [
            &format!("kwik://{PIN}@example.org:4433/a/b%20c.iso"),
            &format!("kwik://{PIN}@[2001:db8::1]:1"),
            &format!("kwik://{PIN}@[fe80::1%eth0.7]:1/x"),
            "kwik://192.0.2.7:65535/%C3%BC%23%3F%25",
            "kwik://192.0.2.7:65535/%FF%5C%0A",
            "kwik://localhost:4433",
            &format!("kwik://{PIN}:0123456789abcdef@h:1/x"),
            &format!("kwik://{PIN}:t.AbC-_9@[::1]:1"),
        ] {
            assert_eq!(link.parse::<Link>().unwrap().to_string(), *link);
        }
        let link: Link = format!("kwik://{PIN}@[::1]:4433/x%2Fy").parse().unwrap();
        assert_eq!((&*link.host, link.port), ("::1", 4433));
        assert_eq!(link.name.unwrap().to_str(), Some("x/y"));
        assert_eq!(link.fingerprint.unwrap().to_string(), PIN);
        assert_eq!("kwik://h:1/".parse::<Link>().unwrap().name, None);
    }

    #[test]
    fn each_mistake_has_its_error() {
        use InvalidLink::*;
        for (link, error) in [
            ("https://h:1/x", Scheme),
            ("kwik://abc@h:1/x", Fingerprint),
            ("kwik://abc:0123456789abcdef@h:1/x", Fingerprint),
            (&*format!("kwik://{PIN}:short@h:1/x"), Pass(InvalidPass)),
            (&*format!("kwik://{PIN}:@h:1/x"), Pass(InvalidPass)),
            ("kwik://:1/x", Host),
            ("kwik://a b:1/x", Host),
            ("kwik://300.1.1.1:1/x", Host),
            ("kwik://[1.2.3.4]:1/x", Host),
            ("kwik://[::1%eth0]:1/x", Host),
            ("kwik://[fe80::1%]:1/x", Host),
            ("kwik://[fe80::1%a/b]:1/x", Host),
            ("kwik://[::1:1/x", Host),
            ("kwik://2001:db8::1/x", Brackets),
            ("kwik://2001:db8::g:1/x", Brackets),
            ("kwik://h/x", NoPort),
            ("kwik://h:/x", NoPort),
            ("kwik://[::1]/x", NoPort),
            ("kwik://h:0/x", Port),
            ("kwik://h:+1/x", Port),
            ("kwik://h:65536/x", Port),
            ("kwik://h:1/x?y", Encoding),
            ("kwik://h:1/x#y", Encoding),
            ("kwik://h:1/100%", Encoding),
            ("kwik://h:1/%zz", Encoding),
            ("kwik://h:1//x", Name(InvalidName::Absolute)),
            ("kwik://h:1/%2e%2e/x", Name(InvalidName::DotSegment)),
            ("kwik://h:1/a%00", Name(InvalidName::Null)),
        ] {
            assert_eq!(link.parse::<Link>(), Err(error.clone()), "{link}");
            assert!(error.to_string().contains("kwik://FINGERPRINT"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_name_round_trips(name in any::<Vec<u8>>(), pin in any::<Option<[u8; 32]>>()) {
            let Ok(name) = ObjectName::new(&name) else { return Ok(()) };
            let link = Link {
                fingerprint: pin.map(Fingerprint),
                pass: None,
                host: "h".into(),
                port: 1,
                name: Some(name),
            };
            prop_assert_eq!(link.to_string().parse(), Ok(link));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "(kwik://)?[a-z0-9@:/%\\[\\].]{0,40}|\\PC*") {
            if let Ok(link) = text.parse::<Link>() {
                prop_assert_eq!(link.to_string().parse(), Ok(link));
            }
        }
    }
}
