//! What loss by chance costs, and what loss a sender makes itself.

use std::time::Duration;

use kwik::CongestionControl::{self, Cubic, Model, Tolerant};
use kwik_sim::Shape;

use crate::bottleneck::{Outcome, run};
use crate::flow::{Flow, ms};
use crate::seeds::{controls, each, spread, wanted};

const SECONDS: u64 = 20;
/// The start is over.
const STARTED: usize = 2;

struct Case {
    name: &'static str,
    loss: f64,
    rtt: u64,
    /// In milliseconds of the link.
    queue: u64,
    /// Least goodput, in Mbit/s of 100: tolerant of loss, and of the model.
    goodput: [f64; 2],
    /// Largest share of packets that queues drop after the start.
    dropped: f64,
}

/// The bounds of 200 ms lie below the goal of 85: the window of one QUIC stream is the limit.
const CASES: [Case; 9] = [
    Case { name: "0", loss: 0.0, rtt: 50, queue: 50, goodput: [93.5, 93.5], dropped: 0.001 },
    Case { name: "0.01", loss: 0.0001, rtt: 50, queue: 50, goodput: [92.0, 93.0], dropped: 0.001 },
    Case { name: "0.1", loss: 0.001, rtt: 50, queue: 50, goodput: [85.0, 92.0], dropped: 0.005 },
    Case { name: "1", loss: 0.01, rtt: 50, queue: 50, goodput: [85.0, 85.0], dropped: 0.005 },
    Case { name: "2", loss: 0.02, rtt: 50, queue: 50, goodput: [85.0, 80.0], dropped: 0.005 },
    Case { name: "10", loss: 0.1, rtt: 50, queue: 50, goodput: [20.0, 40.0], dropped: 0.02 },
    Case {
        name: "0.1 at 200",
        loss: 0.001,
        rtt: 200,
        queue: 50,
        goodput: [58.0, 60.0],
        dropped: 0.01,
    },
    Case { name: "1 at 10", loss: 0.01, rtt: 10, queue: 50, goodput: [90.0, 90.0], dropped: 0.005 },
    Case {
        name: "0, shallow",
        loss: 0.0,
        rtt: 50,
        queue: 10,
        goodput: [88.5, 90.0],
        dropped: 0.015,
    },
];

fn measure(control: CongestionControl, case: &Case) -> Vec<Outcome> {
    let shape = Shape::rate_mbit(100).queue(ms(case.queue)).loss(case.loss);
    each(|seed| run(seed, shape, &[Flow::new(control, ms(case.rtt))], SECONDS, &[]))
}

#[test]
fn loss_by_chance_slows_nobody_down() {
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        for control in controls() {
            let all = measure(*control, case);
            let [least, goodput, _] = spread(&all, |run| run.mbit(0, 0.0, SECONDS as f64));
            let [_, queue, _] = spread(&all, |run| run.mean_queue(STARTED as f64) * 1e3);
            let [_, start, _] = spread(&all, |run| run.dropped(0) * 100.0);
            let [_, dropped, _] = spread(&all, |run| run.dropped(STARTED));
            println!(
                "{control:?}, {} %: {goodput:.1} Mbit/s, least {least:.1}; queue {queue:.1} ms; \
                 dropped {start:.2} %, after the start {:.2} %",
                case.name,
                dropped * 100.0
            );
            if let Some(at) = [Tolerant, Model].iter().position(|ours| ours == control) {
                assert!(goodput >= case.goodput[at], "{goodput}");
                assert!(dropped <= case.dropped, "{dropped}");
            }
        }
    }
}

/// Half a second of 30 % every five seconds.
#[test]
fn bursts_of_loss_stop_nobody() {
    let shape = Shape::rate_mbit(100);
    let bursts = (0..4).flat_map(|burst| {
        let at = Duration::from_secs(5 * burst + 2);
        [(at, shape.loss(0.3)), (at + ms(500), shape)]
    });
    let bursts = bursts.collect::<Vec<_>>();
    let goodput = |control| {
        let all = each(|seed| run(seed, shape, &[Flow::new(control, ms(50))], SECONDS, &bursts));
        spread(&all, |run| run.mbit(0, 0.0, SECONDS as f64))[1]
    };
    let cubic = goodput(Cubic);
    for control in controls() {
        let goodput = goodput(*control);
        println!("{control:?}, bursts: {goodput:.1} Mbit/s, CUBIC {cubic:.1}");
        assert!(*control == Cubic || goodput >= 2.0 * cubic);
    }
}

/// Round trips that vary by up to 10 ms without a queue, as on Wi-Fi: the model alone is too
/// careful there (`docs/congestion.md`).
#[test]
fn round_trips_that_vary_cost_the_model_alone() {
    let shape = Shape::rate_mbit(100).jitter(ms(10));
    for control in controls() {
        let all = each(|seed| run(seed, shape, &[Flow::new(*control, ms(10))], SECONDS, &[]));
        let [_, goodput, _] = spread(&all, |run| run.mbit(0, 0.0, SECONDS as f64));
        println!("{control:?}, round trips of 10 to 20 ms: {goodput:.1} Mbit/s");
        assert!(goodput >= if *control == Model { 30.0 } else { 90.0 }, "{goodput}");
    }
}

#[test]
fn the_models_queue_is_at_most_half_of_cubics() {
    let queue = |control| spread(&measure(control, &CASES[0]), |run| run.mean_queue(2.0))[1];
    let (model, cubic) = (queue(Model), queue(Cubic));
    println!("mean queue: {:.1} ms, CUBIC {:.1} ms", model * 1e3, cubic * 1e3);
    assert!(model <= cubic / 2.0);
}
