//! A client's request, and its answer.

use std::{
    io::{self, ErrorKind},
    ops::Range,
    pin::pin,
    sync::Arc,
    time::{Instant, SystemTime},
};

use blake3::Hash;
use bytes::{Bytes, BytesMut};
use futures_util::poll;
use kwik::{PathId, RecvStream, SendStream, escape};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    EdgeCommand, Failure, FailureCode, Found, Manifest, Object, ObjectStat, PageError, Part,
    Published, Repair, Request, Response,
    limits::{
        GROUP_SIZE, JOIN_WAIT, LOOK_MOST, MAX_INLINE, MAX_MESSAGE, WORKING_EVERY, WRITE_BLOCK,
    },
    request::Call,
    tree,
};

use super::{
    access::{Access, AccessLog, AccessPart, Record},
    extent::Extent,
    fill::STOPPING,
    list::answer_list,
    pack::answer_pack,
    reply::{deliver_beside, reply},
    serving::Serving,
    unanswered::{Unanswered, write},
};

/// What is delivered.
type Opened = (Object, Arc<Published>);

/// Answers a request; the stream of one that asks of the server itself.
pub(super) async fn answer(
    serving: &Serving<'_>,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Option<SendStream> {
    let (began, record, _work) = (Instant::now(), Record::default(), serving.place.work());
    let (name, part, answered) = match read_request(&mut recv).await {
        Ok(Call::About) => return Some(send),
        Ok(Call::Object(request)) => {
            let answered = answer_request(serving, &record, &mut send, &request).await;
            let part = AccessPart::of(&request.part);
            (Some(request.name), part, answered)
        }
        Ok(Call::Pack(pack)) => match answer_pack(serving, &mut send, &pack).await {
            // Each of its objects has a line of its own.
            Ok(()) => return None,
            failed => (pack.names.into_iter().next(), AccessPart::Whole, failed),
        },
        Ok(Call::List(list)) => {
            let answered = answer_list(serving, &mut send, &list).await;
            (list.folder, AccessPart::List, answered)
        }
        Err(failure) => (None, AccessPart::Whole, Err(failure.into())),
    };
    let shown = name.as_ref();
    let mut outcome = Ok(());
    match answered {
        Ok(()) => {}
        Err(Unanswered::Refused { failure, cause }) => {
            let reason = cause.unwrap_or_else(|| failure.message.clone());
            // Of its end a server speaks once, and not of each request that comes late.
            if failure.code != FailureCode::Ending {
                serving.log_unanswered("refused", shown, &reason, failure.code.is_own_fault());
            }
            reply(&mut send, [Response::Failed(failure).encode()]).await.ok();
            outcome = Err(reason);
        }
        Err(Unanswered::Ended(error)) => {
            serving.log_unanswered("ended early", shown, &error, false);
            outcome = Err(error);
        }
    }
    if let Some(AccessLog(log)) = &serving.server.access {
        log(&Access {
            client: serving.primary.session().remote_address(),
            key: serving.admission.client,
            part,
            size: record.size(),
            sent: record.sent(),
            took: began.elapsed(),
            outcome,
            name,
        });
    }
    None
}

async fn answer_request(
    serving: &Serving<'_>,
    record: &Record,
    send: &mut SendStream,
    request: &Request,
) -> Result<(), Unanswered> {
    // Hashes and repairs of what a client has begun to fetch still come.
    let begins = match &request.part {
        Part::Whole | Part::Inline { .. } => true,
        Part::Range { range, .. } => !range.is_empty(),
        Part::Page { .. } | Part::Repair(_) => false,
    };
    if begins && serving.server.presence.is_draining() {
        let message = format!("{STOPPING}: try again");
        return Err(Failure { code: FailureCode::Ending, message }.into());
    }
    // Before anything is looked at: what is not there is as forbidden as what is.
    serving.admission.check(&request.name, begins, SystemTime::now())?;
    let opened = serving.server.source.open(&request.name).await;
    let object = opened.map_err(|error| Unanswered::from(&error))?;
    record.on_opened(object.stat().size);
    if let Part::Inline { most } = request.part
        && object.stat().size <= u64::from(most).min(MAX_INLINE)
    {
        return send_inline(serving, record, send, &object).await;
    }
    // Hashing may take a while: the client is told so.
    let published = hashed(serving, send, &object).await?;
    let opened = (object, published);
    match &request.part {
        Part::Whole | Part::Inline { .. } => {
            let size = opened.1.manifest().size;
            deliver(serving, record, send, &opened, 0..size).await?;
        }
        Part::Range { root, range } => {
            let published = &opened.1;
            if let Some(root) = root {
                check_version(published, root)?;
            }
            let size = published.manifest().size;
            if range.end > size {
                let message = format!("bytes {range:?} are none of an object of {size}");
                return Err(Failure { code: FailureCode::InvalidRequest, message }.into());
            }
            if range.is_empty() {
                let Manifest { name, size, root } = published.manifest().clone();
                let attributes = opened.0.stat().attributes();
                let found = Found { name, size, root, stream_id: 0, inline: false, attributes };
                let found = Response::Found(found).encode();
                return Ok(reply(send, [found, published.first()]).await?);
            }
            deliver(serving, record, send, &opened, range.clone()).await?;
        }
        Part::Page { root, index } => {
            let (object, published) = &opened;
            check_version(published, root)?;
            match published.page(*index).await {
                Ok((_, values)) => {
                    serving.place.on_page(root);
                    let page = Response::Page { size: values.len() as u64 };
                    reply(send, [page.encode(), values]).await?;
                }
                Err(error) => return Err(unusable(serving, object, &error).await.into()),
            }
        }
        Part::Repair(repair) => answer_repair(serving, record, send, &opened, repair).await?,
    }
    Ok(())
}

