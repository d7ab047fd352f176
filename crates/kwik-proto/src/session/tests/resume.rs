//! A session is taken up: what counts of attempts that are late, slow or many.

use super::*;
use crate::session::ResumeAttempt;
use crate::wire::control::{AuthenticationRequest, Resume};

const RTT: Duration = Duration::from_millis(20);

fn exporter(attempt: u64) -> [u8; 32] {
    [u8::try_from(attempt).unwrap(); 32]
}

/// The next dial that the client asks for: how long it may take.
fn redial(pair: &mut Pair) -> Option<Duration> {
    std::iter::from_fn(|| pair.client.poll_action()).find_map(|action| match action {
        Action::Redial(within) => Some(within),
        Action::Close(code, _) => panic!("closed with {code:#x}"),
        _ => None,
    })
}

fn wait_for_timeout(pair: &mut Pair) {
    pair.now = pair.client.poll_timeout().unwrap().max(pair.now);
    pair.client.handle_timeout(pair.now);
    poll(&mut pair.client, pair.now);
}

fn begin(pair: &mut Pair, made: u64, rtt: Duration) -> Option<ResumeAttempt> {
    pair.client.begin_resume(&exporter(made), rtt, pair.now)
}

fn said(begun: &ResumeAttempt) -> (AuthenticationRequest, Resume) {
    let frames = decode(&mut ControlDecoder::new(), begun.first.clone());
    match <[M; 2]>::try_from(frames).unwrap() {
        [M::AuthenticationRequest(request), M::Resume(resume)] => (request, resume),
        other => panic!("{other:?}"),
    }
}

/// The primary takes the session up: what it says.
fn answer(pair: &mut Pair, begun: &ResumeAttempt) -> Result<Resume, CodedError> {
    let (request, m) = said(begun);
    let exporter = exporter(begun.attempt);
    let (first, _) = pair.primary.handle_resume(&request, &exporter, &m, pair.now)?;
    match decode(&mut ControlDecoder::new(), first).pop() {
        Some(M::Resume(resume)) => Ok(resume),
        other => panic!("{other:?}"),
    }
}

fn lose(pair: &mut Pair) {
    pair.client.handle_path_lost(PathId::PRIMARY, "broken", pair.now);
    redial(pair);
}

#[test]
fn a_stale_attempts_failure_is_not_charged_to_the_current_one() {
    let mut pair = Pair::new();
    lose(&mut pair);
    let first = begin(&mut pair, 1, RTT).unwrap();
    while redial(&mut pair).is_none() {
        wait_for_timeout(&mut pair);
    }
    let second = begin(&mut pair, 2, RTT).unwrap();
    let resume = answer(&mut pair, &second).unwrap();
    // The server refuses the first, and it takes too long besides.
    let refused = answer(&mut pair, &first).unwrap_err();
    assert!(!pair.client.on_redial_failed(first.attempt, Some(&refused), pair.now));
    assert!(!pair.client.on_redial_failed(first.attempt, None, pair.now));
    assert_eq!(redial(&mut pair), None);
    assert!(pair.client.handle_resumed(&resume, pair.now));
    // The same of the current one counts.
    lose(&mut pair);
    let third = begin(&mut pair, 3, RTT).unwrap();
    assert!(pair.client.on_redial_failed(third.attempt, Some(&refused), pair.now));
}

#[test]
fn dials_outlive_the_next_ones_and_become_rare() {
    let mut pair = Pair::new();
    pair.client.handle_path_lost(PathId::PRIMARY, "broken", pair.now);
    let (began, mut dials) = (pair.now, Vec::new());
    while pair.now < began + limits::RESUME_TIME / 2 {
        if let Some(within) = redial(&mut pair) {
            dials.push((pair.now, pair.now + within));
        }
        wait_for_timeout(&mut pair);
    }
    for (at, until) in &dials {
        let under_way = dials.iter().filter(|(other, end)| other <= at && at < end).count();
        assert!(under_way <= limits::RESUME_DIALS as usize + 1, "{under_way}");
        // A handshake over a satellite, whose round trip nothing said before.
        assert!(*until - *at >= Duration::from_millis(1600));
    }
    assert!(dials.len() < 24, "{}", dials.len());
    // The answer over such a path is waited for as well.
    let begun = begin(&mut pair, 1, Duration::from_millis(800)).unwrap();
    assert!(begun.within >= Duration::from_secs(3));
}

#[test]
fn a_client_that_comes_back_for_ever_is_held_up_and_keeps_no_place_by_it() {
    let mut pair = Pair::new();
    let before = pair.primary.activity().moved;
    let mut taken = 0;
    for made in 1..=20 {
        pair.now += Duration::from_millis(100);
        lose(&mut pair);
        let begun = begin(&mut pair, made, RTT).unwrap();
        match answer(&mut pair, &begun) {
            Ok(resume) => {
                taken += 1;
                assert!(pair.client.handle_resumed(&resume, pair.now));
            }
            Err(error) => {
                assert_eq!(error.code, Code::LimitExceeded);
                pair.client.on_redial_failed(begun.attempt, None, pair.now);
            }
        }
    }
    assert!((4..=6).contains(&taken), "{taken}");
    assert_eq!(pair.primary.activity().moved, before);
}

#[test]
fn a_primary_that_has_nothing_to_say_is_not_dialed_anew() {
    let mut pair = Pair::new();
    // Something that it does not acknowledge for long.
    lock(&pair.client.sent()).on_sent(5, KeptFrames::default(), Lane(0));
    for _ in 0..200 {
        pair.now = pair.client.poll_timeout().unwrap().max(pair.now);
        pair.client.handle_timeout(pair.now);
        pair.exchange();
        assert_eq!(redial(&mut pair), None, "{:?}", pair.now);
    }
}

#[test]
fn silence_after_payload_is_noticed_although_nothing_was_asked_for() {
    let mut pair = Pair::new();
    pair.client.streams_mut().open(Dir::Bi, pair.now).unwrap();
    let mut arrived = ArrivedPackets::default();
    arrived.note(1, 5, false);
    pair.client.on_packets(PathId::PRIMARY, &arrived, pair.now).unwrap();
    let began = pair.now;
    poll(&mut pair.client, pair.now);
    while redial(&mut pair).is_none() {
        wait_for_timeout(&mut pair);
        assert!(pair.now < began + Duration::from_secs(4));
    }
}
