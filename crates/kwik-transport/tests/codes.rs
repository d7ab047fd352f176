//! The codes of paths (9.1), provoked by a primary by hand; the others' tests stand in
//! docs/recovery.md.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use bytes::Bytes;
use common::hostile::{self, Peer};
use common::proto::{Field, message};
use common::{client, identity, within};
use kwik::{ClientConfig, Code, ConnectionError, PathId, Session};
use kwik_proto::limits;
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{AddPathRequest, RawPacketTransmission, RemovePathRequest};

const PRIMARY: u8 = 75;
const EDGE: u8 = 76;

/// A client, and its primary by hand.
async fn scene() -> (Session, Peer) {
    let listener = hostile::listener(&identity(PRIMARY));
    let config = ClientConfig::pinned(identity(PRIMARY).fingerprint());
    let address = listener.local_addr().unwrap();
    let endpoint = client();
    let dial = async { endpoint.connect_with(config, address, "").unwrap().await.unwrap() };
    tokio::join!(dial, Peer::welcome(&listener))
}

fn add(path: u32, target_address: String) -> M {
    M::AddPathRequest(AddPathRequest {
        path_id: PathId(path),
        session_id: None,
        target_address,
        server_key_hash: identity(EDGE).fingerprint(),
        grant: Bytes::from_static(b"taken by an edge by hand"),
    })
}

/// What the client reports of a raw packet.
async fn relayed(primary: &mut Peer, path: u32, len: usize) -> Option<Code> {
    let packet = RawPacketTransmission {
        target_path_id: PathId(path),
        sequence: 1,
        data: vec![7; len].into(),
        ..<_>::default()
    };
    primary.say(M::RawPacketTransmission(packet)).await;
    let report = |m: &M| match m {
        M::RelayReport(report) => Some(report.code),
        _ => None,
    };
    let code = primary.hear_until(report).await;
    (code != 0).then(|| Code::from_u64(code).unwrap())
}

#[tokio::test]
async fn paths_that_are_not_there_or_not_any_more_are_told_by_their_codes() {
    within(async {
        let (session, mut primary) = scene().await;
        assert_eq!(relayed(&mut primary, 7, 1).await, Some(Code::PathNotFound));
        primary.say(M::RemovePathRequest(RemovePathRequest { path_id: PathId(7) })).await;
        let answer = |m: &M| match m {
            M::RemovePathResponse(m) => m.result.clone().err(),
            _ => None,
        };
        let why = primary.hear_until(answer).await;
        assert!(why.starts_with("KWIK_PATH_NOT_FOUND"), "{why}");
        // A place where no client is sent.
        primary.say(add(8, "169.254.0.1:1".into())).await;
        let refused = |m: &M| match m {
            M::AddPathResponse(m) => m.result.clone().err(),
            _ => None,
        };
        let why = primary.hear_until(refused).await;
        assert!(why.starts_with("KWIK_PATH_NOT_FOUND"), "{why}");
        assert_eq!(relayed(&mut primary, 8, 1).await, Some(Code::PathDead));
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn a_raw_packet_that_is_too_large_is_told_by_its_code_and_relayed_to_nobody() {
    const RAW_PACKET_TRANSMISSION: i32 = 8;
    within(async {
        let (session, mut primary) = scene().await;
        let listener = hostile::listener(&identity(EDGE));
        primary.say(add(1, listener.local_addr().unwrap().to_string())).await;
        let added = |m: &M| match m {
            M::AddPathResponse(m) => Some(m.result.clone()),
            _ => None,
        };
        let (edge, added) = tokio::join!(Peer::welcome(&listener), primary.hear_until(added));
        assert_eq!(added, Ok(()));
        assert_eq!(relayed(&mut primary, 1, limits::MAX_RAW_PACKET).await, None);
        edge.connection.accept_uni().await.unwrap();
        // No build of ours encodes a larger one.
        let data = vec![7; limits::MAX_RAW_PACKET + 1];
        let fields = [(1, Field::Bytes(&data)), (2, Field::Bytes(b"1")), (16, Field::Number(2))];
        primary.say_frame(RAW_PACKET_TRANSMISSION, message(&fields)).await;
        primary.expect(Code::PacketTooLarge, "a large packet").await;
        let closed = session.closed().await;
        let ConnectionError::TransportError { code, .. } = closed else { panic!("{closed:?}") };
        assert_eq!(code, Code::PacketTooLarge.as_u64());
    })
    .await;
}