/// Sends an object of one group behind the answer. Its hash is made of the bytes that go out: that
/// takes less time than to look it up.
async fn send_inline(
    serving: &Serving<'_>,
    record: &Record,
    send: &mut SendStream,
    object: &Object,
) -> Result<(), Unanswered> {
    let ObjectStat { name, size, .. } = object.stat();
    let (name, size, attributes) = (name.clone(), *size, object.stat().attributes());
    let data = object.read(0..size).await.map_err(|error| Unanswered::from(&error))?;
    let root = blake3::hash(&data);
    let found = Found { name, size, root, stream_id: 0, inline: true, attributes };
    reply(send, [Response::Found(found).encode(), data]).await?;
    record.on_sent(size);
    serving.server.pace.pay(size).await;
    Ok(())
}

async fn hashed(
    serving: &Serving<'_>,
    send: &mut SendStream,
    object: &Object,
) -> Result<Arc<Published>, Unanswered> {
    let asked = serving.server.catalogue.ask(object);
    let mut asked = asked.map_err(|error| Unanswered::from(&error))?;
    let mut ticks = interval(WORKING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            outcome = asked.wait() => return outcome.map_err(|error| Unanswered::from(&*error)),
            _ = ticks.tick() => {
                let (hashed, size) = asked.progress();
                write(send, Response::Working { hashed, size }.encode()).await?;
            }
        }
    }
}

async fn deliver(
    serving: &Serving<'_>,
    record: &Record,
    send: &mut SendStream,
    (object, published): &Opened,
    range: Range<u64>,
) -> Result<(), Unanswered> {
    let Manifest { name, size, root } = published.manifest().clone();
    let opened = serving.primary.session().open_uni().await;
    let mut stream = opened.map_err(|error| error.to_string())?;
    let stream_id = stream.id().as_u64();
    let attributes = object.stat().attributes();
    let command = EdgeCommand {
        name: name.clone(),
        size,
        root,
        offset: range.start,
        attributes,
        pack: Vec::new(),
    };
    let length = range.end - range.start;
    let extent = Extent::reserve(serving, &mut stream, length, command, &[])?;
    let found = Found { name, size, root, stream_id, inline: false, attributes };
    let found = Response::Found(found);
    serving.place.on_fetching(&root, tree::pages(size));
    let parts = [found.encode(), published.first()];
    let delivered = deliver_beside(record, send, parts, extent, object).await;
    serving.place.on_fetched(&root);
    delivered
}

async fn answer_repair(
    serving: &Serving<'_>,
    record: &Record,
    send: &mut SendStream,
    opened: &Opened,
    repair: &Repair,
) -> Result<(), Unanswered> {
    let (_, published) = opened;
    check_version(published, &repair.root)?;
    let size = published.manifest().size;
    let (range, most) = (&repair.range, WRITE_BLOCK as u64);
    let blamed_within = repair.blamed.iter().all(|blame| blame.range.end <= size);
    if range.end > size || range.end - range.start > most || !blamed_within {
        let message = format!("bytes {range:?} are no repair of an object of {size}");
        return Err(Failure { code: FailureCode::InvalidRequest, message }.into());
    }
    let (own, edges): (Vec<_>, Vec<_>) =
        repair.blamed.iter().partition(|blame| blame.path.is_primary());
    if let Some(blame) = own.first() {
        check_own(serving, send, opened, &blame.range).await?;
    }
    edges.iter().for_each(|blame| serving.on_blamed(blame, published));
    if range.is_empty() {
        return Ok(reply(send, [Response::Noted.encode()]).await?);
    }
    bring_again(serving, record, send, opened, repair).await
}

