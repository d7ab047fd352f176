//! The session of a get, and the one after it when it is lost: with the same server, or with one
//! that it named.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use kwik::{PathId, Session};
use kwik_delivery::{About, Client, Entry, FailureCode, FetchError, Listing};
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time,
};

use crate::{
    connect::{Connection, Whom, connect},
    failure::{Failure, Kind},
    options::{ObjectLink, TrustOptions},
    progress::Waiting,
    route::Route,
    tally::Tally,
    voice::note,
};

/// How long nothing may come from a server while there is another one that was not tried: longer
/// than links are away that come back soon.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(10);

/// Wait before the first further try: doubled each time, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How a server is dialed, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialing<'a> {
    pub(crate) trust: &'a TrustOptions,
    pub(crate) timeout: Duration,
    pub(crate) retry: u32,
    pub(crate) limit_rate: Option<NonZeroU64>,
}

/// One session at a time, for all who fetch what a link leads to.
pub(crate) struct Sessions<'a> {
    dialing: Dialing<'a>,
    link: &'a ObjectLink,
    tally: &'a Tally,
    /// There is one object, so that whatever is wrong may be so with its session or server alone.
    alone: bool,
    state: Mutex<State>,
}

struct State {
    route: Route,
    held: Option<Held>,
    /// Sessions that end, in which something may be under way yet.
    ending: Vec<Ending>,
    /// Why the session that is held is done without.
    lost: Option<Failure>,
    /// The most that ever was here and verified.
    best: u64,
    /// Rounds of all servers in a row in which nothing came.
    in_vain: u32,
    /// No other session is tried: why.
    over: Option<Failure>,
}

struct Held {
    connection: Connection,
    client: Client,
    /// What the server says of itself, once it did.
    about: watch::Receiver<Option<About>>,
    _listening: Listening,
}

/// A session that ends, and what its paths had brought when that was looked at.
struct Ending(Session, BTreeMap<PathId, u64>);

/// Listens to what a server says of itself, until it is dropped.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Held {
    fn new(connection: Connection, client: Client) -> Self {
        let (sender, about) = watch::channel(None);
        let asked = client.clone();
        let listening = tokio::spawn(async move {
            // A server of an older version says nothing.
            let Ok(mut news) = asked.news().await else { return };
            // Else it would keep a session that is done with.
            drop(asked);
            loop {
                sender.send_replace(Some(news.about().clone()));
                if !matches!(news.changed().await, Ok(true)) {
                    return;
                }
            }
        });
        Self { connection, client, about, _listening: Listening(listening) }
    }

    fn is_ending(&self) -> bool {
        self.about.borrow().as_ref().is_some_and(|about| about.ending)
    }
}

