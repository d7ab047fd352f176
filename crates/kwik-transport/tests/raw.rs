//! Raw packets that the primary sends to an edge through the client (6.1, 6.2).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Servers, client, fill, identity, object, until, within};
use kwik::{ClientConfig, Code, PathId};
use kwik_proto::limits;
use tokio::time::timeout;

#[tokio::test]
async fn raw_packets_arrive_in_order_and_are_reported() {
    within(async {
        let servers = Servers::new(2);
        let (_session, primary) = servers.connect(&client()).await;
        let (one, first) = servers.add_edge(&primary, 0).await;
        let (two, second) = servers.add_edge(&primary, 1).await;
        for at in 0..100u64 {
            let (path, edge) = if at % 2 == 0 { (one, &first) } else { (two, &second) };
            let packet = object(at..at + at * at);
            let sequence = primary.send_raw(path, packet.clone()).unwrap();
            assert_eq!(edge.recv_raw().await.unwrap(), packet);
            let report = primary.relay_report().await.unwrap();
            assert_eq!((report.sequence, report.path, report.error), (sequence, path, None));
        }
        let largest = object(0..limits::MAX_RAW_PACKET as u64);
        primary.send_raw(one, largest.clone()).unwrap();
        assert_eq!(first.recv_raw().await.unwrap(), largest);
    })
    .await;
}

#[tokio::test]
async fn raw_packets_that_cannot_go_are_refused() {
    within(async {
        let servers = Servers::new(2);
        let (_session, primary) = servers.connect(&client()).await;
        let (one, first) = servers.add_edge(&primary, 0).await;
        let (two, second) = servers.add_edge(&primary, 1).await;
        let code = |path, len| primary.send_raw(path, Bytes::from(vec![0; len])).unwrap_err().code;
        assert_eq!(code(one, limits::MAX_RAW_PACKET + 1), Code::PacketTooLarge);
        assert_eq!(code(PathId(77), 1), Code::PathNotFound);
        assert_eq!(code(PathId::PRIMARY, 1), Code::InvalidStreamRole);
        primary.remove_path(one).await.unwrap();
        assert_eq!(code(one, 1), Code::PathDead);
        first.closed().await;
        primary.mark_dead(two).unwrap();
        assert_eq!(code(two, 1), Code::PathDead);
        second.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_client_may_decline_to_relay() {
    within(async {
        let servers = Servers::new(1);
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.session.relay_raw = false;
        let (session, primary) = servers.connect_with(&client(), config).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        primary.send_raw(path, Bytes::from_static(b"anybody?")).unwrap();
        let report = primary.relay_report().await.unwrap();
        assert_eq!(report.error, Some(Code::InvalidStreamRole));
        assert!(timeout(Duration::from_millis(50), edge.recv_raw()).await.is_err());
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn packets_that_an_edge_does_not_take_wait_within_bounds_and_cost_no_path() {
    within(async {
        let servers = Servers::new(1);
        let (_session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (mut relayed, mut refused) = (Vec::new(), 0);
        // More than all queues and QUIC's windows hold.
        for burst in 0..20u64 {
            let sent: Vec<_> = (0..40)
                .map(|at| {
                    let packet = object(burst..burst + limits::MAX_RAW_PACKET as u64);
                    (primary.send_raw(path, packet.clone()).unwrap(), packet, at)
                })
                .collect();
            for (sequence, packet, _) in sent {
                let report = primary.relay_report().await.unwrap();
                assert_eq!((report.sequence, report.path), (sequence, path));
                match report.error {
                    None => relayed.push(packet),
                    Some(Code::LimitExceeded) => refused += 1,
                    Some(code) => panic!("{code}"),
                }
            }
        }
        assert!(refused > 0 && relayed.len() >= limits::MAX_RAW_QUEUED, "{refused} refused");
        for (at, packet) in relayed.iter().enumerate() {
            assert!(edge.recv_raw().await.unwrap() == packet, "packet {at}");
        }
        primary.send_raw(path, Bytes::from_static(b"and on")).unwrap();
        assert_eq!(edge.recv_raw().await.unwrap(), &b"and on"[..]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_packets_and_leases_do_not_overtake_each_others_sequence() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let packets = edge.clone();
        let counting = tokio::spawn(async move {
            for at in 0..50u8 {
                assert_eq!(packets.recv_raw().await.unwrap(), &[at][..]);
            }
        });
        tokio::spawn(async move {
            while let Ok(writer) = edge.accept_lease().await {
                tokio::spawn(fill(writer));
            }
        });
        for at in 0..50u8 {
            let mut stream = primary.session().open_uni().await.unwrap();
            let extent = stream.reserve(10_000).unwrap();
            let before = primary.send_raw(path, Bytes::copy_from_slice(&[at])).unwrap();
            let _lease = primary.lease(stream.id(), extent, path, Bytes::new()).unwrap();
            stream.finish().unwrap();
            let mut recv = session.accept_uni().await.unwrap();
            assert!(recv.read_to_end(10_000).await.unwrap() == object(0..10_000));
            assert_eq!(primary.relay_report().await.unwrap().sequence, before);
        }
        counting.await.unwrap();
    })
    .await;
}

/// Nothing leaves while the application does not let others work: it is told to wait, and loses
/// no session.
#[tokio::test]
async fn a_burst_that_nobody_could_read_is_refused_at_its_caller() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let packet = object(0..limits::MAX_RAW_PACKET as u64);
        let mut sent = 0;
        let refused = loop {
            match primary.send_raw(path, packet.clone()) {
                Ok(_) => sent += packet.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(refused.code, Code::LimitExceeded);
        assert!(sent <= limits::MAX_CONTROL_QUEUED, "{sent}");
        until(|| primary.send_raw(path, packet.clone()).is_ok()).await;
        assert!(edge.recv_raw().await.unwrap() == packet);
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.write_all(b"still here").await.unwrap();
        stream.finish().unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        assert_eq!(recv.read_to_end(100).await.unwrap(), b"still here");
    })
    .await;
}
