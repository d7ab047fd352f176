//! What is in a folder, told to a client.

use std::time::SystemTime;

use kwik::SendStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    Failure, FailureCode, List, Listed, Response,
    limits::{LISTED_MESSAGE, MAX_LISTED, WORKING_EVERY},
    request::entry_size,
};

use super::{
    fill::STOPPING,
    serving::Serving,
    unanswered::{Unanswered, write},
};

pub(super) async fn answer_list(
    serving: &Serving<'_>,
    send: &mut SendStream,
    list: &List,
) -> Result<(), Unanswered> {
    if serving.server.presence.is_draining() {
        let message = format!("{STOPPING}: try again");
        return Err(Failure { code: FailureCode::Ending, message }.into());
    }
    // Before anything is looked at.
    serving.admission.check_list(list.folder.as_ref(), SystemTime::now())?;
    let Listed { entries, more, left_out, .. } = page(serving, send, list).await?;
    let mut message = Listed::default();
    let mut size = 0;
    for entry in entries {
        size += entry_size(&entry);
        message.entries.push(entry);
        if size >= LISTED_MESSAGE {
            size = 0;
            write(send, Response::Listed(std::mem::take(&mut message)).encode()).await?;
        }
    }
    let last = Listed { last: true, more, left_out, ..message };
    write(send, Response::Listed(last).encode()).await?;
    Ok(send.finish().map_err(|error| error.to_string())?)
}

/// Waits for the turn to read folders, and reads them; the client is told that this takes a while.
async fn page(
    serving: &Serving<'_>,
    send: &mut SendStream,
    list: &List,
) -> Result<Listed, Unanswered> {
    let server = serving.server;
    let mut reading = std::pin::pin!(async {
        let _turn = server.listings.acquire().await;
        server.source.page(list, MAX_LISTED).await
    });
    let mut ticks = interval(WORKING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            page = &mut reading => return page.map_err(|error| Unanswered::from(&error)),
            _ = ticks.tick() => {
                write(send, Response::Working { hashed: 0, size: 0 }.encode()).await?;
            }
        }
    }
}
