//! Data packets: their numbers and acknowledgement (4.1), checksums and compression where both ends
//! want them (4.7), and what breaks their rules.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::hostile::{self, Peer, frame, introduction, packet};
use common::proto::{DataFrame, DataPacket};
use common::{Servers, address, client, echo, fill, identity, object, server, within};
use kwik::{Accepted, ClientConfig, Code, Identity, PrimarySession, Priority, QuicConfig, Session};
use kwik_proto::wire::control::{
    Ack, AuthenticationRequest, AuthenticationResponse, MaxStreamData,
};
use kwik_proto::wire::{ControlMessage, DataOptions, PacketEncoder, PacketFrame, StreamKind};
use kwik_proto::{Dir, Side, StreamId, limits};
use prost::Message as _;
use tokio::time::timeout;

const ALL: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

fn wants(settings: &mut kwik::Config, (checksum, compression): (bool, bool)) {
    settings.set_checksum(checksum).unwrap().set_compression(compression).unwrap();
}

fn servers(edges: u8, wanted: (bool, bool)) -> Servers {
    let trusted = [identity(0).fingerprint()].into();
    let make = |seed| {
        let mut config = kwik::ServerConfig::new(identity(seed));
        config.trusted = std::collections::BTreeSet::clone(&trusted);
        wants(&mut config.settings, wanted);
        server(config)
    };
    Servers { primary: make(0), edges: (1..=edges).map(make).collect() }
}

fn dialing(wanted: (bool, bool)) -> ClientConfig {
    let mut config = ClientConfig::pinned(identity(0).fingerprint());
    wants(&mut config.session.settings, wanted);
    config
}

/// Half of it is as random as can be, half shrinks.
fn mixed(len: u64) -> Bytes {
    let repetitive = vec![7; usize::try_from(len / 2).unwrap()];
    [object(0..len - len / 2), repetitive.into()].concat().into()
}

/// Both ends have everything they sent acknowledged.
async fn acknowledged(one: &Session, two: &Session) {
    let left = || (one.stats().unacknowledged, two.stats().unacknowledged);
    let none = async {
        while left() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), none).await.is_ok(), "{:?}", left());
}

/// Both directions, and a lease of a secondary.
async fn exchange(session: &Session, primary: &PrimarySession, servers: &Servers) {
    let sent = mixed(3_000_000);
    let (mut send, mut recv) = session.open_bi().await.unwrap();
    let write = async {
        send.write_chunk(sent.clone()).await.unwrap();
        send.finish().unwrap();
    };
    let answer = async {
        let (mut send, mut recv) = primary.session().accept_bi().await.unwrap();
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
            send.write_chunk(chunk.bytes).await.unwrap();
        }
        send.finish().unwrap();
        assert_eq!(send.stopped().await, Ok(None));
    };
    let ((), (), found) = tokio::join!(write, answer, recv.read_to_end(usize::MAX));
    assert!(found.unwrap() == sent);

    let (path, edge) = servers.add_edge(primary, 0).await;
    tokio::spawn(async move {
        let writer = edge.accept_lease().await.unwrap();
        fill(writer).await;
        edge.closed().await;
    });
    let mut stream = primary.session().open_uni().await.unwrap();
    let extent = stream.reserve(1_000_000).unwrap();
    let mut lease = primary.lease(stream.id(), extent, path, "fill".into()).unwrap();
    stream.finish().unwrap();
    let mut found = session.accept_uni().await.unwrap();
    assert!(found.read_to_end(usize::MAX).await.unwrap() == object(0..1_000_000));
    lease.outcome().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_arrive_and_are_acknowledged_whatever_both_ends_want() {
    within(async {
        for (ours, theirs) in ALL.into_iter().flat_map(|one| ALL.map(|two| (one, two))) {
            let servers = servers(1, theirs);
            let (session, primary) = servers.connect_with(&client(), dialing(ours)).await;
            exchange(&session, &primary, &servers).await;
            let agreed =
                DataOptions { checksum: ours.0 && theirs.0, compression: ours.1 && theirs.1 };
            let of =
                |session: &Session| session.stats().paths.iter().map(|path| path.data).collect();
            let (near, far): (Vec<_>, Vec<_>) = (of(&session), of(primary.session()));
            assert_eq!(near, [Some(agreed); 2], "of both paths, as of each server");
            assert_eq!(far, [Some(agreed), None]);
            acknowledged(&session, primary.session()).await;
            common::settled(&session, primary.session()).await;
        }
    })
    .await;
}

