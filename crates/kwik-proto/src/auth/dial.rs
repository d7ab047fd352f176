//! Where a client lets its primary send it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::limits::{DIAL_PERIOD, MAX_DIALS};

/// Whether a primary may name addresses in private ranges: RFC 1918, `fc00::/7` (RFC 4193) and
/// the shared `100.64.0.0/10` (RFC 6598).
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
        let primary = primary.to_canonical();
        if target.port() == 0 {
            return Err(DialError::PortZero(ip));
        }
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
        if ip.is_loopback() && !primary.is_loopback() {
            return Err(DialError::Loopback(ip));
        }
        if is_private(ip) && !self.allows_private(primary) {
            return Err(DialError::Private(ip));
        }
        Ok(SocketAddr::new(ip, target.port()))
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
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private() || first == 100 && second & 0xc0 == 64
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// Why an address is not dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No port.
    #[error("port 0 of {0} cannot be dialed: name the port that the secondary listens on")]
    PortZero(IpAddr),
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

    #[test]
    fn public_addresses_are_dialed() {
        for target in ["198.51.100.7:443", "[2001:db8::1]:443", "100.128.0.1:1", "172.32.0.1:1"] {
            assert_eq!(default(target, PUBLIC).as_deref(), Ok(target));
            assert_eq!(check(PrivateRanges::Deny, target, PUBLIC).as_deref(), Ok(target));
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
