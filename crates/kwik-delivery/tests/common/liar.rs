//! Edges that write what they want, and readers that know what they should get.

use std::{
    collections::BTreeSet,
    fs, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kwik::{Accepted, Endpoint, LeaseWriter, SecondarySession, ServerConfig};
use kwik_delivery::{Client, Edge, EdgeCommand, FetchError, Progress, limits::GROUP_SIZE};
use tempfile::tempdir;
use tokio::{task::JoinHandle, time::timeout};

use super::{identity, name};

/// What a lying edge makes of the object's bytes from an offset on.
pub type Lie = Arc<dyn Fn(&EdgeCommand, u64, &mut [u8]) + Send + Sync>;

/// An edge by hand, which writes what it wants.
pub struct Liar {
    pub edge: Edge,
    task: JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    pub fn start(seed: u8, object: Bytes, lie: Lie) -> Self {
        let mut config = ServerConfig::new(identity(seed));
        let fingerprint = config.identity.fingerprint();
        config.trusted.insert(identity(0).fingerprint());
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let edge = Edge::new(endpoint.local_addr().unwrap(), fingerprint);
        let task = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                // It has no objects of its own to ask for.
                if let Ok(Accepted::Secondary(session)) = incoming.accept_any().await {
                    tokio::spawn(serve(session, object.clone(), Arc::clone(&lie)));
                }
            }
        });
        Self { edge, task }
    }
}

async fn serve(session: SecondarySession, object: Bytes, lie: Lie) {
    while let Ok(lease) = session.accept_lease().await {
        tokio::spawn(write(lease, object.clone(), Arc::clone(&lie)));
    }
}

async fn write(mut lease: LeaseWriter, object: Bytes, lie: Lie) {
    let command = EdgeCommand::decode(&lease.command()).unwrap();
    while let Ok(Some(piece)) = lease.activated().await {
        let (start, end) = (piece.start + command.offset, piece.end + command.offset);
        let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        let mut bytes = BytesMut::from(&object[range]);
        lie(&command, start, &mut bytes);
        if lease.write_chunk(bytes.freeze()).await.is_err() {
            break;
        }
    }
}

/// Inverts one byte of each group for which `lies` says so.
pub fn groups(lies: impl Fn(&EdgeCommand, u64) -> bool + Send + Sync + 'static) -> Lie {
    Arc::new(move |command, start, bytes| {
        for (at, byte) in (start..).zip(bytes) {
            if at % GROUP_SIZE == 777 && lies(command, at / GROUP_SIZE) {
                *byte ^= 0xff;
            }
        }
    })
}

/// One byte is wrong, in a group that it is made to bring first.
pub fn one_byte() -> Lie {
    let wrong = Arc::new(Mutex::new(None));
    Arc::new(move |_, start, bytes| {
        let place = *wrong.lock().unwrap().get_or_insert(start + bytes.len() as u64 / 2);
        let here = place.checked_sub(start).and_then(|at| bytes.get_mut(usize::try_from(at).ok()?));
        if let Some(byte) = here {
            *byte ^= 1;
        }
    })
}

/// Groups that were asked of it before are wrong.
pub fn asked_twice() -> Lie {
    let asked = Mutex::new(BTreeSet::new());
    Arc::new(move |_, start, bytes| {
        let mut asked = asked.lock().unwrap();
        for (at, byte) in (start..).zip(bytes) {
            if at % GROUP_SIZE == 777 && !asked.insert(at) {
                *byte ^= 0xff;
            }
        }
    })
}

/// Whether a lease is for a part that is fetched again.
pub fn is_repair(lease: &EdgeCommand, size: usize) -> bool {
    // Nothing but the offset tells, and the first part has none.
    lease.offset > 0 || lease.size != size as u64
}

/// A writer that knows what it should get.
#[derive(Clone)]
pub struct Checked(Arc<Mutex<(Bytes, usize)>>);

impl Checked {
    pub fn new(object: &Bytes) -> Self {
        Self(Arc::new(Mutex::new((object.clone(), 0))))
    }

    pub fn written(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

impl io::Write for Checked {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let (object, at) = &mut *self.0.lock().unwrap();
        assert!(object[*at..*at + data.len()] == *data, "wrong bytes from {at} on");
        *at += data.len();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub async fn fetch_checked(client: &Client, object: &Bytes) -> Result<(), FetchError> {
    let progress = Progress::default();
    let output = Checked::new(object);
    let fetch = client.fetch(&name("x")).await?;
    let writing = fetch.write_to(Box::new(output.clone()), &progress);
    timeout(Duration::from_secs(30), writing).await.expect("it ends")?;
    assert_eq!(output.written(), object.len());
    Ok(())
}

pub async fn save_checked(client: &Client, object: &Bytes) -> Result<(), FetchError> {
    let folder = tempdir().unwrap();
    let target = folder.path().join("target");
    let progress = Progress::default();
    let fetch = client.fetch(&name("x")).await?;
    let saving = fetch.save(&target, &progress);
    timeout(Duration::from_secs(30), saving).await.expect("it ends")?;
    assert!(fs::read(&target).unwrap() == *object);
    assert_eq!(progress.verified(), object.len() as u64);
    Ok(())
}
