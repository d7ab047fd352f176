//! The attacks, as a peer carries them out that speaks KWIK by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kwik::{Code, Identity};
use kwik_proto::wire::control::{Heartbeat, StreamCreateNotification, StreamReset};
use kwik_proto::wire::{ControlMessage, DataOptions, PacketEncoder, PacketFrame, StreamKind};
use kwik_proto::{Dir, Side, StreamId, limits};
use prost::Message as _;
use tokio::time::timeout;

use super::common::hostile::{self, Peer, frame};
use super::common::proto::{DataFrame, DataPacket, Field, message};
use super::{GRANTED, WINDOW};

const HEARTBEAT: i32 = 29;

/// Bytes that are written before QUIC has a turn; a packet counts 64 at least, as a write costs.
const TURN: usize = 16 * 1024;

/// A peer that keeps to the handshake, and to what its attack asks of it.
pub(crate) struct Attacker {
    peer: Peer,
    data: quinn::SendStream,
    packets: u64,
    /// Bytes written since QUIC had a turn.
    written: usize,
    credit: BTreeMap<u64, u64>,
    streams: u64,
}

fn uni_id(index: u64) -> StreamId {
    StreamId::new(Side::Client, Dir::Uni, index)
}

fn uni(index: u64) -> u64 {
    uni_id(index).as_u64()
}

async fn open_data(peer: &Peer) -> quinn::SendStream {
    let mut data = peer.connection.open_uni().await.unwrap();
    let mut kind = BytesMut::new();
    StreamKind::Data.encode(&mut kind);
    data.write_all(&kind).await.unwrap();
    data
}

impl Attacker {
    pub(crate) async fn join(address: SocketAddr) -> Self {
        let peer = Peer::join(&hostile::dialer(), address).await;
        let data = open_data(&peer).await;
        Self {
            peer,
            data,
            packets: 0,
            written: 0,
            credit: BTreeMap::new(),
            streams: limits::MAX_STREAMS,
        }
    }

    /// Sends a packet of these frames; false once the victim has had enough.
    async fn send(&mut self, frames: Vec<DataFrame>) -> bool {
        self.packets += 1;
        let packet = DataPacket { packet_id: self.packets, frames, ..<_>::default() };
        let packet = packet.encode_length_delimited_to_vec();
        self.written += packet.len().max(64);
        if self.written > TURN {
            // What was written leaves, and the end is heard: an attacker wastes none of its
            // own time.
            self.written = 0;
            tokio::task::yield_now().await;
        }
        self.data.write_all(&packet).await.is_ok()
    }

    /// Takes a control frame; whether it was a heartbeat.
    async fn hear(&mut self) -> bool {
        match self.peer.hear().await {
            ControlMessage::MaxStreamData(m) => {
                self.credit.insert(m.stream_id.as_u64(), m.maximum);
            }
            ControlMessage::MaxStreams(m) if m.dir == Dir::Uni => self.streams = m.maximum,
            ControlMessage::Heartbeat(_) => return true,
            _ => {}
        }
        false
    }

    /// Opens a stream: the credit that it gets, which may be its floor.
    async fn open(&mut self, index: u64) -> u64 {
        self.peer
            .say(ControlMessage::StreamCreateNotification(StreamCreateNotification {
                stream_id: uni_id(index),
                ..<_>::default()
            }))
            .await;
        let ping = Heartbeat { sequence: index, reply: false };
        self.peer.say(ControlMessage::Heartbeat(ping)).await;
        while !self.hear().await {}
        *self.credit.entry(uni(index)).or_insert(WINDOW as u64 / (6 * limits::MAX_STREAMS))
    }

    /// Opens as many streams as there may be: the credit of each, most of the window together.
    async fn open_all(&mut self) -> Vec<(u64, u64)> {
        let floor = self.open(limits::MAX_STREAMS - 1).await;
        for index in 0..limits::MAX_STREAMS {
            self.credit.entry(uni(index)).or_insert(floor);
        }
        while self.credit.values().sum::<u64>() < GRANTED {
            self.hear().await;
        }
        (0..limits::MAX_STREAMS).map(|index| (index, self.credit[&uni(index)])).collect()
    }

    async fn wait_for_credit(&mut self, index: u64, end: u64) {
        while self.credit.get(&uni(index)).is_none_or(|credit| *credit < end) {
            self.hear().await;
        }
    }

    /// Sends a byte at each of these offsets of a stream.
    async fn send_bytes(&mut self, index: u64, offsets: impl Iterator<Item = u64>) -> bool {
        let mut offsets = offsets.peekable();
        while offsets.peek().is_some() {
            let some = offsets.by_ref().take(limits::MAX_PACKET_FRAMES);
            let one = |at| frame(uni(index), at, &b"x"[..], false);
            if !self.send(some.map(one).collect()).await {
                return false;
            }
        }
        true
    }

