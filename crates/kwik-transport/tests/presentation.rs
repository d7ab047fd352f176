//! Data presentation over real QUIC (8.3 to 8.5): backpressure, gaps, timeouts, metadata.
#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Servers, fill, identity, object, only, pair, settled, until, within};
use kwik::{
    BackpressureReason, ClientConfig, Priority, ReadTimeoutError, StreamMetadata, StreamType,
};
use tokio::sync::oneshot;
use tokio::time::sleep;

#[tokio::test]
async fn a_slow_reader_presses_its_producer_and_lets_go_by_itself() {
    within(async {
        let (client, server, _kept) = pair().await;
        for (writer, reader) in [(&client, &server), (&server, &client)] {
            let mut send = writer.open_uni().await.unwrap();
            assert_eq!(send.backpressure(), None);
            let (told, telling) = oneshot::channel();
            let task = tokio::spawn(async move {
                // More than the reader grants.
                let mut flood = object(0..2_000_000);
                while send.backpressure().is_none() {
                    let patience = Duration::from_millis(20);
                    let some = send.write_chunks(std::slice::from_mut(&mut flood));
                    tokio::time::timeout(patience, some).await.ok();
                }
                let pressed = send.backpressure_changed().await.unwrap();
                assert_eq!(pressed, send.backpressure());
                told.send(()).unwrap();
                let eased = send.backpressure_changed().await.unwrap();
                (send, pressed, eased)
            });
            let mut recv = reader.accept_uni().await.unwrap();
            until(|| only(reader).is_some_and(|stats| stats.backpressure.is_some())).await;
            let stats = only(reader).unwrap();
            assert!(stats.buffer.held * 4 >= stats.allowance * 3, "{stats:?}");
            let credit = stats.granted;
            telling.await.unwrap();
            sleep(Duration::from_millis(50)).await;
            assert_eq!(only(reader).unwrap().granted, credit, "credit is withheld");
            let pressed = reader.stats().backpressure;
            assert_eq!((pressed.streams, pressed.slow_consumer.count), (1, 1));
            let mut read = 0;
            while read < stats.buffer.held {
                let chunk = recv.read_chunk(10_000, true).await.unwrap().unwrap();
                read += chunk.bytes.len() as u64;
            }
            let (mut send, pressed, eased) = task.await.unwrap();
            assert_eq!((pressed, eased), (Some(BackpressureReason::SlowConsumer), None));
            let after = reader.stats().backpressure;
            assert_eq!((after.streams, after.slow_consumer.count), (0, 1));
            assert!(after.slow_consumer.total >= Duration::from_millis(50), "{after:?}");
            assert!(only(reader).unwrap().granted > credit, "credit flows again");
            send.reset(0).unwrap();
            drop((send, recv));
            settled(writer, reader).await;
        }
    })
    .await;
}

#[tokio::test]
async fn many_slow_streams_press_the_session_and_a_fast_one_goes_on() {
    within(async {
        let (client, server, _kept) = pair().await;
        let mut slow = Vec::new();
        for _ in 0..4 {
            let mut send = server.open_uni().await.unwrap();
            tokio::spawn(async move { send.write_all(&vec![1; 1 << 20]).await });
            slow.push(client.accept_uni().await.unwrap());
        }
        until(|| client.stats().backpressure.session.is_some()).await;
        let stats = client.stats().backpressure;
        assert_eq!(stats.session, Some(BackpressureReason::SlowConsumer));
        assert_eq!((stats.streams, stats.escalations), (4, 1));
        let mut send = server.open_uni().await.unwrap();
        until(|| send.backpressure() == Some(BackpressureReason::SlowConsumer)).await;
        let task = tokio::spawn(async move {
            send.write_chunk(object(0..3_000_000)).await.unwrap();
            send
        });
        let mut recv = client.accept_uni().await.unwrap();
        let mut read = 0;
        while read < 3_000_000 {
            read += recv.read_chunk(usize::MAX, true).await.unwrap().unwrap().bytes.len();
        }
        let send = task.await.unwrap();
        drop(slow);
        until(|| client.stats().backpressure.session.is_none()).await;
        until(|| send.backpressure().is_none()).await;
        assert_eq!(client.stats().backpressure.streams, 0);
    })
    .await;
}

#[tokio::test]
async fn the_window_full_of_unread_bytes_presses_the_session() {
    within(async {
        let (client, server, _kept) = pair().await;
        let mut config = client.config();
        // No stream counts as slow by itself.
        config.set_stream_threshold(1.0).unwrap().set_window_threshold(0.3).unwrap();
        client.set_config(config).unwrap();
        let mut unread = Vec::new();
        for _ in 0..4 {
            let mut send = server.open_uni().await.unwrap();
            tokio::spawn(async move { send.write_all(&vec![1; 240 << 10]).await });
            unread.push(client.accept_uni().await.unwrap());
        }
        until(|| client.stats().backpressure.window_full.count > 0).await;
        let stats = client.stats();
        assert_eq!(stats.backpressure.session, Some(BackpressureReason::WindowFull), "{stats:?}");
        assert!(stats.held <= stats.window);
        drop(unread);
        until(|| client.stats().backpressure.session.is_none()).await;
        assert_eq!(client.stats().held, 0);
    })
    .await;
}

