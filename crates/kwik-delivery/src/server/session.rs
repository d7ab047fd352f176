//! One client's session, at its primary: its requests, one beside the other.

use std::pin::pin;

use futures_util::{
    FutureExt, StreamExt,
    future::{Fuse, FusedFuture},
    stream::FuturesUnordered,
};

use crate::limits::MAX_REQUESTS;

use super::{
    about::{keep_told, tell},
    answer::answer,
    join::drive::join_edges,
    serving::Serving,
};

impl Serving<'_> {
    /// Answers a client's requests until the session ends.
    pub(super) async fn run(&self) {
        let mut joining = pin!(join_edges(self).fuse());
        let mut answers = FuturesUnordered::new();
        let mut quarantined = self.server.quarantine.changes();
        // Beside the answers: it lasts, and is nothing to wait for at the end.
        let mut telling = pin!(Fuse::terminated());
        loop {
            tokio::select! {
                request = self.primary.session().accept_bi(), if answers.len() < MAX_REQUESTS => {
                    let Ok((send, recv)) = request else { break };
                    answers.push(answer(self, send, recv));
                }
                Some(asks_about) = answers.next() => match asks_about {
                    Some(send) if telling.is_terminated() => {
                        telling.set(keep_told(self, send).fuse());
                    }
                    Some(mut send) => drop(tell(self, &mut send).await),
                    None => {}
                },
                () = &mut telling, if !telling.is_terminated() => {}
                () = &mut joining, if !joining.is_terminated() => {}
                Ok(()) = quarantined.changed() => self.leave_quarantined(),
            }
        }
        // What was under way ends with the session, and that is told, too.
        while answers.next().await.is_some() {}
    }
}
