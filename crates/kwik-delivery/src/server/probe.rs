//! Looking into an edge that a client accuses.

use std::{ops::Range, time::Duration};

use kwik::{ClientConfig, Endpoint};
use tokio::time::timeout;

use crate::{
    Client, Edge, FailureCode, FetchError, Object, Published,
    limits::{GROUP_SIZE, PATIENCE},
};

/// From dialing the edge to its answer; it may have to hash its copy first.
const MOST: Duration = Duration::from_secs(600);

/// Asks an edge, as any client may, for the group that begins at `range`: how it differs, if it does.
pub(super) async fn find_lie(
    endpoint: &Endpoint,
    edge: Edge,
    object: &Object,
    published: &Published,
    range: &Range<u64>,
) -> Result<Option<String>, String> {
    let manifest = published.manifest();
    let index = range.start / GROUP_SIZE;
    let group = index * GROUP_SIZE..((index + 1) * GROUP_SIZE).min(object.stat().size);
    if group.is_empty() {
        return Err("it is accused of bytes that the object does not have".into());
    }
    let config = ClientConfig::pinned(edge.fingerprint);
    let connecting = endpoint.connect_with(config, edge.address, "");
    let connecting = connecting.map_err(|error| error.to_string())?;
    let session = timeout(PATIENCE, connecting).await;
    let session = session.map_err(|_| "it does not answer")?.map_err(|error| error.to_string())?;
    let client = Client::new(session);
    let asked = timeout(MOST, client.fetch_group(manifest, group.clone())).await;
    client.session().close(0, b"done");
    let data = match asked.map_err(|_| "it does not answer")? {
        Ok(data) => data,
        Err(FetchError::Refused(failure)) if failure.code == FailureCode::Changed => {
            return Ok(Some(failure.message));
        }
        Err(error) => return Err(error.to_string()),
    };
    let page = published.outline().map_err(|error| error.to_string())?.page_of(group.start);
    let (verifier, _) = published.page(page).await.map_err(|error| error.to_string())?;
    let verified = verifier.verify_group(index, &data);
    Ok(verified.err().map(|corrupt| format!("bytes {:?} are others", corrupt.range)))
}
