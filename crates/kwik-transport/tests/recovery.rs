//! What is done about errors of sources, as is set (9.2): metadata that contradicts itself, a
//! window full of bytes that nobody reads. What sources dispute is in `conflicts.rs`, mappings that
//! are tried again are in `unleased.rs`.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use common::hostile::{self, Peer, visit};
use common::secondary::{data, encode, open, update};
use common::{
    Servers, accept_secondary, address, client, fill, identity, object, only, pair, until, within,
};
use kwik::{
    BackpressureReason, ClientConfig, Code, Identity, Lease, LeaseOutcome, MetadataRecovery,
    PathId, PrimarySession, ReadError, ReadToEndError, Recovery, RecvStream, SendStream, Session,
    SessionId, StreamId, WindowRecovery,
};
use kwik_proto::auth::{Grant, GrantClaims};
use kwik_proto::wire::control::{self, ControlMessage as M};
use kwik_proto::wire::secondary::{MappingOperation, StreamMappingUpdate, encode_secondary};
use kwik_proto::wire::{KindDecoder, SecondaryDecoder, SecondaryEvent};
use tokio::time::timeout;

const EDGE: u8 = 74;
const SIZE: u64 = 500_000;

/// An edge by hand that was leased all of a stream, and asked for its beginning.
struct Scene {
    session: Session,
    primary: PrimarySession,
    path: PathId,
    peer: Peer,
    recv: RecvStream,
    stream: SendStream,
    lease: Lease,
    offered: control::Lease,
    _servers: Servers,
}

impl Scene {
    async fn new(recovery: MetadataRecovery) -> Self {
        let servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        let mut all = Recovery::default();
        all.set_metadata(recovery).unwrap();
        config.session.settings.set_recovery(all);
        let (session, primary) = servers.connect_with(&client(), config).await;
        let add = primary.add_path(listener.local_addr().unwrap(), identity(EDGE).fingerprint());
        let (path, mut peer) = tokio::join!(add, Peer::welcome(&listener));
        let path = path.unwrap();
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.reserve(SIZE).unwrap();
        stream.finish().unwrap();
        let recv = session.accept_uni().await.unwrap();
        let lease = primary.lease(stream.id(), 0..SIZE, path, Bytes::new()).unwrap();
        let (offered, _) = peer.hear_activation().await;
        Self { session, primary, path, peer, recv, stream, lease, offered, _servers: servers }
    }

    /// A stream that goes back without a word.
    async fn throw(&self, events: &[SecondaryEvent]) -> quinn::SendStream {
        let mut quic = self.peer.connection.open_uni().await.unwrap();
        quic.write_chunk(encode(events)).await.unwrap();
        quic
    }

    fn crime(&self) -> Vec<SecondaryEvent> {
        let lease = &self.offered;
        vec![open(lease, 0), data(lease, 0..100), data(lease, 50..60)]
    }

    /// Its lease went to others, and its path lives.
    async fn ends_whole(mut self, from: u64) {
        let outcome = self.lease.outcome().await.unwrap().outcome;
        let missing = std::iter::once(from..SIZE).collect();
        assert_eq!(outcome, Some(LeaseOutcome::Lost(missing)));
        let (_own, writer) = self.primary.lease_own(self.stream.id(), 0..SIZE).unwrap();
        tokio::spawn(fill(writer));
        assert!(self.recv.read_to_end(1 << 20).await.unwrap() == object(0..SIZE));
        self.peer.ping().await;
        assert!(self.primary.active_paths().iter().any(|info| info.id == self.path));
        assert_eq!(self.session.close_reason(), None);
    }
}

