//! What a client may not do, at an edge and at a primary.

use std::time::{Duration, SystemTime};

use common::hostile::{self, Peer, packet, raw_stream, visit};
use common::{
    Servers, accept_secondary, address, client, echo, identity, serve_clients, serve_echo, within,
};
use kwik::{Code, Identity, PathId, PrimarySession};
use kwik_proto::auth::{Grant, GrantClaims, Signature};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    Ack, Activate, AddPathResponse, Backpressure, BackpressureReason, Cancel, Heartbeat, Lease,
    LeaseReport, MaxStreams, PathFigures, PathReport, PathStatus, RelayReport, Revoke, Uncovered,
};
use kwik_proto::{Dir, LeaseId, PieceId, Side, StreamId};

use crate::Move::{Datagram, Say, Throw};
use crate::{OWN, PATH, Row, SESSION, common, malformed, of_roles, state, suffer, unsigned_packet};

/// A path of a hostile client to an edge, as it should begin.
pub(crate) async fn join_edge(
    servers: &Servers,
    dialer: &quinn::Endpoint,
) -> (Peer, kwik::SecondarySession) {
    let (edge, key) = (&servers.edges[0], Identity::from_seed([9; 32]));
    let claims = GrantClaims {
        session: SESSION,
        path: PATH,
        audience: edge.fingerprint().unwrap(),
        client_key: key.fingerprint(),
    };
    let grant = Grant::issue(&identity(0), &claims, SystemTime::now());
    let dial = async {
        let mut peer = Peer::dial(dialer, address(edge)).await;
        let exporter = peer.exporter();
        peer.say(visit(&key, &exporter, SESSION, PATH, grant)).await;
        let answer = peer.hear().await;
        assert!(matches!(&answer, M::AuthenticationResponse(m) if m.result.is_ok()), "{answer:?}");
        peer
    };
    tokio::join!(dial, accept_secondary(edge))
}

/// All rows of clients at an edge.
pub(crate) fn rows_at_edges() -> Vec<Row> {
    let may = ["a lease", "a revocation", "an activation", "a cancellation", "an offset told"];
    let roles = of_roles().into_iter().filter(|(what, _)| !may.contains(what));
    let roles = roles.map(|(what, said)| (what, Some(Code::InvalidStreamRole), vec![Say(said)]));
    let invalid = Some(Code::InvalidFrame);
    let ack = Ack { ranges: vec![1..=1], ..<_>::default() };
    let forged =
        Lease { lease_id: LeaseId(1), range: 0..9, sequence: 1, max_bytes: 9, ..<_>::default() };
    let signed = Lease { signature: Some(Signature([7; 64])), ..forged.clone() };
    let raw = raw_stream(&[unsigned_packet()]);
    let lease_id = LeaseId(9);
    let crimes = vec![
        ("an ack of nothing", invalid, vec![Say(M::Ack(ack))]),
        ("a lease that nobody signed", Some(Code::AuthFailed), vec![Say(M::Lease(forged))]),
        ("a lease that another signed", Some(Code::AuthFailed), vec![Say(M::Lease(signed))]),
        ("a raw packet that nobody signed", Some(Code::AuthFailed), vec![Throw(raw)]),
        ("data", Some(Code::InvalidStreamRole), vec![Throw(packet(Vec::new()))]),
        (
            "an offset that nobody asked for",
            Some(Code::OffsetSyncFailure),
            vec![Say(M::OffsetSyncResponse(<_>::default()))],
        ),
        (
            "an activation of no lease",
            None,
            vec![Say(M::Activate(Activate { lease_id, range: 0..1, ..<_>::default() }))],
        ),
        (
            "a cancellation of no lease",
            None,
            vec![Say(M::Cancel(Cancel { lease_id, piece_id: PieceId(1) }))],
        ),
        ("a revocation of no lease", None, vec![Say(M::Revoke(Revoke { lease_id }))]),
        ("a datagram", None, vec![Datagram]),
        ("a stream of an unknown kind", None, vec![Throw(vec![77, 1, 2, 3])]),
    ];
    malformed(1).into_iter().chain(roles).chain(crimes).collect()
}

#[tokio::test]
async fn crimes_of_clients_at_an_edge_end_their_path_alone() {
    let _turn = crate::heap::TURN.lock().await;
    within(async {
        let (servers, own, dialer) = (Servers::new(1), client(), hostile::dialer());
        let (session, primary) = servers.connect(&own).await;
        serve_echo(primary.session().clone());
        let (path, _honest) = servers.add_edge(&primary, 0).await;
        let rows = rows_at_edges();
        println!("{} rows", rows.len());
        for row in rows {
            let (mut peer, edge) = join_edge(&servers, &dialer).await;
            let ends = row.1.is_some();
            suffer(&mut peer, row).await;
            if ends {
                edge.closed().await;
            }
            assert!(primary.active_paths().iter().any(|info| info.id == path));
        }
        echo(&session).await;
    })
    .await;
}

