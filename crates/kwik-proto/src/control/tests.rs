use proptest::prelude::*;

use super::*;
use crate::wire::ControlDecoder;
use crate::wire::control::{Ack, Heartbeat, Revoke};
use crate::{Code, LeaseId};

#[test]
fn a_heartbeat_that_is_not_answered_is_followed_by_more_of_them() {
    let mut now = crate::test_now();
    let mut control = ControlQueue::new(now);
    assert_eq!(control.heartbeat_due(limits::HEARTBEAT_IDLE), now + limits::HEARTBEAT_IDLE);
    for _ in 0..3 {
        now = control.heartbeat_due(limits::HEARTBEAT_IDLE);
        control.beat(limits::HEARTBEAT_IDLE, now);
        assert!(control.take().is_some());
        assert_eq!(control.heartbeat_due(limits::HEARTBEAT_IDLE), now + limits::HEARTBEAT_BUSY);
    }
    control.on_heard();
    assert_eq!(control.heartbeat_due(limits::HEARTBEAT_IDLE), now + limits::HEARTBEAT_IDLE);
}

fn revoke(id: u64) -> ControlMessage {
    ControlMessage::Revoke(Revoke { lease_id: LeaseId(id) })
}

/// Takes all that is given into a decoder: what it says.
fn read(queue: &mut ControlQueue, decoder: &mut ControlDecoder, most: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < most {
        let Some(bytes) = queue.take() else { break };
        decoder.handle_input(bytes);
        while let Some(message) = decoder.poll_frame().unwrap() {
            match message {
                ControlMessage::Revoke(m) => ids.push(m.lease_id.0),
                other => panic!("{other:?}"),
            }
        }
    }
    ids
}

proptest! {
    /// Connections break at any time; whatever the peer had handled of one, it handles each frame
    /// once, in order.
    #[test]
    fn what_a_connection_lost_is_repeated_exactly_on_the_next(
        steps in proptest::collection::vec((0..2000_usize, 0..4_usize, any::<u8>()), 1..40),
    ) {
        let now = crate::test_now();
        let mut queue = ControlQueue::keeping(now);
        let mut decoder = ControlDecoder::new();
        let (mut pushed, mut handled) = (0, 0);
        for (frames, step, share) in steps {
            for _ in 0..frames {
                queue.push(&revoke(pushed), now);
                pushed += 1;
            }
            let mut ids = read(&mut queue, &mut decoder, usize::MAX);
            if step == 0 {
                // What was on its way is lost.
                ids.truncate(ids.len() * usize::from(share) / 255);
            }
            for id in ids {
                prop_assert_eq!(id, handled);
                handled += 1;
            }
            match step {
                0 => {
                    queue.hold();
                    prop_assert!(queue.take().is_none());
                    queue.go_on(handled).unwrap();
                    decoder = ControlDecoder::new();
                    decoder.go_on_at(handled);
                }
                1 => queue.on_acknowledged(handled).unwrap(),
                2 => queue.on_acknowledged(handled / 2).unwrap(),
                _ => {}
            }
        }
        queue.on_acknowledged(handled).unwrap();
        while handled < pushed {
            let ids = read(&mut queue, &mut decoder, usize::MAX);
            prop_assert!(!ids.is_empty());
            for id in ids {
                prop_assert_eq!(id, handled);
                handled += 1;
            }
            queue.on_acknowledged(handled).unwrap();
        }
        prop_assert!(!queue.is_awaited());
    }
}

#[test]
fn what_is_kept_is_bounded_and_the_rest_waits() {
    let now = crate::test_now();
    let mut queue = ControlQueue::keeping(now);
    let mut decoder = ControlDecoder::new();
    for id in 0..100_000 {
        queue.push(&revoke(id), now);
    }
    let mut bytes = 0;
    while let Some(part) = queue.take() {
        bytes += part.len();
        decoder.handle_input(part);
        while decoder.poll_frame().unwrap().is_some() {}
    }
    assert!(bytes <= limits::MAX_CONTROL_KEPT && bytes > limits::MAX_CONTROL_KEPT / 2, "{bytes}");
    assert!(queue.is_awaited() && !queue.is_overfull());
    queue.on_acknowledged(decoder.frames()).unwrap();
    assert!(queue.take().is_some());
}

#[test]
fn a_peer_that_handled_what_was_never_sent_or_less_than_it_said_is_refused() {
    let now = crate::test_now();
    let mut queue = ControlQueue::keeping(now);
    (0..10).for_each(|id| queue.push(&revoke(id), now));
    assert_eq!(queue.on_acknowledged(1).unwrap_err().code, Code::InvalidFrame);
    queue.take().unwrap();
    queue.on_acknowledged(4).unwrap();
    for frames in [11, u64::MAX, 3, 0] {
        assert_eq!(queue.go_on(frames).unwrap_err().code, Code::InvalidFrame);
    }
    queue.go_on(4).unwrap();
    let mut decoder = ControlDecoder::new();
    decoder.go_on_at(4);
    assert_eq!(read(&mut queue, &mut decoder, usize::MAX), [4, 5, 6, 7, 8, 9]);
}

#[test]
fn control_frames_are_acknowledged_after_a_while_or_when_there_are_many() {
    let mut now = crate::test_now();
    let mut receipts = ControlReceipts::default();
    receipts.on_handled(&ControlMessage::Ack(Ack::default()), now);
    assert_eq!(receipts.poll_timeout(), None, "nobody acknowledges acknowledgements");
    receipts.on_handled(&revoke(1), now);
    assert_eq!(receipts.poll_timeout(), Some(now + limits::CONTROL_ACK_DELAY));
    now += limits::CONTROL_ACK_DELAY;
    assert!(receipts.is_due(now));
    assert_eq!((receipts.tell(), receipts.tell_news()), (2, 0));
    for _ in 0..limits::CONTROL_ACK_FRAMES {
        assert!(!receipts.is_due(now));
        receipts.on_handled(&ControlMessage::Ack(Ack::default()), now);
    }
    assert!(receipts.is_due(now));
    assert_eq!(receipts.tell_news(), 2 + u64::from(limits::CONTROL_ACK_FRAMES));
}

#[test]
fn what_else_is_sent_puts_off_no_heartbeat_of_a_busy_path() {
    let mut now = crate::test_now();
    let mut control = ControlQueue::new(now);
    let due = now + limits::HEARTBEAT_BUSY;
    let other = ControlMessage::Heartbeat(Heartbeat { sequence: 0, reply: true });
    for _ in 0..9 {
        now += limits::HEARTBEAT_BUSY / 10;
        control.push(&other, now);
        assert_eq!(control.heartbeat_due(limits::HEARTBEAT_BUSY), due);
    }
    // After a pause it is not due at once.
    now += limits::HEARTBEAT_IDLE;
    control.push(&other, now);
    assert_eq!(control.heartbeat_due(limits::HEARTBEAT_BUSY), now + limits::HEARTBEAT_BUSY);
}
