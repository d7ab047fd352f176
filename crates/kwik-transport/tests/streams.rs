//! Ordinary life with streams, in quinn's style (1.1).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{
    LOOPBACK, Rng, Servers, client, echo, fill, identity, object, pair, serve_echo, settled, within,
};
use kwik::{ClientConfig, Endpoint, QuicConfig, ReadError, ReadToEndError, WriteError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_come_and_go_leave_nothing_behind() {
    within(async {
        let (one, two, _kept) = pair().await;
        serve_echo(one.clone());
        serve_echo(two.clone());
        for round in 0..4 {
            let mut loops = Vec::new();
            for at in 0..100u64 {
                let session = if at % 2 == 0 { one.clone() } else { two.clone() };
                loops.push(tokio::spawn(async move {
                    let (mut send, mut recv) = session.open_bi().await.unwrap();
                    let data = object(at * 1000..at * 1000 + at * 97 + round);
                    send.write_chunk(data.clone()).await.unwrap();
                    send.finish().unwrap();
                    assert!(recv.read_to_end(100_000).await.unwrap() == data);
                }));
            }
            for done in loops {
                done.await.unwrap();
            }
            settled(&one, &two).await;
        }
        let stats = one.stats();
        assert_eq!(stats.granted, 0, "{stats:?}");
        assert_eq!(two.stats().granted, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_end_badly_leave_nothing_behind() {
    within(async {
        let (one, two, _kept) = pair().await;
        serve_echo(two.clone());
        for round in 0..150u64 {
            let (mut send, mut recv) = one.open_bi().await.unwrap();
            match round % 6 {
                0 => drop((send, recv)),
                1 => send.reset(7).unwrap(),
                2 => recv.stop(8).unwrap(),
                3 => {
                    send.write_all(&[1; 500]).await.unwrap();
                    send.reset(9).unwrap();
                    recv.stop(9).unwrap();
                }
                4 => {
                    send.write_all(&[1; 5000]).await.unwrap();
                    drop(recv);
                }
                _ => {
                    send.write_all(&[1; 500]).await.unwrap();
                    drop(send);
                    recv.read_exact(&mut [0; 100]).await.unwrap();
                }
            }
        }
        settled(&one, &two).await;
        echo(&one).await;
    })
    .await;
}

#[tokio::test]
async fn resets_and_stops_carry_their_codes() {
    within(async {
        let (one, two, _kept) = pair().await;
        let (mut send, mut recv) = one.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let (mut far_send, mut far_recv) = two.accept_bi().await.unwrap();
        far_recv.read_exact(&mut [0; 5]).await.unwrap();
        send.reset(42).unwrap();
        assert!(send.reset(42).is_err() && send.finish().is_err());
        assert_eq!(send.write(b"more").await, Err(WriteError::ClosedStream));
        assert_eq!(far_recv.read_chunk(10, true).await, Err(ReadError::Reset(42)));
        assert_eq!(far_recv.read_chunk(10, true).await, Err(ReadError::Reset(42)));
        far_send.write_all(b"x").await.unwrap();
        recv.stop(43).unwrap();
        assert!(recv.stop(43).is_err());
        assert_eq!(recv.read_chunk(10, true).await, Err(ReadError::ClosedStream));
        assert_eq!(far_send.stopped().await.unwrap(), Some(43));
        assert_eq!(far_send.write(b"more").await, Err(WriteError::Stopped(43)));
        // As in quinn, only a second end is an error.
        assert!(far_send.finish().is_ok() && far_send.finish().is_err());
        // A writer that waits for credit hears of the stop.
        let mut send = one.open_uni().await.unwrap();
        let writing = tokio::spawn(async move {
            loop {
                if let Err(error) = send.write(&[0; 65_536]).await {
                    return error;
                }
            }
        });
        let mut recv = two.accept_uni().await.unwrap();
        recv.read_exact(&mut [0; 1000]).await.unwrap();
        recv.stop(44).unwrap();
        assert_eq!(writing.await.unwrap(), WriteError::Stopped(44));
        drop((far_send, far_recv, recv));
        settled(&one, &two).await;
    })
    .await;
}

#[tokio::test]
async fn reading_to_the_end_keeps_to_its_limit() {
    within(async {
        let (one, two, _kept) = pair().await;
        for (size, limit) in [(0usize, 0usize), (1, 1), (100_000, 100_000)] {
            let mut send = one.open_uni().await.unwrap();
            send.write_all(&vec![5; size]).await.unwrap();
            send.finish().unwrap();
            let mut recv = two.accept_uni().await.unwrap();
            assert_eq!(recv.read_to_end(limit).await.unwrap().len(), size);
            assert_eq!(recv.read(&mut [0; 8]).await.unwrap(), None);
            assert_eq!(recv.read_chunks(&mut [Bytes::new()]).await.unwrap(), None);
        }
        let mut send = one.open_uni().await.unwrap();
        send.write_all(&[5; 101]).await.unwrap();
        drop(send);
        let mut recv = two.accept_uni().await.unwrap();
        assert_eq!(recv.read_to_end(100).await, Err(ReadToEndError::TooLong));
        drop(recv);
        settled(&one, &two).await;
    })
    .await;
}

#[tokio::test]
async fn tokio_copies_between_streams_and_buffers() {
    within(async {
        let (one, two, _kept) = pair().await;
        let copying = tokio::spawn(async move {
            let (mut send, mut recv) = two.accept_bi().await.unwrap();
            let copied = tokio::io::copy(&mut recv, &mut send).await.unwrap();
            send.shutdown().await.unwrap();
            send.shutdown().await.unwrap();
            copied
        });
        let data = object(0..2_500_000);
        let (mut send, mut recv) = one.open_bi().await.unwrap();
        let sending = data.clone();
        let write = async {
            tokio::io::copy(&mut &sending[..], &mut send).await.unwrap();
            send.shutdown().await.unwrap();
            let error = AsyncWriteExt::write(&mut send, b"late").await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
        };
        let mut read = Vec::new();
        let (copied, ()) = tokio::join!(recv.read_to_end_into(&mut read), write);
        copied.unwrap();
        assert!(read == data);
        assert_eq!(copying.await.unwrap(), 2_500_000);
    })
    .await;
}

/// Tokio's `read_to_end`, which quinn's own hides.
trait ReadToEndInto {
    async fn read_to_end_into(&mut self, all: &mut Vec<u8>) -> std::io::Result<usize>;
}

impl ReadToEndInto for kwik::RecvStream {
    async fn read_to_end_into(&mut self, all: &mut Vec<u8>) -> std::io::Result<usize> {
        tokio::io::AsyncReadExt::read_to_end(self, all).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_can_be_given_up_and_taken_up_again() {
    within(async {
        let (one, two, _kept) = pair().await;
        let total = 300_000u64;
        let writing = tokio::spawn(async move {
            let mut send = one.open_uni().await.unwrap();
            let (data, mut at) = (object(0..total), 0);
            while at < data.len() {
                let some = &data[at..data.len().min(at + 3000)];
                // What was not written when it was given up was not written at all.
                if let Ok(written) = timeout(Duration::from_micros(50), send.write(some)).await {
                    at += written.unwrap();
                }
                if at % 7 == 0 {
                    sleep(Duration::from_micros(200)).await;
                }
            }
            send.finish().unwrap();
            while one.close_reason().is_none() {
                let opening = timeout(Duration::from_micros(20), one.open_bi()).await;
                drop(opening);
                tokio::task::yield_now().await;
            }
        });
        let mut recv = loop {
            if let Ok(accepted) = timeout(Duration::from_micros(100), two.accept_uni()).await {
                break accepted.unwrap();
            }
        };
        let mut read = Vec::new();
        loop {
            let next = timeout(Duration::from_micros(60), recv.read_chunk(777, true)).await;
            match next {
                Ok(chunk) => match chunk.unwrap() {
                    Some(chunk) => {
                        assert_eq!(chunk.offset, read.len() as u64);
                        read.extend_from_slice(&chunk.bytes);
                    }
                    None => break,
                },
                Err(_) => continue,
            }
        }
        assert!(read == object(0..total));
        two.close(0, b"");
        writing.await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_extents_and_plain_writes_mix_in_one_stream() {
    within(async {
        let (one, _two, (_servers, primary)) = pair().await;
        let mut rng = Rng(5);
        for _ in 0..5 {
            let mut send = primary.session().open_uni().await.unwrap();
            let (id, mut at) = (send.id(), 0);
            let parts: Vec<_> = (0..8).map(|_| (rng.below(2) == 0, rng.below(200_000))).collect();
            let total: u64 = parts.iter().map(|(_, len)| len).sum();
            let leasing = primary.clone();
            let reading = tokio::spawn({
                let one = one.clone();
                async move { one.accept_uni().await.unwrap().read_to_end(1 << 30).await.unwrap() }
            });
            let mut leases = Vec::new();
            for (leased, len) in parts {
                if leased && len > 0 {
                    let extent = send.reserve(len).unwrap();
                    assert_eq!(extent, at..at + len);
                    let (lease, writer) = leasing.lease_own(id, extent).unwrap();
                    tokio::spawn(fill(writer));
                    leases.push(lease);
                } else {
                    send.write_chunk(object(at..at + len)).await.unwrap();
                }
                at += len;
            }
            send.finish().unwrap();
            assert!(reading.await.unwrap() == object(0..total));
            for mut lease in leases {
                lease.outcome().await.unwrap();
            }
        }
        settled(&one, primary.session()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_stream_blocks_no_other_even_in_the_smallest_window() {
    within(async {
        let servers = Servers::new(0);
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        let least = 1200 * 2 * 3 * 100;
        let settings = &mut config.session.settings;
        settings.set_initial_window(least).unwrap().set_max_window(least).unwrap();
        let (session, primary) = servers.connect_with(&client(), config).await;
        let server = primary.session().clone();
        let mut unread = Vec::new();
        let mut flooding = Vec::new();
        for _ in 0..20 {
            let mut send = server.open_uni().await.unwrap();
            flooding.push(tokio::spawn(async move { send.write_all(&vec![1; 300_000]).await }));
            unread.push(session.accept_uni().await.unwrap());
        }
        let mut send = server.open_uni().await.unwrap();
        let flow = tokio::spawn(async move {
            send.write_chunk(object(0..600_000)).await.unwrap();
            send.finish().unwrap();
            send
        });
        let mut recv = session.accept_uni().await.unwrap();
        assert!(recv.read_to_end(1 << 20).await.unwrap() == object(0..600_000));
        drop(flow.await.unwrap());
        assert!(session.stats().window <= least);
        assert!(session.stats().granted <= least, "{:?}", session.stats());
        // A slow reader gets all of its stream.
        let mut slow = unread.pop().unwrap();
        let mut read = 0;
        while read < 300_000 {
            read += slow.read(&mut [0; 5000]).await.unwrap().unwrap();
            tokio::task::yield_now().await;
        }
        drop(slow);
        drop(unread);
        for flood in flooding {
            // Those that nobody read were stopped.
            let written = flood.await.unwrap();
            assert!(matches!(written, Ok(()) | Err(WriteError::Stopped(0))), "{written:?}");
        }
        settled(&session, &server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_of_64_is_never_read_and_the_63_others_finish() {
    within(async {
        const LEN: u64 = 300_000;
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        let server = primary.session().clone();
        let unread = tokio::spawn({
            let server = server.clone();
            async move {
                let mut send = server.open_uni().await.unwrap();
                send.write_all(&vec![1; 8 << 20]).await
            }
        });
        let _never = session.accept_uni().await.unwrap();
        for _ in 0..63 {
            let server = server.clone();
            tokio::spawn(async move {
                let mut send = server.open_uni().await.unwrap();
                send.write_chunk(object(0..LEN)).await.unwrap();
                send.finish().unwrap();
                send.stopped().await.ok();
            });
        }
        let mut readers = Vec::new();
        for _ in 0..63 {
            let mut recv = session.accept_uni().await.unwrap();
            readers.push(tokio::spawn(async move { recv.read_to_end(1 << 20).await.unwrap() }));
        }
        let expected = object(0..LEN);
        for reader in readers {
            assert!(reader.await.unwrap() == expected);
        }
        assert!(!unread.is_finished(), "nobody read it, so that most of it is not sent yet");
    })
    .await;
}

#[tokio::test]
async fn streams_are_limited_and_come_in_order() {
    within(async {
        let (one, two, _kept) = pair().await;
        // The first answer may still be under way.
        while one.stats().window == 0 || one.try_open_uni().unwrap().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        let mut held = Vec::new();
        let mut idle = 0;
        while idle < 20 {
            match one.try_open_uni().unwrap() {
                Some(stream) => held.push(stream),
                None => {
                    idle += 1;
                    sleep(Duration::from_millis(2)).await;
                }
            }
        }
        assert!((99..=100).contains(&held.len()), "{}", held.len());
        let waiting = tokio::spawn(async move { one.open_uni().await.unwrap().id() });
        for at in 0..held.len() as u64 + 1 {
            let mut stream = two.accept_uni().await.unwrap();
            assert_eq!(stream.id().index(), at);
            if at == 0 {
                assert_eq!(stream.read_to_end(0).await.unwrap(), b"");
            }
            held.drain(..1.min(held.len()));
        }
        assert!(waiting.await.unwrap().index() >= 100);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_streams_as_are_allowed_write_at_once() {
    within(async {
        let (one, two, _kept) = pair().await;
        serve_echo(two.clone());
        // Every one of them stays open with something written.
        let mut held = Vec::new();
        for _ in 0..90 {
            let mut send = one.open_uni().await.unwrap();
            send.write_all(b"x").await.unwrap();
            held.push(send);
            let (mut send, mut recv) = one.open_bi().await.unwrap();
            send.write_all(b"y").await.unwrap();
            recv.read_exact(&mut [0; 1]).await.unwrap();
            held.push(send);
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_written_leaves_while_its_writer_waits_for_an_answer() {
    within(async {
        let servers = Servers::new(0);
        // QUIC takes less than a frame at once.
        let quic = QuicConfig { send_window: 5_000, ..QuicConfig::default() };
        let client = Endpoint::bind(LOOPBACK.parse().unwrap(), None, &quic).unwrap();
        let (session, primary) = servers.connect(&client).await;
        serve_echo(primary.session().clone());
        echo(&session).await;
        for size in [40_000, 50_000, 60_000] {
            let (mut send, mut recv) = session.open_bi().await.unwrap();
            let data = object(0..size);
            let mut at = 0;
            while at < data.len() {
                at += send.write(&data[at..]).await.unwrap();
            }
            let mut answer = vec![0; data.len()];
            recv.read_exact(&mut answer).await.unwrap();
            assert!(answer == data);
            let mut chunks = [data.clone()];
            while !chunks[0].is_empty() {
                send.write_chunks(&mut chunks).await.unwrap();
            }
            recv.read_exact(&mut answer).await.unwrap();
            assert!(answer == data);
            // Nor does an end of any kind hang on it.
            let mut at = 0;
            while at < data.len() {
                at += send.write(&data[at..]).await.unwrap();
            }
            match size {
                40_000 => send.reset(4).unwrap(),
                50_000 => drop(send),
                _ => send.finish().unwrap(),
            }
            if size == 40_000 {
                // The answers so far were all; how much of the rest comes is open.
                recv.stop(4).unwrap();
            } else {
                assert!(recv.read_to_end(100_000).await.unwrap() == data);
            }
        }
        settled(&session, primary.session()).await;
    })
    .await;
}

#[tokio::test]
async fn a_finished_stream_tells_when_the_peer_has_it_all() {
    within(async {
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        let mut send = session.open_uni().await.unwrap();
        send.write_chunk(object(0..100_000)).await.unwrap();
        send.finish().unwrap();
        let mut recv = primary.session().accept_uni().await.unwrap();
        let (all, stopped) = tokio::join!(recv.read_to_end(1 << 20), send.stopped());
        assert_eq!((all.unwrap().len(), stopped.unwrap()), (100_000, None));
        assert_eq!(send.stopped().await.unwrap(), None, "it can be asked again");
    })
    .await;
}
