//! The servers that a get may go on with: the one of its link, and those that a server names.

use std::net::IpAddr;

use kwik_delivery::Link;

use crate::{connect, failure::Failure, options::ObjectLink};

/// Servers of one get: more than anybody restarts while a file comes, and few enough that a server
/// that names others without an end leads nowhere.
const MAX_STOPS: usize = 16;

/// The servers, of which one is gone on with at a time.
#[derive(Debug)]
pub(crate) struct Route {
    /// The link's own are the first.
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
    /// There was a session with it.
    answered: bool,
    /// Nothing is to be had there.
    useless: bool,
    /// Why it was left last, since something came.
    failure: Option<Failure>,
}

impl Stop {
    fn new(link: ObjectLink, named_by: Option<IpAddr>) -> Self {
        Self { link, named_by, tried: false, answered: false, useless: false, failure: None }
    }

    /// Its host and port.
    pub(crate) fn server(&self) -> String {
        connect::server(&self.link.host, self.link.port)
    }
}

impl Route {
    pub(crate) fn new(link: &ObjectLink) -> Self {
        let others = link.others.iter().map(|other| link.at(other));
        let links = [link.clone()].into_iter().chain(others);
        Self { stops: links.map(|link| Stop::new(link, None)).collect(), at: 0 }
    }

