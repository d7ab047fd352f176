//! What a primary may answer that it should not, row by row over real QUIC: each ends the fetch with
//! an error that is one harmless line, in its time, and no byte is written that is not the object's.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{MIB, content, identity, liar::Checked, name};
use kwik::{Accepted, ClientConfig, Endpoint, PrimarySession, SendStream, ServerConfig, escape};
use kwik_delivery::{
    Client, Failure, FailureCode, FetchError, Found, Manifest, Output, Part, Progress, Request,
    Response, Source, hash_object,
};
use tokio::time::{sleep, timeout};

const SIZE: usize = 3 * MIB;

/// The object as it is.
struct Truth {
    object: Bytes,
    manifest: Manifest,
    outboard: Bytes,
}

impl Truth {
    async fn of(object: Bytes) -> Self {
        let memory = Source::memory([(name("x"), object.clone())]);
        let published = hash_object(&memory.open(&name("x")).await.unwrap()).await.unwrap();
        let (_, outboard) = published.page(0).await.unwrap();
        Self { object, manifest: published.manifest().clone(), outboard }
    }

    fn found(&self, stream_id: u64) -> Found {
        let Manifest { name, size, root } = self.manifest.clone();
        Found { name, size, root, stream_id }
    }
}

/// What a primary says and sends.
struct Answer {
    told: Vec<u8>,
    /// Whether it has no more to say.
    ends: bool,
    /// Said again and again.
    repeated: Option<Response>,
    sent: Vec<u8>,
    /// How the object's stream ends.
    end: End,
}

enum End {
    Finished,
    Reset,
    Open,
}

impl Answer {
    fn told(told: impl Into<Vec<u8>>) -> Self {
        let (told, sent) = (told.into(), Vec::new());
        Self { told, ends: true, repeated: None, sent, end: End::Open }
    }

    fn one(response: &Response) -> Self {
        Self::told(response.encode())
    }

    fn working(repeated: Response) -> Self {
        Self { ends: false, repeated: Some(repeated), ..Self::told([]) }
    }

    fn with(self, sent: impl Into<Vec<u8>>, end: End) -> Self {
        Self { sent: sent.into(), end, ..self }
    }

    fn open(self) -> Self {
        Self { ends: false, ..self }
    }
}

/// What it should say to a request, whose bytes go on stream `id`.
fn honest(truth: &Truth, request: &Request, id: u64) -> Answer {
    let at = |offset: u64| usize::try_from(offset).unwrap();
    match &request.part {
        Part::Repair(repair) if repair.range.is_empty() => Answer::one(&Response::Noted),
        Part::Repair(repair) => {
            let data = &truth.object[at(repair.range.start)..at(repair.range.end)];
            Answer::one(&Response::Again { stream_id: id }).with(data, End::Finished)
        }
        part => {
            let range = match part {
                Part::Range { range, .. } => range.clone(),
                _ => 0..truth.manifest.size,
            };
            let found = Response::Found(truth.found(id)).encode();
            let told = [&found[..], &truth.outboard].concat();
            let data = &truth.object[at(range.start)..at(range.end)];
            Answer::told(told).with(data, End::Finished)
        }
    }
}

fn is_asked_again(request: &Request) -> bool {
    matches!(request.part, Part::Repair(_))
}