    pub(crate) async fn fragments_with_gaps_are_cut_off(&mut self) {
        self.open(0).await;
        self.send_bytes(0, (1..1_000_000).step_by(2)).await;
        self.peer.expect(Code::SecondaryStreamOverflow, "a gap too many").await;
    }

    pub(crate) async fn gaps_in_many_streams_are_cut_off_together(&mut self) {
        let most = limits::MAX_GAPS as u64;
        for index in 0..=limits::MAX_RUNS as u64 / (most - 1) {
            self.open(index).await;
            self.send_bytes(index, (1..2 * most - 1).step_by(2)).await;
        }
        self.peer.expect(Code::SecondaryStreamOverflow, "a run too many").await;
    }

    pub(crate) async fn half_a_million_fragments_that_fit_cost_little(&mut self) {
        self.open(0).await;
        for block in (0..500_000).step_by(2000) {
            let end = block + 2000;
            self.wait_for_credit(0, end).await;
            let offsets = (block + 1..end).step_by(2).chain((block..end).step_by(2));
            assert!(self.send_bytes(0, offsets).await);
        }
        self.leave().await;
    }

    pub(crate) async fn gaps_all_over_the_window_cost_no_more(&mut self) {
        // Nearly as many gaps as the session may have, over all that is granted, of large writes.
        for (index, end) in self.open_all().await {
            for at in (1..end - 1200).step_by(1200) {
                let part = frame(uni(index), at, vec![7; 1199], false);
                assert!(self.send(vec![part]).await);
            }
        }
        self.leave().await;
    }

    pub(crate) async fn a_byte_withheld_for_ever_holds_the_window_and_no_more(&mut self) {
        self.withhold_a_byte().await;
        self.leave().await;
    }

    async fn withhold_a_byte(&mut self) {
        for (index, end) in self.open_all().await {
            let mut at = 1;
            while at < end {
                let next = end.min(at + 60_000);
                let part = frame(uni(index), at, vec![7; (next - at) as usize], false);
                assert!(self.send(vec![part]).await);
                at = next;
            }
        }
    }

    /// With the window held as well. The one packet that says how it ends may be lost in this
    /// flood, and what is sent after it is answered with a reset (RFC 9000 section 10.3): then it
    /// is done again.
    pub(crate) async fn answers_that_nobody_reads_are_cut_off(&mut self) {
        for _ in 0..3 {
            self.withhold_a_byte().await;
            self.data.finish().unwrap();
            self.data.stopped().await.unwrap();
            self.flood_with_heartbeats().await;
            if self.peer.connection.close_reason() != Some(quinn::ConnectionError::Reset) {
                break;
            }
            *self = Self::join(self.peer.connection.remote_address()).await;
        }
        self.peer.expect(Code::LimitExceeded, "answers pile up").await;
    }

