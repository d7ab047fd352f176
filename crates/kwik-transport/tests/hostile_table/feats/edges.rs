//! Of edges: their session goes on, and the stream is whole all the same.

use bytes::Bytes;
use common::hostile::{Peer, frame, packet};
use common::{echo, fill, object, until};
use kwik::{Code, PathId, PrimarySession};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{Activate, Stopped};
use kwik_proto::{LeaseId, PieceId};

use super::{FLOOD, SMALL, begins, brought, feats, honest, saw};
use crate::Move::Say;
use crate::edges::EdgeScene;
use crate::{commit_and_expect, common};

const ISOLATED: Option<Code> = Some(Code::SecondaryStreamIsolation);

feats! {
    an_edge_writes_before_it_has_any_lease: SMALL, ISOLATED, before_any_lease();
    an_edge_writes_its_piece_twice: SMALL, ISOLATED, twice(object);
    an_edge_writes_other_bytes_at_the_same_offsets: SMALL, ISOLATED, twice(lies);
    an_edge_writes_past_the_end_of_its_lease: SMALL, ISOLATED, past_the_end();
    an_edge_ends_a_stream_in_its_middle: SMALL, None, a_fin_in_the_middle();
    an_edge_writes_a_byte_at_a_time: SMALL, None, a_byte_at_a_time();
    an_edge_gives_up_each_lease: SMALL, None, gives_up_in_turn();
    an_edge_returns_each_piece: SMALL, None, returns_each_piece();
    an_edge_floods_stops_of_no_piece: FLOOD, None, flood(stop_of_no_piece);
    an_edge_floods_questions_where_to_go_on: FLOOD, None, flood(question);
    an_edge_floods_signs_of_life: FLOOD, None, flood(beat);
    an_edge_that_was_isolated_is_leased_nothing_and_not_joined_again: SMALL, ISOLATED, isolated();
}

async fn stage() -> EdgeScene {
    let scene = EdgeScene::new().await;
    begins();
    scene
}

fn lies(range: std::ops::Range<u64>) -> Bytes {
    object(range).iter().map(|byte| !byte).collect::<Vec<_>>().into()
}

/// The primary brings what is missing; the reader gets the object, and the session goes on.
async fn whole(mut scene: EdgeScene, len: u64) {
    let id = scene.stream.id();
    let (_own, writer) = scene.primary.lease_own(id, 0..len).unwrap();
    let filling = tokio::spawn(fill(writer));
    scene.stream.finish().unwrap();
    let mut stream = scene.session.accept_uni().await.unwrap();
    let read = stream.read_to_end(len as usize + 1).await.unwrap();
    assert!(read == object(0..len), "{} bytes", read.len());
    filling.await.unwrap();
    echo(&scene.session).await;
}

/// The edge's path has ended for `code`, at both ends; nobody else is harmed.
async fn ended(scene: EdgeScene, path: PathId, peer: &Peer, code: Code, len: u64) {
    peer.expect(code, "a hostile edge").await;
    saw(code);
    scene.hears(path, code, "a hostile edge").await;
    whole(scene, len).await;
}

async fn before_any_lease() {
    let mut scene = stage().await;
    let (path, peer) = scene.join().await;
    let len = 50_000;
    assert_eq!(scene.stream.reserve(len).unwrap(), 0..len);
    peer.throw(honest(scene.stream.id().as_u64(), 0..10)).await;
    ended(scene, path, &peer, Code::SecondaryStreamIsolation, len).await;
}

async fn twice(again: fn(std::ops::Range<u64>) -> Bytes) {
    let mut scene = stage().await;
    let (len, stream) = (50_000, scene.stream.id().as_u64());
    let (path, peer, piece) = scene.add(len).await;
    peer.throw(honest(stream, piece.range.clone())).await;
    // The first copy is there.
    let session = scene.session.clone();
    let held = || common::only(&session).map_or(0, |stats| stats.buffer.held);
    until(|| held() >= piece.range.end - piece.range.start).await;
    peer.throw(brought(stream, piece.range, again)).await;
    ended(scene, path, &peer, Code::SecondaryStreamIsolation, len).await;
}

async fn past_the_end() {
    let mut scene = stage().await;
    let (path, peer, piece) = scene.add(1_000).await;
    assert_eq!(piece.range, 0..1_000);
    peer.throw(honest(scene.stream.id().as_u64(), 0..1_001)).await;
    ended(scene, path, &peer, Code::SecondaryStreamIsolation, 1_000).await;
}

