//! Edges that do not serve. Whatever they bring is right: wrong bytes are for those who verify.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kwik::{Identity, LeaseWriter, SecondarySession};
use kwik_proto::wire::control::{
    self, Activate, AuthenticationResponse, Heartbeat, Lease, Stopped, StreamLimits,
};
use kwik_proto::wire::{
    ControlDecoder, ControlMessage, DataOptions, PacketEncoder, PacketFrame, StreamKind,
};
use kwik_proto::{LeaseId, PieceId};
use kwik_sim::{Host, Sim};

use crate::bare;
use crate::content::content;

/// Seconds for which an edge trickles: it is progress, so a stream that has nobody else waits.
const TRICKLE: u64 = 30;

/// Heartbeats that fill a packet.
const PADDING: u32 = 120;

/// What an edge does instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crime {
    /// Lets leases lie, and brings nothing but heartbeats.
    Silence,
    /// Gives each lease up at once.
    Abandon,
    /// ... after a byte.
    AbandonAfterByte,
    /// Brings a byte a second.
    Trickle,
    /// Brings some, and closes its connection.
    Close,
    /// Returns each piece at its start, and keeps the lease.
    Return,
    /// ... after a byte.
    ReturnAfterByte,
    /// ... half of it.
    ReturnHalf,
    /// Brings what lies behind the piece that it was asked for.
    Unasked,
    /// Brings each piece twice.
    Twice,
    /// Returns pieces that nobody asked it for.
    ReturnUnasked,
    /// Answers with bytes that are no control frames.
    GarbageControl,
    /// ... no data packets.
    GarbageData,
    /// Says nothing at all once it let the client in.
    Deaf,
    /// Serves for a while, and trickles then, more slowly with each byte.
    Fade,
    /// Says much, all the time, and brings nothing.
    Pad,
    /// Brings a byte of each piece as it is taken back, and returns the rest.
    Tease,
}

impl Crime {
    pub(crate) const ALL: [Self; 17] = [
        Self::Silence,
        Self::Abandon,
        Self::AbandonAfterByte,
        Self::Trickle,
        Self::Close,
        Self::Return,
        Self::ReturnAfterByte,
        Self::ReturnHalf,
        Self::Unasked,
        Self::Twice,
        Self::ReturnUnasked,
        Self::GarbageControl,
        Self::GarbageData,
        Self::Deaf,
        Self::Fade,
        Self::Pad,
        Self::Tease,
    ];
    /// So many were there first: to choose among them chooses the same ones for ever.
    pub(crate) const FIRST: usize = 14;

    /// For the coverage.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Silence => "an edge that brings nothing",
            Self::Abandon => "an edge that abandons leases",
            Self::AbandonAfterByte => "an edge that abandons leases after a byte",
            Self::Trickle => "an edge that trickles",
            Self::Close => "an edge that closes",
            Self::Return => "an edge that returns pieces",
            Self::ReturnAfterByte => "an edge that returns pieces after a byte",
            Self::ReturnHalf => "an edge that returns halves of pieces",
            Self::Unasked => "an edge that brings what nobody asked for",
            Self::Twice => "an edge that brings all twice",
            Self::ReturnUnasked => "an edge that returns what nobody asked for",
            Self::GarbageControl => "an edge with garbage for control frames",
            Self::GarbageData => "an edge with garbage for data",
            Self::Deaf => "an edge that is deaf",
            Self::Fade => "an edge that fades",
            Self::Pad => "an edge that pads",
            Self::Tease => "an edge that teases",
        }
    }

    /// Whether KWIK's own server can do it.
    pub(crate) fn is_tame(self) -> bool {
        matches!(
            self,
            Self::Silence
                | Self::Abandon
                | Self::AbandonAfterByte
                | Self::Trickle
                | Self::Close
                | Self::Fade
        )
    }
}