    async fn flood_with_heartbeats(&mut self) {
        let mut beats = Vec::new();
        for id in self.peer.due()..5_000_000 {
            let beat = message(&[(1, Field::Number(id))]);
            beats.extend(self.peer.frame(id, HEARTBEAT, &beat));
            if beats.len() > TURN {
                if self.peer.send.write_all(&std::mem::take(&mut beats)).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        timeout(Duration::from_secs(10), self.peer.closed()).await.ok();
    }

    pub(crate) async fn slices_that_pin_receive_buffers_are_copied(&mut self) {
        const KEPT: u64 = 1100;
        // The rest of what QUIC sends at once, and so of a receive buffer.
        const READ: u64 = 13_000;
        let mut at = 0;
        for (index, end) in self.open_all().await.split_off(1) {
            for kept in (0..end - KEPT).step_by(KEPT as usize) {
                self.wait_for_credit(0, at + READ).await;
                let slice = frame(uni(index), kept, vec![7; KEPT as usize], false);
                let rest = frame(uni(0), at, vec![7; READ as usize], false);
                assert!(self.send(vec![slice, rest]).await);
                at += READ;
            }
        }
        self.leave().await;
    }

    pub(crate) async fn packets_that_wait_for_their_checksum_pin_nothing(&mut self) {
        const WAITING: usize = 64;
        const KEPT: usize = 1100;
        const READ: usize = 30_000;
        const OPTIONS: DataOptions = DataOptions { checksum: true, compression: false };
        self.join_again(OPTIONS).await;
        let encode = |id: u64, stream: u64, offset: u64, len: usize| {
            let payload = Bytes::from(vec![7; len]);
            let frame = PacketFrame { stream_id: uni(stream), offset, payload, fin: false };
            let mut out = Vec::new();
            PacketEncoder::new().encode(id, &[frame], OPTIONS, &mut out);
            Bytes::from(out.concat())
        };
        self.open(0).await;
        let waiting = encode(1 << 13, 1, 0, 60_000);
        let mut streams = Vec::new();
        for _ in 0..WAITING {
            let stream = open_data(&self.peer).await;
            // Its slice begins a datagram, of a batch that others fill.
            stream.set_priority(1).unwrap();
            streams.push(stream);
        }
        let mut at = 0;
        for kept in (0..40 * KEPT).step_by(KEPT) {
            for stream in &mut streams {
                self.wait_for_credit(0, (at + READ) as u64).await;
                stream.write_chunk(waiting.slice(kept..kept + KEPT)).await.unwrap();
                self.packets += 1;
                let rest = encode(self.packets, 0, at as u64, READ);
                self.data.write_chunk(rest).await.unwrap();
                tokio::task::yield_now().await;
                at += READ;
            }
        }
        self.leave().await;
    }

    pub(crate) async fn datagrams_that_nobody_reads_pin_nothing(&mut self) {
        // With each byte of a datagram comes what fills the rest of its packet, and is read.
        const REST: usize = 1_100;
        self.open(0).await;
        for at in (0..25_000 * REST as u64).step_by(REST) {
            self.wait_for_credit(0, at + REST as u64).await;
            let datagram = Bytes::from_static(b"x");
            self.peer.connection.send_datagram_wait(datagram).await.unwrap();
            assert!(self.send(vec![frame(uni(0), at, vec![7; REST], false)]).await);
            tokio::task::yield_now().await;
        }
        self.leave().await;
    }

    /// Dials anew, and asks for `options`.
    async fn join_again(&mut self, options: DataOptions) {
        let address = self.peer.connection.remote_address();
        let mut peer = Peer::dial(&self.peer.endpoint, address).await;
        let introduction = hostile::introduction(&Identity::from_seed([8; 32]));
        let ControlMessage::AuthenticationRequest(mut request) = introduction else { return };
        request.data = options;
        peer.say(ControlMessage::AuthenticationRequest(request)).await;
        let ControlMessage::AuthenticationResponse(response) = peer.hear().await else {
            panic!("no answer to the introduction")
        };
        assert_eq!(response.data, options);
        (self.data, self.peer) = (open_data(&peer).await, peer);
    }

    pub(crate) async fn a_million_empty_frames_are_cut_off(&mut self) {
        self.open(0).await;
        for _ in 0..1_000_000 / limits::MAX_PACKET_FRAMES {
            let frames = vec![frame(uni(0), 0, Bytes::new(), false); limits::MAX_PACKET_FRAMES];
            if !self.send(frames).await {
                break;
            }
        }
        self.peer.expect(Code::LimitExceeded, "empty frames").await;
    }

    pub(crate) async fn a_million_empty_packets_are_cut_off(&mut self) {
        self.open(0).await;
        for _ in 0..1_000_000 {
            if !self.send(Vec::new()).await {
                break;
            }
        }
        self.peer.expect(Code::LimitExceeded, "empty packets").await;
    }

    pub(crate) async fn opening_and_resetting_leaves_nothing(&mut self) {
        for index in 0..100_000 {
            while index >= self.streams {
                self.hear().await;
            }
            let reset = StreamReset { stream_id: uni_id(index), code: 1, final_size: 0 };
            self.peer.say(ControlMessage::StreamReset(reset)).await;
        }
        self.peer.ping().await;
    }

    pub(crate) async fn a_moving_final_size_is_cut_off(&mut self) {
        for size in [10, 11] {
            let reset = StreamReset { stream_id: uni_id(0), code: 1, final_size: size };
            self.peer.say(ControlMessage::StreamReset(reset)).await;
        }
        self.peer.expect(Code::OffsetMismatch, "a final size that moved").await;
    }

    pub(crate) async fn data_beyond_the_credit_is_cut_off(&mut self) {
        let mut end = self.open(0).await;
        while self.send(vec![frame(uni(0), end, vec![7; 60_000], false)]).await {
            end += 60_000;
        }
        self.peer.expect(Code::OffsetMismatch, "data beyond the credit").await;
    }

    pub(crate) async fn streams_beyond_the_limit_are_cut_off(&mut self) {
        for index in 0..=limits::MAX_STREAMS {
            self.send(vec![frame(uni(index), 0, &b"x"[..], false)]).await;
        }
        self.peer.expect(Code::StreamCreateFailed, "a stream beyond the limit").await;
    }

    /// All was within the rules: waits until it has arrived, and goes.
    async fn leave(&mut self) {
        self.data.finish().unwrap();
        self.data.stopped().await.unwrap();
        self.peer.ping().await;
    }
}
