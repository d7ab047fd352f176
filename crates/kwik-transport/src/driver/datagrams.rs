//! Received datagrams on their way to the application, where it takes any.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use kwik_proto::sync::lock;
use tokio::sync::Notify;

use crate::quic::{Connection, ConnectionError};

/// What a waiting datagram costs beside its payload: its place in the queue and its allocation.
const OVERHEAD: usize = 64;

/// Datagrams that wait to be read. They are copied: as QUIC delivers them, a byte of payload may
/// keep a receive buffer of 64 KiB.
#[derive(Debug)]
pub(crate) struct Datagrams {
    queue: Mutex<Queue>,
    arrived: Notify,
    /// Bytes that may wait, [`OVERHEAD`] included.
    most: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    cost: usize,
}

impl Datagrams {
    /// For a connection that takes datagrams, of which `most` bytes may wait.
    pub(crate) fn new(most: usize) -> Option<Arc<Self>> {
        let (queue, arrived) = (Mutex::default(), Notify::new());
        (most > 0).then(|| Arc::new(Self { queue, arrived, most }))
    }

    /// Takes what comes until the connection is lost.
    pub(crate) async fn receive(&self, connection: &Connection) -> ConnectionError {
        loop {
            match connection.read_datagram().await {
                Ok(datagram) => self.push(&datagram),
                Err(error) => return error,
            }
        }
    }

    /// Takes what comes while `work` lasts.
    pub(crate) async fn receive_during<T>(
        &self,
        connection: &Connection,
        work: impl Future<Output = T>,
    ) -> T {
        let (mut receive, mut work) = (pin!(self.receive(connection)), pin!(work));
        let mut lost = false;
        poll_fn(|cx| {
            lost = lost || receive.as_mut().poll(cx).is_ready();
            match work.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(output),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Queues a copy; the oldest make room for it.
    fn push(&self, datagram: &[u8]) {
        let cost = datagram.len() + OVERHEAD;
        if cost > self.most {
            return;
        }
        let mut queue = lock(&self.queue);
        while queue.cost + cost > self.most {
            queue.pop();
        }
        queue.cost += cost;
        queue.waiting.push_back(Bytes::copy_from_slice(datagram));
        drop(queue);
        self.arrived.notify_waiters();
    }

    /// The next one, if one waits.
    pub(crate) fn pop(&self) -> Option<Bytes> {
        lock(&self.queue).pop()
    }

    /// Tells of the next one, and of the session's end.
    pub(crate) fn arrived(&self) -> &Notify {
        &self.arrived
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.waiting.pop_front()?;
        self.cost -= datagram.len() + OVERHEAD;
        Some(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room_and_each_counts_with_its_overhead() {
        assert!(Datagrams::new(0).is_none());
        let datagrams = Datagrams::new(10 * (OVERHEAD + 1)).unwrap();
        for byte in 0..100 {
            datagrams.push(&[byte]);
        }
        assert_eq!(lock(&datagrams.queue).waiting.len(), 10);
        assert_eq!(&datagrams.pop().unwrap()[..], [90]);
        datagrams.push(&[7; 1000]);
        assert_eq!(&datagrams.pop().unwrap()[..], [91], "one that never fits takes no room");
        datagrams.push(&[8; 9 * (OVERHEAD + 1)]);
        assert_eq!(datagrams.pop().unwrap().len(), 9 * (OVERHEAD + 1));
        assert!(datagrams.pop().is_none());
        assert_eq!(lock(&datagrams.queue).cost, 0);
    }
}
