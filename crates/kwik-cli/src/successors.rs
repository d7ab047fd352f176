//! The servers that a server's clients go on with once it has ended.

use kwik_delivery::{Link, Server, limits::MAX_SUCCESSORS};

use crate::{
    connect,
    failure::{Failure, Kind},
    options::{Again, PeerLink},
    say,
    voice::count,
};

/// Those that are configured.
#[derive(Debug)]
pub(crate) struct Successors(Vec<Link>);

impl Successors {
    pub(crate) fn new(given: &[PeerLink]) -> Result<Self, Failure> {
        if given.len() > MAX_SUCCESSORS {
            let message = format!("there are {} successors: name {MAX_SUCCESSORS}", given.len());
            return Err(Failure::new(Kind::Usage, message));
        }
        Ok(Self(given.iter().map(|PeerLink(link)| link.clone()).collect()))
    }

    /// Where clients go on, for people; none when there is nowhere.
    pub(crate) fn first(&self) -> Option<String> {
        self.0.first().map(|link| connect::server(&link.host, link.port))
    }

    pub(crate) fn tell(&self, server: &Server) {
        server.set_successors(self.0.clone());
    }

    /// The configuration file was changed: `again` is what it names now.
    pub(crate) fn reload(&mut self, again: Result<Option<Again>, Failure>, server: &Server) {
        let read = again.and_then(|again| {
            again.map(|again| again.parse().and_then(|links: Vec<_>| Self::new(&links))).transpose()
        });
        match read {
            Ok(Some(read)) if read.0 != self.0 => {
                *self = read;
                self.tell(server);
                say(&format!("kwik: reloaded: {}", count(self.0.len(), "successor")));
            }
            Ok(_) => {}
            Err(failure) => say(&format!("kwik: {failure}: the successors stay as they are")),
        }
    }
}
