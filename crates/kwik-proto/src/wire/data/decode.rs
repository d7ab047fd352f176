//! Reads packets as they come: a state machine over fields, with two levels of messages.

use super::held::{HeldMessage, RunningSum};
use super::{DataOptions, FrameHeader, compression, frame, packet};
use crate::limits::{MAX_FRAME_FIELD, MAX_PACKET_FRAMES, MAX_PACKET_OVERHEAD, MAX_PACKET_PAYLOAD};
use crate::wire::pb::data::DataFlags;
use crate::wire::varint::VarintReader;
use crate::wire::{WireError, convert};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

const COMPRESSED: u64 = DataFlags::DataFlagCompressed as u64;

/// What a data stream says, in order: a `Frame`, its `Payload` in any number of pieces that add up
/// to its length, its `FrameEnd`; and after all frames of a packet its `PacketEnd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataEvent {
    /// A frame begins.
    Frame(FrameHeader),
    /// The next bytes of the frame, a slice of the input unless it was compressed; never empty.
    Payload(Bytes),
    /// The frame is complete.
    FrameEnd {
        /// Whether the stream ends with this frame.
        fin: bool,
    },
    /// The packet is complete.
    PacketEnd {
        /// Its number; 0 when it has none.
        id: u64,
        /// Bytes of payload in its frames, uncompressed.
        payload: usize,
        /// Whether a stream ends with one of its frames.
        fin: bool,
    },
}

/// Decodes a data stream. Holds one chunk of input and copies none of it: what a chunk's end cuts
/// is a varint, whose value so far is kept, or bytes to count. With options it holds a packet, as
/// a copy.
#[derive(Debug, Default)]
pub struct DataDecoder {
    options: DataOptions,
    input: Bytes,
    varint: VarintReader,
    state: State,
    /// Bytes left of the innermost open message.
    left: usize,
    packet: Packet,
    frame: Option<Frame>,
    /// What came of a compressed frame.
    compressed: BytesMut,
    sum: RunningSum,
    /// A packet that has to be whole, of which a part has come.
    held: HeldMessage,
    /// What is left of one that was whole.
    events: VecDeque<DataEvent>,
    /// Boxed, as it is there once at most.
    failed: Option<Box<WireError>>,
}

/// What is read next.
#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// A packet's length.
    #[default]
    PacketLength,
    /// A field's key, or the end of the innermost message.
    Key,
    /// A field's varint.
    Value(Field),
    /// A field's length.
    Length(Field),
    /// Bytes of a field that does not matter.
    Skip(usize),
    /// Bytes of payload.
    Payload(usize),
}

#[derive(Debug, Clone, Copy)]
enum Field {
    PacketId,
    Checksum,
    Frame,
    StreamId,
    Offset,
    Data,
    Fin,
    Flags,
    UncompressedLength,
    /// Implied by the connection, not negotiated, or of a later version (3.3).
    Ignored,
}

/// What is counted over a packet.
#[derive(Debug, Default)]
struct Packet {
    id: u64,
    fin: bool,
    frames: usize,
    payload: usize,
    /// All bytes that are not payload.
    overhead: usize,
    /// Bytes left after the open frame.
    after_frame: usize,
    /// The sum of all that precedes the field that comes next or is being read.
    sum: u32,
    /// Its checksum has come, and holds.
    summed: bool,
}

#[derive(Debug, Default)]
struct Frame {
    stream_id: u64,
    offset: u64,
    /// Announced by [`DataEvent::Frame`]; id and offset are settled.
    announced: bool,
    fin: bool,
    flags: u64,
    /// How many bytes the data stands for, as stated.
    uncompressed: u64,
}