    /// Where it is.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stops[self.at]
    }

    /// The server that is gone on with names others, which come next. It is at `named_by`.
    pub(crate) fn learn(&mut self, successors: &[Link], named_by: IpAddr) {
        let namer = self.stop().link.clone();
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
            let mut link = namer.at(link);
            // Servers that serve the same may ask for the same secret. Who names this one knows it
            // already.
            link.pass = link.pass.or_else(|| namer.pass.clone());
            self.stops.insert(place, Stop::new(link, Some(named_by)));
            place += 1;
        }
    }

    /// There is a session with it.
    pub(crate) fn on_answered(&mut self) {
        self.stops[self.at].answered = true;
    }

    /// Whether there was one with a server that may be of use.
    pub(crate) fn has_answered(&self) -> bool {
        self.stops.iter().any(|stop| stop.answered && !stop.useless)
    }

    /// Something came: all may be tried again.
    pub(crate) fn on_progress(&mut self) {
        for stop in &mut self.stops {
            (stop.tried, stop.failure) = (false, None);
        }
    }

    /// Whether others may have what this one does not have: of the link's own servers the last one
    /// has the last word.
    pub(crate) fn may_leave(&self) -> bool {
        let is_own = |stop: &Stop| stop.named_by.is_none() && !stop.useless;
        let mut others = self.stops.iter().enumerate().filter(|(at, _)| *at != self.at);
        !is_own(self.stop()) || others.any(|(_, stop)| is_own(stop))
    }

    /// Nothing is to be had here, as long as this get lasts; false if this is the last word.
    pub(crate) fn rule_out(&mut self) -> bool {
        let may_leave = self.may_leave();
        self.stops[self.at].useless = may_leave;
        may_leave
    }

    /// Nothing more comes from here for now: why.
    pub(crate) fn note_failure(&mut self, failure: &Failure) {
        self.stops[self.at].failure = Some(failure.clone());
    }

    /// Whether one of those that failed may do better a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        self.stops.iter().filter_map(|stop| stop.failure.as_ref()).any(|failure| failure.passing)
    }

    /// Why it ends with this failure: of several servers that failed, all of them.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let failed = |stop: &Stop| {
            let (server, reason) = (stop.server(), stop.failure.as_ref()?.reason());
            Some(if reason.contains(&server) { reason } else { format!("{server}: {reason}") })
        };
        let failed: Vec<_> = self.stops.iter().filter_map(failed).collect();
        if failed.len() < 2 {
            return failure;
        }
        let message = format!("none of {} servers serves: {}", failed.len(), failed.join("; "));
        Failure { message, ..failure }
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
            self.stops.iter_mut().for_each(|stop| stop.tried = false);
            let here = !self.stops[self.at].useless;
            self.next().or(here.then_some(self.at)).unwrap_or(0)
        });
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    const BY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn link_to(host: &str) -> Link {
        format!("kwik://{}@{host}:1", "ab".repeat(32)).parse().unwrap()
    }

    fn route(host: &str) -> Route {
        Route::new(&format!("{}/x", link_to(host)).parse().unwrap())
    }

    fn at(route: &Route) -> &str {
        &route.stop().link.host
    }

    #[test]
    fn all_are_tried_in_turn_before_it_waits() {
        let mut route = route("a");
        assert!(!route.has_other() && !route.advance());
        assert_eq!(at(&route), "a");
        route.learn(&[link_to("b"), link_to("c"), link_to("A")], BY);
        for (goes, host) in [(true, "b"), (true, "c"), (false, "a"), (true, "b")] {
            assert_eq!((route.advance(), at(&route)), (goes, host));
        }
        // What this one names comes before what others named.
        route.learn(&[link_to("d"), link_to("a")], BY);
        route.on_progress();
        for (goes, host) in [(true, "d"), (true, "c"), (true, "a"), (false, "b")] {
            assert_eq!((route.advance(), at(&route)), (goes, host));
        }
    }

    #[test]
    fn who_is_of_no_use_is_not_tried_again_but_for_the_first() {
        let mut route = route("a");
        route.learn(&[link_to("b")], BY);
        assert!(!route.rule_out() && route.advance() && route.rule_out());
        for _ in 0..3 {
            assert!(!route.advance());
            assert_eq!(at(&route), "a");
        }
        assert!(!route.has_other());
    }

    #[test]
    fn of_the_servers_of_a_link_the_last_one_has_the_last_word() {
        let pin = "ab".repeat(32);
        let link = format!("kwik://{pin}@a:1,{pin}@b:1,{pin}@c:1/x");
        let mut route = Route::new(&link.parse().unwrap());
        route.learn(&[link_to("d"), link_to("B")], BY);
        let fail = |route: &mut Route, message: &str| {
            route.note_failure(&Failure::new(Kind::Network, message));
        };
        // Whom a server names comes next, and it names no server of the link anew.
        for (host, last) in [("a", false), ("d", false), ("b", false), ("c", true)] {
            assert_eq!(at(&route), host);
            fail(&mut route, if host == "d" { "no answer from d:1" } else { "it is gone" });
            assert_eq!(!route.rule_out(), last, "{host}");
            assert_eq!(route.advance(), !last);
        }
        let why = route.explain(Failure::new(Kind::Trust, "the last"));
        assert_eq!(why.kind, Kind::Trust);
        assert_eq!(
            why.message,
            "none of 4 servers serves: a:1: it is gone; no answer from d:1; b:1: it is gone; \
             c:1: it is gone"
        );
        assert!(!route.may_pass());
        route.on_progress();
        assert_eq!(route.explain(Failure::new(Kind::Disk, "full")).message, "full");
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let mut route = route("a");
        for number in 0..100 {
            route.learn(&[link_to(&format!("b{number}"))], BY);
            route.advance();
        }
        assert_eq!(route.stops.len(), MAX_STOPS);
    }

    #[test]
    fn a_successor_without_a_secret_of_its_own_is_shown_the_links() {
        let secret = |link: &str| link.replace('@', ":0123456789abcdef@");
        let mut route = Route::new(&secret(&format!("{}/x", link_to("a"))).parse().unwrap());
        let own = link_to("c").to_string().replace('@', ":fedcba9876543210@");
        route.learn(&[link_to("b"), own.parse().unwrap()], BY);
        for pass in ["0123456789abcdef", "fedcba9876543210"] {
            assert!(route.advance());
            assert_eq!(route.stop().link.pass.as_ref().unwrap().as_str(), pass);
        }
    }
}