/// All rows of clients at a primary.
pub(crate) fn rows_at_primaries() -> Vec<Row> {
    let alone = [
        "an introduction",
        "an answer to none",
        "a path",
        "a path's removal",
        "a lease",
        "a revocation",
        "a stop",
        "a reset",
        "credit",
        "a stream",
        "a raw packet",
        "an offset asked for",
        "an offset told",
        "a resumption",
    ];
    let roles = of_roles().into_iter().filter(|(what, _)| alone.contains(what));
    let roles = roles.map(|(what, said)| (what, Some(Code::InvalidStreamRole), vec![Say(said)]));
    let ack = Ack { ranges: vec![1..=1], ..<_>::default() };
    let beyond = |path_id| {
        let (most, time) = (u64::MAX, Duration::MAX);
        let figures = PathFigures {
            rtt: time,
            sent_packets: most,
            lost_packets: most,
            goodput: Some(most),
            received: most,
            outstanding: most,
            idle: Duration::ZERO,
            stalled: time,
        };
        Say(M::PathReport(PathReport { path_id, figures }))
    };
    let far = StreamId::new(Side::Server, Dir::Uni, 1 << 40);
    let slow = Some(BackpressureReason::SlowConsumer);
    let crimes = vec![
        ("an ack of nothing", Some(Code::InvalidFrame), vec![Say(M::Ack(ack))]),
        ("a state of no path", None, vec![Say(state(PathId(7), PathStatus::Dead))]),
        ("figures beyond all measure", None, vec![beyond(PathId::PRIMARY), beyond(PathId(7))]),
        (
            "a wish to slow down for no stream",
            Some(Code::InvalidStreamRole),
            vec![Say(M::Backpressure(Backpressure { stream_id: Some(far), reason: slow }))],
        ),
        (
            "fewer streams than before",
            None,
            vec![Say(M::MaxStreams(MaxStreams { dir: Dir::Uni, maximum: 0, first_streams: 9 }))],
        ),
        (
            "the end of no lease",
            None,
            vec![Say(M::LeaseReport(LeaseReport { lease_id: LeaseId(9), ..<_>::default() }))],
        ),
        (
            "a gap of no stream",
            None,
            vec![Say(M::Uncovered(Uncovered { stream_id: far, ranges: vec![0..9; 64] }))],
        ),
        ("a blame of no path", None, vec![Say(M::Blamed(<_>::default()))]),
        ("a report of no packet", None, vec![Say(M::RelayReport(RelayReport::default()))]),
        ("a datagram", None, vec![Datagram]),
        ("a stream of an unknown kind", None, vec![Throw(vec![77, 1, 2, 3])]),
    ];
    malformed(1).into_iter().chain(roles).chain(crimes).collect()
}

#[tokio::test]
async fn crimes_of_clients_at_a_primary_end_their_session_alone() {
    let _turn = crate::heap::TURN.lock().await;
    within(async {
        let (servers, own, dialer) = (Servers::new(0), client(), hostile::dialer());
        serve_clients(servers.primary.clone());
        let config = kwik::ClientConfig::pinned(identity(0).fingerprint());
        let honest = own.connect_with(config, address(&servers.primary), "").unwrap();
        let honest = honest.await.unwrap();
        let rows = rows_at_primaries();
        println!("{} rows", rows.len());
        for row in rows {
            let mut peer = Peer::join(&dialer, address(&servers.primary)).await;
            suffer(&mut peer, row).await;
            echo(&honest).await;
        }
    })
    .await;
}

/// A client by hand with a path that its primary has asked for, and what the primary thinks of it.
async fn asked_for_a_path(
    servers: &Servers,
) -> (Peer, PrimarySession, tokio::task::JoinHandle<Result<PathId, kwik::PathError>>) {
    let accept = async {
        match servers.primary.accept().await.unwrap().accept_any().await.unwrap() {
            kwik::Accepted::Primary(primary) => primary,
            kwik::Accepted::Secondary(_) => panic!("a client came as a path"),
        }
    };
    let dialer = hostile::dialer();
    let (mut peer, primary) = tokio::join!(Peer::join(&dialer, address(&servers.primary)), accept);
    let (asking, edge) = (primary.clone(), identity(OWN).fingerprint());
    let adding =
        tokio::spawn(async move { asking.add_path("127.0.0.1:9".parse().unwrap(), edge).await });
    peer.hear_until(|m| matches!(m, M::AddPathRequest(_)).then_some(())).await;
    (peer, primary, adding)
}

#[tokio::test]
async fn a_path_that_flips_brings_few_grants() {
    let _turn = crate::heap::TURN.lock().await;
    within(async {
        let servers = Servers::new(0);
        let (mut peer, _primary, adding) = asked_for_a_path(&servers).await;
        let joined = AddPathResponse { path_id: PATH, result: Ok(()) };
        peer.say(M::AddPathResponse(joined)).await;
        adding.await.unwrap().unwrap();
        for status in [PathStatus::Dead, PathStatus::Active].repeat(2_000) {
            peer.say(state(PATH, status)).await;
        }
        peer.say(M::Heartbeat(Heartbeat { sequence: 77, reply: false })).await;
        let mut grants = 0;
        loop {
            match peer.hear().await {
                M::AddPathRequest(_) => grants += 1,
                M::Heartbeat(beat) if beat.sequence == 77 => break,
                _ => {}
            }
        }
        // Each wait is twice as long as the one before, from a quarter of a second on.
        // Those that come at once cancel out.
        assert!(grants <= 8, "{grants} grants for 4,000 notifications");
    })
    .await;
}

#[tokio::test]
async fn words_of_a_client_are_shown_escaped() {
    let _turn = crate::heap::TURN.lock().await;
    within(async {
        let servers = Servers::new(0);
        let (mut peer, primary, adding) = asked_for_a_path(&servers).await;
        let words = "no\n2026 ERROR all is lost\u{1b}[2J\u{7}\u{9b}31m\u{202e}";
        let refusal = AddPathResponse { path_id: PATH, result: Err(words.to_owned()) };
        peer.say(M::AddPathResponse(refusal)).await;
        let error = adding.await.unwrap().unwrap_err().to_string();
        let shown = r"no\n2026 ERROR all is lost\u{1b}[2J\u{7}\u{9b}31m\u{202e}";
        assert!(error.ends_with(shown), "{error}");
        peer.connection.close(9u32.into(), words.as_bytes());
        let closed = primary.session().closed().await.to_string();
        assert!(closed.ends_with(shown), "{closed}");
    })
    .await;
}