/// An edge's end is no stream's end: only the primary's is.
async fn a_fin_in_the_middle() {
    let mut scene = stage().await;
    let (len, stream) = (100_000, scene.stream.id().as_u64());
    let (_path, mut peer, piece) = scene.add(len).await;
    let middle = (piece.range.start + piece.range.end) / 2;
    let part = object(piece.range.start..middle);
    peer.throw(packet(vec![frame(stream, piece.range.start, part, true)])).await;
    peer.ping().await;
    peer.throw(honest(stream, middle..piece.range.end)).await;
    peer.ping().await;
    whole(scene, len).await;
}

/// In virtual time an edge trickles for half a minute: `net/crimes.rs`.
async fn a_byte_at_a_time() {
    let mut scene = stage().await;
    let (len, stream) = (100_000, scene.stream.id().as_u64());
    let (_path, mut peer, piece) = scene.add(len).await;
    for at in piece.range.start..piece.range.start + 300 {
        peer.throw(honest(stream, at..at + 1)).await;
    }
    peer.ping().await;
    whole(scene, len).await;
}

fn stop(asked: &Activate, sent_until: u64) -> M {
    let (lease_id, piece_id) = (asked.lease_id, asked.piece_id);
    M::Stopped(Stopped { lease_id, piece_id, sent_until, ..<_>::default() })
}

fn asked(m: &M) -> Option<Activate> {
    match m {
        M::Activate(asked) => Some(asked.clone()),
        _ => None,
    }
}

fn lease_again(primary: &PrimarySession, stream: kwik::StreamId, len: u64, path: PathId) {
    primary.lease(stream, 0..len, path, Bytes::new()).unwrap();
}

async fn gives_up_in_turn() {
    let mut scene = stage().await;
    let len = 50_000;
    let (path, mut peer, mut piece) = scene.add(len).await;
    for _ in 0..20 {
        let (lease_id, reason) = (piece.lease_id, "no".to_owned());
        let gone = Stopped { lease_id, abandoned: true, reason, ..<_>::default() };
        peer.say(M::Stopped(gone)).await;
        peer.say(stop(&piece, piece.range.start)).await;
        lease_again(&scene.primary, scene.stream.id(), len, path);
        piece = peer.hear_until(asked).await;
    }
    whole(scene, len).await;
}

/// It loses its lease instead of being asked for ever.
async fn returns_each_piece() {
    let mut scene = stage().await;
    let len = 50_000;
    let (_path, mut peer, mut piece) = scene.add(len).await;
    let mut times = 0;
    loop {
        times += 1;
        assert!(times < 20, "is asked again and again");
        peer.say(stop(&piece, piece.range.start)).await;
        let next = |m: &M| match m {
            M::Activate(asked) => Some(Some(asked.clone())),
            M::Revoke(_) => Some(None),
            _ => None,
        };
        match peer.hear_until(next).await {
            Some(next) => piece = next,
            None => break,
        }
    }
    whole(scene, len).await;
}

fn stop_of_no_piece(at: u64) -> M {
    let (lease_id, piece_id) = (LeaseId(at), PieceId(at));
    M::Stopped(Stopped { lease_id, piece_id, sent_until: at, ..<_>::default() })
}

fn question(_: u64) -> M {
    M::OffsetSyncRequest(<_>::default())
}

fn beat(sequence: u64) -> M {
    M::Heartbeat(kwik_proto::wire::control::Heartbeat { sequence, reply: false })
}

/// The same 20,000 times; it reads what it is answered.
async fn flood(what: fn(u64) -> M) {
    let mut scene = stage().await;
    let len = 50_000;
    let (_path, mut peer, _piece) = scene.add(len).await;
    for round in 0..200 {
        for at in 0..100 {
            peer.say(what(1_000 + round * 100 + at)).await;
        }
        commit_and_expect(&mut peer, ("a flood", None, vec![Say(question(0))])).await;
    }
    whole(scene, len).await;
}

async fn isolated() {
    let mut scene = stage().await;
    let (len, stream) = (50_000, scene.stream.id().as_u64());
    let (path, peer, _piece) = scene.add(len).await;
    peer.throw(honest(stream, 40_000..40_001)).await;
    peer.expect(Code::SecondaryStreamIsolation, "what nobody asked for").await;
    saw(Code::SecondaryStreamIsolation);
    scene.hears(path, Code::SecondaryStreamIsolation, "what nobody asked for").await;
    let key = common::identity(crate::OWN).fingerprint();
    let again = scene.primary.add_path(scene.listener.local_addr().unwrap(), key).await;
    let words = again.unwrap_err().to_string();
    assert!(words.contains(Code::SecondaryStreamIsolation.name()), "{words}");
    whole(scene, len).await;
}