impl DataDecoder {
    /// After the kind of the stream; `options` as the ends of its path agreed.
    #[must_use]
    pub fn new(options: DataOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Panics
    /// When [`poll`](Self::poll) has not returned `None` since the last input.
    pub fn handle_input(&mut self, input: Bytes) {
        if self.failed.is_none() {
            assert!(self.input.is_empty(), "poll until None before the next input");
            self.input = input;
        }
    }

    /// The next event; `None` when more input is due.
    ///
    /// # Errors
    /// When a packet is malformed or over its limits; repeats ever after.
    pub fn poll(&mut self) -> Result<Option<DataEvent>, WireError> {
        if let Some(error) = &self.failed {
            return Err((**error).clone());
        }
        let result = if self.options.checksum { self.advance_whole() } else { self.advance() };
        match &result {
            Ok(Some(_)) => {}
            // An empty slice would still pin the buffer.
            Ok(None) => self.input = Bytes::new(),
            Err(error) => *self = Self { failed: Some(error.clone().into()), ..Self::default() },
        }
        result
    }

    /// Takes those of `chunks`, the stream's next input, that are nothing but payload of the open
    /// frame and do not end it: how many from the first on. They need no [`poll`](Self::poll).
    ///
    /// # Panics
    /// As [`handle_input`](Self::handle_input).
    pub fn handle_payload(&mut self, chunks: &[Bytes]) -> usize {
        assert!(self.input.is_empty(), "poll until None before the next input");
        let State::Payload(mut left) = self.state else { return 0 };
        let plain = self.frame.as_ref().is_some_and(|frame| frame.flags & COMPRESSED == 0);
        if self.options.checksum || !plain {
            return 0;
        }
        let whole = chunks.iter().take_while(|chunk| {
            let inside = chunk.len() < left;
            left -= if inside { chunk.len() } else { 0 };
            inside
        });
        let count = whole.count();
        self.state = State::Payload(left);
        count
    }

    /// Whether the decoder is between two packets, with no input left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let between = matches!(self.state, State::PacketLength) && self.varint.is_idle();
        let empty = self.input.is_empty() && self.held.is_empty() && self.events.is_empty();
        between && empty && self.failed.is_none()
    }

    /// Call when the QUIC stream has ended.
    ///
    /// # Errors
    /// When it ended inside a packet.
    pub fn handle_fin(&self) -> Result<(), WireError> {
        if self.is_idle() { Ok(()) } else { Err(WireError::Truncated) }
    }