/// How a client introduces itself that wants packets of that kind.
fn wanting(options: DataOptions) -> ControlMessage {
    let ControlMessage::AuthenticationRequest(request) =
        introduction(&Identity::from_seed([9; 32]))
    else {
        panic!("no introduction")
    };
    ControlMessage::AuthenticationRequest(AuthenticationRequest { data: options, ..request })
}

/// A hostile client that is let in, its session at the server, and what they agreed on.
async fn join(servers: &Servers, options: DataOptions) -> (Peer, PrimarySession, DataOptions) {
    let dial = async {
        let mut peer = Peer::dial(&hostile::dialer(), address(&servers.primary)).await;
        peer.say(wanting(options)).await;
        let ControlMessage::AuthenticationResponse(answer) = peer.hear().await else {
            panic!("no answer")
        };
        (peer, answer.data)
    };
    let accept = async {
        match servers.primary.accept().await.unwrap().accept_any().await.unwrap() {
            Accepted::Primary(primary) => primary,
            Accepted::Secondary(_) => panic!("a client came as a secondary path"),
        }
    };
    let ((peer, agreed), primary) = tokio::join!(dial, accept);
    (peer, primary, agreed)
}

const BOTH: DataOptions = DataOptions { checksum: true, compression: true };
const CHECKSUM: DataOptions = DataOptions { checksum: true, compression: false };

fn uni() -> u64 {
    StreamId::new(Side::Client, Dir::Uni, 0).as_u64()
}

/// A data stream with this packet, as it should be.
fn encoded(id: u64, payload: &[u8], options: DataOptions) -> Vec<u8> {
    encoded_for(uni(), id, payload, options)
}

fn encoded_for(stream_id: u64, id: u64, payload: &[u8], options: DataOptions) -> Vec<u8> {
    let payload = Bytes::copy_from_slice(payload);
    let frame = PacketFrame { stream_id, offset: 0, payload, fin: true };
    let mut kind = BytesMut::new();
    StreamKind::Data.encode(&mut kind);
    let mut out = vec![kind.freeze()];
    PacketEncoder::new().encode(id, &[frame], options, &mut out);
    out.concat()
}

/// All bytes, and the packets, of a QUIC stream until it has told of the end of so many streams.
async fn heard(peer: &Peer, ends: usize) -> (Vec<u8>, Vec<DataPacket>) {
    let mut data = peer.connection.accept_uni().await.unwrap();
    // The QUIC stream may go on: others share it.
    let (mut bytes, mut packets) = (Vec::new(), Vec::<DataPacket>::new());
    let fins = |packets: &[DataPacket]| {
        packets.iter().flat_map(|packet| &packet.frames).filter(|frame| frame.fin).count()
    };
    while fins(&packets) < ends {
        let chunk = data.read_chunk(usize::MAX, true).await.unwrap().unwrap();
        bytes.extend_from_slice(&chunk.bytes);
        let mut rest = bytes.get(1..).unwrap_or_default();
        packets = std::iter::from_fn(|| {
            DataPacket::decode_length_delimited(&mut rest).ok().filter(|p| p.packet_id > 0)
        })
        .collect();
    }
    (bytes, packets)
}

/// 5.4.
#[tokio::test]
async fn small_writes_of_many_streams_leave_together() {
    const STREAMS: usize = 60;
    within(async {
        let servers = servers(0, (false, false));
        let (peer, primary, _) = join(&servers, DataOptions::default()).await;
        for _ in 0..STREAMS {
            let mut stream = primary.session().open_uni().await.unwrap();
            stream.write_all(&[7; 8]).await.unwrap();
            stream.finish().unwrap();
        }
        let (_, packets) = heard(&peer, STREAMS).await;
        // The first leaves at once, since nothing says that others follow.
        assert!(packets.len() < STREAMS / 4, "{} packets", packets.len());
    })
    .await;
}

