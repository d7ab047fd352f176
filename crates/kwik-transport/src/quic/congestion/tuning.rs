//! Every number of congestion control, once, with its reason.

use std::time::Duration;

/// Packets of the first window (RFC 6928).
pub(super) const FIRST_WINDOW: u64 = 10;
/// Packets that may always be in flight: a peer acknowledges every second one, and two more keep
/// the link busy meanwhile.
pub(super) const LEAST_WINDOW: u64 = 3;

/// In slow start no more is in flight than so many times what the measured rate brings in a round
/// trip: what doubling needs, and at most one round trip of queue when it is over.
pub(super) const START_GAIN: f64 = 2.5;
/// Slow start goes on while the rate grows by this in a round...
pub(super) const GROWTH: f64 = 1.25;
/// ...and ends after so many rounds without.
pub(super) const FLAT_ROUNDS: u32 = 3;
/// It ends at once when the least round trip of a round, of so many samples, is longer by an eighth
/// of the path's, within these bounds (RFC 9406).
pub(super) const RISE_SAMPLES: u32 = 8;
pub(super) const LEAST_RISE: Duration = Duration::from_millis(4);
pub(super) const MOST_RISE: Duration = Duration::from_millis(16);

/// After slow start this part of what the rate brings in a smoothed round trip may be in flight, so
/// that QUIC, which paces by both, sends at the rate while the queue drains: it paces a window a
/// quarter faster than a round trip.
pub(super) const DRAIN: f64 = 0.8;

/// So many rounds drain [`START_GAIN`] of what the path holds.
pub(super) const DRAIN_ROUNDS: u32 = 5;

/// Rounds between two probes, and up to [`CRUISE_SPREAD`] more, so that connections that share a
/// link do not probe together.
pub(super) const CRUISE_ROUNDS: u32 = 5;
/// See [`CRUISE_ROUNDS`].
pub(super) const CRUISE_SPREAD: u32 = 4;
/// A probe adds this share of what is in flight...
pub(super) const PROBE_SHARE: f64 = 0.25;
/// ...but no more than the rate brings in this time: with the same queue for all, connections with
/// short and with long round trips gain as much.
pub(super) const PROBE_QUEUE: f64 = 0.0125;
/// The rate followed the probe if it grew by this part of it.
pub(super) const FOLLOWED: f64 = 0.4;
/// A probe that made a queue of this part of its own size found nothing, whatever rate it took from
/// others. With [`QUEUE_NOISE`] on top.
pub(super) const QUEUED: f64 = 0.5;
/// See [`QUEUED`].
pub(super) const QUEUE_NOISE: f64 = 0.002;
/// A probe beyond a bound that losses set lasts so many rounds at most.
pub(super) const PROBE_ROUNDS: u32 = 6;

/// What waits at the bottleneck when all goes well, in seconds at 1 Mbit/s; it falls with the root
/// of the rate. So the link stays busy, and slower connections ask for relatively more: they catch
/// up.
pub(super) const SLACK: f64 = 0.025;

/// A round trip in the upper half of what was seen of late means that the queue is nearly full.
pub(super) const HIGH: f64 = 0.5;
/// What is seen of late must span that: less is how machines take turns.
pub(super) const LEAST_SPAN: Duration = Duration::from_millis(2);
/// Loss by chance is a mean of so many packets and the half of those before.
pub(super) const CHANCE_PACKETS: f64 = 10_000.0;
/// ...and of so many at the least, so that the first ones that are lost prove nothing.
pub(super) const LEAST_PACKETS: f64 = 1000.0;
/// More than that is no chance, whatever the round trips say.
pub(super) const MOST_CHANCE: f64 = 0.2;
/// Below that a path loses nothing by chance.
pub(super) const NO_CHANCE: f64 = 0.002;
/// Share of packets that a full queue may cost beyond chance: while probing, and else.
pub(super) const PROBE_LOSS: f64 = 0.01;
/// See [`PROBE_LOSS`].
pub(super) const CRUISE_LOSS: f64 = 0.002;
/// Losses are more than chance when they are so many standard deviations above it.
pub(super) const SIGMA: f64 = 2.5;
/// A bottleneck without a queue shows in the losses of a probe alone: that share, and three packets
/// (draft-ietf-ccwg-bbr: `BBR.LossThresh`).
pub(super) const SHARE_LOST: f64 = 0.02;
/// See [`SHARE_LOST`].
pub(super) const PACKETS_LOST: u64 = 3;
/// After losses this part of what was delivered may be in flight, so that the queue drains.
pub(super) const HELD: f64 = 0.9;

/// The least round trip of drained queues counts for this long.
pub(super) const BASE_LASTS: Duration = Duration::from_secs(10);
/// The least one of all counts for this long at least: it tells a queue of others from a longer
/// path.
pub(super) const FLOOR_LASTS: Duration = Duration::from_secs(60);
/// A drained round trip that is longer by half and [`FOREIGN_NOISE`] is a queue of others.
pub(super) const FOREIGN: f64 = 1.5;
/// See [`FOREIGN`].
pub(super) const FOREIGN_NOISE: Duration = Duration::from_millis(5);

/// CUBIC's answer to a loss (RFC 9438).
pub(super) const BETA: f64 = 0.7;
/// Rounds in a crowd before it is asked whether the crowd is still there.
pub(super) const CROWD_ROUNDS: u32 = 20;
/// What is asked with: this part of the window for a round...
pub(super) const YIELD: f64 = 0.75;
/// ...after which the round trip falls by this part of what it would without others.
pub(super) const ALONE: f64 = 0.7;

/// After a queue has begun to show, slow start grows by one in so many bytes that are acknowledged,
/// for so many rounds, and ends if the queue is still there (RFC 9406, section 4.3).
pub(super) const SLOWER: u64 = 4;
/// See [`SLOWER`].
pub(super) const SLOWER_ROUNDS: u32 = 5;
/// Chance is measured while the window is below this part of what overflowed last: beyond, the
/// same queue may be full again.
pub(super) const LOW: f64 = 0.9;
/// Who answers each loss has a window, in packets, whose square times the share that is lost is
/// this (RFC 9438, section 5.1: Reno's, which CUBIC is at the least).
pub(super) const OWN: f64 = 1.5;
