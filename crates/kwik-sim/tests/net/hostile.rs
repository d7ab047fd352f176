//! Edges that do not serve. Whatever they bring is right: wrong bytes are for those who verify.

use std::collections::BTreeMap;
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
}

impl Crime {
    pub(crate) const ALL: [Self; 14] = [
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
    ];

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
        }
    }

    /// Whether KWIK's own server can do it.
    pub(crate) fn is_tame(self) -> bool {
        matches!(
            self,
            Self::Silence | Self::Abandon | Self::AbandonAfterByte | Self::Trickle | Self::Close
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
                Crime::Close => {
                    write(&mut writer, 5_000).await;
                    session.close(0, b"gone");
                }
                _ => drop(session.closed().await),
            }
        });
    }
}

/// Writes at most so much of the piece that is due.
async fn write(writer: &mut LeaseWriter, most: u64) {
    let tag = tag(&writer.command());
    if let Ok(Some(piece)) = writer.activated().await {
        let part = content(tag, piece.start, (piece.end - piece.start).min(most));
        writer.write_chunk(part).await.ok();
    }
}

fn tag(command: &[u8]) -> u64 {
    u64::from_be_bytes(command.try_into().unwrap())
}

/// An edge by hand, which commits its crime against everyone.
pub(crate) fn serve(host: &Host, port: u16, identity: &Identity, crime: Crime) {
    let endpoint = bare::listener(host, port, identity);
    let serving = host.clone();
    host.spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            serving.spawn(async move {
                // Who gives up on it, or is given up, is no matter.
                attack(incoming, crime).await;
            });
        }
    });
}

async fn attack(incoming: quinn::Incoming, crime: Crime) -> Option<()> {
    let connection = incoming.await.ok()?;
    let (send, recv) = connection.accept_bi().await.ok()?;
    let decoder = ControlDecoder::new();
    let leases = BTreeMap::new();
    let mut edge = Edge { connection, send, recv, decoder, crime, leases, frames: 0, packets: 1 };
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
    loop {
        match edge.hear().await? {
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