impl State {
    fn held_as(&self, client: &Client) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.client.is_same_session(client))
    }

    /// Takes down whom the server names.
    fn learn(&mut self) {
        let Self { held: Some(held), route, .. } = self else { return };
        if let Some(about) = &*held.about.borrow() {
            route.learn(&about.successors, held.connection.address().ip());
        }
    }

    /// Why the session that is held does no more, if that is so.
    fn find_lost(&mut self) -> Option<Failure> {
        if self.lost.is_some() {
            return self.lost.take();
        }
        let held = self.held.as_ref()?;
        match held.client.session().close_reason() {
            Some(reason) => Some(Failure::lost(&reason)),
            None if held.is_ending() && self.route.has_other() => {
                Some(Failure::new(Kind::Network, "the server is shutting down").passing())
            }
            None => None,
        }
    }
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(dialing: Dialing<'a>, link: &'a ObjectLink, tally: &'a Tally) -> Self {
        let state = State {
            route: Route::new(link),
            held: None,
            ending: Vec::new(),
            lost: None,
            best: 0,
            in_vain: 0,
            over: None,
        };
        Self { dialing, link, tally, alone: false, state: Mutex::new(state) }
    }

    /// For one object.
    pub(crate) fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// The session that there is, or another one: that is tried until there is one, up to so many
    /// rounds of all servers in which nothing came. Who never had one is told at once why not.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let mut state = self.state.lock().await;
        if let Some(failure) = &state.over {
            return Err(failure.clone());
        }
        state.learn();
        let mut lost = state.find_lost();
        if lost.is_none()
            && let Some(held) = &state.held
        {
            return Ok(held.client.clone());
        }
        // What is under way in a session that ends is brought to its end there.
        if let Some(Held { client, .. }) = state.held.take()
            && client.session().close_reason().is_none()
        {
            let brought = self.tally.look(client.session());
            state.ending.push(Ending(client.session().clone(), brought));
        }
        let came = self.tally.came();
        if came > state.best {
            (state.best, state.in_vain) = (came, 0);
            state.route.on_progress();
        }
        loop {
            if let Some(failure) = lost
                && let Some(wait) = self.go_on(&mut state, failure)?
            {
                time::sleep(wait).await;
            }
            match self.dial(&mut state).await {
                Ok(client) => return Ok(client),
                Err(failure) => lost = Some(failure),
            }
        }
    }

    /// Chooses the server of the next try, and how long to wait before it if all were tried: an
    /// error when there is to be none.
    fn go_on(&self, state: &mut State, failure: Failure) -> Result<Option<Duration>, Failure> {
        state.route.note_failure(&failure);
        let fatal = !failure.passing && failure.kind != Kind::Network;
        let ruled_out = fatal && state.route.rule_out();
        // As long as nobody of use has answered, all are tried once, unless they said it passes.
        let is_first = !state.route.has_answered() && !state.route.may_pass();
        let tries = if is_first { 0 } else { self.dialing.retry };
        let is_last = state.in_vain >= tries && !state.route.has_other();
        if fatal && !ruled_out || is_last {
            let failure = state.route.explain(failure);
            state.over = Some(failure.clone());
            return Err(failure);
        }
        let mut reason = failure.reason();
        if ruled_out {
            reason = format!("{}: {reason}", state.route.stop().server());
        }
        if state.route.advance() {
            note(&format!("{reason}: going on with {}", state.route.stop().server()));
            return Ok(None);
        }
        // All were tried: that costs a try, and a wait.
        let wait = wait_before(state.in_vain);
        state.in_vain += 1;
        note(&format!(
            "{reason}: trying again in {:.1} s ({} of {})",
            wait.as_secs_f64(),
            state.in_vain,
            self.dialing.retry,
        ));
        Ok(Some(wait))
    }

    async fn dial(&self, state: &mut State) -> Result<Client, Failure> {
        let Dialing { trust, mut timeout, limit_rate, .. } = self.dialing;
        if state.route.has_other() {
            timeout = timeout.min(PATIENCE_WITH_OTHERS);
        }
        let stop = state.route.stop();
        let whom = Whom::new(&stop.link, trust, stop.named_by)?;
        let connection = connect(whom, timeout).await?;
        state.route.on_answered();
        self.tally.begin_session(&connection.session);
        let mut client = Client::new(connection.session.clone()).with_patience(timeout);
        if let Some(rate) = limit_rate {
            client = client.with_rate(rate);
        }
        state.held = Some(Held::new(connection, client.clone()));
        Ok(client)
    }

    /// Whether they are with the server that a link leads to.
    pub(crate) fn are_with(&self, link: &ObjectLink) -> bool {
        self.link.leads_to_server_of(link)
    }

    /// Tries at something of which so much is here.
    pub(crate) fn tries(&self, here: u64) -> Tries<'_, 'a> {
        Tries { sessions: self, what: None, best: here, in_vain: 0 }
    }

    /// The next entries of a folder, over as many sessions as it takes.
    pub(crate) async fn page(&self, listing: &mut Listing) -> Result<Vec<Entry>, Failure> {
        let mut tries = self.tries(0);
        loop {
            let client = tries.client().await?;
            let listed =
                Waiting::new().for_work(listing.page(&client), || "waiting for the list".into());
            let failure = match listed.await {
                Ok(entries) => return Ok(entries),
                Err(FetchError::Refused(failure))
                    if failure.code == FailureCode::InvalidRequest =>
                {
                    let message = "the server is of an older version, which lists nothing: name an \
                                   object in the link";
                    return Err(Failure::new(Kind::Transfer, message));
                }
                Err(error) => Failure::from(error),
            };
            tries.failed(&client, failure, 0).await?;
        }
    }

    /// Whether there is no use in going on.
    pub(crate) async fn is_over(&self) -> bool {
        self.state.lock().await.over.is_some()
    }

    /// A session is done without, whatever is wrong with it.
    async fn give_up(&self, client: &Client, failure: Failure) {
        let mut state = self.state.lock().await;
        if state.held_as(client).is_some() {
            state.lost = Some(failure);
        }
        client.session().close(0, b"nothing comes");
    }

    /// What the server that is gone on with now does not have others may.
    async fn may_leave(&self, client: &Client) -> bool {
        let state = self.state.lock().await;
        self.alone && state.held_as(client).is_some() && state.route.may_leave()
    }

    /// Why the only object does not come, where several servers were tried.
    async fn explain(&self, failure: Failure) -> Failure {
        if !self.alone {
            return failure;
        }
        let mut state = self.state.lock().await;
        state.route.note_failure(&failure);
        state.route.explain(failure)
    }

    /// The server takes nothing new, as it ends: waits until it has ended, or there is another one.
    async fn wait_for_end(&self, client: &Client, failure: Failure) {
        let mut before = self.tally.came();
        loop {
            let mut about = {
                let mut state = self.state.lock().await;
                state.learn();
                let others = state.route.has_other();
                let Some(held) = state.held_as(client) else { return };
                let mut about = held.about.clone();
                about.mark_unchanged();
                if held.is_ending() && others {
                    return;
                }
                about
            };
            tokio::select! {
                _ = client.session().closed() => return,
                Ok(()) = about.changed() => {}
                () = time::sleep(self.dialing.timeout) => {
                    // It ends once what others fetch has come.
                    let came = self.tally.came();
                    if came == before {
                        return self.give_up(client, failure).await;
                    }
                    before = came;
                }
            }
        }
    }

    /// Looks at what came, for whoever looks at the tally.
    pub(crate) fn look(&self) {
        // Who dials has nothing to show.
        if let Ok(mut state) = self.state.try_lock() {
            self.look_at(&mut state);
        }
    }

    fn look_at(&self, state: &mut State) {
        if let Some(held) = &state.held {
            self.tally.look(held.client.session());
        }
        state.ending.retain_mut(|Ending(session, brought)| {
            self.tally.look_again(session, brought);
            session.close_reason().is_none()
        });
    }

    /// Says goodbye.
    pub(crate) async fn close(&self) {
        let mut state = self.state.lock().await;
        self.look_at(&mut state);
        state.ending.clear();
        if let Some(Held { connection, .. }) = state.held.take() {
            connection.close().await;
        }
    }
}

