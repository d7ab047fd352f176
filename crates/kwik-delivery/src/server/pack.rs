//! Several small objects at once, one behind the other: to edges they are one object.

use std::time::{Instant, SystemTime};

use blake3::Hash;
use bytes::{Bytes, BytesMut};
use kwik::SendStream;

use crate::{
    Attributes, EdgeCommand, Failure, FailureCode, Object, ObjectName, Pack, Packed, PackedFile,
    Response, source::Small,
};

use super::{
    Refused, Server,
    access::{Access, AccessLog, AccessPart, Record},
    extent::Extent,
    fill::STOPPING,
    reply::{deliver_beside, reply},
    serving::Serving,
    unanswered::Unanswered,
};

/// What is found of a pack, and all of its bytes.
struct Found {
    files: Vec<Option<PackedFile>>,
    data: Bytes,
}

impl Found {
    fn new(found: Vec<Option<Small>>) -> Self {
        let mut data = BytesMut::new();
        let mut file = |small: Small| {
            data.extend_from_slice(&small.data);
            let (size, root) = (small.data.len() as u64, blake3::hash(&small.data));
            PackedFile { size, root, attributes: small.attributes }
        };
        let files = found.into_iter().map(|small| small.map(&mut file)).collect();
        Self { files, data: data.freeze() }
    }
}

pub(super) async fn answer_pack(
    serving: &Serving<'_>,
    send: &mut SendStream,
    pack: &Pack,
) -> Result<(), Unanswered> {
    if serving.server.presence.is_draining() {
        let message = format!("{STOPPING}: try again");
        return Err(Failure { code: FailureCode::Ending, message }.into());
    }
    let began = Instant::now();
    // What is not for this client it is told when it asks for that alone.
    let now = SystemTime::now();
    let allowed = |name: &ObjectName| serving.admission.check(name, true, now).is_ok();
    let names = pack.names.iter().map(|name| allowed(name).then(|| name.clone())).collect();
    let Found { files, data } = Found::new(serving.server.source.small(names).await);
    let coming = pack.names.iter().zip(&files).filter(|(_, file)| file.is_some());
    let names: Vec<_> = coming.map(|(name, _)| name.clone()).collect();
    let mut packed = Packed { files, stream_id: 0 };
    let record = Record::default();
    let answered = match names.first() {
        Some(first) if !data.is_empty() => {
            let command = command(first, &names, &data);
            deliver(serving, &record, send, &mut packed, command, data).await
        }
        _ => reply(send, [Response::Packed(packed.clone()).encode()]).await.map_err(Into::into),
    };
    log(serving, pack, &packed, &record, (began, &answered));
    answered
}

fn command(first: &ObjectName, names: &[ObjectName], data: &Bytes) -> EdgeCommand {
    EdgeCommand {
        name: first.clone(),
        size: data.len() as u64,
        root: blake3::hash(data),
        offset: 0,
        attributes: Attributes::default(),
        pack: names.to_vec(),
    }
}

async fn deliver(
    serving: &Serving<'_>,
    record: &Record,
    send: &mut SendStream,
    packed: &mut Packed,
    command: EdgeCommand,
    data: Bytes,
) -> Result<(), Unanswered> {
    let opened = serving.primary.session().open_uni().await;
    let mut stream = opened.map_err(|error| error.to_string())?;
    packed.stream_id = stream.id().as_u64();
    let object = Object::packed(command.name.clone(), data, command.root);
    let length = object.stat().size;
    let extent = Extent::reserve(serving, &mut stream, length, command, &[])?;
    let parts = [Response::Packed(packed.clone()).encode()];
    deliver_beside(record, send, parts, extent, &object).await
}

/// A line for each of them. How much of each came from an edge nobody knows: what this server sent
/// is told of the first ones.
fn log(
    serving: &Serving<'_>,
    pack: &Pack,
    packed: &Packed,
    record: &Record,
    (began, answered): (Instant, &Result<(), Unanswered>),
) {
    let Some(AccessLog(log)) = &serving.server.access else { return };
    // The caller tells of the request as a whole.
    if answered.is_err() {
        return;
    }
    let mut left = record.sent();
    for (name, file) in pack.names.iter().zip(&packed.files) {
        let Some(file) = file else { continue };
        let sent = left.min(file.size);
        left -= sent;
        log(&Access {
            client: serving.primary.session().remote_address(),
            key: serving.admission.client,
            part: AccessPart::Whole,
            size: Some(file.size),
            sent,
            took: began.elapsed(),
            outcome: Ok(()),
            name: Some(name.clone()),
        });
    }
}

impl Server {
    /// An edge's copy of a pack, which has to be the primary's version of each.
    pub(super) async fn packed_for(&self, command: &EdgeCommand) -> Result<Object, Refused> {
        let names = command.pack.iter().cloned().map(Some).collect();
        let Found { files, data } = Found::new(self.source.small(names).await);
        let EdgeCommand { name, root, .. } = command;
        if let Some(missing) = files.iter().position(Option::is_none) {
            let missing = command.pack.get(missing).unwrap_or(name);
            return Err(format!("{missing} is not here, or too large for a pack").into());
        }
        let here: Hash = blake3::hash(&data);
        if here != *root {
            let count = command.pack.len();
            let told = format!("another version of one of {count} small files, {name} among them");
            return Err(told.into());
        }
        Ok(Object::packed(name.clone(), data, here))
    }
}