#[tokio::test]
async fn a_contradiction_closes_its_path_by_default_and_the_primary_learns_whose() {
    within(async {
        let scene = Scene::new(MetadataRecovery::default()).await;
        let mut blamed = scene.primary.blamed();
        let _quic = scene.throw(&scene.crime()).await;
        scene.peer.expect(Code::MetadataProtocolViolation, "goes back").await;
        let proof = blamed.next().await.unwrap();
        assert_eq!((proof.path, proof.place), (scene.path, None));
        assert!(proof.reason.contains("beside the stream's mapping"), "{}", proof.reason);
        assert_eq!(scene.session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn a_contradiction_stops_its_stream_alone_when_that_is_set() {
    within(async {
        let scene = Scene::new(MetadataRecovery::CloseStream).await;
        let quic = scene.throw(&scene.crime()).await;
        let code = quic.stopped().await.unwrap().map(quinn::VarInt::into_inner);
        assert_eq!(code, Some(Code::MetadataProtocolViolation.as_u64()));
        scene.ends_whole(100).await;
        // What cannot be read is no better.
        let scene = Scene::new(MetadataRecovery::CloseStream).await;
        let mut bytes = BytesMut::from(&encode(&[open(&scene.offered, 0)])[..]);
        bytes.extend_from_slice(&[3, 0xff, 0xff, 0xff]);
        let mut quic = scene.peer.connection.open_uni().await.unwrap();
        quic.write_chunk(bytes.freeze()).await.unwrap();
        let code = quic.stopped().await.unwrap().map(quinn::VarInt::into_inner);
        assert_eq!(code, Some(Code::MetadataProtocolViolation.as_u64()));
        scene.ends_whole(0).await;
    })
    .await;
}

#[tokio::test]
async fn a_contradiction_is_passed_over_in_silence_when_that_is_set() {
    within(async {
        let scene = Scene::new(MetadataRecovery::IgnoreStream).await;
        let mut quic = scene.throw(&scene.crime()).await;
        quic.write_chunk(Bytes::from(vec![7; 100_000])).await.unwrap();
        let (_, stopped) = (quic.finish(), quic.stopped());
        // All of it is read, and none of it stopped.
        assert_eq!(stopped.await.unwrap(), None);
        scene.ends_whole(100).await;
    })
    .await;
}

#[tokio::test]
async fn what_data_says_of_itself_counts_when_that_is_set() {
    within(async {
        let mut scene = Scene::new(MetadataRecovery::UseDefaults).await;
        let lease = &scene.offered;
        // Never opened.
        let quic = scene.throw(&[data(lease, 0..100), data(lease, 100..200)]).await;
        until(|| only(&scene.session).is_some_and(|recv| recv.buffer.held == 200)).await;
        let stats = scene.session.stats();
        let secondary = stats.paths.iter().find(|stats| stats.id == scene.path).unwrap().secondary;
        assert_eq!((secondary.mapped, secondary.unmapped, secondary.bytes), (1, 0, 200));
        scene.peer.ping().await;
        drop(quic);
    })
    .await;
}

#[tokio::test]
async fn a_contradiction_is_to_be_cleared_up_when_that_is_set() {
    within(async {
        let mut scene = Scene::new(MetadataRecovery::Resend).await;
        let mut quic = scene.throw(&scene.crime()).await;
        let asked = |m: &M| match m {
            M::StreamMappingUpdate(m) if m.operation == MappingOperation::Resend => Some(*m),
            _ => None,
        };
        let asked = scene.peer.hear_until(asked).await;
        assert_eq!((asked.secondary_stream_id, asked.kwik_stream_id), (1, scene.stream.id()));
        // Until it has answered nothing counts; from then on all does.
        let lease = scene.offered.clone();
        let mut more = BytesMut::new();
        for event in [data(&lease, 60..70), update(&lease, 100), data(&lease, 100..200)] {
            encode_secondary(&event, &mut more);
        }
        quic.write_chunk(more.freeze()).await.unwrap();
        until(|| only(&scene.session).is_some_and(|recv| recv.buffer.held == 200)).await;
        scene.peer.ping().await;
        // Another that does not answer in time is stopped.
        let mut config = scene.session.config();
        let mut secondary = config.secondary();
        secondary.set_metadata_timeout(Duration::from_millis(50)).unwrap();
        config.set_secondary(secondary);
        scene.session.set_config(config).unwrap();
        let mut back = BytesMut::new();
        encode_secondary(&data(&lease, 5..6), &mut back);
        quic.write_chunk(back.freeze()).await.unwrap();
        let code = quic.stopped().await.unwrap().map(quinn::VarInt::into_inner);
        assert_eq!(code, Some(Code::MetadataProtocolViolation.as_u64()));
        scene.ends_whole(200).await;
    })
    .await;
}

/// A client by hand, and an edge that writes without a lease.
#[tokio::test]
async fn an_edge_that_is_asked_says_again_where_it_writes() {
    const SESSION: SessionId = SessionId([5; 16]);
    within(async {
        let servers = Servers::new(1);
        let (endpoint, key, path) = (&servers.edges[0], Identity::from_seed([9; 32]), PathId(1));
        let claims = GrantClaims {
            session: SESSION,
            path,
            audience: endpoint.fingerprint().unwrap(),
            client_key: key.fingerprint(),
        };
        let grant = Grant::issue(&identity(0), &claims, SystemTime::now());
        let dial = async {
            let mut peer = Peer::dial(&hostile::dialer(), address(endpoint)).await;
            let exporter = peer.exporter();
            peer.say(visit(&key, &exporter, SESSION, path, grant)).await;
            peer
        };
        let (mut peer, edge) = tokio::join!(dial, accept_secondary(endpoint));
        let stream = StreamId::from_u64(3);
        tokio::spawn(async move {
            let mut mapped = edge.open_unleased(stream, 77).await.unwrap();
            mapped.write_chunk(object(77..1_000)).await.unwrap();
        });
        let mut quic = peer.connection.accept_uni().await.unwrap();
        let (mut kind, mut decoder) = (KindDecoder::new(), SecondaryDecoder::new());
        let mut events = Vec::new();
        let mut began = false;
        let mut next = async || {
            loop {
                if let Some(event) = events.pop() {
                    return event;
                }
                let mut chunk = quic.read_chunk(9_999, true).await.unwrap().unwrap().bytes;
                if !began {
                    began = kind.poll(&mut chunk).unwrap().is_some();
                }
                if !chunk.is_empty() {
                    decoder.handle_input(chunk);
                    events.extend(std::iter::from_fn(|| decoder.poll().unwrap()));
                    events.reverse();
                }
            }
        };
        let SecondaryEvent::Open(opened) = next().await else { panic!("no open") };
        let say = |operation| {
            M::StreamMappingUpdate(StreamMappingUpdate {
                secondary_stream_id: opened.secondary_stream_id,
                kwik_stream_id: stream,
                operation,
                lease_id: opened.lease_id,
                offset: 77,
            })
        };
        peer.say(say(MappingOperation::Create)).await;
        peer.say(say(MappingOperation::Resend)).await;
        let SecondaryEvent::Update(again) = next().await else { panic!("no update") };
        assert_eq!((again.kwik_stream_id, again.offset), (stream, 77));
        assert_eq!(again.lease_id, opened.lease_id);
    })
    .await;
}

fn recover(session: &Session, window: WindowRecovery) {
    let mut config = session.config();
    let mut recovery = config.recovery();
    recovery.set_window(window).unwrap();
    recovery.set_window_timeout(Duration::from_millis(20)).unwrap();
    config.set_recovery(recovery);
    session.set_config(config).unwrap();
}

/// Four streams that nobody reads, which fill a third of the window.
async fn unread(client: &Session, server: &Session) -> Vec<RecvStream> {
    let mut config = client.config();
    config.set_stream_threshold(1.0).unwrap().set_window_threshold(0.3).unwrap();
    client.set_config(config).unwrap();
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut send = server.open_uni().await.unwrap();
        tokio::spawn(async move { send.write_all(&vec![1; 240 << 10]).await });
        unread.push(client.accept_uni().await.unwrap());
    }
    until(|| client.stats().backpressure.window_full.count > 0).await;
    unread
}

#[tokio::test]
async fn a_window_full_of_unread_bytes_is_borne_or_cleaned_up_as_is_set() {
    within(async {
        let (client, server, _kept) = pair().await;
        let mut unread = unread(&client, &server).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        let stats = client.stats();
        assert_eq!(stats.backpressure.session, Some(BackpressureReason::WindowFull));
        assert_eq!(client.stream_stats().len(), 4);
        let before = stats.held;
        recover(&client, WindowRecovery::Cleanup);
        until(|| client.stats().backpressure.session.is_none()).await;
        assert!(client.stats().held < before);
        let mut failed = 0;
        for recv in &mut unread {
            let read = timeout(Duration::from_millis(100), recv.read_to_end(1 << 20)).await;
            if let Ok(Err(ReadToEndError::Read(ReadError::Failed(error)))) = read {
                assert_eq!(error.code, Code::LimitExceeded);
                assert!(error.context.contains("were not read"), "{error}");
                failed += 1;
            }
        }
        assert!((1..4).contains(&failed), "{failed}");
    })
    .await;
}

/// What a slow stream may hold before some of it is read, and after.
async fn allowance_of_a_slow_stream(window: WindowRecovery) -> (u64, u64) {
    let (client, server, _kept) = pair().await;
    recover(&client, window);
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut send = server.open_uni().await.unwrap();
        tokio::spawn(async move { send.write_all(&vec![1; 1 << 20]).await });
        slow.push(client.accept_uni().await.unwrap());
    }
    until(|| client.stats().backpressure.session.is_some()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let id = slow[0].id();
    let allowance = || {
        let stats = client.stream_stats();
        let recv = stats.into_iter().find(|stats| stats.id == id).and_then(|stats| stats.recv);
        recv.unwrap().allowance
    };
    let before = allowance();
    let mut read = 0;
    while read < before / 2 {
        read += slow[0].read_chunk(10_000, true).await.unwrap().unwrap().bytes.len() as u64;
    }
    (before, allowance())
}

#[tokio::test]
async fn a_slow_stream_gives_back_what_it_borrowed_when_that_is_set() {
    within(async {
        let (before, after) = allowance_of_a_slow_stream(WindowRecovery::Wait).await;
        assert!(after * 10 > before * 8, "{after} of {before}");
        let (before, after) = allowance_of_a_slow_stream(WindowRecovery::Reallocate).await;
        assert!(after * 10 < before * 7, "{after} of {before}");
    })
    .await;
}
