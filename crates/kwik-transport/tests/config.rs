//! Settings that change at run time (8.8): of a session that runs, and of those that an endpoint
//! will accept.
#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::hostile::{self, Peer};
use common::{Servers, address, object, only, open_with_a_byte, pair, settled, until, within};
use kwik::{
    Accepted, BackpressureReason, ClientConfig, ConfigError, CongestionControl, CongestionState,
    Endpoint, EndpointError, Identity, QuicConfig, ServerConfig,
};
use kwik_proto::wire::ControlMessage;
use kwik_proto::wire::control::MaxStreamData;

/// With each of these a session would wait for ever.
#[tokio::test]
async fn quic_settings_with_which_nothing_moves_are_refused() {
    let bind =
        |quic: QuicConfig| Endpoint::bind("127.0.0.1:0".parse().unwrap(), None, &quic).map(drop);
    assert!(bind(QuicConfig::default()).is_ok());
    for quic in [
        QuicConfig { stream_receive_window: 0, ..QuicConfig::default() },
        QuicConfig { stream_receive_window: 64 << 20, ..QuicConfig::default() },
        QuicConfig { receive_window: 0, ..QuicConfig::default() },
        QuicConfig { send_window: 0, ..QuicConfig::default() },
        QuicConfig { max_uni_streams: 0, ..QuicConfig::default() },
    ] {
        let refused = bind(quic.clone());
        let out = matches!(refused, Err(EndpointError::Config(ConfigError::OutOfBounds { .. })));
        assert!(out, "{quic:?}: {refused:?}");
    }
}

#[tokio::test]
async fn what_is_agreed_on_at_the_start_cannot_change_live() {
    within(async {
        let (client, server, _kept) = pair().await;
        for session in [&client, &server] {
            let before = session.config();
            let mut config = before.clone();
            config.set_max_streams_bidi(10).unwrap().set_slide_step(1).unwrap();
            let setting = "max_streams_bidi";
            let error = session.set_config(config).unwrap_err();
            assert_eq!(error, ConfigError::FixedForSession { setting });
            let mut config = before.clone();
            config.set_checksum(!before.checksum()).unwrap();
            assert!(session.set_config(config).is_err());
            let mut config = before.clone();
            config.set_max_window(1 << 20).unwrap();
            assert!(session.set_config(config).is_err(), "it contradicts the initial window");
            assert_eq!(session.config(), before);
        }
    })
    .await;
}

#[tokio::test]
async fn windows_and_buffers_change_while_a_session_runs() {
    within(async {
        let (client, server, _kept) = pair().await;
        let mut send = server.open_uni().await.unwrap();
        send.write_chunk(Bytes::from_static(b"x")).await.unwrap();
        let mut recv = client.accept_uni().await.unwrap();
        until(|| only(&client).is_some()).await;
        let before = only(&client).unwrap();
        assert_eq!(before.max_allowance, client.config().stream_buffer());

        let mut config = client.config();
        config.set_max_stream_buffer(400_000).unwrap().set_stream_buffer(300_000).unwrap();
        config.set_initial_window(8 << 20).unwrap();
        client.set_config(config.clone()).unwrap();
        assert_eq!(client.stats().window, 8 << 20, "it grows at once");
        assert_eq!(only(&client).unwrap().max_allowance, 400_000);

        // However much is read, the stream is granted no more.
        let task =
            tokio::spawn(async move { while send.write_chunk(object(0..50_000)).await.is_ok() {} });
        let mut read = 0;
        while read < 4_000_000 {
            read += recv.read_chunk(usize::MAX, true).await.unwrap().unwrap().bytes.len();
            let stats = only(&client).unwrap();
            assert!(stats.allowance <= 400_000, "{stats:?}");
            assert!(stats.granted - stats.buffer.read_position <= 400_000, "{stats:?}");
        }

        // A smaller window shrinks as the loan comes back, and nothing that was granted is taken.
        let floors = client.stats().window - client.stats().granted;
        config.set_initial_window(1 << 20).unwrap().set_max_window(1 << 20).unwrap();
        config.set_stream_buffer(1 << 16).unwrap().set_max_stream_buffer(1 << 16).unwrap();
        client.set_config(config).unwrap();
        let granted = only(&client).unwrap().granted;
        while client.stats().window > (5 << 20) / 2 || only(&client).unwrap().allowance > 1 << 16 {
            recv.read_chunk(usize::MAX, true).await.unwrap().unwrap();
            assert!(only(&client).unwrap().granted >= granted);
        }
        assert!(client.stats().window < floors);
        drop(recv);
        task.await.unwrap();
        settled(&client, &server).await;
    })
    .await;
}