/// 8.8, of a session that runs.
#[tokio::test]
async fn a_packet_has_as_many_frames_as_is_set() {
    within(async {
        let servers = servers(0, (false, false));
        let (peer, primary, _) = join(&servers, DataOptions::default()).await;
        let session = primary.session();
        let mut config = session.config();
        config.set_batch_size(3).unwrap();
        session.set_config(config).unwrap();
        for _ in 0..60 {
            let mut stream = session.open_uni().await.unwrap();
            stream.write_all(&[7; 8]).await.unwrap();
            stream.finish().unwrap();
        }
        let (_, packets) = heard(&peer, 60).await;
        assert!(packets.iter().all(|packet| packet.frames.len() <= 3));
        // A write and an end each, of which those of one stream leave as one frame.
        assert!(packets.len() >= 2 * 60 / 3, "{} packets", packets.len());
    })
    .await;
}

#[tokio::test]
async fn what_was_agreed_is_on_the_wire() {
    within(async {
        let servers = servers(0, (true, true));
        for options in [DataOptions::default(), CHECKSUM, BOTH] {
            let (peer, primary, agreed) = join(&servers, options).await;
            assert_eq!(agreed, options);
            let mut stream = primary.session().open_uni().await.unwrap();
            stream.write_all(&[7; 10_000]).await.unwrap();
            stream.finish().unwrap();
            let (bytes, packets) = heard(&peer, 1).await;
            for packet in &packets {
                assert_eq!(packet.checksum != 0, options.checksum);
            }
            let compressed = |frame: &DataFrame| frame.flags == 4;
            let any = packets.iter().flat_map(|packet| &packet.frames).any(compressed);
            assert_eq!(any, options.compression);
            let ids: Vec<_> = packets.iter().map(|packet| packet.packet_id).collect();
            assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
            assert_eq!(bytes.len() < 1000, options.compression);
        }
    })
    .await;
}

#[tokio::test]
async fn a_corrupted_packet_closes_its_path_unread() {
    within(async {
        let servers = servers(0, (true, true));
        let whole = encoded(1, b"payload", CHECKSUM);
        let (peer, primary, _) = join(&servers, CHECKSUM).await;
        peer.throw(whole.clone()).await;
        let mut stream = primary.session().accept_uni().await.unwrap();
        assert_eq!(stream.read_to_end(100).await.unwrap(), b"payload");

        for at in 3..whole.len() {
            let mut corrupted = whole.clone();
            corrupted[at] ^= 1;
            let (peer, primary, _) = join(&servers, CHECKSUM).await;
            peer.throw(corrupted).await;
            peer.expect(Code::InvalidFrame, &format!("byte {at}")).await;
            assert!(primary.session().accept_uni().await.is_err(), "byte {at}");
        }
    })
    .await;
}

#[tokio::test]
async fn packets_that_break_what_was_agreed_end_the_session() {
    within(async {
        let bare = DataOptions::default();
        let compressing = DataOptions { checksum: false, compression: true };
        let block = encoded(1, &[7; 5000], compressing);
        let lying = {
            let mut lying = DataPacket::decode_length_delimited(&block[1..]).unwrap();
            lying.frames[0].uncompressed_length += 1;
            lying
        };
        // Prost would write the length behind the data, which is refused as such.
        let late = [&[0][..], &lying.encode_length_delimited_to_vec()].concat();
        let zero = [&[0][..], &DataPacket::default().encode_length_delimited_to_vec()].concat();
        for (what, options, bytes) in [
            ("no checksum", CHECKSUM, encoded(1, b"payload", bare)),
            ("compressed unasked", CHECKSUM, encoded(1, &[7; 5000], BOTH)),
            ("compressed unasked and unsummed", bare, block.clone()),
            ("a late length", compressing, late),
            ("no id", bare, zero),
            ("far ahead", bare, encoded(limits::MAX_UNACKED_PACKETS + 1, b"x", bare)),
            ("the last id", bare, encoded(u64::MAX, b"x", bare)),
            (
                "an id again",
                bare,
                [&encoded(1, b"x", bare)[..], &encoded(1, b"x", bare)[1..]].concat(),
            ),
        ] {
            let servers = servers(0, (true, true));
            let (peer, _primary, agreed) = join(&servers, options).await;
            assert_eq!(agreed, options);
            peer.throw(bytes).await;
            peer.expect(Code::InvalidFrame, what).await;
        }
    })
    .await;
}

