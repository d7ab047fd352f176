//! The order of frames on one secondary stream, as its receiver checks it.

use crate::wire::SecondaryEvent;
use crate::wire::secondary::{
    MappingOperation, SecondaryStreamClose, SecondaryStreamOpen, StreamMappingUpdate,
};
use crate::{Code, CodedError, LeaseId, StreamId};

#[derive(Debug, Clone, Copy)]
struct Opened {
    id: u64,
    stream: StreamId,
    offset: u64,
}

/// What one secondary stream may say next: one open, then data that goes on or skips ahead and
/// updates, then one close at the offset that was reached.
#[derive(Debug, Default)]
pub struct Inbound {
    opened: Option<Opened>,
    closed: bool,
}

impl Inbound {
    /// The id by which the stream opened itself.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        self.opened.map(|opened| opened.id)
    }

    /// Takes note of the next frame.
    ///
    /// # Errors
    /// [`Code::MetadataProtocolViolation`]: the frame is out of order, and the path is to be
    /// closed (7.7).
    pub fn handle(&mut self, event: &SecondaryEvent) -> Result<(), CodedError> {
        match event {
            SecondaryEvent::Unknown(_) => return Ok(()),
            _ if self.closed => return Err(violation("a frame after the close")),
            SecondaryEvent::Open(_) if self.opened.is_some() => {
                return Err(violation("a second open"));
            }
            SecondaryEvent::Open(m) => {
                self.opened = Some(Opened {
                    id: m.secondary_stream_id,
                    stream: m.target_kwik_stream_id,
                    offset: m.initial_offset,
                });
            }
            SecondaryEvent::Data(m) => {
                let opened = self.own(m.secondary_stream_id)?;
                if m.kwik_stream_id != opened.stream || m.offset < opened.offset {
                    return Err(violation("data beside the stream's mapping"));
                }
                opened.offset = m.offset + m.data.len() as u64;
            }
            SecondaryEvent::Update(m) => {
                let opened = self.own(m.secondary_stream_id)?;
                (opened.stream, opened.offset) = (m.kwik_stream_id, m.offset);
            }
            SecondaryEvent::Close(m) => {
                let opened = self.own(m.secondary_stream_id)?;
                if (m.kwik_stream_id, m.final_offset) != (opened.stream, opened.offset) {
                    return Err(violation("a close elsewhere than where the data ended"));
                }
                self.closed = true;
            }
        }
        Ok(())
    }

    /// Makes the best of a frame that [`Self::handle`] refused: the frames to handle in its place.
    /// What data says of its place counts; `lease` names the one that covers it.
    #[must_use]
    pub fn repair(
        &self,
        event: SecondaryEvent,
        lease: impl Fn(StreamId, u64) -> LeaseId,
    ) -> Vec<SecondaryEvent> {
        if self.closed {
            return Vec::new();
        }
        match (event, self.opened) {
            (SecondaryEvent::Data(m), None) => {
                let (stream, offset) = (m.kwik_stream_id, m.offset);
                let open = SecondaryStreamOpen {
                    secondary_stream_id: m.secondary_stream_id,
                    target_kwik_stream_id: stream,
                    initial_offset: offset,
                    lease_id: lease(stream, offset),
                };
                vec![SecondaryEvent::Open(open), SecondaryEvent::Data(m)]
            }
            (SecondaryEvent::Update(m), None) => vec![SecondaryEvent::Open(SecondaryStreamOpen {
                secondary_stream_id: m.secondary_stream_id,
                target_kwik_stream_id: m.kwik_stream_id,
                initial_offset: m.offset,
                lease_id: m.lease_id,
            })],
            (SecondaryEvent::Data(mut m), Some(opened)) => {
                m.secondary_stream_id = opened.id;
                let (stream, offset) = (m.kwik_stream_id, m.offset);
                if stream == opened.stream && offset >= opened.offset {
                    return vec![SecondaryEvent::Data(m)];
                }
                let update = StreamMappingUpdate {
                    secondary_stream_id: opened.id,
                    kwik_stream_id: stream,
                    operation: MappingOperation::Update,
                    lease_id: lease(stream, offset),
                    offset,
                };
                vec![SecondaryEvent::Update(update), SecondaryEvent::Data(m)]
            }
            (SecondaryEvent::Update(mut m), Some(opened)) => {
                m.secondary_stream_id = opened.id;
                vec![SecondaryEvent::Update(m)]
            }
            (SecondaryEvent::Close(m), Some(opened)) => {
                vec![SecondaryEvent::Close(SecondaryStreamClose {
                    secondary_stream_id: opened.id,
                    kwik_stream_id: opened.stream,
                    final_offset: opened.offset,
                    ..m
                })]
            }
            // The first open stands.
            _ => Vec::new(),
        }
    }

    fn own(&mut self, id: u64) -> Result<&mut Opened, CodedError> {
        let opened = self.opened.as_mut().filter(|opened| opened.id == id);
        opened.ok_or_else(|| violation("a frame of a stream that was not opened here"))
    }
}

