//! Where a client lets its primary send it.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use crate::limits::{DIAL_PERIOD, MAX_DIALS, UNDIALED_PORTS};

/// Whether a primary may name addresses in private ranges: RFC 1918, `fc00::/7` (RFC 4193) and
/// `fec0::/10` before it, the shared `100.64.0.0/10` (RFC 6598), labs' `198.18.0.0/15` (RFC 2544).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivateRanges {
    /// Any primary may.
    Allow,
    /// None may.
    Deny,
    /// One may whose own address is private or loopback.
    #[default]
    IfPrimaryPrivate,
}

/// Which addresses of secondaries a client dials (2.2). A primary is trusted with the session, not
/// with the client's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DialPolicy {
    /// What holds for private ranges.
    pub private: PrivateRanges,
}

impl DialPolicy {
    /// The address to dial for `target`, when the primary is at `primary`: IPv4-mapped addresses
    /// become IPv4, scope and flow label are dropped.
    ///
    /// # Errors
    /// Why it is not dialed.
    pub fn check(&self, target: SocketAddr, primary: IpAddr) -> Result<SocketAddr, DialError> {
        let ip = target.ip().to_canonical();
        if target.port() == 0 {
            return Err(DialError::PortZero(ip));
        }
        if UNDIALED_PORTS.contains(&target.port()) {
            return Err(DialError::Service(target.port()));
        }
        self.check_host(ip, Some(primary.to_canonical()))?;
        // Who sends to such an address sends to the one in it: the gateway, or the kernel, unpacks
        // it. The range in it has to be public, whoever the primary is (RFC 6052 section 3.1).
        if let Some(inner) = embedded(ip) {
            self.check_host(inner.into(), None).map_err(|_| DialError::Embedded(ip))?;
        }
        Ok(SocketAddr::new(ip, target.port()))
    }

    /// Checks an address alone. `primary` is none where only public addresses will do.
    fn check_host(self, ip: IpAddr, primary: Option<IpAddr>) -> Result<(), DialError> {
        if ip.is_unspecified() {
            return Err(DialError::Unspecified(ip));
        }
        if ip.is_multicast() {
            return Err(DialError::Multicast(ip));
        }
        if matches!(ip, IpAddr::V4(ip) if ip.is_broadcast()) {
            return Err(DialError::Broadcast(ip));
        }
        if is_link_local(ip) {
            return Err(DialError::LinkLocal(ip));
        }
        if ip.is_loopback() {
            let allowed = primary.is_some_and(|primary| primary.is_loopback());
            return if allowed { Ok(()) } else { Err(DialError::Loopback(ip)) };
        }
        if is_private(ip) {
            let allowed = primary.is_some_and(|primary| self.allows_private(primary));
            return if allowed { Ok(()) } else { Err(DialError::Private(ip)) };
        }
        if is_reserved(ip) {
            return Err(DialError::Reserved(ip));
        }
        Ok(())
    }

    fn allows_private(self, primary: IpAddr) -> bool {
        match self.private {
            PrivateRanges::Allow => true,
            PrivateRanges::Deny => false,
            PrivateRanges::IfPrimaryPrivate => is_private(primary) || primary.is_loopback(),
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [100, second, ..] => second & 0xc0 == 64,
            // Networks of test labs (RFC 2544).
            [198, 18..=19, ..] => true,
            _ => ip.is_private(),
        },
        // `fec0::/10` is what `fc00::/7` took the place of (RFC 3879).
        IpAddr::V6(ip) => ip.is_unique_local() || ip.segments()[0] & 0xffc0 == 0xfec0,
    }
}

/// Ranges that no server has its address in, and that a host or a gateway may treat in its own way.
/// Documentation ranges are not among them: nothing answers there, so that they lead nowhere.
fn is_reserved(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(
            ip.octets(),
            // This network and future use; IETF protocols; relays of 6to4.
            [0 | 240..=255, ..] | [192, 0, 0, _] | [192, 88, 99, _]
        ),
        IpAddr::V6(ip) => match ip.segments() {
            // NAT64 by the prefix that all know.
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => false,
            // IETF protocols: Teredo, benchmarks, ORCHID. Further ones are no hosts either.
            [0x2001, 0..=0x1ff, ..] => true,
            // No other range has been given to hosts: not `::/96` (which holds IPv4 addresses),
            // `64:ff9b:1::/48` (NAT64 of one network), `100::/64` (a black hole).
            [first, ..] => first & 0xe000 != 0x2000,
        },
    }
}