    /// Like [`Self::advance`], a whole packet at a time.
    fn advance_whole(&mut self) -> Result<Option<DataEvent>, WireError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            // Not kept: a packet of many frames has many events.
            self.events = VecDeque::new();
            if matches!(self.state, State::PacketLength) {
                let Some(length) = self.varint.read(&mut self.input)? else { return Ok(None) };
                self.begin_packet(length)?;
            }
            let Some(message) = self.held.take(&mut self.input, self.left) else { return Ok(None) };
            self.sum.begin(&message);
            let behind = std::mem::replace(&mut self.input, message);
            while !matches!(self.state, State::PacketLength) {
                let event = self.advance()?.ok_or(WireError::Overrun)?;
                self.events.push_back(event);
            }
            self.input = behind;
            self.sum = RunningSum::default();
        }
    }

    fn advance(&mut self) -> Result<Option<DataEvent>, WireError> {
        loop {
            let event = match self.state {
                // A key that is begun here has to continue, and then overruns.
                State::Key if self.left == 0 && self.varint.is_idle() => self.end_message()?,
                State::Payload(len) => {
                    if self.input.is_empty() {
                        return Ok(None);
                    }
                    self.take_payload(len)?
                }
                State::Skip(len) => {
                    let skipped = len.min(self.input.len());
                    self.input.advance(skipped);
                    if skipped < len {
                        self.state = State::Skip(len - skipped);
                        return Ok(None);
                    }
                    self.state = State::Key;
                    None
                }
                State::PacketLength | State::Key | State::Value(_) | State::Length(_) => {
                    let Some(value) = self.read_varint()? else {
                        return Ok(None);
                    };
                    self.handle_varint(value)?
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn read_varint(&mut self) -> Result<Option<u64>, WireError> {
        let field = matches!(self.state, State::Key) && self.frame.is_none();
        if self.options.checksum && field && self.varint.is_idle() {
            self.packet.sum = self.sum.up_to(self.input.len());
        }
        let before = self.input.len();
        let value = self.varint.read(&mut self.input)?;
        if !matches!(self.state, State::PacketLength) {
            self.count_overhead(before - self.input.len())?;
        }
        Ok(value)
    }

    fn handle_varint(&mut self, value: u64) -> Result<Option<DataEvent>, WireError> {
        match self.state {
            State::PacketLength => self.begin_packet(value)?,
            State::Key => self.begin_field(value)?,
            State::Value(field) => {
                self.state = State::Key;
                self.set(field, value)?;
            }
            State::Length(Field::Frame) => self.begin_frame(value)?,
            State::Length(Field::Data) => return self.begin_data(value).map(Some),
            State::Length(_) => {
                WireError::check("a field", value, MAX_FRAME_FIELD)?;
                self.skip(within(value, MAX_FRAME_FIELD)?)?;
            }
            State::Skip(_) | State::Payload(_) => {}
        }
        Ok(None)
    }

    fn begin_packet(&mut self, length: u64) -> Result<(), WireError> {
        let limit = MAX_PACKET_PAYLOAD + MAX_PACKET_OVERHEAD;
        WireError::check("a packet", length, limit)?;
        self.left = within(length, limit)?;
        self.packet = Packet::default();
        self.state = State::Key;
        Ok(())
    }

    fn begin_field(&mut self, key: u64) -> Result<(), WireError> {
        let (number, wire_type) = (key >> 3, key & 7);
        let refused = Err(WireError::Key { field: number, wire_type });
        let number = match u32::try_from(number) {
            Ok(number) if number != 0 && u32::try_from(key).is_ok() => number,
            _ => return refused,
        };
        if self.packet.summed {
            return Err(WireError::Invalid("what follows a checksum"));
        }
        // What the field must be, if it is known.
        let known = match (self.frame.is_some(), number) {
            (false, packet::FRAMES) => Some(State::Length(Field::Frame)),
            (false, packet::PACKET_ID) => Some(State::Value(Field::PacketId)),
            (false, packet::CHECKSUM) => Some(State::Value(Field::Checksum)),
            (false, packet::PATH_ID) => Some(State::Length(Field::Ignored)),
            (true, frame::STREAM_ID) => Some(State::Value(Field::StreamId)),
            (true, frame::OFFSET) => Some(State::Value(Field::Offset)),
            (true, frame::DATA) => Some(State::Length(Field::Data)),
            (true, frame::FIN) => Some(State::Value(Field::Fin)),
            (true, frame::FLAGS) => Some(State::Value(Field::Flags)),
            (true, frame::UNCOMPRESSED_LENGTH) => Some(State::Value(Field::UncompressedLength)),
            (true, frame::FRAME_ID | frame::TIMESTAMP) => Some(State::Value(Field::Ignored)),
            (true, frame::PATH_ID) => Some(State::Length(Field::Ignored)),
            _ => None,
        };
        self.state = match (wire_type, known) {
            (0, Some(state @ State::Value(_))) | (2, Some(state @ State::Length(_))) => state,
            (0, None) => State::Value(Field::Ignored),
            (2, None) => State::Length(Field::Ignored),
            (1, None) => return self.skip(8),
            (5, None) => return self.skip(4),
            _ => return refused,
        };
        Ok(())
    }

    fn begin_frame(&mut self, length: u64) -> Result<(), WireError> {
        self.packet.frames += 1;
        WireError::check("a number of frames", self.packet.frames as u64, MAX_PACKET_FRAMES)?;
        let length = within(length, self.left)?;
        self.packet.after_frame = self.left - length;
        self.left = length;
        self.frame = Some(Frame::default());
        self.state = State::Key;
        Ok(())
    }

    fn begin_data(&mut self, length: u64) -> Result<DataEvent, WireError> {
        let len = within(length, self.left)?;
        self.left -= len;
        let frame = self.frame.as_mut().expect("invariant: data is a field of a frame");
        let header = frame.announce(len, self.options)?;
        self.packet.payload += header.len;
        WireError::check("a payload", self.packet.payload as u64, MAX_PACKET_PAYLOAD)?;
        self.state = if len == 0 { State::Key } else { State::Payload(len) };
        Ok(DataEvent::Frame(header))
    }

    /// Takes what there is of the next `len` bytes of data, which are more than none.
    fn take_payload(&mut self, len: usize) -> Result<Option<DataEvent>, WireError> {
        let mut chunk = self.input.split_to(len.min(self.input.len()));
        let rest = len - chunk.len();
        self.state = if rest == 0 { State::Key } else { State::Payload(rest) };
        let frame = self.frame.as_ref().expect("invariant: data is a field of a frame");
        if frame.flags & COMPRESSED == 0 {
            return Ok(Some(DataEvent::Payload(chunk)));
        }
        if rest > 0 || !self.compressed.is_empty() {
            self.compressed.extend_from_slice(&chunk);
            if rest > 0 {
                return Ok(None);
            }
            chunk = self.compressed.split().freeze();
        }
        let plain = compression::decompress(&chunk, within(frame.uncompressed, usize::MAX)?)?;
        Ok(Some(DataEvent::Payload(plain)))
    }

    fn set(&mut self, field: Field, value: u64) -> Result<(), WireError> {
        let Some(frame) = &mut self.frame else {
            return self.set_of_packet(field, value);
        };
        match field {
            Field::StreamId | Field::Offset | Field::UncompressedLength if frame.announced => {
                return Err(WireError::HeaderAfterData);
            }
            Field::Flags if frame.announced && (frame.flags ^ value) & COMPRESSED != 0 => {
                return Err(WireError::HeaderAfterData);
            }
            Field::StreamId => frame.stream_id = value,
            Field::Offset => frame.offset = value,
            Field::Fin => frame.fin = value != 0,
            Field::Flags => frame.flags = value,
            Field::UncompressedLength => frame.uncompressed = value,
            Field::PacketId | Field::Checksum => {}
            Field::Frame | Field::Data | Field::Ignored => {}
        }
        Ok(())
    }

    fn set_of_packet(&mut self, field: Field, value: u64) -> Result<(), WireError> {
        match field {
            Field::PacketId => self.packet.id = value,
            Field::Checksum if self.options.checksum => {
                if value != u64::from(self.packet.sum) {
                    return Err(WireError::Checksum);
                }
                self.packet.summed = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn end_packet(&mut self) -> Result<DataEvent, WireError> {
        if self.options.checksum && !self.packet.summed {
            return Err(WireError::Checksum);
        }
        self.state = State::PacketLength;
        let Packet { id, payload, fin, .. } = self.packet;
        Ok(DataEvent::PacketEnd { id, payload, fin })
    }

    /// One event; two of a frame without data.
    fn end_message(&mut self) -> Result<Option<DataEvent>, WireError> {
        let Some(frame) = &mut self.frame else {
            return self.end_packet().map(Some);
        };
        if !frame.announced {
            let header = frame.announce(0, self.options)?;
            return Ok(Some(DataEvent::Frame(header)));
        }
        let fin = frame.fin;
        self.packet.fin |= fin;
        self.frame = None;
        self.left = self.packet.after_frame;
        Ok(Some(DataEvent::FrameEnd { fin }))
    }

    fn skip(&mut self, len: usize) -> Result<(), WireError> {
        self.count_overhead(len)?;
        self.state = State::Skip(len);
        Ok(())
    }

    /// Counts `bytes` of the innermost message that are not payload.
    fn count_overhead(&mut self, bytes: usize) -> Result<(), WireError> {
        self.left = self.left.checked_sub(bytes).ok_or(WireError::Overrun)?;
        self.packet.overhead += bytes;
        WireError::check("an overhead", self.packet.overhead as u64, MAX_PACKET_OVERHEAD)
    }
}

impl Frame {
    /// Settles id, offset and length, given `len` bytes of data.
    fn announce(&mut self, len: usize, options: DataOptions) -> Result<FrameHeader, WireError> {
        if self.announced {
            return Err(WireError::DataTwice);
        }
        self.announced = true;
        let compressed = self.flags & COMPRESSED != 0;
        if compressed && !options.compression {
            return Err(WireError::Invalid("a compressed frame where none was agreed"));
        }
        if compressed && !(1..self.uncompressed).contains(&(len as u64)) {
            return Err(WireError::Invalid("an uncompressed length"));
        }
        let len = if compressed {
            WireError::check("a payload", self.uncompressed, MAX_PACKET_PAYLOAD)?;
            within(self.uncompressed, MAX_PACKET_PAYLOAD)?
        } else {
            len
        };
        convert::number(self.stream_id)?;
        convert::extent(self.offset, len as u64)?;
        let Self { stream_id, offset, .. } = *self;
        Ok(FrameHeader { stream_id, offset, len })
    }
}

/// A length as `usize`, if its message has that many bytes left.
fn within(length: u64, left: usize) -> Result<usize, WireError> {
    usize::try_from(length).ok().filter(|length| *length <= left).ok_or(WireError::Overrun)
}