/// Commits a tame crime against one client.
pub(crate) async fn misuse(sim: &Sim, host: &Host, session: &SecondarySession, crime: Crime) {
    while let Ok(mut writer) = session.accept_lease().await {
        let (sim, session) = (sim.clone(), session.clone());
        host.spawn(async move {
            match crime {
                Crime::Abandon => writer.abandon("no"),
                Crime::AbandonAfterByte => {
                    write(&mut writer, 1).await;
                    writer.abandon("no more");
                }
                Crime::Trickle => {
                    for _ in 0..TRICKLE {
                        write(&mut writer, 1).await;
                        sim.sleep(Duration::from_secs(1)).await;
                    }
                    session.closed().await;
                }
                Crime::Fade => fade(&mut writer, &sim).await,
                Crime::Close => {
                    write(&mut writer, 5_000).await;
                    session.close(0, b"gone");
                }
                _ => drop(session.closed().await),
            }
        });
    }
}

/// Serves at first. Then each pause is as long as those before make one expect.
async fn fade(writer: &mut LeaseWriter, sim: &Sim) {
    const HONEST: Duration = Duration::from_millis(1700);
    const PAUSES: [Duration; 2] = [Duration::from_millis(30), Duration::from_millis(700)];
    let (end, mut pause) = (sim.elapsed() + HONEST, PAUSES[0]);
    while sim.elapsed() < end {
        if !write(writer, u64::MAX).await {
            return;
        }
    }
    while write(writer, 1).await {
        sim.sleep(pause).await;
        pause = (pause * 4 / 3).min(PAUSES[1]);
    }
}

/// Writes at most so much of the piece that is due.
/// False when there is nothing to write any more.
async fn write(writer: &mut LeaseWriter, most: u64) -> bool {
    let tag = tag(&writer.command());
    let Ok(Some(piece)) = writer.activated().await else { return false };
    let part = content(tag, piece.start, (piece.end - piece.start).min(most));
    writer.write_chunk(part).await.is_ok()
}

fn tag(command: &[u8]) -> u64 {
    u64::from_be_bytes(command.try_into().unwrap())
}

/// An edge by hand, which commits its crime against everyone.
pub(crate) fn serve(sim: &Sim, host: &Host, port: u16, identity: &Identity, crime: Crime) {
    let endpoint = bare::listener(host, port, identity);
    let (serving, sim) = (host.clone(), sim.clone());
    host.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let sim = sim.clone();
            serving.spawn(async move {
                // Who gives up on it, or is given up, is no matter.
                attack(&sim, incoming, crime).await;
            });
        }
    });
}

async fn attack(sim: &Sim, incoming: quinn::Incoming, crime: Crime) -> Option<()> {
    let connection = incoming.await.ok()?;
    let (send, recv) = connection.accept_bi().await.ok()?;
    let decoder = ControlDecoder::new();
    let (leases, asked) = (BTreeMap::new(), BTreeMap::new());
    let (frames, packets) = (0, 1);
    let mut edge = Edge { connection, send, recv, decoder, crime, leases, asked, frames, packets };
    let ControlMessage::AuthenticationRequest(request) = edge.hear().await? else { return None };
    let limits = StreamLimits {
        max_streams_bidi: 100,
        max_streams_uni: 100,
        initial_max_stream_data: 1 << 16,
        ..StreamLimits::default()
    };
    let result = Ok(request.session_id?);
    let data = DataOptions::default();
    let welcome = AuthenticationResponse { result, limits: Some(limits), data };
    edge.say(&ControlMessage::AuthenticationResponse(welcome)).await?;
    if crime == Crime::Deaf {
        edge.connection.closed().await;
        return None;
    }
    if crime == Crime::Pad {
        return edge.pad(sim).await;
    }
    loop {
        match edge.hear().await? {
            ControlMessage::Cancel(m) if crime == Crime::Tease => {
                edge.tease(m.lease_id, m.piece_id).await?;
            }
            ControlMessage::Lease(lease) => drop(edge.leases.insert(lease.lease_id, lease)),
            ControlMessage::Activate(asked) => edge.answer(&asked).await?,
            ControlMessage::Heartbeat(Heartbeat { sequence, reply: false }) => {
                edge.say(&ControlMessage::Heartbeat(Heartbeat { sequence, reply: true })).await?;
            }
            _ => {}
        }
    }
}

/// A connection of an edge by hand. What it does ends with None when its connection does.
struct Edge {
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: ControlDecoder,
    crime: Crime,
    leases: BTreeMap<LeaseId, Lease>,
    /// What it was asked for, to tease with.
    asked: BTreeMap<PieceId, Range<u64>>,
    frames: u64,
    packets: u64,
}

