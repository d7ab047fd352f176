//! Paths that are lost, and dialed again.

use super::*;

impl Pair {
    /// Whether the client asked for a connection to its edge; everything else that it asked for
    /// is done.
    fn dials(&mut self) -> bool {
        std::iter::from_fn(|| self.client.poll_action())
            .filter(|action| matches!(action, Action::Dial(dial) if dial.path == EDGE))
            .count()
            > 0
    }

    /// The primary gives what grants it was asked for.
    fn grant(&mut self) -> bool {
        let wanted = std::iter::from_fn(|| self.primary.poll_action())
            .any(|action| action == Action::RenewGrant(EDGE));
        if wanted {
            self.primary.renew_grant(EDGE, self.now, SystemTime::UNIX_EPOCH);
            self.exchange();
        }
        wanted
    }

    /// Until the client dials its edge: how long it waited.
    fn wait_for_dial(&mut self) -> Duration {
        let began = self.now;
        while !self.dials() {
            let due = self.client.poll_timeout().unwrap();
            self.pass(due - self.now);
            assert!(self.now < began + limits::GRANT_LIFETIME, "it is not dialed");
        }
        self.now - began
    }
}

#[test]
fn a_lost_path_is_dialed_again_with_a_fresh_grant() {
    let mut pair = Pair::new();
    let _edge = pair.add_edge();
    let mut events = pair.primary.path_events();
    assert!(pair.dials());
    pair.client.handle_path_lost(EDGE, "timed out", pair.now);
    pair.exchange();
    assert_eq!(pair.primary.paths().status(EDGE), Ok(PathStatus::Dead));
    assert!(pair.grant());
    let first = pair.wait_for_dial();
    pair.client.handle_path_lost(EDGE, "nobody is there", pair.now);
    let second = pair.wait_for_dial();
    assert!(second > first, "{second:?} after {first:?}");
    assert!(pair.client.handle_connected(EDGE, &EXPORTER, pair.now));
    pair.to_edge.clear();
    let answer = control::AuthenticationResponse {
        result: Ok(SessionId([0; 16])),
        limits: None,
        data: <_>::default(),
    };
    pair.client.handle_control(EDGE, M::AuthenticationResponse(answer), pair.now);
    pair.exchange();
    assert_eq!(pair.primary.paths().status(EDGE), Ok(PathStatus::Active));
    let mut next = || pair.primary.poll_path_event(&mut events).unwrap();
    let (dead, alive) = (next(), next());
    assert_eq!((dead.status, dead.ended), (PathStatus::Dead, false));
    assert!(dead.reason.contains("timed out") && dead.figures.is_some());
    assert_eq!((alive.status, alive.ended), (PathStatus::Active, false));
}

#[test]
fn a_path_that_stays_away_ends_with_its_grant_within_the_limit_of_dials() {
    let mut pair = Pair::new();
    let _edge = pair.add_edge();
    assert!(pair.dials());
    let began = pair.now;
    let mut dialed = vec![began];
    pair.client.handle_path_lost(EDGE, "timed out", pair.now);
    pair.exchange();
    assert!(pair.grant());
    while pair.primary.paths().status(EDGE).is_ok() {
        let due = pair.client.poll_timeout().unwrap();
        pair.pass(due - pair.now);
        if pair.dials() {
            dialed.push(pair.now);
            pair.client.handle_path_lost(EDGE, "nobody is there", pair.now);
        }
    }
    assert!(pair.now <= began + limits::GRANT_LIFETIME + limits::REDIAL_LAST * 2);
    assert!(dialed.len() > 8, "{}", dialed.len());
    let close = |times: &[Instant]| times[limits::MAX_DIALS] - times[0] < limits::DIAL_PERIOD;
    assert!(!dialed.windows(limits::MAX_DIALS + 1).any(close));
    assert!(pair.primary.paths().dead()[0].ended);
}

#[test]
fn a_path_that_the_primary_gave_up_is_not_dialed_again() {
    let end: [fn(&mut Pair); 3] = [
        |pair| pair.primary.mark_dead(EDGE, pair.now).unwrap(),
        |pair| pair.primary.remove_path(EDGE, pair.now).unwrap(),
        |pair| {
            let error = CodedError::new(Code::SecondaryStreamIsolation, "a crime");
            pair.client.handle_violation(EDGE, &error, pair.now);
        },
    ];
    for (case, end) in end.into_iter().enumerate() {
        // The last is of a path that is connected.
        for lost in [false, case < 2] {
            let mut pair = Pair::new();
            let _edge = pair.add_edge();
            if lost {
                pair.client.handle_path_lost(EDGE, "timed out", pair.now);
                pair.exchange();
            }
            end(&mut pair);
            pair.exchange();
            // A grant that was on its way does no harm.
            pair.grant();
            pair.dials();
            for _ in 0..100 {
                pair.pass(Duration::from_secs(1));
                assert!(!pair.dials(), "case {case}");
            }
            assert_eq!(pair.primary.paths().status(EDGE).unwrap_err().code, Code::PathDead);
        }
    }
}

#[test]
fn a_client_that_does_not_answer_keeps_no_path_waiting() {
    let mut pair = Pair::new();
    let print = identity(2).fingerprint();
    pair.primary.add_path("127.0.0.1:2", print, pair.now, SystemTime::UNIX_EPOCH).unwrap();
    // It is there, and says nothing of the path.
    pair.now += limits::ANSWER_TIMEOUT - limits::DEAD_AFTER / 2;
    let beat = control::Heartbeat { sequence: 1, reply: true };
    let beat = crate::wire::ControlMessage::Heartbeat(beat);
    pair.primary.handle_control(PathId::PRIMARY, beat, pair.now);
    pair.now += limits::DEAD_AFTER / 2;
    assert_eq!(pair.primary.poll_timeout(), Some(pair.now));
    pair.primary.handle_timeout(pair.now);
    assert!(pair.primary.paths().dead()[0].ended);
    assert_eq!(pair.primary.poll_timeout(), None);
}

/// A client whose link is cut has not heard yet what it is to answer.
#[test]
fn a_client_that_is_silent_has_more_time_to_answer_on_a_path() {
    let mut pair = Pair::new();
    let print = identity(2).fingerprint();
    pair.primary.add_path("127.0.0.1:2", print, pair.now, SystemTime::UNIX_EPOCH).unwrap();
    for wait in [limits::ANSWER_TIMEOUT, limits::MAX_ANSWER_TIME] {
        assert!(pair.primary.paths().dead().is_empty());
        pair.now += wait;
        assert_eq!(pair.primary.poll_timeout(), Some(pair.now));
        pair.primary.handle_timeout(pair.now);
    }
    // Not for ever.
    assert!(pair.primary.paths().dead()[0].ended);
}
