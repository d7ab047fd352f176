//! What a client's session makes its connections with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kwik_proto::session;

use crate::driver::{self, AnyShared, Dialer, ToPrimary};

use super::turn::Turn;

/// A client's [`Dialer`].
#[derive(Debug)]
pub(super) struct SessionDialer {
    pub(super) to: Arc<ToPrimary>,
    /// Its session's place among several primaries.
    pub(super) turn: Option<Box<Turn>>,
}

impl Dialer for SessionDialer {
    fn dial(&self, session: AnyShared, dial: session::Dial) {
        let runtime = session.runtime.clone();
        runtime.spawn(driver::dial(session, self.to.endpoint.clone(), dial));
    }

    fn redial(&self, session: AnyShared, within: Duration) {
        let runtime = session.runtime.clone();
        runtime.spawn(driver::redial(session, self.to.clone(), within));
    }

    fn farewell(&self, session: AnyShared, within: Duration, with: (u64, Bytes)) {
        let (runtime, to) = (session.runtime.clone(), self.to.clone());
        let begun = to.endpoint.begin_farewell();
        runtime.spawn(async move {
            driver::farewell(session, to, within, with).await;
            drop(begun);
        });
    }
}
