//! The servers that a server's clients go on with once it has ended.

use kwik_delivery::{Link, Server, limits::MAX_SUCCESSORS};

use crate::{
    args::PeerLink,
    config, connect,
    failure::{Failure, Kind},
    say,
    serve::count,
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

    /// The configuration file was changed: reads it again.
    pub(crate) fn reload(&mut self, server: &Server) {
        match Self::read_again() {
            Ok(Some(read)) if read.0 != self.0 => {
                *self = read;
                self.tell(server);
                say(&format!("kwik: reloaded: {}", count(self.0.len(), "successor")));
            }
            Ok(_) => {}
            Err(failure) => say(&format!("kwik: {failure}: the successors stay as they are")),
        }
    }

    fn read_again() -> Result<Option<Self>, Failure> {
        let Some(again) = config::read_again("successor")? else { return Ok(None) };
        let parse = |text: &String| {
            text.parse::<PeerLink>()
                .map_err(|error| Failure::new(Kind::Usage, format!("{}: {error}", again.origin)))
        };
        let links = again.values.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        Self::new(&links).map(Some)
    }
}