async fn bring_again(
    serving: &Serving<'_>,
    record: &Record,
    send: &mut SendStream,
    (object, published): &Opened,
    repair: &Repair,
) -> Result<(), Unanswered> {
    let Manifest { name, size, root } = published.manifest().clone();
    if !has_source(serving, repair).await {
        let message = "no other server is left that could bring it".to_owned();
        return Err(Failure { code: FailureCode::NoSource, message }.into());
    }
    let opened = serving.primary.session().open_uni().await;
    let mut stream = opened.map_err(|error| error.to_string())?;
    let stream_id = stream.id().as_u64();
    let Range { start: offset, end } = repair.range;
    let attributes = object.stat().attributes();
    let command = EdgeCommand { name, size, root, offset, attributes, pack: Vec::new() };
    let extent = Extent::reserve(serving, &mut stream, end - offset, command, &repair.excluded)?;
    let again = Response::Again { stream_id }.encode();
    deliver_beside(record, send, [again, Bytes::new()], extent, object).await
}

/// Whether anybody may bring a range again. Edges that did not join yet may do so for it.
async fn has_source(serving: &Serving<'_>, repair: &Repair) -> bool {
    let may = |path: PathId| !repair.excluded.contains(&path) && !serving.is_quarantined(path);
    let found = || serving.primary.active_paths().iter().any(|info| may(info.id));
    if found() {
        return true;
    }
    let _want = serving.demand.want(repair.range.end - repair.range.start, true);
    let waiting = async {
        loop {
            let mut changed = pin!(serving.primary.path_changed());
            // Listening before looking: no change falls in between.
            if poll!(changed.as_mut()).is_ready() {
                continue;
            }
            if found() || !serving.demand.has_untried() {
                return found();
            }
            // What is known of the edges may follow the change of a path.
            drop(timeout(LOOK_MOST, changed).await);
        }
    };
    timeout(JOIN_WAIT, waiting).await.unwrap_or(false)
}

fn check_version(published: &Published, root: &Hash) -> Result<(), Failure> {
    let here = published.manifest().root;
    if here == *root {
        return Ok(());
    }
    let message = format!("this server has another version of the object, {here}: ask again");
    Err(Failure { code: FailureCode::Changed, message })
}

/// The client says that this server's own bytes do not fit its manifest. When they do not, the
/// object is hashed anew.
async fn check_own(
    serving: &Serving<'_>,
    send: &mut SendStream,
    (object, published): &Opened,
    range: &Range<u64>,
) -> Result<(), Unanswered> {
    let index = range.start / GROUP_SIZE;
    let group = index * GROUP_SIZE..((index + 1) * GROUP_SIZE).min(object.stat().size);
    let data = object.read(group.clone()).await.map_err(|error| Unanswered::from(&error))?;
    let page = published.outline().map(|outline| outline.page_of(group.start));
    let verifier = match page {
        Ok(page) => published.page(page).await,
        Err(error) => Err(PageError::Damaged(error)),
    };
    match verifier {
        Ok((verifier, _)) if verifier.verify_group(index, &data).is_ok() => return Ok(()),
        Ok(_) => {}
        Err(error) => return Err(unusable(serving, object, &error).await.into()),
    }
    let name = &object.stat().name;
    let shown = escape(name);
    tracing::warn!(
        name = %shown, range = ?group,
        "an object's bytes are not those that were hashed, though its times say so: hashing it anew"
    );
    serving.server.catalogue.forget(object.stat()).await;
    let again = hashed(serving, send, object).await?;
    tracing::warn!(name = %shown, root = %again.manifest().root, "hashed anew");
    let message = format!(
        "the server's copy of {name} is not what it had hashed: it has hashed it anew: ask again"
    );
    Err(Failure { code: FailureCode::Changed, message }.into())
}

/// A page cannot be had. Where its entry of the catalogue is damaged or gone, whoever asks again
/// has the object hashed anew.
async fn unusable(serving: &Serving<'_>, object: &Object, error: &PageError) -> Failure {
    let name = &object.stat().name;
    let gone =
        |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof);
    if serving.server.may_say() {
        tracing::warn!(name = %escape(name), error = %escape(error), "cannot use what was hashed");
    }
    match error {
        PageError::Read(error) if !gone(error) => {
            let message = format!("the server cannot read what it had hashed of {name} now");
            Failure { code: FailureCode::Busy, message }
        }
        _ => {
            serving.server.catalogue.forget(object.stat()).await;
            let message = format!("what the server had hashed of {name} was damaged: ask again");
            Failure { code: FailureCode::Changed, message }
        }
    }
}

async fn read_request(recv: &mut RecvStream) -> Result<Call, Failure> {
    let invalid =
        |message: &str| Failure { code: FailureCode::InvalidRequest, message: message.to_owned() };
    let mut buffer = BytesMut::new();
    loop {
        match recv.read_chunk(MAX_MESSAGE, true).await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err(invalid("the request is not complete")),
            Err(error) => return Err(invalid(&error.to_string())),
        }
        if let Some(asked) = Call::decode(&mut buffer).map_err(|error| Failure::from(&error))? {
            return Ok(asked);
        }
    }
}