fn ack(first: u64, last: u64) -> ControlMessage {
    ControlMessage::Ack(Ack { ranges: std::iter::once(first..=last).collect(), ..<_>::default() })
}

#[tokio::test]
async fn an_ack_of_what_was_never_sent_ends_the_session() {
    within(async {
        let servers = servers(0, (false, false));
        for (first, last) in [(0, 0), (2, 2), (1, 1 << 40), (u64::MAX >> 3, u64::MAX >> 3)] {
            let (mut peer, primary, _) = join(&servers, DataOptions::default()).await;
            let mut stream = primary.session().open_uni().await.unwrap();
            stream.write_all(b"one packet").await.unwrap();
            assert_eq!(primary.session().stats().unacknowledged, 10);
            peer.say(ack(1, 1)).await;
            peer.ping().await;
            assert_eq!(primary.session().stats().unacknowledged, 0);
            peer.say(ack(first, last)).await;
            peer.expect(Code::InvalidFrame, &format!("{first} to {last}")).await;
        }

        // The same from a server.
        let listener = hostile::listener(&identity(50));
        let config = ClientConfig::pinned(identity(50).fingerprint());
        let (dialer, to) = (client(), listener.local_addr().unwrap());
        let dial = async { dialer.connect_with(config, to, "").unwrap().await.unwrap() };
        let (_session, mut peer) = tokio::join!(dial, Peer::welcome(&listener));
        peer.say(ack(1, 1)).await;
        peer.expect(Code::InvalidFrame, "nothing was sent").await;
    })
    .await;
}

#[tokio::test]
async fn what_is_kept_for_a_peer_that_acknowledges_nothing_is_bounded_whatever_its_priority() {
    within(async {
        const WINDOW: u64 = 1 << 20;
        for priority in [Priority::Normal, Priority::Critical] {
            let quic = QuicConfig { send_window: WINDOW, ..QuicConfig::default() };
            let config = kwik::ServerConfig { quic, ..kwik::ServerConfig::new(identity(0)) };
            let servers = Servers { primary: server(config), edges: Vec::new() };
            let (mut peer, primary, _) = join(&servers, DataOptions::default()).await;
            let session = primary.session().clone();
            let mut stream = session.open_uni().await.unwrap();
            stream.set_priority(priority.into()).unwrap();
            let maximum = MaxStreamData { stream_id: stream.id(), maximum: 1 << 40 };
            peer.say(ControlMessage::MaxStreamData(maximum)).await;
            tokio::spawn(async move { stream.write_chunk(object(0..16 * WINDOW)).await });
            // It reads whatever comes, for as long as anything does.
            let mut far = peer.connection.accept_uni().await.unwrap();
            let silence = Duration::from_millis(500);
            while let Ok(Ok(Some(_))) = timeout(silence, far.read_chunk(1 << 16, true)).await {}
            let kept = session.stats().unacknowledged;
            assert!((WINDOW / 2..=WINDOW).contains(&kept), "{priority:?}: {kept} bytes are kept");
        }
    })
    .await;
}

