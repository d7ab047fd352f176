//! Whether an edge's copy of an object is the version that a primary leases.

use std::{
    future::pending,
    time::{SystemTime, UNIX_EPOCH},
};

use kwik::LeaseWriter;

use super::{Refused, Server};
use crate::{EdgeCommand, Object, catalogue::Asked};

/// An edge's copy that a lease asks for.
#[derive(Debug)]
pub(super) struct OwnCopy {
    pub(super) object: Object,
    /// Where in it the lease's stream begins.
    pub(super) offset: u64,
    /// Its hash is being made, as it may be another version.
    pub(super) doubted: Option<Doubted>,
}

#[derive(Debug)]
pub(super) struct Doubted {
    command: EdgeCommand,
    hashing: Asked,
}

impl Server {
    /// The copy that a lease asks for. Its hash is compared when it is known here. It is not made
    /// for each lease: the client verifies. But who has another time may have another version, and
    /// its operator had better know.
    pub(super) async fn copy_for(&self, lease: &LeaseWriter) -> Result<OwnCopy, Refused> {
        let command = EdgeCommand::decode(&lease.command())
            .map_err(|error| Refused::from(error.to_string()))?;
        let EdgeCommand { name, size, offset, .. } = &command;
        if !command.pack.is_empty() {
            let object = self.packed_for(&command).await?;
            let offset = *offset;
            let end = lease.range().end.checked_add(offset);
            if end.is_none_or(|end| end > object.stat().size) {
                return Err("the lease is longer than its pack".to_owned().into());
            }
            return Ok(OwnCopy { object, offset, doubted: None });
        }
        let object = self.source.open(name).await.map_err(|error| Refused::from(&error))?;
        let (here, offset) = (object.stat().size, *offset);
        if here != *size || lease.range().end.checked_add(offset).is_none_or(|end| end > here) {
            let told = format!("another version: {name} has {here} bytes here, not {size}");
            return Err(told.into());
        }
        let doubted = match self.catalogue.known(object.stat()).await {
            Some(here) => match other_root(&command, here) {
                Some(told) => return Err(told.into()),
                None => None,
            },
            None if self.differs_in_time(&command, &object) => {
                // When too many are hashed already, the next lease looks again.
                let hashing = self.catalogue.ask(&object).ok();
                hashing.map(|hashing| Doubted { command, hashing })
            }
            None => None,
        };
        Ok(OwnCopy { object, offset, doubted })
    }

    fn differs_in_time(&self, command: &EdgeCommand, object: &Object) -> bool {
        let (Some(theirs), ours) = (command.attributes.modified, object.stat().modified) else {
            return false;
        };
        // What is read over a network for money is not read whole for a time, which stores set
        // themselves.
        if !object.is_near() || seconds(theirs) == seconds(ours) {
            return false;
        }
        if self.may_say() {
            let name = kwik::escape(&command.name);
            let (ours, theirs) = (seconds(ours), seconds(theirs));
            tracing::info!(
                %name, modified = ours, at_primary = theirs,
                "another time than the primary's: hashing it to compare"
            );
        }
        true
    }
}

impl Doubted {
    /// Over once the copy proves to be another version: what to say then.
    pub(super) async fn other_version(doubted: Option<Self>) -> String {
        let Some(Self { command, mut hashing }) = doubted else { return pending().await };
        // A copy that cannot be read ends its lease by itself.
        let Ok(here) = hashing.wait().await else { return pending().await };
        match other_root(&command, here.manifest().root) {
            Some(told) => told,
            None => pending().await,
        }
    }
}

fn other_root(command: &EdgeCommand, here: blake3::Hash) -> Option<String> {
    let EdgeCommand { name, root, .. } = command;
    let told = || format!("another version: {name} has the hash {here} here, not {root}");
    (here != *root).then(told)
}

/// Since 1970. What some file systems keep of a time, and some copies carry over.
fn seconds(time: SystemTime) -> i64 {
    let whole = |since: std::time::Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => whole(since),
        Err(before) => -whole(before.duration()),
    }
}
