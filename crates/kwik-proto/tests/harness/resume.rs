//! The primary's connection breaks, and another takes its place.

use std::time::Duration;

use bytes::Bytes;
use kwik_proto::session::{Machine, ResumeAttempt};
use kwik_proto::wire::control::{ControlMessage, Resume};
use kwik_proto::wire::{ControlDecoder, PacketEncoder};
use kwik_proto::{Code, CodedError, PathId};

use crate::pipe::{Link, Sink, Toward};
use crate::world::{Event, World};

/// The primary's connections.
#[derive(Debug, Default)]
pub(crate) struct Home {
    /// Those that were made to take up the session.
    made: u8,
    /// Whether what each end writes goes anywhere.
    closed: [bool; 2],
    /// What the client said it had handled, until the primary has answered.
    answering: Option<u64>,
    /// Frames of an answer that came.
    answered: usize,
    /// What the primary said last, that it can be said again.
    replay: Option<(ControlMessage, Resume)>,
    pub(crate) down_until: Option<std::time::Instant>,
    pub(crate) resumed: u64,
    /// Bytes that came under leases of the primary's own: what comes before its lease is known
    /// counts as written plainly, and is charged to nobody.
    pub(crate) own: u64,
}

impl Home {
    pub(crate) fn is_closed(&self, toward: Toward) -> bool {
        self.closed[toward as usize]
    }

    /// The client reads nothing but the answer.
    pub(crate) fn is_answering(&self) -> bool {
        self.answering.is_some()
    }
}

fn exporter(made: u8) -> [u8; 32] {
    [made; 32]
}

impl World {
    /// The primary's link carries nothing for a while; the connection on it is gone for good.
    pub(crate) fn break_home(&mut self) {
        let now = self.now;
        // A client that expects nothing may look for its primary after 11 s alone, and attempts
        // may fail in a row: of the 30 s that a server waits they need the rest.
        let down = if self.rng.chance(50) { 500 } else { 10_000 };
        self.home.down_until = Some(now + self.rng.millis(0..=down));
        if let Some(link) = self.net.links.get_mut(&PathId::PRIMARY) {
            link.cut = true;
        }
        if self.rng.chance(50) {
            self.session().handle_path_lost(PathId::PRIMARY, "broken", now);
        }
        if self.rng.chance(50) {
            self.server().handle_path_lost(PathId::PRIMARY, "broken", now);
        }
    }

    /// The primary's connection is broken, and no other has taken its place.
    pub(crate) fn is_home_broken(&self) -> bool {
        let link = self.net.links.get(&PathId::PRIMARY);
        self.home.is_answering() || link.is_some_and(|link| link.cut)
    }

    fn is_down(&self) -> bool {
        self.home.down_until.is_some_and(|until| until > self.now)
    }

    pub(crate) fn redial(&mut self, within: Duration) {
        if !self.is_down() && self.rng.chance(90) {
            // Most stand before the next is made, some after the last one that may be.
            let micros = u64::try_from(within.as_micros()).unwrap();
            let share = if self.rng.chance(90) { 4 } else { 1 };
            let delay = self.rng.micros(200..=micros * 11 / 10 / share);
            self.after(delay, Event::Redialed);
        }
    }

    /// A connection to the primary stands: the client says what it has.
    pub(crate) fn on_redialed(&mut self) {
        let now = self.now;
        let made = self.home.made.wrapping_add(1);
        if self.is_down() {
            return;
        }
        let rtt = self.rng.millis(1..=200);
        let Some(begun) = self.session().begin_resume(&exporter(made), rtt, now) else { return };
        let ResumeAttempt { first, handled, .. } = begun;
        self.log(|| format!("connection {made} resumes, {handled} control frames handled"));
        self.home.made = made;
        (self.home.answering, self.home.answered) = (Some(handled), 0);
        self.home.closed = [true; 2];
        for pipe in self.net.pipes.values_mut().filter(|pipe| pipe.path.is_primary()) {
            pipe.chunks.clear();
            match &mut pipe.sink {
                sink @ Sink::Control(_) => *sink = Sink::control(),
                sink @ Sink::Data { .. } => *sink = Sink::data(),
                Sink::Raw(_) => {}
            }
        }
        let link = Link::random(&mut self.rng, now);
        let delay = link.delay;
        self.net.links.insert(PathId::PRIMARY, link);
        if self.rng.chance(95) {
            self.after(delay, Event::Resuming(made, first));
        }
    }

