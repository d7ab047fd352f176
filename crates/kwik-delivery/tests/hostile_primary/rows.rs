//! What is answered, and what has to come of it.

use crate::common::{MIB, name};
use kwik_delivery::{Failure, FailureCode, FetchError, Found, Part, Request, Response};

use crate::{SIZE, Truth};

/// What a primary says and sends.
pub(crate) struct Answer {
    pub(crate) told: Vec<u8>,
    /// Whether it has no more to say.
    pub(crate) ends: bool,
    /// Said again and again.
    pub(crate) repeated: Option<Response>,
    pub(crate) sent: Vec<u8>,
    /// How the object's stream ends.
    pub(crate) end: End,
}

pub(crate) enum End {
    Finished,
    Reset,
    Open,
}

impl Answer {
    pub(crate) fn told(told: impl Into<Vec<u8>>) -> Self {
        let (told, sent) = (told.into(), Vec::new());
        Self { told, ends: true, repeated: None, sent, end: End::Open }
    }

    fn one(response: &Response) -> Self {
        Self::told(response.encode())
    }

    fn working(repeated: Response) -> Self {
        Self { ends: false, repeated: Some(repeated), ..Self::told([]) }
    }

    pub(crate) fn with(self, sent: impl Into<Vec<u8>>, end: End) -> Self {
        Self { sent: sent.into(), end, ..self }
    }

    fn open(self) -> Self {
        Self { ends: false, ..self }
    }
}

/// What it should say to a request, whose bytes go on stream `id`.
pub(crate) fn honest(truth: &Truth, request: &Request, id: u64) -> Answer {
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

pub(crate) type Lie = fn(&Truth, &Request, u64) -> Answer;
pub(crate) type Expected = fn(&FetchError) -> bool;
/// What it is, what is answered, what comes of it, and whether that takes patience.
pub(crate) type Row = (&'static str, Lie, Expected, bool);

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

pub(crate) const A_BYTE_TOO_MANY: &str = "a stream of a byte too many";
const EVIL: &str = "gone\n2026 ERROR all is lost\u{1b}[2J\u{7}\u{9b}31m\u{202e}";

/// No answer at all to what was asked.
pub(crate) fn malformed() -> Vec<Row> {
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
pub(crate) fn manifests() -> Vec<Row> {
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
    ]
}

/// More than one answer.
pub(crate) fn twice() -> Vec<Row> {
    vec![
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
pub(crate) fn streams() -> Vec<Row> {
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
            A_BYTE_TOO_MANY,
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
    ]
}

/// Wrong bytes, and what is said to whoever asks for the right ones.
pub(crate) fn repairs() -> Vec<Row> {
    vec![
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

fn of_range(truth: &Truth, request: &Request, id: u64, lie: Lie) -> Answer {
    match &request.part {
        Part::Range { range, .. } if range.is_empty() => honest(truth, request, id),
        _ => lie(truth, request, id),
    }
}

/// Another range, or another version of it, than the one that was asked for.
pub(crate) fn ranges() -> Vec<Row> {
    vec![
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
    ]
}