/// Tries at one thing, over as many sessions as it takes: again when one failed for a reason that
/// may pass by itself, up to so many times in a row in which nothing came.
pub(crate) struct Tries<'s, 'a> {
    sessions: &'s Sessions<'a>,
    /// Its name, for people, when there are others.
    what: Option<String>,
    best: u64,
    in_vain: u32,
}

impl Tries<'_, '_> {
    pub(crate) fn of(self, what: String) -> Self {
        Self { what: Some(what), ..self }
    }

    /// The session for the next one.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        self.sessions.client().await
    }

    /// One failed, and so much is here: an error when it was the last.
    pub(crate) async fn failed(
        &mut self,
        client: &Client,
        failure: Failure,
        here: u64,
    ) -> Result<(), Failure> {
        let sessions = self.sessions;
        sessions.tally.keep_liars(client);
        if here > self.best {
            (self.best, self.in_vain) = (here, 0);
        }
        let is_network = failure.kind == Kind::Network;
        if !failure.passing && !is_network {
            let is_servers = matches!(failure.kind, Kind::Transfer | Kind::NotFound | Kind::Trust);
            if is_servers && sessions.may_leave(client).await {
                sessions.give_up(client, failure).await;
                return Ok(());
            }
            return Err(if is_servers { sessions.explain(failure).await } else { failure });
        }
        if self.in_vain >= sessions.dialing.retry {
            return Err(sessions.explain(failure).await);
        }
        if failure.ending {
            // That costs no try: the next session does.
            sessions.wait_for_end(client, failure).await;
            return Ok(());
        }
        let wait = wait_before(self.in_vain);
        self.in_vain += 1;
        if client.session().close_reason().is_some() {
            // Of that the sessions speak, once for all who had it.
        } else if is_network || sessions.alone {
            sessions.give_up(client, failure).await;
        } else {
            let what = self.what.as_ref().map(|what| format!("{what}: ")).unwrap_or_default();
            note(&format!("{what}{}: trying again", failure.reason()));
            time::sleep(wait).await;
        }
        Ok(())
    }
}

