use proptest::{collection::vec, prelude::*};

use super::*;
use crate::limits::{MAX_PACK, MAX_PACK_SIZE};

fn name() -> ObjectName {
    ObjectName::new("a/b").unwrap()
}

fn found(size: u64) -> Found {
    let (inline, attributes) = (false, Attributes::default());
    Found { name: name(), size, root: blake3::hash(b"x"), stream_id: 7, inline, attributes }
}

fn decode_response(message: wire::Found) -> Result<Option<Response>, InvalidMessage> {
    let outcome = Some(wire::response::Outcome::Found(message));
    Response::decode(&mut BytesMut::from(frame(&wire::Response { outcome })))
}

fn wire_found(size: u64) -> wire::Found {
    let (root, name) = (root_bytes(&blake3::hash(b"x")), "a".into());
    let outboard_size = tree::first_size(size);
    let (inline, attributes) = (false, None);
    wire::Found { name, size, root, outboard_size, stream_id: 1, inline, attributes }
}

#[test]
fn messages_round_trip_byte_by_byte_and_leave_the_rest() {
    let request = Request::whole(name());
    let failure = Failure { code: FailureCode::Busy, message: "later".into() };
    let mut sent = BytesMut::from(request.encode());
    sent.extend_from_slice(&Response::Found(found(1 << 30)).encode());
    sent.extend_from_slice(&Response::Failed(failure.clone()).encode());
    let mut buffer = BytesMut::new();
    let mut responses = Vec::new();
    let mut requests = Vec::new();
    for byte in sent {
        buffer.extend_from_slice(&[byte]);
        if requests.is_empty() {
            requests.extend(Request::decode(&mut buffer).unwrap());
        } else {
            responses.extend(Response::decode(&mut buffer).unwrap());
        }
    }
    assert_eq!(requests, [request]);
    assert_eq!(responses, [Response::Found(found(1 << 30)), Response::Failed(failure)]);
    assert!(buffer.is_empty());

    let mut buffer = BytesMut::from(Response::Found(found(3)).encode());
    buffer.extend_from_slice(b"outboard");
    Response::decode(&mut buffer).unwrap().unwrap();
    assert_eq!(buffer, "outboard");
}

#[test]
fn ranges_round_trip_and_begin_with_a_group() {
    let part = |root, range| Request { name: name(), part: Part::Range { root, range } };
    let decode = |request: &Request| Request::decode(&mut request.encode().into());
    for request in [part(None, 0..0), part(Some(blake3::hash(b"x")), 65_536..65_537)] {
        assert_eq!(decode(&request), Ok(Some(request)));
    }
    for range in [1..65_536, 0..MAX_OBJECT + 1] {
        assert_eq!(decode(&part(None, range)), Err(InvalidMessage::Malformed));
    }
    let inverted = Range { start: GROUP_SIZE, end: 1 };
    assert_eq!(decode(&part(None, inverted)), Err(InvalidMessage::Malformed));
}

#[test]
fn lengths_are_refused_from_the_prefix_alone() {
    for prefix in [&[0x81, 0x80, 0x04][..], &[0xff; 4]] {
        let refused = Request::decode(&mut BytesMut::from(prefix));
        assert_eq!(refused, Err(InvalidMessage::TooLong));
    }
    assert_eq!(Request::decode(&mut BytesMut::from(&[0x80, 0x80, 0x04][..])), Ok(None));
    assert_eq!(EdgeCommand::decode(&[0; MAX_MESSAGE + 1]), Err(InvalidMessage::TooLong));
}

#[test]
fn each_bad_field_is_refused() {
    let good = wire_found(1 << 20);
    assert!(decode_response(good.clone()).is_ok());
    let outboard_size = good.outboard_size + 32;
    let bad = wire::Found { outboard_size, ..good.clone() };
    assert_eq!(decode_response(bad), Err(InvalidMessage::OutboardSize));
    let bad = wire_found(MAX_OBJECT + 1);
    assert_eq!(decode_response(bad), Err(InvalidMessage::TooLarge { size: MAX_OBJECT + 1 }));
    // More of an outboard than a page is not taken, however large the object.
    let outboard_size = tree::outboard_size(MAX_OBJECT);
    let bad = wire::Found { outboard_size, ..wire_found(MAX_OBJECT) };
    assert_eq!(decode_response(bad), Err(InvalidMessage::OutboardSize));
    assert_eq!(found(MAX_OBJECT).outboard_size(), 128 * 1024);
    let bad = wire::Found { root: Bytes::from_static(b"short"), ..good.clone() };
    assert_eq!(decode_response(bad), Err(InvalidMessage::Malformed));
    let bad = wire::Found { name: "../x".into(), ..good };
    assert_eq!(decode_response(bad), Err(InvalidMessage::Name(InvalidName::DotSegment)));
    let empty = frame(&wire::Response { outcome: None });
    assert_eq!(Response::decode(&mut empty.into()), Err(InvalidMessage::Malformed));
    let old = frame(&wire::Request { name: "a".into(), version: 2, part: None });
    let refused = Request::decode(&mut old.into());
    assert_eq!(refused, Err(InvalidMessage::Version { version: 2 }));
}

#[test]
fn long_texts_are_cut_between_characters() {
    let failure = Failure { code: FailureCode::Other, message: "ü".repeat(MAX_TEXT) };
    let mut buffer = BytesMut::from(Response::Failed(failure).encode());
    let response = Response::decode(&mut buffer).unwrap().unwrap();
    let Response::Failed(failure) = response else { panic!("{response:?}") };
    assert_eq!(failure.message, "ü".repeat(MAX_TEXT / 2));
}

proptest! {
    #[test]
    fn commands_round_trip(size in 0..=MAX_OBJECT, root in any::<[u8; 32]>()) {
        let (root, attributes) = (root.into(), Attributes::default());
        let pack = if size <= MAX_PACK_SIZE { vec![name(); 3] } else { Vec::new() };
        let command = EdgeCommand { name: name(), size, root, offset: size / 3, attributes, pack };
        prop_assert_eq!(EdgeCommand::decode(&command.encode()), Ok(command.clone()));
        let many = EdgeCommand { pack: vec![name(); MAX_PACK + 1], ..command };
        prop_assert!(EdgeCommand::decode(&many.encode()).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..80)) {
        if let Ok(command) = EdgeCommand::decode(&bytes) {
            prop_assert_eq!(EdgeCommand::decode(&command.encode()), Ok(command));
        }
        if let Ok(Some(request)) = Request::decode(&mut BytesMut::from(&*bytes)) {
            let again = Request::decode(&mut request.encode().into());
            prop_assert_eq!(again, Ok(Some(request)));
        }
        if let Ok(Some(response)) = Response::decode(&mut BytesMut::from(&*bytes)) {
            let again = Response::decode(&mut response.encode().into());
            prop_assert_eq!(again, Ok(Some(response)));
        }
    }
}