type Lie = fn(&Truth, &Request, u64) -> Answer;
type Expected = fn(&FetchError) -> bool;
/// What it is, what is answered, what comes of it, and whether that takes patience.
type Row = (&'static str, Lie, Expected, bool);

fn is_answer(error: &FetchError) -> bool {
    matches!(error, FetchError::Answer(_))
}

fn is_outboard(error: &FetchError) -> bool {
    matches!(error, FetchError::Outboard(_))
}

fn is_length(error: &FetchError) -> bool {
    matches!(error, FetchError::Length { .. })
}

fn is_silent(error: &FetchError) -> bool {
    matches!(error, FetchError::Silent { .. })
}

fn is_refused(error: &FetchError) -> bool {
    matches!(error, FetchError::Refused(_))
}

fn is_liars(error: &FetchError) -> bool {
    matches!(error, FetchError::Liars { .. })
}

fn found(truth: &Truth, id: u64, change: impl FnOnce(&mut Found)) -> Vec<u8> {
    let mut found = truth.found(id);
    change(&mut found);
    [&Response::Found(found).encode()[..], &truth.outboard].concat()
}

fn failed(words: &str) -> Response {
    Response::Failed(Failure { code: FailureCode::Other, message: words.to_owned() })
}

const EVIL: &str = "gone\n2026 ERROR all is lost\u{1b}[2J\u{7}\u{9b}31m\u{202e}";

/// No answer at all to what was asked.
fn malformed() -> Vec<Row> {
    vec![
        ("garbage", |_, _, _| Answer::told(vec![0x85; 40]), is_answer, false),
        ("an empty message", |_, _, _| Answer::told([0]), is_answer, false),
        ("a length without end", |_, _, _| Answer::told([0xff; 9]), is_answer, false),
        ("a message of 2 MiB", |_, _, _| Answer::told([0x80, 0x80, 0x7f]), is_answer, false),
        ("nothing", |_, _, _| Answer::told([]), is_answer, false),
        ("a page", |_, _, _| Answer::one(&Response::Page { size: 9 }), is_answer, false),
        ("a repair", |_, _, id| Answer::one(&Response::Again { stream_id: id }), is_answer, false),
        ("a note", |_, _, _| Answer::one(&Response::Noted), is_answer, false),
        ("evil words", |_, _, _| Answer::one(&failed(EVIL)), is_refused, false),
        (
            "work without end",
            |_, _, _| Answer::working(Response::Working { hashed: 0, size: 1 << 40 }),
            is_silent,
            true,
        ),
        (
            "more work than there is",
            |_, _, _| Answer::working(Response::Working { hashed: u64::MAX, size: 7 }),
            is_silent,
            true,
        ),
    ]
}

/// Another object than the one that was asked for, or one that cannot be.
fn manifests() -> Vec<Row> {
    vec![
        (
            "another name",
            |truth, _, id| Answer::told(found(truth, id, |found| found.name = name("y"))),
            is_answer,
            false,
        ),
        (
            "more than 1 TiB",
            |truth, _, id| Answer::told(found(truth, id, |found| found.size = (1 << 40) + 1)),
            is_answer,
            false,
        ),
        (
            "another root",
            |truth, _, id| {
                Answer::told(found(truth, id, |found| found.root = blake3::hash(b"lie")))
                    .with(&truth.object[..], End::Finished)
            },
            is_outboard,
            false,
        ),
        (
            "an outboard that ends early",
            |truth, _, id| {
                let told = found(truth, id, |_| ());
                Answer::told(&told[..told.len() - 1]).with(&truth.object[..], End::Finished)
            },
            is_outboard,
            false,
        ),
        (
            "an outboard of another object",
            |truth, _, id| {
                let mut told = found(truth, id, |_| ());
                *told.last_mut().unwrap() ^= 1;
                Answer::told(told).with(&truth.object[..], End::Finished)
            },
            is_outboard,
            false,
        ),
        (
            "an answer twice",
            |truth, _, id| {
                let told = found(truth, id, |_| ());
                let twice = [&told[..], &told].concat();
                Answer::told(twice).open().with(&truth.object[..MIB], End::Open)
            },
            is_answer,
            false,
        ),
        (
            "work after the answer",
            |truth, _, id| {
                let work = Response::Working { hashed: 1, size: 2 }.encode();
                let told = [&found(truth, id, |_| ())[..], &work].concat();
                Answer::told(told).open().with(&truth.object[..MIB], End::Open)
            },
            is_answer,
            false,
        ),
        (
            "a failure under way",
            |truth, _, id| {
                let told = [&found(truth, id, |_| ())[..], &failed(EVIL).encode()].concat();
                Answer::told(told).open().with(&truth.object[..MIB], End::Open)
            },
            is_refused,
            false,
        ),
    ]
}

/// Other bytes than were promised.
fn streams() -> Vec<Row> {
    vec![
        (
            "a stream that ends early",
            |truth, request, id| {
                let Answer { mut sent, .. } = honest(truth, request, id);
                sent.pop();
                honest(truth, request, id).with(sent, End::Finished)
            },
            is_length,
            false,
        ),
        (
            "a stream of a byte too many",
            |truth, request, id| {
                let Answer { mut sent, .. } = honest(truth, request, id);
                sent.push(7);
                honest(truth, request, id).with(sent, End::Finished)
            },
            is_length,
            false,
        ),
        (
            "a stream that is reset",
            |truth, request, id| {
                let Answer { sent, .. } = honest(truth, request, id);
                honest(truth, request, id).with(&sent[..sent.len().min(MIB)], End::Reset)
            },
            |error| matches!(error, FetchError::Read(_)),
            false,
        ),
        (
            "a stream that stops",
            |truth, request, id| {
                let Answer { sent, .. } = honest(truth, request, id);
                honest(truth, request, id).with(&sent[..sent.len().min(MIB)], End::Open)
            },
            is_silent,
            true,
        ),
        (
            "a stream that never comes",
            |truth, _, _| Answer::told(found(truth, 399, |_| ())),
            is_silent,
            true,
        ),
        (
            "the client's own stream",
            |truth, _, _| Answer::told(found(truth, 0, |_| ())),
            is_silent,
            true,
        ),
        (
            "no stream's id",
            |truth, _, _| Answer::told(found(truth, u64::MAX, |_| ())),
            is_silent,
            true,
        ),
        (
            "wrong bytes, whatever is asked",
            |truth, request, id| {
                let answer = honest(truth, request, id);
                let sent = vec![9; answer.sent.len()];
                answer.with(sent, End::Finished)
            },
            is_liars,
            false,
        ),
        (
            "wrong bytes, and another answer for the right ones",
            |truth, request, id| match is_asked_again(request) {
                true => Answer::told(found(truth, id, |_| ())),
                false => honest(truth, request, id).with(vec![9; SIZE], End::Finished),
            },
            |error| is_answer(error) || is_length(error),
            false,
        ),
        (
            "wrong bytes, and no time for the right ones",
            |truth, request, id| match is_asked_again(request) {
                true => Answer::one(&Response::Failed(Failure {
                    code: FailureCode::Busy,
                    message: EVIL.to_owned(),
                })),
                false => honest(truth, request, id).with(vec![9; SIZE], End::Finished),
            },
            |error| is_refused(error) || is_length(error),
            false,
        ),
    ]
}

/// A primary of one session, which answers the first request as `first` says, and others by the
/// lie. What the session before has brought is kept by the client.
async fn serve(primary: PrimarySession, truth: Arc<Truth>, cut: bool, lie: Lie) {
    let asked = AtomicUsize::new(0);
    while let Ok((send, mut recv)) = primary.session().accept_bi().await {
        let Ok(request) = recv.read_to_end(MIB).await else { return };
        let Ok(Some(request)) = Request::decode(&mut request.as_slice().into()) else { return };
        let Ok(mut stream) = primary.session().open_uni().await else { return };
        let id = stream.id().as_u64();
        let is_first = asked.fetch_add(1, Relaxed) == 0;
        let answer = if cut && is_first {
            honest(&truth, &request, id).with(&truth.object[..MIB], End::Reset)
        } else {
            lie(&truth, &request, id)
        };
        tokio::spawn(say(send, answer.ends, answer.told, answer.repeated));
        tokio::spawn(async move {
            stream.write_all(&answer.sent).await.ok();
            match answer.end {
                End::Finished => stream.finish().unwrap_or_default(),
                End::Reset => {
                    // What was sent arrives first, or else nothing is resumed.
                    sleep(Duration::from_millis(300)).await;
                    stream.reset(1).ok();
                }
                End::Open => std::future::pending().await,
            }
        });
    }
}

async fn say(mut send: SendStream, ends: bool, told: Vec<u8>, repeated: Option<Response>) {
    send.write_all(&told).await.ok();
    if ends {
        send.finish().ok();
        return;
    }
    while let Some(response) = &repeated {
        if send.write_all(&response.encode()).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    // The stream stays open.
    std::future::pending().await
}

async fn suffer((what, lie, expected, is_slow): Row, truth: Arc<Truth>, goes_on: bool) {
    let endpoint =
        Endpoint::server(ServerConfig::new(identity(0)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let object = truth.object.clone();
    let serving = tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { return };
        serve(primary, truth, goes_on, lie).await;
    });
    let dialer = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::pinned(identity(0).fingerprint());
    let session = dialer.connect_with(config, address, "").unwrap().await.unwrap();
    let patience = if is_slow { Duration::from_millis(150) } else { Duration::from_secs(10) };
    let client = Client::new(session);
    let checked = Checked::new(&object);
    let output = Output::in_order(Box::new(checked.clone()));
    let (object, progress) = (name("x"), Progress::default());
    if goes_on {
        let fetch = client.fetch_to(&object, &output, &progress).await.unwrap();
        fetch.write(&output, &progress).await.unwrap_err();
        assert!(checked.written() > 0, "{what}: something came before");
    }
    let client = client.with_patience(patience);
    let fetching = async {
        let fetch = client.fetch_to(&object, &output, &progress).await?;
        fetch.write(&output, &progress).await
    };
    let error = timeout(Duration::from_secs(60), fetching).await;
    let error = error.unwrap_or_else(|_| panic!("{what}: waits for ever")).expect_err(what);
    assert!(expected(&error), "{what}: {error:?}");
    let shown = error.to_string();
    assert_eq!(escape(&shown).to_string(), shown, "{what}");
    assert!(checked.written() < SIZE, "{what}");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_a_primary_is_believed_waited_for_or_obeyed() {
    let truth = Arc::new(Truth::of(content(SIZE)).await);
    let rows = || malformed().into_iter().chain(manifests()).chain(streams());
    for row in rows() {
        suffer(row, truth.clone(), false).await;
    }
    println!("{} rows", rows().count());
}

/// The same, and more, to a client that has some already and asks for the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_to_a_client_that_goes_on_is_believed_waited_for_or_obeyed() {
    fn of_range(truth: &Truth, request: &Request, id: u64, lie: Lie) -> Answer {
        match &request.part {
            Part::Range { range, .. } if range.is_empty() => honest(truth, request, id),
            _ => lie(truth, request, id),
        }
    }
    let truth = Arc::new(Truth::of(content(SIZE)).await);
    let of_ranges: Vec<Row> = vec![
        (
            "another version meanwhile",
            |truth, _, id| {
                let mut answer = found(truth, id, |found| {
                    (found.size, found.root) = (1, blake3::hash(b"y"));
                });
                answer.truncate(answer.len() - truth.outboard.len());
                Answer::told(answer).with(*b"y", End::Finished)
            },
            |error| matches!(error, FetchError::Changed),
            false,
        ),
        (
            "a range of another root",
            |truth, request, id| {
                of_range(truth, request, id, |truth, _, id| {
                    Answer::told(found(truth, id, |found| found.root = blake3::hash(b"lie")))
                })
            },
            is_answer,
            false,
        ),
        (
            "a range of another size",
            |truth, request, id| {
                of_range(truth, request, id, |truth, _, id| {
                    Answer::told(found(truth, id, |found| found.size -= 1))
                })
            },
            is_answer,
            false,
        ),
        (
            "all instead of a range",
            |truth, request, id| {
                of_range(truth, request, id, |truth, request, id| {
                    honest(truth, request, id).with(&truth.object[..], End::Finished)
                })
            },
            |error| is_length(error) || is_liars(error),
            false,
        ),
        (
            "work without end for a range",
            |truth, request, id| {
                of_range(truth, request, id, |_, _, _| {
                    Answer::working(Response::Working { hashed: 1, size: 2 })
                })
            },
            is_silent,
            true,
        ),
        (
            "the stream of another request",
            |truth, request, id| {
                of_range(truth, request, id, |truth, _, id| {
                    Answer::told(found(truth, id - 4, |_| ()))
                })
            },
            |error| is_silent(error) || is_length(error),
            true,
        ),
    ];
    let of_streams = streams().into_iter().take(7);
    let rows = malformed().into_iter().chain(of_streams).chain(of_ranges);
    let mut count = 0;
    for row in rows {
        suffer(row, truth.clone(), true).await;
        count += 1;
    }
    println!("{count} rows");
}
