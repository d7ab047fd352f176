//! The session of a get of many objects, and the one after it when it is lost.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use kwik_delivery::{Client, Entry, FailureCode, FetchError, Listing};
use tokio::{sync::Mutex, time};

use crate::{
    args::{ObjectLink, TrustOptions},
    connect::Dialer,
    failure::{Failure, Kind},
    get::wait_before,
    progress::Waiting,
    tally::Tally,
    voice::note,
};

/// How a server is dialed, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dialing<'a> {
    pub(crate) trust: &'a TrustOptions,
    pub(crate) timeout: Duration,
    pub(crate) retry: u32,
    pub(crate) limit_rate: Option<NonZeroU64>,
}

/// One session at a time with one server, for all who fetch from it.
pub(crate) struct Sessions<'a> {
    dialing: Dialing<'a>,
    link: &'a ObjectLink,
    tally: &'a Tally,
    state: Mutex<State>,
    /// Sessions that there were.
    count: AtomicU64,
}

#[derive(Default)]
struct State {
    dialer: Dialer,
    client: Option<Client>,
    /// What had come when the last session began.
    received: u64,
    /// Sessions in a row in which nothing came.
    in_vain: u32,
    /// No other session is tried: why.
    over: Option<(Kind, String)>,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(dialing: Dialing<'a>, link: &'a ObjectLink, tally: &'a Tally) -> Self {
        let (state, count) = (Mutex::default(), AtomicU64::new(0));
        Self { dialing, link, tally, state, count }
    }

    /// The session that there is, or another one: that is tried until there is one, up to so many
    /// times in a row in which nothing came. Who never had one is told at once why not.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let mut state = self.state.lock().await;
        if let Some((kind, message)) = &state.over {
            return Err(Failure::new(*kind, message.clone()));
        }
        let mut lost = None;
        if let Some(client) = &state.client {
            match client.session().close_reason() {
                None => return Ok(client.clone()),
                Some(reason) => lost = Some(Failure::lost(&reason)),
            }
        }
        self.tally.keep_liars(state.client.take().as_ref());
        if self.tally.received() > state.received {
            state.in_vain = 0;
        }
        loop {
            if let Some(failure) = lost {
                let fatal = !failure.passing && failure.kind != Kind::Network;
                if fatal || state.in_vain >= self.dialing.retry {
                    state.over = Some((failure.kind, failure.message.clone()));
                    return Err(failure);
                }
                let wait = wait_before(state.in_vain);
                state.in_vain += 1;
                note(&format!(
                    "{}: trying again in {:.1} s ({} of {})",
                    failure.reason(),
                    wait.as_secs_f64(),
                    state.in_vain,
                    self.dialing.retry,
                ));
                time::sleep(wait).await;
            }
            match self.dial(&mut state).await {
                Ok(client) => return Ok(client),
                Err(failure) if self.count.load(Ordering::Relaxed) == 0 && !failure.passing => {
                    state.over = Some((failure.kind, failure.message.clone()));
                    return Err(failure);
                }
                Err(failure) => lost = Some(failure),
            }
        }
    }

    async fn dial(&self, state: &mut State) -> Result<Client, Failure> {
        let Dialing { trust, timeout, limit_rate, .. } = self.dialing;
        let session = state.dialer.session(self.link, trust, timeout).await?;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.tally.begin_session(&session);
        let mut client = Client::new(session).with_patience(timeout);
        if let Some(rate) = limit_rate {
            client = client.with_rate(rate);
        }
        state.received = self.tally.received();
        state.client = Some(client.clone());
        Ok(client)
    }

    /// Whether they are with the server that a link leads to.
    pub(crate) fn are_with(&self, link: &ObjectLink) -> bool {
        self.link.leads_to_server_of(link)
    }

    /// The next entries of a folder, over as many sessions as it takes.
    pub(crate) async fn page(&self, listing: &mut Listing) -> Result<Vec<Entry>, Failure> {
        let mut in_vain = 0;
        loop {
            let client = self.client().await?;
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
            let lost = client.session().close_reason().is_some();
            if failure.kind == Kind::Network && !lost {
                self.give_up(&client);
            }
            if !(failure.passing || failure.kind == Kind::Network) || in_vain >= self.dialing.retry
            {
                return Err(failure);
            }
            if !lost && failure.kind != Kind::Network {
                note(&format!("{}: trying again", failure.reason()));
                time::sleep(wait_before(in_vain)).await;
            }
            in_vain += 1;
        }
    }

    /// Whether there is no use in going on.
    pub(crate) async fn is_over(&self) -> bool {
        self.state.lock().await.over.is_some()
    }

    /// A session in which nothing comes any more is done without, whatever is wrong with it.
    pub(crate) fn give_up(&self, client: &Client) {
        client.session().close(0, b"nothing comes");
    }

    /// Looks at what came, for whoever looks at the tally.
    pub(crate) fn look(&self) {
        // Who dials has nothing to show.
        if let Ok(state) = self.state.try_lock()
            && let Some(client) = &state.client
        {
            self.tally.look(client.session());
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(&self) {
        let mut state = self.state.lock().await;
        if let Some(client) = state.client.take() {
            self.tally.look(client.session());
            self.tally.keep_liars(Some(&client));
        }
        state.dialer.close().await;
    }
}
