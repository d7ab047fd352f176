//! The servers that a get may go on with: the one of its link, and those that a server names.

use std::net::IpAddr;

use kwik_delivery::Link;

use crate::{args::ObjectLink, connect};

/// Servers of one get: more than anybody restarts while a file comes, and few enough that a server
/// that names others without an end leads nowhere.
const MAX_STOPS: usize = 16;

/// The servers, of which one is gone on with at a time.
#[derive(Debug)]
pub(crate) struct Route {
    /// The link's own is the first.
    stops: Vec<Stop>,
    at: usize,
}

#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) link: ObjectLink,
    /// Where the server is that named it, if one did.
    pub(crate) named_by: Option<IpAddr>,
    /// Since something came last.
    tried: bool,
    /// Nothing is to be had there.
    useless: bool,
}

impl Stop {
    /// Its host and port.
    pub(crate) fn server(&self) -> String {
        connect::server(&self.link.host, self.link.port)
    }
}

impl Route {
    pub(crate) fn new(link: &ObjectLink) -> Self {
        let stop = Stop { link: link.clone(), named_by: None, tried: false, useless: false };
        Self { stops: vec![stop], at: 0 }
    }

    /// Where it is.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stops[self.at]
    }

    /// The server that is gone on with names others, which come next. It is at `named_by`.
    pub(crate) fn learn(&mut self, successors: &[Link], named_by: IpAddr) {
        let first = self.stops[0].link.clone();
        let mut place = self.at + 1;
        for link in successors {
            let place_of = |host: &str, port| (host.to_ascii_lowercase(), port);
            let known = self.stops.iter().any(|stop| {
                let same = stop.link.fingerprint.is_none_or(|pin| Some(pin) == link.fingerprint);
                same && place_of(&stop.link.host, stop.link.port) == place_of(&link.host, link.port)
            });
            if known || self.stops.len() >= MAX_STOPS {
                continue;
            }
            let link = ObjectLink {
                fingerprint: link.fingerprint,
                // Servers that serve the same may ask for the same secret. Who names this one knows
                // it already.
                pass: link.pass.clone().or_else(|| first.pass.clone()),
                host: link.host.clone(),
                port: link.port,
                name: first.name.clone(),
            };
            let named_by = Some(named_by);
            self.stops.insert(place, Stop { link, named_by, tried: false, useless: false });
            place += 1;
        }
    }

    /// Something came: all may be tried again.
    pub(crate) fn on_progress(&mut self) {
        self.stops.iter_mut().for_each(|stop| stop.tried = false);
    }

    /// Nothing is to be had here, as long as this get lasts: false of the link's own server, which
    /// has the last word.
    pub(crate) fn rule_out(&mut self) -> bool {
        let stop = &mut self.stops[self.at];
        stop.useless = stop.named_by.is_some();
        stop.useless
    }

    /// Whether there is another one that was not tried since something came.
    pub(crate) fn has_other(&self) -> bool {
        self.next().is_some()
    }

    fn next(&self) -> Option<usize> {
        let count = self.stops.len();
        let others = (1..count).map(|step| (self.at + step) % count);
        others.into_iter().find(|at| !self.stops[*at].tried && !self.stops[*at].useless)
    }

    /// Goes to the next one. False when all were tried, so that it is time to wait.
    pub(crate) fn advance(&mut self) -> bool {
        self.stops[self.at].tried = true;
        let found = self.next();
        self.at = found.unwrap_or_else(|| {
            self.on_progress();
            let here = !self.stops[self.at].useless;
            self.next().or(here.then_some(self.at)).unwrap_or(0)
        });
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn link(host: &str) -> Link {
        format!("kwik://{}@{host}:1", "ab".repeat(32)).parse().unwrap()
    }

    fn route(host: &str) -> Route {
        Route::new(&format!("{}/x", link(host)).parse().unwrap())
    }

    fn at(route: &Route) -> &str {
        &route.stop().link.host
    }

    #[test]
    fn all_are_tried_in_turn_before_it_waits() {
        let mut route = route("a");
        assert!(!route.has_other() && !route.advance());
        assert_eq!(at(&route), "a");
        route.learn(&[link("b"), link("c"), link("A")], BY);
        for (goes, host) in [(true, "b"), (true, "c"), (false, "a"), (true, "b")] {
            assert_eq!((route.advance(), at(&route)), (goes, host));
        }
        // What this one names comes before what others named.
        route.learn(&[link("d"), link("a")], BY);
        route.on_progress();
        for (goes, host) in [(true, "d"), (true, "c"), (true, "a"), (false, "b")] {
            assert_eq!((route.advance(), at(&route)), (goes, host));
        }
    }

    #[test]
    fn who_is_of_no_use_is_not_tried_again_but_for_the_first() {
        let mut route = route("a");
        route.learn(&[link("b")], BY);
        assert!(!route.rule_out() && route.advance() && route.rule_out());
        for _ in 0..3 {
            assert!(!route.advance());
            assert_eq!(at(&route), "a");
        }
        assert!(!route.has_other());
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let mut route = route("a");
        for number in 0..100 {
            route.learn(&[link(&format!("b{number}"))], BY);
            route.advance();
        }
        assert_eq!(route.stops.len(), MAX_STOPS);
    }

    #[test]
    fn a_successor_without_a_secret_of_its_own_is_shown_the_links() {
        let secret = |link: &str| link.replace('@', ":0123456789abcdef@");
        let mut route = Route::new(&secret(&format!("{}/x", link("a"))).parse().unwrap());
        let own = link("c").to_string().replace('@', ":fedcba9876543210@");
        route.learn(&[link("b"), own.parse().unwrap()], BY);
        for pass in ["0123456789abcdef", "fedcba9876543210"] {
            assert!(route.advance());
            assert_eq!(route.stop().link.pass.as_ref().unwrap().as_str(), pass);
        }
    }
}
