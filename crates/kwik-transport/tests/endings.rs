//! How sessions end, what both ends hear of it, and datagrams (1.1).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{LOOPBACK, Servers, client, identity, object, pair, within};
use kwik::{
    ClientConfig, ConnectionError, Endpoint, QuicConfig, ReadError, SendDatagramError,
    ServerConfig, Session, WriteError,
};
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn codes_that_no_integer_of_quic_holds_are_cut() {
    within(async {
        let most = (1 << 62) - 1;
        let (one, two, _kept) = pair().await;
        let (mut send, mut recv) = one.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let (mut far_send, mut far_recv) = two.accept_bi().await.unwrap();
        send.reset(u64::MAX).unwrap();
        assert_eq!(far_recv.read_to_end(9).await, Err(ReadError::Reset(most).into()));
        recv.stop(u64::MAX).unwrap();
        assert_eq!(far_send.stopped().await.unwrap(), Some(most));
        one.close(u64::MAX, &[b'x'; 5000]);
        let closed = two.closed().await;
        let ConnectionError::ApplicationClosed { code, reason } = closed else {
            panic!("{closed:?}")
        };
        assert_eq!(code, most);
        assert!(!reason.is_empty() && reason.iter().all(|byte| *byte == b'x'));
        far_send.write_all(b"x").await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn a_close_reaches_both_ends_and_everybody_who_waits() {
    within(async {
        let (one, two, (_servers, primary)) = pair().await;
        let waiting = [two.clone(), one.clone()].map(|session| {
            tokio::spawn(async move {
                let (mut send, mut recv) = session.open_bi().await.unwrap();
                send.write_all(b"x").await.unwrap();
                let ends = tokio::join!(
                    async { session.accept_uni().await.map(drop).unwrap_err() },
                    async { session.read_datagram().await.map(drop).unwrap_err() },
                    session.closed(),
                    async { recv.read_chunk(1, true).await.unwrap_err() },
                    async { send.stopped().await.unwrap_err() },
                );
                assert_eq!((&ends.0, &ends.4), (&ends.2, &ends.2));
                assert_eq!(ends.3, ReadError::ConnectionLost(ends.2.clone()));
                ends.2
            })
        });
        // Each takes the stream of the other before the end comes.
        let (ours, theirs) = tokio::join!(one.accept_bi(), two.accept_bi());
        let report = tokio::spawn(async move { primary.relay_report().await });
        sleep(Duration::from_millis(50)).await;
        one.close(77, b"enough");
        let [far, near] = waiting;
        assert_eq!(near.await.unwrap(), ConnectionError::LocallyClosed);
        let reason = Bytes::from_static(b"enough");
        let told = ConnectionError::ApplicationClosed { code: 77, reason };
        assert_eq!(far.await.unwrap(), told);
        assert_eq!(report.await.unwrap().unwrap_err(), told);
        assert_eq!(two.close_reason(), Some(told.clone()));
        assert_eq!(two.open_uni().await.err(), Some(told));
        assert!(one.try_open_bi().is_err());
        assert!(one.remote_address().ip().is_loopback());
        one.close(1, b"again");
        two.close(1, b"again");
        drop((ours, theirs));
    })
    .await;
}

/// Whatever was being written just then: streams that end with the session are no messages that
/// were cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_close_in_the_middle_of_writing_arrives_as_that_close() {
    within(async {
        for _ in 0..30 {
            let (one, two, _kept) = pair().await;
            for _ in 0..4 {
                let mut send = one.open_uni().await.unwrap();
                tokio::spawn(async move { while send.write_all(&[7; 50_000]).await.is_ok() {} });
            }
            let mut recv = two.accept_uni().await.unwrap();
            recv.read_chunk(1, true).await.unwrap();
            // Nobody reads on, so that all are stuck within a message.
            sleep(Duration::from_millis(50)).await;
            one.close(7, b"enough");
            let expected = ConnectionError::ApplicationClosed { code: 7, reason: "enough".into() };
            assert_eq!(two.closed().await, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_closes_ends_all_its_sessions() {
    within(async {
        let (servers, client) = (Servers::new(0), client());
        let (first, _far) = servers.connect(&client).await;
        let (second, _other) = servers.connect(&client).await;
        servers.primary.close(5, b"down");
        for session in [&first, &second] {
            let closed = session.closed().await;
            assert!(
                matches!(&closed, ConnectionError::ApplicationClosed { code: 5, .. }),
                "{closed:?}"
            );
        }
        assert!(servers.primary.accept().await.is_none());
        servers.primary.wait_idle().await;
        client.wait_idle().await;
        let config = ClientConfig::pinned(identity(0).fingerprint());
        client.close(0, b"");
        let address = common::address(&servers.primary);
        assert!(client.connect_with(config, address, "").is_err());
    })
    .await;
}

/// A session at both ends, with these settings of QUIC.
async fn pair_with(quic: &QuicConfig) -> (Session, Session, [Endpoint; 2]) {
    let local = LOOPBACK.parse().unwrap();
    let config = ServerConfig::new(identity(0));
    let server = Endpoint::bind(local, Some(config), quic).unwrap();
    let client = Endpoint::bind(local, None, quic).unwrap();
    let config = ClientConfig::pinned(identity(0).fingerprint());
    let connecting = client.connect_with(config, common::address(&server), "").unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (one, two) = tokio::join!(async { connecting.await.unwrap() }, accepting);
    (one, two, [server, client])
}

#[tokio::test]
async fn datagrams_are_off_unless_both_ask_for_them() {
    within(async {
        let (one, two, _kept) = pair().await;
        for session in [&one, &two] {
            let sent = session.send_datagram(Bytes::from_static(b"x"));
            assert_eq!(sent, Err(SendDatagramError::Disabled));
            assert_eq!(session.max_datagram_size(), None);
        }
        let reading = tokio::spawn(async move { two.read_datagram().await });
        one.close(7, b"");
        let ended = reading.await.unwrap().unwrap_err();
        assert!(matches!(ended, ConnectionError::ApplicationClosed { code: 7, .. }), "{ended:?}");
    })
    .await;
}

#[tokio::test]
async fn datagrams_go_both_ways() {
    within(async {
        let quic = QuicConfig { datagram_receive_buffer: 64 * 1024, ..QuicConfig::default() };
        let (one, two, _kept) = pair_with(&quic).await;
        let most = one.max_datagram_size().unwrap();
        for size in [0, 1, most] {
            let data = object(0..size as u64);
            // One may be lost, as datagrams are.
            let echoed = loop {
                one.send_datagram(data.clone()).unwrap();
                let come = timeout(Duration::from_millis(500), two.read_datagram()).await;
                if let Ok(come) = come {
                    break come.unwrap();
                }
            };
            assert!(echoed == data);
        }
        let large = Bytes::from(vec![0; 70_000]);
        assert_eq!(one.send_datagram(large), Err(SendDatagramError::TooLarge));
        one.close(0, b"");
        assert!(matches!(
            one.send_datagram(Bytes::new()),
            Err(SendDatagramError::ConnectionLost(_))
        ));
    })
    .await;
}

#[tokio::test]
async fn a_writer_sees_a_session_that_ends_under_it() {
    within(async {
        let (one, two, _kept) = pair().await;
        let mut send = one.open_uni().await.unwrap();
        let writing = tokio::spawn(async move {
            loop {
                if let Err(error) = send.write_chunk(Bytes::from(vec![0; 100_000])).await {
                    send.finish().ok();
                    return error;
                }
            }
        });
        let _unread = two.accept_uni().await.unwrap();
        sleep(Duration::from_millis(50)).await;
        two.close(3, b"");
        let error = writing.await.unwrap();
        assert!(matches!(error, WriteError::ConnectionLost(_)), "{error:?}");
    })
    .await;
}
