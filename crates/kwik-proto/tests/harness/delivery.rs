//! What comes out of the pipes, as the machines are fed with it.

use bytes::Bytes;
use kwik_proto::ack::ArrivedPackets;
use kwik_proto::session::Machine;
use kwik_proto::stream::{Received, ReceivedBytes};
use kwik_proto::wire::DataEvent;
use kwik_proto::wire::control::ControlMessage;
use kwik_proto::{Code, CodedError, PathId, Side, StreamId};

use crate::pipe::{Pipe, Sink, Toward};
use crate::world::{Event, World};

impl World {
    pub(crate) fn deliver(&mut self, id: u32) {
        let Some(pipe) = self.net.pipes.get_mut(&id) else { return };
        let Some(link) = self.net.links.get(&pipe.path) else { return };
        if link.cut {
            pipe.chunks.pop_front();
            return;
        }
        let waits = matches!(pipe.sink, Sink::Data { .. }) && pipe.toward == Toward::Client;
        if pipe.path.is_primary() && waits && self.home.is_answering() {
            return self.after(std::time::Duration::from_millis(1), Event::Deliver(id));
        }
        if link.paused_until > self.now {
            let due = link.paused_until;
            self.schedule(due, Event::Deliver(id));
            return;
        }
        let Some(chunk) = pipe.chunks.pop_front() else { return };
        let Some(mut pipe) = self.net.pipes.remove(&id) else { return };
        for mut rest in [chunk.head, chunk.body] {
            while !rest.is_empty() {
                let all = rest.len();
                let len = if self.rng.chance(80) { all } else { self.rng.index(all) + 1 };
                self.feed(&mut pipe, rest.split_to(len));
            }
        }
        if let Sink::Raw(packets) = &mut pipe.sink
            && let Some(packet) = packets.pop_front()
        {
            self.on_raw(pipe.path, &packet);
        }
        if self.net.links.contains_key(&pipe.path) {
            self.net.pipes.insert(id, pipe);
        }
    }

    fn feed(&mut self, pipe: &mut Pipe, bytes: Bytes) {
        let path = pipe.path;
        match &mut pipe.sink {
            Sink::Raw(_) => {}
            Sink::Control(decoder) => {
                decoder.handle_input(bytes);
                loop {
                    match decoder.poll_frame() {
                        Ok(None) => break,
                        Ok(Some(message)) => {
                            self.on_control(path, pipe.toward, message);
                            if path.is_primary() && pipe.toward == Toward::Client {
                                let answered = self.take_answered();
                                answered.into_iter().for_each(|due| decoder.go_on_at(due));
                            }
                        }
                        Err(error) => {
                            let error = CodedError::new(error.code(), error.to_string());
                            self.violation(path, pipe.toward, &error);
                            break;
                        }
                    }
                }
            }
            Sink::Data { decoder, stream, at } => {
                decoder.handle_input(bytes);
                let mut bytes = ReceivedBytes::default();
                let mut named = None;
                loop {
                    let event = decoder.poll();
                    let result = match event {
                        Ok(None) => break,
                        Ok(Some(event)) => {
                            self.on_data(path, pipe.toward, event, (stream, at), &mut named)
                        }
                        Err(error) => Err(CodedError::new(error.code(), error.to_string())),
                    };
                    match result {
                        Ok((len, received)) => bytes.note(len, received),
                        Err(error) => {
                            self.violation(path, pipe.toward, &error);
                            // What else came is not looked at.
                            while matches!(decoder.poll(), Ok(Some(_))) {}
                            break;
                        }
                    }
                }
                self.heard(path, pipe.toward, *stream, bytes);
            }
        }
    }

    fn heard(&mut self, path: PathId, toward: Toward, id: StreamId, bytes: ReceivedBytes) {
        if bytes.total == 0 {
            return;
        }
        if toward == Toward::Server {
            let session = self.primary.session.as_mut();
            session.into_iter().for_each(|session| session.on_received(id, self.now));
            return;
        }
        if self.rng.chance(75) {
            self.client.session.on_received(path, id, bytes, self.now);
        } else {
            let delay = self.rng.micros(1..=3000);
            self.after(delay, Event::Heard(path, id, bytes));
        }
    }

    fn violation(&mut self, path: PathId, toward: Toward, error: &CodedError) {
        self.log(|| format!("violation on path {path}: {error}"));
        match (toward, path.is_primary()) {
            (Toward::Client, _) => {
                self.client.session.handle_violation(path, error, self.now);
            }
            (Toward::Server, true) => self.fail(&format!("the client broke the protocol: {error}")),
            (Toward::Server, false) => self.fail(&format!("the client wronged an edge: {error}")),
        }
    }

    fn on_control(&mut self, path: PathId, toward: Toward, message: ControlMessage) {
        self.log(|| format!("path {path} {toward:?} {message:?}"));
        match (toward, path.is_primary()) {
            (Toward::Client, true) if self.on_answer(&message) => {}
            (Toward::Client, _) => {
                self.client.session.handle_control(path, message, self.now);
            }
            (Toward::Server, true) => self.on_primary_control(message),
            (Toward::Server, false) => self.on_edge_control(path, message),
        }
    }

    /// Feeds one event of a data stream to whoever reads it; how many bytes came, and what of them.
    fn on_data(
        &mut self,
        path: PathId,
        toward: Toward,
        event: DataEvent,
        (stream, at): (&mut StreamId, &mut u64),
        named: &mut Option<StreamId>,
    ) -> Result<(u64, Received), CodedError> {
        let now = self.now;
        let side = if toward == Toward::Client { Side::Client } else { Side::Server };
        if let DataEvent::PacketEnd { id, payload, fin } = event {
            let mut arrived = ArrivedPackets::default();
            arrived.note(id, payload as u64, fin);
            match (side, &mut self.primary.session) {
                (Side::Client, _) => self.client.session.on_packets(path, &arrived, now)?,
                (Side::Server, Some(session)) => session.on_packets(&arrived, now)?,
                (Side::Server, None) => {}
            }
            return Ok(Default::default());
        }
        if let DataEvent::Frame(header) = &event {
            (*stream, *at) = (StreamId::from_u64(header.stream_id), header.offset);
        }
        let streams = match side {
            Side::Client => self.client.session.streams_mut(),
            Side::Server => match &mut self.primary.session {
                Some(session) => session.streams_mut(),
                None => return Err(CodedError::new(Code::AuthFailed, "data too early")),
            },
        };
        *named = Some(*stream);
        let Some(recv) = streams.receiving(path, *stream, now)? else {
            return Ok(Default::default());
        };
        let received = match event {
            DataEvent::Frame(_) => return Ok(Default::default()),
            DataEvent::Payload(data) => {
                let (start, len) = (*at, data.len() as u64);
                *at += len;
                let poisoned = self.edges.get(&path).is_some_and(|e| e.poison == Some(start));
                let received = recv.lock().unwrap().receive(path, start, data);
                if poisoned && received.is_ok() {
                    self.fail("a hostile write was let in");
                }
                received.map(|received| (received, len))?
            }
            DataEvent::FrameEnd { fin: false } | DataEvent::PacketEnd { .. } => {
                return Ok(Default::default());
            }
            DataEvent::FrameEnd { fin: true } => (recv.lock().unwrap().receive_fin(path, *at)?, 0),
        };
        let (received, len) = received;
        if received.readable {
            let delay = self.rng.micros(0..=500);
            self.after(delay, Event::Read(side, *stream));
        }
        Ok((len, received))
    }
}