impl Edge {
    async fn say(&mut self, message: &ControlMessage) -> Option<()> {
        let mut encoded = BytesMut::new();
        control::encode(self.frames, message, &mut encoded);
        self.frames += 1;
        self.send.write_all(&encoded).await.ok()
    }

    async fn hear(&mut self) -> Option<ControlMessage> {
        loop {
            if let Some(message) = self.decoder.poll_frame().ok()? {
                return Some(message);
            }
            let chunk = self.recv.read_chunk(usize::MAX, true).await.ok()??;
            self.decoder.handle_input(chunk.bytes);
        }
    }

    /// Fills packets with what brings nothing, for as long as anybody listens.
    async fn pad(&mut self, sim: &Sim) -> Option<()> {
        loop {
            for _ in 0..PADDING {
                self.say(&ControlMessage::Heartbeat(Heartbeat { sequence: 0, reply: false }))
                    .await?;
            }
            sim.sleep(Duration::from_millis(40)).await;
        }
    }

    /// Answers an activation, in its own way.
    async fn answer(&mut self, asked: &Activate) -> Option<()> {
        let lease = self.leases.get(&asked.lease_id)?.clone();
        let (start, end) = (asked.range.start, asked.range.end);
        match self.crime {
            Crime::Return => self.stop(asked, start).await,
            Crime::ReturnAfterByte => {
                let until = (start + 1).min(end);
                self.bring(&lease, start, until).await?;
                self.stop(asked, until).await
            }
            Crime::ReturnHalf => {
                let until = start.midpoint(end);
                self.bring(&lease, start, until).await?;
                self.stop(asked, until).await
            }
            Crime::Tease => {
                self.asked.insert(asked.piece_id, asked.range.clone());
                Some(())
            }
            Crime::Unasked => self.bring(&lease, end, end + 1_000).await,
            Crime::Twice => {
                self.bring(&lease, start, end).await?;
                self.bring(&lease, start, end).await
            }
            Crime::ReturnUnasked => {
                let asked = Activate { piece_id: PieceId(u64::MAX >> 2), ..asked.clone() };
                self.stop(&asked, start).await
            }
            Crime::GarbageControl => self.send.write_all(&[0x55; 300]).await.ok(),
            Crime::GarbageData => self.throw(&[0xaa; 300]).await,
            _ => Some(()),
        }
    }

    /// Brings a byte of what it was asked for, and nothing more.
    async fn tease(&mut self, lease_id: LeaseId, piece_id: PieceId) -> Option<()> {
        let Some(range) = self.asked.remove(&piece_id) else { return Some(()) };
        let (lease, until) = (self.leases.get(&lease_id)?.clone(), range.start + 1);
        self.bring(&lease, range.start, until).await?;
        let asked = Activate { lease_id, piece_id, range };
        self.stop(&asked, until).await
    }

    async fn stop(&mut self, asked: &Activate, sent_until: u64) -> Option<()> {
        let (lease_id, piece_id) = (asked.lease_id, asked.piece_id);
        let stopped = Stopped { lease_id, piece_id, sent_until, ..Stopped::default() };
        self.say(&ControlMessage::Stopped(stopped)).await
    }

    /// Brings a range of the object, whoever asked for it.
    async fn bring(&mut self, lease: &Lease, start: u64, end: u64) -> Option<()> {
        const PART: u64 = 16_000;
        let mut bytes = Vec::new();
        let mut encoder = PacketEncoder::new();
        for at in (start..end).step_by(PART as usize) {
            let payload = content(tag(&lease.command), at, PART.min(end - at));
            let stream_id = lease.stream_id.as_u64();
            let frame = PacketFrame { stream_id, offset: at, payload, fin: false };
            let mut out: Vec<Bytes> = Vec::new();
            encoder.encode(self.packets, &[frame], DataOptions::default(), &mut out);
            self.packets += 1;
            out.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
        }
        self.throw(&bytes).await
    }

    /// Sends a data stream of these bytes.
    async fn throw(&mut self, bytes: &[u8]) -> Option<()> {
        let mut kind = BytesMut::new();
        StreamKind::Data.encode(&mut kind);
        let mut stream = self.connection.open_uni().await.ok()?;
        stream.write_all(&kind).await.ok()?;
        stream.write_all(bytes).await.ok()?;
        stream.finish().ok()
    }
}