fn violation(what: &str) -> CodedError {
    CodedError::new(Code::MetadataProtocolViolation, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::secondary::SecondaryStreamData;

    fn open(id: u64) -> SecondaryEvent {
        SecondaryEvent::Open(SecondaryStreamOpen {
            secondary_stream_id: id,
            target_kwik_stream_id: StreamId::from_u64(3),
            initial_offset: 100,
            ..Default::default()
        })
    }

    fn data(id: u64, stream: u64, offset: u64) -> SecondaryEvent {
        SecondaryEvent::Data(SecondaryStreamData {
            secondary_stream_id: id,
            kwik_stream_id: StreamId::from_u64(stream),
            offset,
            data: vec![0; 10].into(),
            ..Default::default()
        })
    }

    fn update(id: u64, stream: u64, offset: u64) -> SecondaryEvent {
        SecondaryEvent::Update(StreamMappingUpdate {
            secondary_stream_id: id,
            kwik_stream_id: StreamId::from_u64(stream),
            offset,
            ..Default::default()
        })
    }

    fn close(id: u64, stream: u64, final_offset: u64) -> SecondaryEvent {
        SecondaryEvent::Close(SecondaryStreamClose {
            secondary_stream_id: id,
            kwik_stream_id: StreamId::from_u64(stream),
            final_offset,
            ..Default::default()
        })
    }

    fn last(events: &[SecondaryEvent]) -> Result<(), Code> {
        let mut inbound = Inbound::default();
        let (last, before) = events.split_last().unwrap();
        before.iter().for_each(|event| inbound.handle(event).unwrap());
        inbound.handle(last).map_err(|error| error.code)
    }

    #[test]
    fn a_stream_opens_goes_on_moves_and_closes() {
        let unknown = SecondaryEvent::Unknown(9);
        let all = [open(1), data(1, 3, 100), unknown.clone(), data(1, 3, 150), update(1, 7, 5)];
        let all = [&all[..], &[data(1, 7, 5), close(1, 7, 15), unknown]].concat();
        assert_eq!(last(&all), Ok(()));
    }

    /// 9.2.
    #[test]
    fn what_is_repaired_is_in_order_and_keeps_what_data_says_of_itself() {
        let crimes: Vec<Vec<SecondaryEvent>> = vec![
            vec![data(1, 3, 100)],
            vec![update(1, 3, 100)],
            vec![close(1, 3, 100)],
            vec![open(1), open(1)],
            vec![open(1), data(2, 3, 100)],
            vec![open(1), data(1, 7, 100)],
            vec![open(1), data(1, 3, 99)],
            vec![open(1), update(2, 3, 99)],
            vec![open(1), close(1, 3, 101)],
            vec![open(1), close(1, 3, 100), data(1, 3, 100)],
        ];
        for crime in crimes {
            let mut inbound = Inbound::default();
            let mut repaired = Vec::new();
            for event in crime.clone() {
                if inbound.handle(&event).is_err() {
                    for event in inbound.repair(event, |_, _| LeaseId(5)) {
                        inbound.handle(&event).unwrap();
                        repaired.push(event);
                    }
                }
            }
            let places = |events: &[SecondaryEvent]| -> Vec<_> {
                let data = events.iter().filter_map(|event| match event {
                    SecondaryEvent::Data(m) => Some((m.kwik_stream_id, m.offset)),
                    _ => None,
                });
                data.collect()
            };
            let said = if inbound.closed { Vec::new() } else { places(&crime) };
            assert_eq!(places(&repaired), said, "{crime:?}");
        }
    }

    #[test]
    fn frames_out_of_order_are_violations() {
        let violation = Err(Code::MetadataProtocolViolation);
        assert_eq!(last(&[data(1, 3, 100)]), violation);
        assert_eq!(last(&[update(1, 3, 100)]), violation);
        assert_eq!(last(&[close(1, 3, 100)]), violation);
        assert_eq!(last(&[open(1), open(1)]), violation);
        assert_eq!(last(&[open(1), data(2, 3, 100)]), violation);
        assert_eq!(last(&[open(1), data(1, 7, 100)]), violation);
        assert_eq!(last(&[open(1), data(1, 3, 99)]), violation);
        assert_eq!(last(&[open(1), data(1, 3, 100), data(1, 3, 109)]), violation);
        assert_eq!(last(&[open(1), data(1, 3, 100), close(1, 3, 111)]), violation);
        assert_eq!(last(&[open(1), close(1, 3, 100), data(1, 3, 100)]), violation);
    }
}
