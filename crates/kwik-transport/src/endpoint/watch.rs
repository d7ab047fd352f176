//! An endpoint that is watched: its metrics, its events, and its sessions.

use crate::metrics::{Events, Family, LiveSession, read};

use super::handle::Endpoint;

impl Endpoint {
    /// Counts and tells from now on what happens to sessions that begin from now on (10.1, 10.2).
    /// Until then that costs nothing; afterwards a few relaxed atomics for each batch that comes.
    pub fn watch(&self) {
        self.metrics.turn_on(&self.runtime, self.quic.qlog());
    }

    /// All metrics, in the order of [`METRICS`](crate::METRICS); none before [`Self::watch`].
    #[must_use]
    pub fn metrics(&self) -> Vec<Family> {
        let memory = [self.budget.granted(), self.budget.limit()];
        self.metrics.get().map(|observed| read(observed, memory)).unwrap_or_default()
    }

    /// What happens at this endpoint from now on. Each reader gets all of it, the last 1,024 when
    /// it is slow; none comes before [`Self::watch`].
    ///
    /// ```
    /// # async fn listen(endpoint: kwik::Endpoint) {
    /// endpoint.watch();
    /// let mut events = endpoint.events();
    /// while let event = events.next().await {
    ///     println!("{} ({} were missed)", event.kind.name(), events.missed());
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.metrics.clone())
    }

    /// The sessions that began since [`Self::watch`] and are not over, each with its number in this
    /// endpoint. What is returned are handles: a session lives as long as one of them.
    #[must_use]
    pub fn sessions(&self) -> Vec<(u64, LiveSession)> {
        self.metrics.get().map(|observed| observed.live()).unwrap_or_default()
    }
}
