//! What this server says of itself, for as long as a client listens.

use std::time::SystemTime;

use kwik::SendStream;

use super::{serving::Serving, unanswered::write};
use crate::{About, Response};

/// Says it, and says it again whenever it changes, until the client stops listening or the session
/// ends.
pub(super) async fn keep_told(serving: &Serving<'_>, mut send: SendStream) {
    let mut successors = serving.server.successors.subscribe();
    loop {
        successors.mark_unchanged();
        let about = about(serving);
        let ending = about.ending;
        if write(&mut send, Response::About(about).encode()).await.is_err() {
            return;
        }
        tokio::select! {
            Ok(()) = successors.changed() => {}
            () = serving.server.presence.draining(), if !ending => {}
            _ = send.stopped() => return,
        }
    }
}

/// Says it once.
pub(super) async fn tell(serving: &Serving<'_>, send: &mut SendStream) -> Result<(), String> {
    write(send, Response::About(about(serving)).encode()).await?;
    send.finish().map_err(|error| error.to_string())
}

fn about(serving: &Serving<'_>) -> About {
    let mut successors = serving.server.successors.borrow().clone();
    if serving.admission.is_limited() {
        // A secret leads to all that a successor has.
        successors.iter_mut().for_each(|link| link.pass = None);
    }
    let ending = serving.server.presence.is_draining();
    About { time: SystemTime::now(), ending, successors }
}