    /// What the client says reaches the primary.
    pub(crate) fn on_resuming(&mut self, made: u8, first: Bytes) {
        let now = self.now;
        if self.is_down() || made != self.home.made {
            return;
        }
        let mut decoder = ControlDecoder::new();
        decoder.handle_input(first);
        let request = decoder.poll_frame().unwrap().unwrap();
        let resume = decoder.poll_frame().unwrap().unwrap();
        let (ControlMessage::AuthenticationRequest(auth), ControlMessage::Resume(m)) =
            (&request, &resume)
        else {
            self.fail("the client resumes with something else")
        };
        self.refuse_others(auth, m, made);
        let resumed = self.server().handle_resume(auth, &exporter(made), m, now);
        let (answer, handled) = match resumed {
            Ok(resumed) => resumed,
            Err(error) if self.closed || error.code == Code::SessionUnknown => return,
            Err(error) if error.code == Code::LimitExceeded => return,
            Err(error) => self.fail(&format!("the primary refuses to resume: {error}")),
        };
        self.home.replay = Some((request.clone(), m.clone()));
        self.home.closed[Toward::Client as usize] = false;
        self.expect_control(Toward::Server, handled);
        self.send_control(PathId::PRIMARY, Toward::Client, answer);
        self.repeat_packets(Toward::Client);
    }

    /// What is not the client's, comes again or cannot be is refused, and changes nothing.
    fn refuse_others(
        &mut self,
        auth: &kwik_proto::wire::control::AuthenticationRequest,
        m: &Resume,
        made: u8,
    ) {
        let now = self.now;
        let mut wrong = Vec::new();
        let far = Resume { frame_id: u64::MAX, ..m.clone() };
        let unsent = Resume { packets: vec![1..=1 << 40], ..m.clone() };
        let stranger = kwik_proto::auth::Identity::from_seed([77; 32]).public_key();
        let stranger = kwik_proto::wire::control::AuthenticationRequest {
            client_key: Some(stranger),
            ..auth.clone()
        };
        wrong.push((auth.clone(), far, made, Code::InvalidFrame));
        wrong.push((auth.clone(), unsent, made, Code::InvalidFrame));
        wrong.push((stranger, m.clone(), made, Code::AuthFailed));
        wrong.push((auth.clone(), m.clone(), made.wrapping_add(9), Code::AuthFailed));
        if let Some((ControlMessage::AuthenticationRequest(auth), past)) = self.home.replay.clone()
        {
            wrong.push((auth, past, made.wrapping_sub(1), Code::InvalidFrame));
        }
        for (auth, m, made, code) in wrong {
            let refused = self.server().handle_resume(&auth, &exporter(made), &m, now);
            match refused {
                Err(error) if error.code == code || error.code == Code::SessionUnknown => {}
                Err(error) if error.code == Code::AuthFailed => {}
                Err(error) if error.code == Code::LimitExceeded => {}
                other => self.fail(&format!("resumed wrongly: {other:?}, not {code}")),
            }
        }
    }

    fn expect_control(&mut self, toward: Toward, frame_id: u64) {
        for pipe in self.net.pipes.values_mut() {
            if let Sink::Control(decoder) = &mut pipe.sink
                && pipe.path.is_primary()
                && pipe.toward == toward
            {
                decoder.go_on_at(frame_id);
            }
        }
    }

    /// One of the two frames of the primary's answer. True when it was one.
    pub(crate) fn on_answer(&mut self, message: &ControlMessage) -> bool {
        if self.home.answering.is_none() {
            return false;
        }
        self.home.answered += 1;
        match (self.home.answered, message) {
            (1, ControlMessage::AuthenticationResponse(_)) => {}
            (2, ControlMessage::Resume(m)) => {
                let now = self.now;
                if !self.session().handle_resumed(m, now) {
                    if self.closed || self.session().poll_action().is_some() {
                        self.fail("the answer of the primary is refused");
                    }
                    return true;
                }
                self.home.closed[Toward::Server as usize] = false;
                self.home.resumed += 1;
                self.covered.count("resumed");
                self.repeat_packets(Toward::Server);
            }
            _ => self.fail(&format!("the primary answers {message:?}")),
        }
        true
    }

    /// The frame that is due behind the answer, once it is whole.
    pub(crate) fn take_answered(&mut self) -> Option<u64> {
        if self.home.answered == 2 { self.home.answering.take() } else { None }
    }

    fn repeat_packets(&mut self, toward: Toward) {
        let Some(sent) = self.sent(PathId::PRIMARY, toward) else { return };
        let pipes = self.net.pipes.iter();
        let ours = pipes.filter(|(_, pipe)| pipe.path.is_primary() && pipe.toward == toward);
        for id in ours.map(|(id, _)| *id).collect::<Vec<_>>() {
            let packets = sent.lock().unwrap().unacknowledged(|lane| lane.0 == u64::from(id));
            for (packet, frames) in packets {
                let options = sent.lock().unwrap().options();
                let mut chunks = Vec::new();
                PacketEncoder::new().encode(packet, &frames, options, &mut chunks);
                let mut chunks = chunks.into_iter();
                let (head, body) = (chunks.next(), chunks.next());
                self.covered.count("packet repeated");
                self.send(id, head.unwrap_or_default(), body.unwrap_or_default());
            }
        }
    }

    /// The session ends, whatever it was doing.
    pub(crate) fn end_session(&mut self) {
        self.closed = true;
        let (now, broken) = (self.now, CodedError::new(Code::PathDead, "broken"));
        self.session().handle_violation(PathId::PRIMARY, &broken, now);
    }
}
