//! Every number of the scheduler, once, with its one job and its reason.

use std::time::Duration;

/// What a server's QUIC sends before anything is acknowledged (RFC 9002 section 7.2), in bytes: a
/// path of which nothing is known yet brings so much in its first round trip.
pub(super) const FIRST_WINDOW: u64 = 12_000;
/// A piece lasts about this long, so that a stall moves little.
pub(super) const PIECE_TIME: Duration = Duration::from_millis(20);
/// A round of measurement spans a round trip, and at least this: shorter ones measure how tasks
/// take turns.
pub(super) const ROUND: Duration = Duration::from_millis(20);
/// ... and so many bytes: six packets, since fewer are a matter of chance on a slow link.
pub(super) const ROUND_BYTES: u64 = 8 * 1024;
/// Rounds without growth of a quarter that end slow start, as in BBR.
pub(super) const FLAT_ROUNDS: u8 = 3;
/// How long outstanding bytes last beyond their round trips, in round trips, at least and at most:
/// what servers, links and the reader hesitate. On short paths more would only fill memory.
pub(super) const SLACK: (u32, Duration, Duration) =
    (4, Duration::from_millis(4), Duration::from_millis(40));
/// A packet on the wire: what a slow link brings at once.
pub(super) const PACKET: u64 = 1452;
/// A train of packets longer than this tells the link's rate: five packets, so that one that was
/// held up does not.
pub(super) const TRAIN: u64 = 5 * PACKET;
/// Packets further apart than this belong to two trains.
pub(super) const TRAIN_GAP: Duration = Duration::from_millis(5);
/// Bytes received by a connection that are progress, and not just acknowledgements and heartbeats.
pub(super) const PROGRESS: u64 = PACKET;
/// Bytes that a path brings at once, if it brings anything: the payload of the least packet.
pub(super) const WORTH: u64 = 1024;
/// What a peer may hold an acknowledgement back for (RFC 9000 section 18.2), and so a probe that
/// follows a lost packet.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(25);
/// A path is silent when nothing has come for so many times what lies between two packets.
pub(super) const SPACINGS: u32 = 3;
/// What lies between two packets of a path whose rate is unknown may be as long as this: a packet
/// of a link of 0.1 Mbit/s.
pub(super) const UNKNOWN_SPACING: Duration = Duration::from_millis(120);
/// A silence that ended by itself is forgotten by half in this time.
pub(super) const FORGET: Duration = Duration::from_secs(20);
/// The longest such silence that a path is granted.
pub(super) const MAX_WOBBLE: Duration = Duration::from_millis(500);
/// Fewer packets than this in a round trip, and a lost one shows only when a probe is sent for it
/// (RFC 9002 section 6.1.1): three have to come behind it.
pub(super) const FEW_PACKETS: u64 = 5;
/// So many probes of such a path may be lost in a row: each waits twice as long as the one before.
pub(super) const LOST_PROBES: u32 = 4;
/// ... but a reader waits for them no longer than this, from when they were due: three of them at
/// the round trips of crowded links (0.1 s), and less than a path takes to count as dead.
pub(super) const MAX_AWAITED: Duration = Duration::from_millis(1600);
/// How long after its due time a lost packet of a stream may take to be repeated and queued.
pub(super) const REPAIR: Duration = Duration::from_millis(50);
/// Bounds how long a path rests: 50 ms * 2^6.
pub(super) const MAX_STRIKES: u32 = 6;
/// A path that returned so many pieces in a row without bringing one has lost its lease.
pub(super) const MAX_RETURNS: u32 = 3;
/// Readers and pieces are looked at this often at the least, while something is asked for.
pub(super) const LOOK_AT_LEAST: Duration = Duration::from_millis(25);
/// ... and not more often than this, as it takes a look at every piece.
pub(super) const LOOK_AT_MOST: Duration = Duration::from_millis(5);
/// Congestion windows that a server gives to QUIC, at the most: what was lost keeps what came
/// behind it from being acknowledged.
pub(super) const WINDOWS_AHEAD: u64 = 4;
/// ... and what beyond: no cancellation calls it back.
pub(super) const COMMITTED: u64 = 640 * 1024;
/// What moved pieces may bring twice beyond a share of what was delivered: what all paths bring in
/// this time, so that one path that fails costs no more than a pause as long.
pub(super) const DOUBLED_TIME: Duration = Duration::from_millis(35);