/// The IPv4 address that an IPv6 address stands for: NAT64 (RFC 6052), 6to4 (RFC 3056), ISATAP
/// (RFC 5214).
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let joined = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(joined(high, low)),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(joined(high, low)),
        _ => None,
    }
}

/// Why an address is not dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No port.
    #[error("port 0 of {0} cannot be dialed: name the port that the secondary listens on")]
    PortZero(IpAddr),
    /// A port of a service that is no secondary ([`UNDIALED_PORTS`]).
    #[error("port {0} is of another service: let the secondary listen on another port")]
    Service(u16),
    /// `0.0.0.0` or `::`.
    #[error("{0} names no host: name the address that clients reach the secondary at")]
    Unspecified(IpAddr),
    /// A group of hosts.
    #[error("{0} is a multicast address: name one host")]
    Multicast(IpAddr),
    /// All hosts.
    #[error("{0} is the broadcast address: name one host")]
    Broadcast(IpAddr),
    /// `169.254.0.0/16` or `fe80::/10`.
    #[error("{0} is link-local: name an address that is valid beyond one link")]
    LinkLocal(IpAddr),
    /// The client's own host.
    #[error("{0} is loopback, which only a primary on loopback may name")]
    Loopback(IpAddr),
    /// A private range.
    #[error("{0} is private, which this client's dial policy does not let this primary name")]
    Private(IpAddr),
    /// A range that is no host's.
    #[error("{0} is of a reserved range: name a unicast address of the secondary's host")]
    Reserved(IpAddr),
    /// An IPv6 address that stands for an IPv4 address that is not public.
    #[error("{0} stands for an IPv4 address that is not public: name that address itself")]
    Embedded(IpAddr),
}

/// Admits [`MAX_DIALS`] dials in any [`DIAL_PERIOD`].
#[derive(Debug, Clone, Default)]
pub struct DialLimiter {
    recent: VecDeque<Instant>,
}

