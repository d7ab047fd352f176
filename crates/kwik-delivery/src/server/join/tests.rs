use super::*;

const RTT: Duration = Duration::from_millis(30);
const KB: u64 = 1000;
const MB: u64 = 1_000_000;
const GB: u64 = 1_000_000_000;

const EDGE: EdgeView = EdgeView {
    weight: 1,
    cap: None,
    sessions: 0,
    draining: false,
    state: EdgeState::Absent,
    failed: None,
    rtt: None,
    rate: None,
};

fn view(left: u64, rate: Option<Rate>, edges: &[EdgeView]) -> SessionView<'_> {
    SessionView { left, foreign: 0, idle: Duration::ZERO, rtt: RTT, rate, edges }
}

fn steady(bytes: u64) -> Option<Rate> {
    Some(Rate { bytes, growing: false })
}

fn growing(bytes: u64) -> Option<Rate> {
    Some(Rate { bytes, growing: true })
}

/// What is left, how fast the primary is, and whether both of two edges join.
#[test]
fn edges_join_when_the_primary_alone_takes_longer_than_they_do() {
    let edges = [EDGE; 2];
    for (left, rate, joins) in [
        // Nothing is known of the link.
        (1, None, false),
        (50 * KB, None, false),
        (300 * KB, None, false),
        (MB, None, true),
        (10 * GB, None, true),
        // An index page, over a link that takes long for it.
        (50 * KB, steady(100 * KB), true),
        (50 * KB, steady(10 * MB), false),
        // 135 ms is what joining takes.
        (MB, steady(7 * MB), true),
        (MB, steady(8 * MB), false),
        (10 * GB, steady(GB), true),
        // A link that is still getting faster.
        (MB, growing(2 * MB), false),
        (20 * MB, growing(2 * MB), true),
        (MB, steady(0), true),
        (u64::MAX, growing(0), true),
        (u64::MAX, growing(u64::MAX), true),
    ] {
        let decision = WhenItPays.decide(&view(left, rate, &edges));
        let join = if joins { vec![0, 1] } else { Vec::new() };
        let again = if joins { None } else { Some(RTT) };
        assert_eq!(decision, Decision { join, drop: Vec::new(), again }, "{left} {rate:?}");
    }
}

#[test]
fn what_only_an_edge_may_bring_is_worth_any_edge() {
    let edges = [EDGE; 2];
    let session = SessionView { foreign: 1, ..view(KB, steady(GB), &edges) };
    assert_eq!(WhenItPays.decide(&session).join, [0, 1]);
}

/// The rates of those who are there count, and so do the round trips of those who are not.
#[test]
fn who_is_there_already_counts() {
    let fast = EdgeView { state: EdgeState::Joined, rate: Some(90 * MB), ..EDGE };
    let far = EdgeView { rtt: Some(RTT * 10), ..EDGE };
    let near = EdgeView { rtt: Some(RTT / 10), ..EDGE };
    let join =
        |left, edges: &[EdgeView]| WhenItPays.decide(&view(left, steady(10 * MB), edges)).join;
    assert_eq!(join(5 * MB, &[EDGE, EDGE]), [0, 1]);
    assert_eq!(join(5 * MB, &[fast, EDGE]), [0; 0]);
    assert_eq!(join(5 * MB, &[EdgeView { state: EdgeState::Away, ..fast }, EDGE]), [1]);
    assert_eq!(join(5 * MB, &[far, EDGE, near]), [1, 2]);
    assert_eq!(join(MB, &[far, EDGE, near]), [2]);
    assert_eq!(join(100 * MB, &[far, EDGE, near]), [0, 1, 2]);
}

#[test]
fn edges_join_by_weight_then_as_configured_and_not_where_they_may_not() {
    let weighs = |weight| EdgeView { weight, ..EDGE };
    let join = |edges: &[EdgeView]| {
        let at_once = AtOnce.decide(&view(0, None, edges)).join;
        assert_eq!(WhenItPays.decide(&view(GB, None, edges)).join, at_once);
        at_once
    };
    assert_eq!(join(&[weighs(1), weighs(5), weighs(1), weighs(9), weighs(0)]), [3, 1, 0, 2, 4]);
    let full = EdgeView { cap: Some(3), sessions: 3, ..EDGE };
    let free = EdgeView { cap: Some(3), sessions: 2, ..EDGE };
    assert_eq!(join(&[full, free]), [1]);
    for state in [EdgeState::Barred, EdgeState::Joining, EdgeState::Joined, EdgeState::Away] {
        assert_eq!(join(&[EdgeView { state, ..EDGE }, EDGE]), [1]);
    }
    let failed = Some(Failed { times: 9, ago: Duration::ZERO });
    assert_eq!(join(&[EdgeView { failed, ..EDGE }]), [0]);
}

#[test]
fn edges_leave_when_they_drain_and_after_a_minute_without_fetches() {
    let joined = EdgeView { state: EdgeState::Joined, ..EDGE };
    let draining = EdgeView { draining: true, ..joined };
    let edges = [joined, draining, EdgeView { draining: true, ..EDGE }, EDGE];
    for left in [0, 1, GB] {
        assert_eq!(WhenItPays.decide(&view(left, None, &edges)).drop, [1], "{left}");
        assert_eq!(AtOnce.decide(&view(left, None, &edges)).drop, [1], "{left}");
    }
    let idle = |idle| SessionView { idle, ..view(0, None, &edges) };
    let moment = Duration::from_secs(1);
    let decision = WhenItPays.decide(&idle(IDLE_LEAVE - moment));
    assert_eq!(decision, Decision { join: Vec::new(), drop: vec![1], again: Some(moment) });
    let decision = WhenItPays.decide(&idle(IDLE_LEAVE));
    assert_eq!(decision, Decision { join: Vec::new(), drop: vec![0, 1], again: None });
    assert!(AtOnce.decide(&idle(IDLE_LEAVE * 9)).drop == [1]);
}