#[tokio::test]
async fn thresholds_and_steps_change_while_a_session_runs() {
    within(async {
        let (client, server, _kept) = pair().await;
        let mut send = server.open_uni().await.unwrap();
        send.write_all(&[1; 100_000]).await.unwrap();
        let mut recv = client.accept_uni().await.unwrap();
        until(|| client.stats().held == 100_000).await;
        assert_eq!(client.stats().backpressure.streams, 0);
        let mut config = client.config();
        config.set_stream_threshold(0.2).unwrap();
        client.set_config(config.clone()).unwrap();
        assert_eq!(client.stats().backpressure.streams, 1, "without more of it");
        let told = send.backpressure_changed().await.unwrap();
        assert_eq!(told, Some(BackpressureReason::SlowConsumer));
        config.set_stream_threshold(0.75).unwrap();
        client.set_config(config.clone()).unwrap();
        assert_eq!(client.stats().backpressure.streams, 0);
        assert_eq!(send.backpressure_changed().await.unwrap(), None);

        // With a large step, nothing is granted for what little was read.
        config.set_slide_step(1 << 30).unwrap();
        client.set_config(config.clone()).unwrap();
        let granted = only(&client).unwrap().granted;
        let mut buf = [0; 1000];
        for _ in 0..20 {
            recv.read(&mut buf).await.unwrap().unwrap();
        }
        assert_eq!(only(&client).unwrap().granted, granted);
        config.set_slide_step(1).unwrap();
        client.set_config(config).unwrap();
        assert!(only(&client).unwrap().granted > granted);
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_gives_sessions_to_come_other_settings() {
    within(async {
        let servers = Servers::new(0);
        let endpoint = common::client();
        let (_first, one) = servers.connect(&endpoint).await;
        let before = servers.primary.config().unwrap();
        let mut config = before.clone();
        config.set_max_streams_uni(9).unwrap().set_gap_timeout(Duration::from_secs(1)).unwrap();
        servers.primary.set_config(config.clone()).unwrap();
        let (second, two) = servers.connect(&endpoint).await;
        assert_eq!((one.session().config(), two.session().config()), (before, config.clone()));
        until(|| second.stats().window > 0).await;
        let mut opened = Vec::new();
        for _ in 0..9 {
            opened.push(second.open_uni().await.unwrap());
        }
        assert!(second.try_open_uni().unwrap().is_none());
        config.set_max_window(1 << 10).unwrap();
        assert!(servers.primary.set_config(config).is_err());
        assert_eq!(endpoint.config(), None);
    })
    .await;
}

/// What an endpoint was told later holds for how its sessions send, too.
#[tokio::test]
async fn an_endpoint_gives_sessions_to_come_another_ratio() {
    within(async {
        let servers = Servers::new(0);
        let mut config = servers.primary.config().unwrap();
        config.set_streams_per_quic_stream(1).unwrap();
        servers.primary.set_config(config).unwrap();
        let (_client, primary) = servers.connect(&common::client()).await;
        let held = open_with_a_byte(primary.session(), 8).await;
        assert_eq!(primary.session().stats().quic_streams.open, held.len());
    })
    .await;
}

#[tokio::test]
async fn sharing_changes_while_a_session_runs() {
    within(async {
        let (_client, server, _kept) = pair().await;
        let mut held = open_with_a_byte(&server, 8).await;
        assert_eq!(server.stats().quic_streams.open, 2);
        let mut config = server.config();
        config.set_streams_per_quic_stream(1).unwrap();
        server.set_config(config.clone()).unwrap();
        for stream in &mut held {
            stream.write_all(b"x").await.unwrap();
        }
        held.extend(open_with_a_byte(&server, 8).await);
        assert!(server.stats().quic_streams.open > 8, "{:?}", server.stats());
        config.set_streams_per_quic_stream(16).unwrap();
        server.set_config(config).unwrap();
        let held = open_with_a_byte(&server, 16).await;
        assert!(server.stats().quic_streams.open < 8 + held.len(), "{:?}", server.stats());
    })
    .await;
}

/// A peer that acknowledges nothing.
#[tokio::test]
async fn what_may_be_unacknowledged_changes_while_a_session_runs() {
    within(async {
        let servers = Servers::new(0);
        let dialer = hostile::dialer();
        let accept = async { servers.primary.accept().await.unwrap().await.unwrap() };
        let (mut peer, server) =
            tokio::join!(Peer::join(&dialer, address(&servers.primary)), accept);
        let mut config = server.config();
        config.set_max_unacked(150_000).unwrap();
        server.set_config(config.clone()).unwrap();
        let mut send = server.open_uni().await.unwrap();
        let credit = MaxStreamData { stream_id: send.id(), maximum: 1 << 30 };
        peer.say(ControlMessage::MaxStreamData(credit)).await;
        tokio::spawn(async move { while send.write_chunk(object(0..60_000)).await.is_ok() {} });
        let unacknowledged = || server.stats().unacknowledged;
        until(|| unacknowledged() >= 150_000).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(unacknowledged() < 250_000, "{}", unacknowledged());
        config.set_max_unacked(400_000).unwrap();
        server.set_config(config).unwrap();
        until(|| unacknowledged() >= 400_000).await;
    })
    .await;
}

/// What rules how much is in flight shows in the figures of a path, whichever it is.
#[tokio::test]
async fn congestion_control_is_seen_at_both_ends() {
    within(async {
        for control in
            [CongestionControl::Tolerant, CongestionControl::Cubic, CongestionControl::Model]
        {
            let quic = QuicConfig { congestion: control, ..QuicConfig::default() };
            let config = ServerConfig::new(Identity::from_seed([7; 32]).into());
            let pin = config.identity.fingerprint();
            let bind = "127.0.0.1:0".parse().unwrap();
            let server = Endpoint::bind(bind, Some(config), &quic).unwrap();
            let dialer = Endpoint::bind(bind, None, &quic).unwrap();
            let to = server.local_addr().unwrap();
            let connecting = dialer.connect_with(ClientConfig::pinned(pin), to, "").unwrap();
            let accepting = async { server.accept().await.unwrap().accept_any().await.unwrap() };
            let (client, accepted) = tokio::join!(connecting, accepting);
            let Accepted::Primary(primary) = accepted else { panic!("a client") };
            for session in [&client.unwrap(), primary.session()] {
                until(|| !session.stats().paths.is_empty()).await;
                let stats = session.stats().paths[0].congestion.unwrap();
                assert_eq!(stats.state, CongestionState::SlowStart);
                assert!(stats.window >= 10 * 1200 && stats.packets.sent > 0, "{stats:?}");
                assert_eq!(stats.by_chance.is_some(), control == CongestionControl::Tolerant);
                assert_eq!(stats.least_rtt.is_none(), control == CongestionControl::Cubic);
            }
        }
    })
    .await;
}