/// How long to wait before a further try, after so many in a row that brought nothing.
fn wait_before(in_vain: u32) -> Duration {
    let wait = FIRST_WAIT.saturating_mul(1 << in_vain.min(8)).min(LONGEST_WAIT);
    wait.mul_f64(spread())
}

/// Give or take a quarter: clients that lost one server do not all come back at once.
fn spread() -> f64 {
    let mut random = [0];
    // Without random bytes they do.
    getrandom::fill(&mut random).ok();
    0.75 + f64::from(random[0]) / 512.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::ObjectLink;

    const RETRY: u32 = 3;

    fn link(servers: usize) -> ObjectLink {
        let pin = "ab".repeat(32);
        let servers: Vec<_> = (1..=servers).map(|port| format!("{pin}@h:{port}")).collect();
        format!("kwik://{}/x", servers.join(",")).parse().unwrap()
    }

    /// Tries until the last one, of which nobody brings anything, and how long it waits.
    fn tries(answered: u32, useless: bool) -> (u32, Duration) {
        let (link, tally, trust) = (link(8), Tally::new(false), TrustOptions::default());
        let timeout = Duration::from_secs(1);
        let dialing = Dialing { trust: &trust, timeout, retry: RETRY, limit_rate: None };
        let sessions = Sessions::new(dialing, &link, &tally).alone();
        let mut state = sessions.state.try_lock().unwrap();
        let (mut tries, mut waits) = (0, Duration::ZERO);
        loop {
            let mut kind = Kind::Network;
            if tries < answered {
                state.route.on_answered();
                kind = if useless { Kind::NotFound } else { kind };
            }
            let failure = Failure::new(kind, "it says why");
            tries += 1;
            match sessions.go_on(&mut state, failure) {
                Ok(wait) => waits += wait.unwrap_or_default(),
                Err(_) => return (tries, waits),
            }
        }
    }

    #[test]
    fn a_try_is_one_with_each_server_and_waits_before_the_next() {
        let (tries, waited) = tries(1, false);
        assert_eq!(tries, (1 + RETRY) * 8);
        assert!(waited >= FIRST_WAIT * 7 * 3 / 4, "{waited:?}");
    }

    #[test]
    fn who_has_nothing_to_hope_for_is_told_at_once() {
        assert_eq!(tries(0, false), (8, Duration::ZERO));
        // One answers that it has no such object, and the others never did.
        assert_eq!(tries(1, true), (8, Duration::ZERO));
    }
}