#[tokio::test]
async fn packets_are_acknowledged_at_a_streams_end_and_in_time() {
    within(async {
        let servers = servers(0, (false, false));
        let (mut peer, _primary, _) = join(&servers, DataOptions::default()).await;
        let acked = |m: &ControlMessage| match m {
            ControlMessage::Ack(m) => Some(m.ranges.clone()),
            _ => None,
        };
        peer.throw(encoded(1, b"payload", DataOptions::default())).await;
        assert_eq!(peer.hear_until(acked).await, [1..=1]);
        let open = frame(uni() + 4, 0, &b"x"[..], false);
        let mut stream = peer.connection.open_uni().await.unwrap();
        let open = DataPacket { packet_id: 3, frames: vec![open], ..Default::default() };
        stream
            .write_all(&[&[0][..], &open.encode_length_delimited_to_vec()].concat())
            .await
            .unwrap();
        assert_eq!(peer.hear_until(acked).await, [3..=3]);
        let late = DataPacket { packet_id: 2, ..Default::default() };
        stream.write_all(&late.encode_length_delimited_to_vec()).await.unwrap();
        assert_eq!(peer.hear_until(acked).await, [2..=2]);
    })
    .await;
}

/// A client that wants checksums cannot know what the packets of a server are before its answer,
/// which travels on another stream.
#[tokio::test]
async fn data_that_overtakes_the_servers_answer_waits_for_it() {
    within(async {
        let listener = hostile::listener(&identity(50));
        for agreed in [false, true] {
            let mut config = ClientConfig::pinned(identity(50).fingerprint());
            wants(&mut config.session.settings, (true, false));
            let (dialer, to) = (client(), listener.local_addr().unwrap());
            let dial = async { dialer.connect_with(config, to, "").unwrap().await.unwrap() };
            let (session, mut peer) = tokio::join!(dial, Peer::accept(&listener));
            let ControlMessage::AuthenticationRequest(request) = peer.hear().await else {
                panic!("no introduction")
            };
            assert_eq!(request.data, CHECKSUM);
            let options = DataOptions { checksum: agreed, compression: false };
            let of_server = StreamId::new(Side::Server, Dir::Uni, 0).as_u64();
            let early = encoded_for(of_server, 1, b"early", options);
            peer.throw(early).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            peer.say(ControlMessage::AuthenticationResponse(AuthenticationResponse {
                data: options,
                ..hostile::welcome(kwik::SessionId([5; 16]))
            }))
            .await;
            let mut stream = session.accept_uni().await.unwrap();
            assert_eq!(stream.read_to_end(100).await.unwrap(), b"early");
        }
    })
    .await;
}

#[tokio::test]
async fn a_hostile_peer_harms_nobody_else() {
    within(async {
        let servers = servers(0, (true, true));
        let (honest, primary) = servers.connect_with(&client(), dialing((true, true))).await;
        common::serve_echo(primary.session().clone());
        echo(&honest).await;
        let (peer, _primary, _) = join(&servers, BOTH).await;
        peer.throw(packet(vec![frame(uni(), 0, &b"unsummed"[..], false)])).await;
        peer.expect(Code::InvalidFrame, "no checksum").await;
        echo(&honest).await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_reset_while_it_waits_lets_those_that_share_go_on() {
    use tokio::io::AsyncWriteExt as _;
    within(async {
        let servers = servers(0, (false, false));
        let (mut peer, primary, _) = join(&servers, DataOptions::default()).await;
        let session = primary.session().clone();
        let mut config = session.config();
        config.set_max_unacked(2 * limits::MAX_PACKET_PAYLOAD as u64).unwrap();
        session.set_config(config.clone()).unwrap();
        let mut first = session.open_uni().await.unwrap();
        first.write_all(b"x").await.unwrap();
        first.flush().await.unwrap();
        let mut bulk = session.open_uni().await.unwrap();
        let maximum = MaxStreamData { stream_id: bulk.id(), maximum: 1 << 30 };
        peer.say(ControlMessage::MaxStreamData(maximum)).await;
        let bulk = tokio::spawn(async move {
            bulk.write_chunk(object(0..300_000)).await.unwrap();
            bulk.flush().await.unwrap();
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut waits = session.open_uni().await.unwrap();
        waits.write_all(b"waits").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        waits.reset(7).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut other = session.open_uni().await.unwrap();
        other.write_all(b"hello").await.unwrap();
        config.set_max_unacked(limits::MAX_UNACKED).unwrap();
        session.set_config(config).unwrap();
        bulk.await.unwrap();
        other.flush().await.unwrap();
    })
    .await;
}
