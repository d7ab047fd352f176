//! Links that name several servers.

use std::{fmt, str::FromStr};

use crate::{InvalidLink, Link, ObjectName, limits::MAX_PRIMARIES};

/// `kwik://FINGERPRINT@HOST:PORT,FINGERPRINT@HOST:PORT/NAME`: an object that several servers have,
/// the first choice first; without NAME, the servers. Each server of several has its key, and what
/// lets its holder in there: that is told to this server alone.
///
/// ```
/// use kwik_delivery::Primaries;
///
/// let pins = ["ab".repeat(32), "cd".repeat(32)];
/// let link = format!("kwik://{}@a.example:4433,{}@b.example:4433/x", pins[0], pins[1]);
/// let primaries: Primaries = link.parse()?;
/// assert_eq!(primaries.servers()[1].host, "b.example");
/// assert_eq!(primaries.to_string(), link);
/// # Ok::<_, kwik_delivery::InvalidLink>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Primaries {
    /// Never empty; without names.
    servers: Vec<Link>,
    name: Option<ObjectName>,
}

impl Primaries {
    /// The server of a link, or its object there, and others that have the same.
    ///
    /// # Errors
    /// There are more than [`MAX_PRIMARIES`], two are the same, or one of several has no key.
    pub fn new(first: &Link, others: &[Link]) -> Result<Self, InvalidLink> {
        let name = first.name.clone();
        let all = [first].into_iter().chain(others);
        let servers: Vec<_> = all.map(|link| Link { name: None, ..link.clone() }).collect();
        if servers.len() > MAX_PRIMARIES {
            return Err(InvalidLink::TooManyServers { count: servers.len() });
        }
        if servers.len() > 1 && servers.iter().any(|link| link.fingerprint.is_none()) {
            return Err(InvalidLink::Unpinned);
        }
        let twice = servers.iter().enumerate().find(|(at, link)| {
            servers[..*at]
                .iter()
                .any(|other| other.port == link.port && other.host.eq_ignore_ascii_case(&link.host))
        });
        if let Some((_, twice)) = twice {
            return Err(InvalidLink::Twice { address: twice.address() });
        }
        Ok(Self { servers, name })
    }

    /// The servers, the first choice first: links without names.
    #[must_use]
    pub fn servers(&self) -> &[Link] {
        &self.servers
    }

    /// The object, unless the link is the servers' own.
    #[must_use]
    pub fn name(&self) -> Option<&ObjectName> {
        self.name.as_ref()
    }
}

impl fmt::Display for Primaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Link::SCHEME)?;
        for (at, server) in self.servers.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{}", server.to_string().trim_start_matches(Link::SCHEME))?;
        }
        self.name.iter().try_for_each(|name| write!(f, "/{}", name.in_link()))
    }
}

impl FromStr for Primaries {
    type Err = InvalidLink;
    fn from_str(link: &str) -> Result<Self, InvalidLink> {
        let rest = link.strip_prefix(Link::SCHEME).ok_or(InvalidLink::Scheme)?;
        // No part of a server has a comma, and a name may have them.
        let (servers, name) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let count = servers.split(',').count();
        if count > MAX_PRIMARIES {
            return Err(InvalidLink::TooManyServers { count });
        }
        if count > 1 && servers.split(',').any(str::is_empty) {
            return Err(InvalidLink::NoServer);
        }
        let mut servers = servers.split(',');
        let first = servers.next().unwrap_or_default();
        let first: Link = format!("{}{first}{name}", Link::SCHEME).parse()?;
        let others = servers.map(|server| format!("{}{server}", Link::SCHEME).parse());
        let others = others.collect::<Result<Vec<_>, _>>()?;
        Self::new(&first, &others)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const B: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    #[test]
    fn forms_round_trip() {
        for (link, servers) in [
            ("kwik://h:1/x".to_owned(), 1),
            (format!("kwik://{A}@h:1"), 1),
            (format!("kwik://{A}@h:1/a%2Cb"), 1),
            (format!("kwik://{A}@h:1,{B}@h:2/x%20y"), 2),
            (format!("kwik://{A}@h:1,{A}@[2001:db8::1]:1"), 2),
            (format!("kwik://{A}:0123456789abcdef@h:1,{B}:t.AbC-_9@i:1,{B}@[::1]:2/x"), 3),
        ] {
            let parsed: Primaries = link.parse().unwrap();
            assert_eq!((parsed.to_string(), parsed.servers().len()), (link.clone(), servers));
            assert!(parsed.servers().iter().all(|server| server.name.is_none()), "{link}");
        }
        // Of a name a comma is nothing special.
        let one: Primaries = format!("kwik://{A}@h:1/a,b").parse().unwrap();
        assert_eq!((one.servers().len(), one.name().unwrap().to_str()), (1, Some("a,b")));
    }

    #[test]
    fn each_mistake_has_its_error() {
        use InvalidLink::*;
        let many: Vec<_> = (1..=9).map(|port| format!("{A}@h:{port}")).collect();
        for (link, error) in [
            ("https://h:1,i:2/x".to_owned(), Scheme),
            ("kwik://h:1,i:2/x".into(), Unpinned),
            (format!("kwik://{A}@h:1,i:2/x"), Unpinned),
            (format!("kwik://h:1,{B}@i:2/x"), Unpinned),
            (format!("kwik://{A}@h:1,/x"), NoServer),
            (format!("kwik://{A}@h:1,,{B}@i:2/x"), NoServer),
            (format!("kwik://,{A}@h:1/x"), NoServer),
            (format!("kwik://{A}@h:1,{B}@i/x"), NoPort),
            (format!("kwik://{A}@h:1,{B}@i:0/x"), Port),
            (format!("kwik://{A}@h:1,cd@i:2/x"), Fingerprint),
            (format!("kwik://{A}@h:1, {B}@i:2/x"), Fingerprint),
            (format!("kwik://{A}@h:1,{B}:no@i:2/x"), Pass(crate::InvalidPass)),
            (format!("kwik://{A}@h:1,{B}@H:1/x"), Twice { address: "H:1".into() }),
            (format!("kwik://{}/x", many.join(",")), TooManyServers { count: 9 }),
            (format!("kwik://{A}@h:1,{B}@i:2/x?"), Encoding),
        ] {
            assert_eq!(link.parse::<Primaries>(), Err(error.clone()), "{link}");
            assert!(error.to_string().contains("kwik://FINGERPRINT"), "{error}");
        }
        // One server is asked for, and it says what is wrong with two.
        assert_eq!(format!("kwik://{A}@h:1,{B}@i:2/x").parse::<Link>(), Err(SeveralServers));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(kwik://)?[a-z0-9@:/%,.\\[\\]]{0,40}|\\PC*") {
            if let Ok(link) = text.parse::<Primaries>() {
                prop_assert_eq!(link.to_string().parse(), Ok(link));
            }
        }
    }
}