/// A stream of which the first bytes are leased to an edge that does not write them, and the next
/// to the primary itself, which does.
#[tokio::test]
async fn a_gap_that_lasts_is_reported_and_a_reader_in_a_hurry_is_told_what_is_missing() {
    within(async {
        let servers = Servers::new(1);
        let (client, primary) = servers.connect(&common::client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let mut config = client.config();
        config.set_gap_timeout(Duration::from_secs(5)).unwrap();
        client.set_config(config.clone()).unwrap();
        let mut send = primary.session().open_uni().await.unwrap();
        let extent = send.reserve(200_000).unwrap();
        send.finish().unwrap();
        let none = Bytes::new();
        let _first = primary.lease(send.id(), 0..100_000, path, none).unwrap();
        let (_second, writer) = primary.lease_own(send.id(), 100_000..extent.end).unwrap();
        tokio::spawn(fill(writer));
        let late = edge.accept_lease().await.unwrap();
        let mut recv = client.accept_uni().await.unwrap();
        until(|| only(&client).is_some_and(|stats| stats.gap.is_some())).await;
        sleep(Duration::from_millis(150)).await;
        assert_eq!(client.stats().gaps, 0, "it was told to be patient");
        config.set_gap_timeout(Duration::from_millis(100)).unwrap();
        client.set_config(config).unwrap();
        until(|| client.stats().gaps == 1).await;
        let gap = only(&client).unwrap().gap.unwrap();
        assert_eq!((gap.stream, gap.range), (recv.id(), 0..100_000));
        let mut buf = [0; 1000];
        let missed = recv.read_timeout(&mut buf, Duration::from_millis(20)).await.unwrap_err();
        let text = missed.to_string();
        assert!(text.contains("0..100000 is missing"), "{text}");
        let ReadTimeoutError::TimedOut(stalled) = missed else { panic!("{missed:?}") };
        assert_eq!((stalled.position, stalled.missing), (0, Some(0..100_000)));
        assert!(stalled.held > 0);
        // Who wants any bytes has some.
        let chunk = recv.read_chunk(1000, false).await.unwrap().unwrap();
        assert_eq!((chunk.offset, chunk.bytes), (100_000, object(100_000..101_000)));
        tokio::spawn(fill(late));
        let read = recv.read_timeout(&mut buf, Duration::from_secs(20)).await.unwrap().unwrap();
        assert!(buf[..read] == object(0..read as u64));
        let mut rest = 200_000 - 1000 - read;
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
            let start = chunk.offset;
            assert!(chunk.bytes == object(start..start + chunk.bytes.len() as u64));
            rest -= chunk.bytes.len();
        }
        assert_eq!((rest, client.stats().gaps), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn a_read_with_a_timeout_waits_no_longer_and_loses_nothing() {
    within(async {
        let (client, server, _kept) = pair().await;
        let mut send = client.open_uni().await.unwrap();
        send.write_all(b"one").await.unwrap();
        let mut recv = server.accept_uni().await.unwrap();
        let mut buf = [0; 10];
        assert_eq!(recv.read_timeout(&mut buf, Duration::MAX).await, Ok(Some(3)));
        let nothing = recv.read_chunk_timeout(10, true, Duration::from_millis(10)).await;
        let Err(ReadTimeoutError::TimedOut(stalled)) = nothing else { panic!("{nothing:?}") };
        assert_eq!((stalled.position, stalled.missing, stalled.held), (3, None, 0));
        send.write_all(b"two").await.unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_timeout(&mut buf, Duration::MAX).await, Ok(Some(3)));
        assert_eq!(recv.read_timeout(&mut buf, Duration::MAX).await, Ok(None));
    })
    .await;
}

#[tokio::test]
async fn what_is_said_of_a_stream_reaches_its_reader() {
    within(async {
        let (client, server, _kept) = pair().await;
        let mut metadata = StreamMetadata::new();
        metadata.set_stream_type(StreamType::Control).set_priority(Priority::High);
        metadata.set_max_buffer(20_000).set_property("name", "telemetry").unwrap();
        for (writer, reader) in [(&client, &server), (&server, &client)] {
            let mut send = writer.open_uni_with(metadata.clone()).await.unwrap();
            assert_eq!(send.priority(), Ok(i32::from(Priority::High)));
            let task = tokio::spawn(async move { send.write_all(&[1; 1 << 20]).await });
            let mut recv = reader.accept_uni().await.unwrap();
            let told = recv.metadata().await.unwrap();
            assert!(told.created_at().is_some());
            assert_eq!(told.stream_type(), StreamType::Control);
            assert_eq!((told.priority(), told.max_buffer()), (Priority::High, Some(20_000)));
            assert_eq!(told.property("name"), Some(&Bytes::from_static(b"telemetry")));
            until(|| only(reader).is_some_and(|stats| stats.backpressure.is_some())).await;
            assert!(only(reader).unwrap().allowance <= 20_000);
            assert_eq!(recv.read_to_end(1 << 20).await.unwrap().len(), 1 << 20);
            task.await.unwrap().unwrap();

            let (mut send, mut recv) = writer.open_bi().await.unwrap();
            assert_eq!(recv.metadata().await.unwrap(), StreamMetadata::new());
            send.write_all(b"x").await.unwrap();
            let (_, mut recv) = reader.accept_bi().await.unwrap();
            assert_eq!(recv.metadata().await.unwrap(), StreamMetadata::new());
        }
    })
    .await;
}

#[tokio::test]
async fn a_buffer_full_of_bytes_behind_a_gap_is_told_as_that() {
    within(async {
        let servers = Servers::new(1);
        let mut settings = ClientConfig::pinned(identity(0).fingerprint());
        let config = &mut settings.session.settings;
        config.set_stream_buffer(200_000).unwrap().set_max_stream_buffer(200_000).unwrap();
        let (client, primary) = servers.connect_with(&common::client(), settings).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let mut send = primary.session().open_uni().await.unwrap();
        let extent = send.reserve(1_000_000).unwrap();
        send.finish().unwrap();
        let _first = primary.lease(send.id(), 0..10_000, path, Bytes::new()).unwrap();
        let (_second, writer) = primary.lease_own(send.id(), 10_000..extent.end).unwrap();
        tokio::spawn(fill(writer));
        let late = edge.accept_lease().await.unwrap();
        let mut recv = client.accept_uni().await.unwrap();
        let told = send.backpressure_changed().await.unwrap();
        assert_eq!(told, Some(BackpressureReason::BufferFull));
        assert_eq!(client.stats().backpressure.buffer_full.count, 1);
        tokio::spawn(fill(late));
        assert!(recv.read_to_end(1_000_000).await.unwrap() == object(extent));
        assert_eq!(client.stats().backpressure.streams, 0);
    })
    .await;
}

#[tokio::test]
async fn a_spent_memory_budget_presses_every_session_until_it_is_raised() {
    within(async {
        let (client, server, (servers, _primary)) = pair().await;
        let mut send = client.open_uni().await.unwrap();
        send.write_all(b"x").await.unwrap();
        let mut recv = server.accept_uni().await.unwrap();
        servers.primary.set_memory_budget(1);
        send.write_all(b"x").await.unwrap();
        let told = send.backpressure_changed().await.unwrap();
        assert_eq!(told, Some(BackpressureReason::MemoryPressure));
        // Who was told to slow down sends nothing until that is over.
        servers.primary.set_memory_budget(1 << 30);
        assert_eq!(send.backpressure_changed().await.unwrap(), None);
        send.finish().unwrap();
        assert_eq!(recv.read_to_end(10).await.unwrap(), b"xx");
        assert_eq!(server.stats().backpressure.memory_pressure.count, 1);
    })
    .await;
}

#[tokio::test]
async fn each_chunk_says_which_path_brought_it() {
    within(async {
        let servers = Servers::new(2);
        let client = common::client();
        let (session, primary) = servers.connect(&client).await;
        let mut send = primary.session().open_uni().await.unwrap();
        let size = 3_000_000;
        let extent = send.reserve(size).unwrap();
        send.finish().unwrap();
        // Each server writes its own number, so that each byte tells who brought it.
        let write = |mut writer: kwik::LeaseWriter, byte: u8| async move {
            while let Ok(Some(piece)) = writer.activated().await {
                let length = usize::try_from(piece.end - piece.start).unwrap();
                writer.write_chunk(Bytes::from(vec![byte; length])).await.ok();
            }
        };
        for edge in 0..2 {
            let (path, session) = servers.add_edge(&primary, edge).await;
            let id = u8::try_from(path.0).unwrap();
            drop(primary.lease(send.id(), extent.clone(), path, Bytes::new()).unwrap());
            tokio::spawn(async move {
                let writer = session.accept_lease().await.unwrap();
                write(writer, id).await;
                drop(session);
            });
        }
        let (_lease, own) = primary.lease_own(send.id(), extent).unwrap();
        tokio::spawn(write(own, 0));
        let mut recv = session.accept_uni().await.unwrap();
        let mut chunks = vec![kwik::Chunk::default(); 16];
        let (mut at, mut paths) = (0, std::collections::BTreeSet::new());
        // Let them come, out of order too.
        sleep(Duration::from_millis(50)).await;
        while let Some(count) = recv.read_sourced(&mut chunks).await.unwrap() {
            for chunk in &chunks[..count] {
                assert_eq!(chunk.offset, at);
                at += chunk.bytes.len() as u64;
                let path = chunk.path.expect("it is known");
                assert!(chunk.bytes.iter().all(|byte| u32::from(*byte) == path.0));
                paths.insert(path);
            }
            let Some(chunk) = recv.read_chunk(1000, true).await.unwrap() else { break };
            assert_eq!(chunk.offset, at);
            at += chunk.bytes.len() as u64;
            let path = chunk.path.expect("it is known");
            assert!(chunk.bytes.iter().all(|byte| u32::from(*byte) == path.0));
        }
        assert_eq!((at, paths.len()), (size, 3));
    })
    .await;
}