impl DialLimiter {
    /// Counts a dial at `now`.
    ///
    /// # Errors
    /// When the next one is allowed; nothing was counted.
    pub fn try_dial(&mut self, now: Instant) -> Result<(), Instant> {
        if self.recent.len() >= MAX_DIALS {
            let free = self.recent[0] + DIAL_PERIOD;
            if now < free {
                return Err(free);
            }
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PUBLIC: &str = "192.0.2.1";

    fn check(private: PrivateRanges, target: &str, primary: &str) -> Result<String, DialError> {
        let policy = DialPolicy { private };
        let checked = policy.check(target.parse().unwrap(), primary.parse().unwrap());
        checked.map(|address| address.to_string())
    }

    fn default(target: &str, primary: &str) -> Result<String, DialError> {
        check(PrivateRanges::default(), target, primary)
    }

    /// Targets, and whether a primary that is public, private and on loopback may name them.
    const TARGETS: &[(&str, [bool; 3])] = &[
        // Public, or leading nowhere.
        ("1.1.1.1", [true; 3]),
        ("100.63.255.255", [true; 3]),
        ("100.128.0.1", [true; 3]),
        ("172.15.255.255", [true; 3]),
        ("172.32.0.1", [true; 3]),
        ("192.0.1.1", [true; 3]),
        ("192.0.2.1", [true; 3]),
        ("198.17.255.255", [true; 3]),
        ("198.20.0.1", [true; 3]),
        ("198.51.100.7", [true; 3]),
        ("203.0.113.1", [true; 3]),
        ("223.255.255.254", [true; 3]),
        ("2001:db8::1", [true; 3]),
        ("2001:200::1", [true; 3]),
        ("2606:4700::1111", [true; 3]),
        ("3fff:ffff::1", [true; 3]),
        ("::ffff:198.51.100.7", [true; 3]),
        ("64:ff9b::198.51.100.7", [true; 3]),
        ("2002:c633:6407::1", [true; 3]),
        ("2001:db8::5efe:198.51.100.7", [true; 3]),
        // Loopback.
        ("127.0.0.1", [false, false, true]),
        ("127.255.255.254", [false, false, true]),
        ("::1", [false, false, true]),
        ("::ffff:127.0.0.1", [false, false, true]),
        // Private.
        ("10.0.0.1", [false, true, true]),
        ("100.64.0.1", [false, true, true]),
        ("100.127.255.255", [false, true, true]),
        ("172.16.0.1", [false, true, true]),
        ("172.31.255.255", [false, true, true]),
        ("192.168.1.1", [false, true, true]),
        ("198.18.0.1", [false, true, true]),
        ("198.19.255.255", [false, true, true]),
        ("fc00::1", [false, true, true]),
        ("fd00:ec2::254", [false, true, true]),
        ("fec0::1", [false, true, true]),
        ("feff::1", [false, true, true]),
        ("::ffff:10.0.0.1", [false, true, true]),
        // IPv6 that stands for IPv4: loopback, private, metadata, this network, multicast.
        ("64:ff9b::127.0.0.1", [false; 3]),
        ("64:ff9b::10.0.0.1", [false; 3]),
        ("64:ff9b::192.168.1.1", [false; 3]),
        ("64:ff9b::169.254.169.254", [false; 3]),
        ("64:ff9b::0.0.0.0", [false; 3]),
        ("64:ff9b::224.0.0.1", [false; 3]),
        ("64:ff9b::240.0.0.1", [false; 3]),
        ("64:ff9b:1::10.0.0.1", [false; 3]),
        ("64:ff9b:1::198.51.100.7", [false; 3]),
        ("64:ff9b:1:ffff:ffff:ffff:127.0.0.1", [false; 3]),
        ("2002:7f00:1::1", [false; 3]),
        ("2002:a00:1::1", [false; 3]),
        ("2002:c0a8:101::1", [false; 3]),
        ("2002:a9fe:a9fe::1", [false; 3]),
        ("2001:db8::5efe:127.0.0.1", [false; 3]),
        ("2001:db8::200:5efe:10.0.0.1", [false; 3]),
        ("2001::1", [false; 3]),
        ("2001:0:c633:6407:0:ffff:80ff:fffe", [false; 3]),
        ("::127.0.0.1", [false; 3]),
        ("::10.0.0.1", [false; 3]),
        ("::198.51.100.7", [false; 3]),
        ("::ffff:0:127.0.0.1", [false; 3]),
        ("::2", [false; 3]),
        // Unspecified and this network.
        ("0.0.0.0", [false; 3]),
        ("0.0.0.1", [false; 3]),
        ("0.255.255.255", [false; 3]),
        ("::", [false; 3]),
        ("::ffff:0.0.0.0", [false; 3]),
        // Link-local, metadata services among them.
        ("169.254.169.254", [false; 3]),
        ("169.254.0.1", [false; 3]),
        ("fe80::1", [false; 3]),
        ("febf::1", [false; 3]),
        ("::ffff:169.254.169.254", [false; 3]),
        // Groups.
        ("224.0.0.1", [false; 3]),
        ("239.255.255.255", [false; 3]),
        ("255.255.255.255", [false; 3]),
        ("ff02::1", [false; 3]),
        ("ff0e::1", [false; 3]),
        // Reserved.
        ("192.0.0.1", [false; 3]),
        ("192.0.0.192", [false; 3]),
        ("192.88.99.1", [false; 3]),
        ("240.0.0.1", [false; 3]),
        ("255.255.255.254", [false; 3]),
        ("100::1", [false; 3]),
        ("2001:2::1", [false; 3]),
        ("2001:20::1", [false; 3]),
        ("4000::1", [false; 3]),
        ("5f00::1", [false; 3]),
        ("e000::1", [false; 3]),
    ];

    #[test]
    fn targets_are_dialed_by_range() {
        for (target, expected) in TARGETS {
            let ip: IpAddr = target.parse().unwrap();
            let primaries =
                [[PUBLIC, "2001:db8::9"], ["10.0.0.9", "fd00::9"], ["127.0.0.1", "::1"]];
            for (primaries, expected) in primaries.iter().zip(expected) {
                for primary in primaries {
                    let address = SocketAddr::new(ip, 443).to_string();
                    let checked = default(&address, primary);
                    assert_eq!(checked.is_ok(), *expected, "{target} by {primary}: {checked:?}");
                    let zero = SocketAddr::new(ip, 0).to_string();
                    let zero = check(PrivateRanges::Allow, &zero, primary);
                    assert_eq!(zero, Err(DialError::PortZero(ip.to_canonical())));
                }
            }
        }
    }

    #[test]
    fn what_no_primary_may_name_is_refused_whatever_the_setting() {
        for (target, _) in TARGETS.iter().filter(|(_, expected)| *expected == [false; 3]) {
            let address = SocketAddr::new(target.parse().unwrap(), 443).to_string();
            for primary in [PUBLIC, "10.0.0.1", "127.0.0.1", "fe80::2"] {
                assert!(check(PrivateRanges::Allow, &address, primary).is_err(), "{target}");
            }
        }
    }

    #[test]
    fn mapped_addresses_are_unmapped_before_they_are_judged() {
        assert_eq!(default("[::ffff:198.51.100.7]:1", PUBLIC).unwrap(), "198.51.100.7:1");
        assert!(matches!(default("[::ffff:127.0.0.1]:1", PUBLIC), Err(DialError::Loopback(_))));
        assert!(matches!(default("[::ffff:10.0.0.1]:1", PUBLIC), Err(DialError::Private(_))));
        assert!(default("10.0.0.1:1", "::ffff:10.0.0.2").is_ok());
    }

    #[test]
    fn some_addresses_are_never_dialed() {
        type Kind = fn(IpAddr) -> DialError;
        let cases: [(&str, Kind); 11] = [
            ("198.51.100.7:0", DialError::PortZero),
            ("0.0.0.0:1", DialError::Unspecified),
            ("[::]:1", DialError::Unspecified),
            ("[::ffff:0.0.0.0]:1", DialError::Unspecified),
            ("224.0.0.1:1", DialError::Multicast),
            ("239.255.255.255:1", DialError::Multicast),
            ("[ff02::1]:1", DialError::Multicast),
            ("255.255.255.255:1", DialError::Broadcast),
            ("169.254.169.254:1", DialError::LinkLocal),
            ("[fe80::1]:1", DialError::LinkLocal),
            ("[febf::1]:1", DialError::LinkLocal),
        ];
        for (target, kind) in cases {
            let ip = target.parse::<SocketAddr>().unwrap().ip().to_canonical();
            for primary in [PUBLIC, "127.0.0.1", "10.0.0.1", "fe80::2"] {
                assert_eq!(check(PrivateRanges::Allow, target, primary), Err(kind(ip)));
            }
        }
    }

    #[test]
    fn ports_of_services_that_answer_anybody_are_never_dialed() {
        for port in UNDIALED_PORTS {
            for host in ["198.51.100.7", "127.0.0.1", "[2001:db8::1]"] {
                let refused = check(PrivateRanges::Allow, &format!("{host}:{port}"), "127.0.0.1");
                assert_eq!(refused, Err(DialError::Service(port)), "{host}");
            }
        }
        for port in [1, 54, 443, 4433, u16::MAX] {
            assert!(default(&format!("198.51.100.7:{port}"), PUBLIC).is_ok(), "{port}");
        }
    }

    #[test]
    fn loopback_needs_a_primary_on_loopback() {
        for target in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
            for primary in [PUBLIC, "10.0.0.1", "fd00::1"] {
                let refused = check(PrivateRanges::Allow, target, primary);
                assert!(matches!(refused, Err(DialError::Loopback(_))));
            }
            assert!(default(target, "127.0.0.1").is_ok());
            assert!(default(target, "::1").is_ok());
        }
    }

    #[test]
    fn private_ranges_follow_the_setting() {
        let targets = [
            "10.0.0.1:1",
            "172.16.0.1:1",
            "172.31.255.255:1",
            "192.168.1.1:1",
            "100.64.0.1:1",
            "100.127.255.255:1",
            "[fc00::1]:1",
            "[fd12::1]:1",
        ];
        for target in targets {
            assert!(matches!(default(target, PUBLIC), Err(DialError::Private(_))), "{target}");
            for primary in ["10.1.1.1", "fd00::1", "100.64.0.9", "127.0.0.1"] {
                assert!(default(target, primary).is_ok(), "{target} {primary}");
                assert!(check(PrivateRanges::Deny, target, primary).is_err());
            }
            assert!(check(PrivateRanges::Allow, target, PUBLIC).is_ok());
        }
    }

    #[test]
    fn scope_and_flow_are_dropped() {
        assert_eq!(default("[2001:db8::1%3]:1", PUBLIC).unwrap(), "[2001:db8::1]:1");
    }

    // The one clock of these tests is its start: all else is arithmetic.
    #[test]
    #[allow(clippy::disallowed_methods)]
    fn dials_are_limited_over_a_sliding_period() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limiter = DialLimiter::default();
        for second in [0, 1, 2, 3] {
            assert_eq!(limiter.try_dial(at(second)), Ok(()));
        }
        assert_eq!(limiter.try_dial(at(4)), Err(at(10)));
        assert_eq!(limiter.try_dial(at(9)), Err(at(10)));
        assert_eq!(limiter.try_dial(at(10)), Ok(()));
        assert_eq!(limiter.try_dial(at(10)), Err(at(11)));
        assert_eq!(limiter.try_dial(at(30)), Ok(()));
        assert!(limiter.recent.len() <= MAX_DIALS);
    }
}
