//! What happens, as a stream for readers.

use kwik_proto::LogCursor;
use kwik_proto::sync::lock;
use tokio::sync::futures::Notified;

use super::event::Event;
use super::observed::Metrics;

/// A reader of what happens at an endpoint.
#[derive(Debug)]
pub struct Events {
    metrics: Metrics,
    cursor: LogCursor,
}

impl Events {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let cursor = metrics.get().map(|observed| lock(&observed.events).subscribe());
        Self { metrics, cursor: cursor.unwrap_or_default() }
    }

    /// The next event. Waits for ever where the endpoint is not watched. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            let Some(observed) = self.metrics.get() else { return std::future::pending().await };
            let mut told: std::pin::Pin<&mut Notified<'_>> =
                std::pin::pin!(observed.told.notified());
            told.as_mut().enable();
            if let Some(event) = lock(&observed.events).poll(&mut self.cursor) {
                return event;
            }
            told.await;
        }
    }

    /// Events that were dropped because they were not taken in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.cursor.missed()
    }
}
