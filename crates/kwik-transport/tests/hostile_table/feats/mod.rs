//! Crimes that take several steps. A row says what is done, what may be on the heap for it, the
//! code that it brings (none: it is borne), and the function that does it and looks at everybody
//! else.

use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use common::hostile::numbered;
use common::object;
use kwik::Code;
use prost::Message as _;

use crate::common;
use crate::heap::Watch;

pub(crate) mod clients;
pub(crate) mod edges;
pub(crate) mod primaries;

/// What most of them may cost, both ends together, in bytes.
const SMALL: usize = crate::MEMORY;
/// For those who send as much as QUIC takes: its windows and buffers, at both ends.
const FLOOD: usize = 4 * 1024 * 1024;

/// Rows of crimes: their tests, and their list.
macro_rules! feats {
    ($($name:ident: $memory:expr, $ends:expr, $act:expr;)*) => {
        $(#[tokio::test]
        async fn $name() {
            let _turn = crate::heap::TURN.lock().await;
            crate::common::within($act).await;
            let ((peak, brought), ends) = (super::over(), $ends as Option<kwik::Code>);
            assert_eq!(brought, ends);
            println!("{}: {ends:?}, {peak} bytes of {}", stringify!($name), $memory);
            assert!(peak <= $memory, "{peak} bytes on the heap");
        })*

        /// Their names.
        pub(crate) const FEATS: &[&str] = &[$(stringify!($name)),*];
    };
}
use feats;

/// The heap of the crime whose turn it is, and the code that it brought.
static WATCHED: Mutex<Option<(Watch, Option<Code>)>> = Mutex::new(None);

/// The scene stands: what the heap holds from here on is the crime's.
fn begins() {
    WATCHED.lock().unwrap().replace((Watch::start(), None));
}

/// The crime has brought this code.
fn saw(code: Code) {
    WATCHED.lock().unwrap().as_mut().unwrap().1 = Some(code);
}

/// What the heap held at most, and the code.
fn over() -> (usize, Option<Code>) {
    let (watch, brought) = WATCHED.lock().unwrap().take().unwrap();
    (watch.stop(), brought)
}

/// A data stream that brings a range, of whatever bytes.
fn brought(stream: u64, range: Range<u64>, bytes: impl Fn(Range<u64>) -> Bytes) -> Vec<u8> {
    const PART: u64 = 16_000;
    let mut out = vec![0];
    for at in range.clone().step_by(PART as usize) {
        let part = at..range.end.min(at + PART);
        let frame = common::hostile::frame(stream, at, bytes(part), false);
        out.extend(numbered(vec![frame]).encode_length_delimited_to_vec());
    }
    out
}

/// The object's own bytes of a range.
fn honest(stream: u64, range: Range<u64>) -> Vec<u8> {
    brought(stream, range, object)
}
