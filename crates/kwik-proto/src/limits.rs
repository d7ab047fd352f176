//! Every bound of the protocol, with its reason. Relations between them are asserted at the end.

use std::time::Duration;

/// Protocol version that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// ALPN token of version 1.
pub const ALPN: &[u8] = b"kwik/1";

/// A control frame, without its length prefix: refused from the prefix alone when longer.
pub const MAX_CONTROL_FRAME: usize = 64 * 1024;
/// Payload of one data packet: large frames cost the least CPU, and 64 KiB is where it levels off.
pub const MAX_PACKET_PAYLOAD: usize = 64 * 1024;
/// Frames in one data packet: batches small frames, bounds what a header can announce.
pub const MAX_PACKET_FRAMES: usize = 256;
/// Data frames and packets in a row, on one QUIC stream, with neither payload nor the end of a
/// stream: they cost us more than their sender, and no sender of ours makes one. Within one turn of
/// a reader, so that who sends them is cut off before much more has come.
pub const MAX_EMPTY_FRAMES: usize = 64;
/// Everything of a data packet that is not payload.
pub const MAX_PACKET_OVERHEAD: usize = MAX_PACKET_FRAMES * 64;
/// Largest field other than `data` that a data frame may carry (path ids, unknown fields).
pub const MAX_FRAME_FIELD: usize = 256;
/// A frame shorter than this is not worth compressing.
pub const MIN_COMPRESSED: usize = 256;
/// How far the ids of unacknowledged packets of a path and direction may reach: bounds what both
/// ends keep of them. A gigabyte of full packets; many small frames share one.
pub const MAX_UNACKED_PACKETS: u64 = 16 * 1024;
/// Ranges in one AckFrame: a few KiB.
pub const MAX_ACK_RANGES: usize = 256;
/// Packets are acknowledged once they brought this much ...
pub const ACK_BYTES: u64 = 256 * 1024;
/// ... or after this long.
pub const ACK_DELAY: Duration = Duration::from_millis(50);
/// ... of which one that ends a stream waits no longer than this, for others of its kind ...
pub const ACK_END_DELAY: Duration = Duration::from_millis(1);
/// ... until there are so many: short streams do not cost an acknowledgement each.
pub const ACK_ENDS: u32 = 8;
/// Largest opaque command of a lease.
pub const MAX_COMMAND: usize = 16 * 1024;
/// Largest raw packet.
pub const MAX_RAW_PACKET: usize = 32 * 1024;
/// Raw packets waiting for one path.
pub const MAX_RAW_QUEUED: usize = 64;
/// Bytes of raw packets waiting for one path.
pub const MAX_RAW_QUEUED_BYTES: usize = 1024 * 1024;
/// QUIC connection window of a server for a client that has not authenticated, in bytes.
pub const UNAUTHENTICATED_WINDOW: u64 = 256 * 1024;
/// QUIC connection window at the least, once authenticated, in bytes.
pub const CONNECTION_WINDOW: u64 = 1024 * 1024;
/// Receive credit that all sessions of an endpoint may grant together, unless configured, in bytes.
pub const MEMORY_BUDGET: u64 = 1024 * 1024 * 1024;
/// Opaque client credentials.
pub const MAX_CREDENTIALS: usize = 8 * 1024;
/// Text that a peer may make us keep: reasons, addresses.
pub const MAX_TEXT: usize = 512;
/// Largest offset, as in QUIC (RFC 9000 section 4.5).
pub const MAX_OFFSET: u64 = (1 << 62) - 1;
/// Control bytes waiting for one path; beyond it the path is too slow to live, and an application
/// that causes more is refused.
pub const MAX_CONTROL_QUEUED: usize = 4 * 1024 * 1024;
/// Of those at a server, what answers its client: one that asks and does not read makes it hold as
/// much, and twice that while it grows, beside all else.
pub const MAX_ANSWERS_QUEUED: usize = 1024 * 1024;

/// Control bytes of path 0 that are kept until they are acknowledged, so that they can be repeated
/// on another connection. What would be more waits, within [`MAX_CONTROL_QUEUED`].
pub const MAX_CONTROL_KEPT: usize = 256 * 1024;
/// Of those, what is kept and acknowledged together.
pub const CONTROL_CHUNK: usize = 8 * 1024;
/// Control frames are acknowledged once there are so many, each of which counts once, and once more
/// for each of so many bytes of its payload ...
pub const CONTROL_ACK_FRAMES: u32 = 32;
/// See [`CONTROL_ACK_FRAMES`].
pub const CONTROL_ACK_BYTES: usize = 2048;
/// ... or after this long: well below the silence after which a client believes its primary's path
/// to be broken.
pub const CONTROL_ACK_DELAY: Duration = Duration::from_millis(250);
/// Ranges of packets in one Resume. What is not named is repeated.
pub const MAX_RESUME_RANGES: usize = 2048;
/// The primary's path is believed to be broken when nothing came for so long although something
/// was expected, or for [`RESUME_ROUND_TRIPS`]. It is dialed anew beside its connection then ...
pub const RESUME_SILENCE: Duration = Duration::from_secs(1);
/// See [`RESUME_SILENCE`].
pub const RESUME_ROUND_TRIPS: u32 = 4;
/// ... at such intervals, give or take a fifth, until one answers. Where round trips are long, as
/// many of them as above, but no more than [`RESUME_LATER`] ...
pub const RESUME_INTERVAL: Duration = Duration::from_millis(500);
/// ... of which each may take this many: the first dials of a slow or lossy network go on beside
/// those that follow, and no more than so many are under way at once ...
pub const RESUME_DIALS: u32 = 4;
/// ... and after this many dials at longer intervals: a link that is gone for so long is seldom
/// back soon ...
pub const RESUME_EAGER: u32 = 16;
/// ... namely these.
pub const RESUME_LATER: Duration = Duration::from_secs(2);
/// It is dialed ...
/// ... for so long after its connection broke. A server keeps what it has of the session as
/// long, unless configured.
pub const RESUME_TIME: Duration = Duration::from_secs(30);
/// How long a client that is closed while its primary is away goes on dialing, only to say so: the
/// server would wait for it.
pub const FAREWELL_TIME: Duration = Duration::from_secs(5);
/// Primaries of one client: more than anybody has to go through for one session.
pub const MAX_PRIMARIES: usize = 16;
/// How long each of several primaries has to answer before the next is dialed. Longer than a
/// handshake takes on a slow link with loss.
pub const PRIMARY_PATIENCE: Duration = Duration::from_secs(10);
/// How often all of them are dialed for one new session, with growing waits: a server is started
/// again within seconds.
pub const PRIMARY_ROUNDS: u32 = 3;
/// Sessions in a row of which nothing came, after which no other is begun: what ends them is
/// something else than a server's end.
pub const MAX_VAIN_SESSIONS: u32 = 8;
/// Times that a client may take its session up one after another, each of which repeats what was
/// not acknowledged ...
pub const RESUME_BURST: u32 = 4;
/// ... and after so long once more.
pub const RESUME_PERIOD: Duration = Duration::from_secs(1);
/// Sessions without a connection that a server keeps, unless configured.
pub const MAX_LOST_SESSIONS: usize = 256;
/// Bytes that all of those hold, unless configured: a quarter of what sessions may be granted.
pub const MAX_LOST_MEMORY: u64 = MEMORY_BUDGET / 4;

/// Live paths of a session: the primary's, and those of eight edges. A client's memory grows with
/// them by what waits to be sent on each, a few MiB, and a primary can aim it at so many hosts.
pub const MAX_PATHS: usize = 9;
/// Ended paths kept in a session's history.
pub const MAX_PATH_HISTORY: usize = 256;
/// UDP ports that no client dials for its primary: DNS, NTP, SSDP, mDNS and memcached answer
/// whoever sends to them (RFC 9308 section 8.1), so that clients would be set on them.
pub const UNDIALED_PORTS: [u16; 5] = [53, 123, 1900, 5353, 11211];
/// Dials a primary may make a client do in [`DIAL_PERIOD`].
pub const MAX_DIALS: usize = 4;
/// See [`MAX_DIALS`].
pub const DIAL_PERIOD: Duration = Duration::from_secs(10);
/// A handshake with a secondary, and then its answer, where no long round trip was measured. One
/// with a primary that takes longer is begun anew.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// The same in round trips, as far as they are known: of the primary before the secondary's own.
pub const HANDSHAKE_ROUND_TRIPS: u32 = 3;
/// The same at the most.
pub const MAX_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(6);
/// From a connection's first datagram until it has said who it is. As long as QUIC's idle timeout,
/// so that a silence that QUIC lives through costs no session.
pub const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Sessions, and paths to it as a secondary, that a server has at once, unless configured: with all
/// that one may hold beside its windows, half a gigabyte.
pub const MAX_SESSIONS: usize = 1024;
/// Of those from one network, which is an IPv4 address or an IPv6 /64, unless configured: the
/// clients behind one translator have room, and it takes eight networks to fill a server.
pub const MAX_NETWORK_SESSIONS: usize = 128;
/// Connections that have not introduced themselves yet, unless configured: a fast link brings some
/// thousand a second, each of which takes a round trip or two.
pub const MAX_HANDSHAKES: usize = 256;
/// Of those from one network.
pub const MAX_NETWORK_HANDSHAKES: usize = 64;
/// From one handshake in this many of [`MAX_HANDSHAKES`] on, and from half of the sessions on, a
/// client first has to show that it receives at its address (RFC 9000 section 8.1.2).
pub const UNVALIDATED_SHARE: usize = 8;
/// A full server lets a session go on which nothing is open and nothing has moved for so long, of
/// the network that has most the one that was quiet longest first ...
pub const SLOT_IDLE: Duration = HEARTBEAT_IDLE;
/// ... and after so long already when its network has more sessions than the newcomer's would have:
/// time enough to begin something, and who comes alone waits no longer than that ...
pub const SLOT_CROWDED: Duration = Duration::from_secs(1);
/// ... and then one on which streams or leases are open, and nothing has moved for so long.
pub const SLOT_STALLED: Duration = Duration::from_secs(60);
/// An operator reads of a full server this often at the most.
pub const BUSY_NOTICE: Duration = Duration::from_secs(10);

/// Streams of one direction that a peer may have open at once.
pub const MAX_STREAMS: u64 = 100;
/// Unidirectional QUIC streams of one side on one connection: memory and handshake cost grow
/// with them.
pub const MAX_QUIC_STREAMS: u32 = 100;
/// Of those, how many logical streams and leases share (5.2): leaves room for secondary streams,
/// raw packets, and those that were finished and are not acknowledged yet.
pub const MAX_POOLED: usize = 24;
/// A stream with more than this many bytes on their way writes on a QUIC stream of its own.
pub const SHARED_BACKLOG: u64 = 64 * 1024;
/// A pooled QUIC stream that nobody writes on is kept this long, so that a burst does not open
/// and close.
pub const POOLED_IDLE: Duration = Duration::from_secs(1);
/// With fewer entries than this, streams that wait for nothing but acknowledgements do not count
/// against their opener's limit.
pub const MAX_LINGERING: usize = 1024;
/// One in this many of the streams that a peer may open is told as soon as there is room for so
/// many more, as in quinn.
pub const MAX_STREAMS_BATCH: u64 = 8;
/// What need not be told at once is told after this, if it still has to be.
pub const NOTICE_DELAY: Duration = Duration::from_millis(2);
/// Streams of each direction that a client may open before the server has answered.
pub const FIRST_FLIGHT_STREAMS: u64 = 8;
/// Bytes that each of them may carry until then: every stream's floor is at least this.
pub const FIRST_FLIGHT_DATA: u64 = 1200;
/// Bytes that the first stream of each kind that a side opens may carry before the other has said
/// anything, and later ones as far as the other keeps room for them: more than QUIC's initial
/// congestion window (RFC 9002 section 7.2), so that a session starts as fast as QUIC does.
pub const FIRST_STREAM_DATA: u64 = 16 * 1024;
/// What a side with a large window says of the very first of each kind: what QUIC sends in slow
/// start until word of that stream is back.
pub const MAX_FIRST_STREAM_DATA: u64 = 64 * 1024;
/// One in this many bytes of what a window lends at its start is kept so that as many streams more
/// can carry it.
pub const FIRST_STREAMS_SHARE: u64 = 8;
/// Properties of one stream's metadata.
pub const MAX_PROPERTIES: usize = 16;
/// Key of such a property.
pub const MAX_PROPERTY_KEY: usize = 64;
/// Keys and values of all of a stream's properties: small beside a control frame.
pub const MAX_PROPERTY_BYTES: usize = 4096;
/// Reasons for which one path gave leases up, until the primary is told of them, which is at once.
pub const MAX_REASONS: usize = 16;
/// Live leases of a session: bounds the table on every side.
pub const MAX_LEASES: usize = 4096;
/// Live leases of a path that is still being dialed: its client keeps them, with their commands,
/// until the server at its end has accepted it. 1 MiB a path with the longest commands.
pub const MAX_EARLY_LEASES: usize = 64;
/// Pieces of one path that are activated and not finished.
pub const MAX_PIECES: usize = 256;

/// Secondary streams that one path's server has open at once: leaves QUIC streams for plain leases.
pub const MAX_SECONDARY_STREAMS: usize = 64;

/// Data frames of a secondary stream that are put together, unless configured: a reader's turn.
pub const SECONDARY_BATCH: usize = 64;
/// The longest that a secondary stream may be configured to bring nothing.
pub const MAX_STREAM_TIMEOUT: Duration = Duration::from_secs(3600);

/// Times that a primary is told anew of what nobody may bring, at the most.
pub const MAX_RESTARTS: u32 = 100;
/// Attempts to open a secondary stream without a lease, at the most.
pub const MAX_MAPPING_RETRIES: u32 = 100;
/// The longest wait between two of them, and for the answer to one.
pub const MAX_MAPPING_WAIT: Duration = Duration::from_secs(60);

/// Paths that a stream names as its sources: far more than there are at once, for those that come
/// and go.
pub const MAX_SOURCES: usize = 32;
/// Ranges of one stream's unread bytes that are known by the path that brought them: as many as it
/// may have gaps. Beyond that neighbours become one of unknown origin.
pub const MAX_ORIGINS: usize = 1024;
/// Stretches of one received chunk that are kept apart where they differ from what is held.
pub const MAX_CONFLICTS: usize = 64;
/// Gaps in one stream's buffer.
pub const MAX_GAPS: usize = 1024;
/// Runs of one session's buffers.
pub const MAX_RUNS: usize = 4096;
/// Received memory that is pinned without being payload, per session.
pub const MAX_PINNED: usize = 2 * 1024 * 1024;
/// Received slices at least this long (a datagram's worth) are kept as they are; shorter ones are
/// copied to blocks once a few of them wait.
pub const MIN_SLICE: usize = 1024;
/// Block to which small slices of large receive buffers are copied.
pub const COPY_BLOCK: usize = 4096;

/// Session receive window at the start (8.2).
pub const INITIAL_WINDOW: u64 = 4 * 1024 * 1024;
/// Session receive window at the most, unless configured.
pub const MAX_WINDOW: u64 = 32 * 1024 * 1024;
/// A stream is told of credit in steps of this size, unless configured (8.2).
pub const SLIDE_STEP: u64 = 64 * 1024;
/// What a stream may have granted and not read until its reader proves fast, unless
/// configured (8.3).
pub const STREAM_BUFFER: u64 = 1024 * 1024;
/// Streams under backpressure that put their session under it, if they are half of all (8.3).
pub const ESCALATION_STREAMS: usize = 4;
/// A session under memory pressure looks this often whether it is over: a producer that waits for
/// that sends nothing that would make it look.
pub const MEMORY_INTERVAL: Duration = Duration::from_millis(100);
/// A gap that keeps a reader waiting for this long is reported, unless configured (8.4).
pub const GAP_TIMEOUT: Duration = Duration::from_millis(100);
/// Logical streams that share a QUIC stream, unless configured (5.2).
pub const STREAMS_PER_QUIC_STREAM: u64 = 4;
/// Bytes unacknowledged on a path beyond which bulk waits, unless configured: a little less than
/// QUIC's send window, so that urgent frames find room in it.
pub const MAX_UNACKED: u64 = 7 * 1024 * 1024;

/// The least piece: three packets, a sixth of a second on a link of 0.2 Mbit/s.
pub const MIN_PIECE: u64 = 4 * 1024;
/// The largest piece: what a stall can hold back.
pub const MAX_PIECE: u64 = 1024 * 1024;
/// Bytes that moved pieces may bring twice beside what depends on rates: a piece, lest a crowd of
/// clients with small objects doubles the traffic of links that are full ...
pub const DOUBLED_BYTES: u64 = MIN_PIECE;
/// ... and one in this many of what was delivered: 0.4 %.
pub const DOUBLED_SHARE: u64 = 256;
/// A path with activated bytes outstanding is suspect after max of this and 1.25 smoothed RTT.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(50);
/// ... and dead after this silence.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);
/// A path that is asked, lives, and brings nothing for so long loses its leases: as long as a
/// reader waits for what nobody may bring.
pub const STALLED_AFTER: Duration = AGGREGATION_TIMEOUT;
/// What a path leaves unanswered of a stream that is whole is forgotten after twice the time that
/// it should take, and after this at the latest: QUIC's idle timeout.
pub const MAX_ANSWER_TIME: Duration = Duration::from_secs(30);
/// A path is degraded when it has been suspect for so long: a lost packet's repetition takes
/// less ...
pub const DEGRADED_AFTER: Duration = Duration::from_millis(250);
/// ... or suspect so often ...
pub const DEGRADED_TIMES: usize = 3;
/// ... within this time.
pub const DEGRADED_WITHIN: Duration = Duration::from_secs(10);
/// How long a slow path must be slow to be degraded, and a degraded one well to be active.
pub const HEALTH_HOLD: Duration = Duration::from_secs(1);
/// The primary hears of the figures of paths that are at work this often.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// After so many intervals without a report a primary takes a path for idle: one or two are late
/// on a slow link.
pub const STALE_REPORTS: u32 = 3;
/// Wait before a lost path is dialed again: doubled with each attempt, up to the largest, give or
/// take a fifth.
pub const REDIAL_FIRST: Duration = Duration::from_millis(250);
/// See [`REDIAL_FIRST`].
pub const REDIAL_LAST: Duration = Duration::from_secs(15);
/// A path that is lost sooner after it was made goes on with the waits where it was.
pub const REDIAL_CALM: Duration = Duration::from_secs(10);
/// Attempts in a row, after which a path has ended.
pub const MAX_REDIALS: u32 = 12;
/// The client owes an answer on a path that is added or removed within this: longer than the
/// silence that a session survives unharmed, so that a wait for it ends.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Events on paths that are kept for who reads them late.
pub const MAX_PATH_EVENTS: usize = 256;
/// Notices of uncovered ranges that are kept: each names up to [`MAX_GAPS`] ranges.
pub const MAX_UNCOVERED_EVENTS: usize = 32;
/// Missing ranges without any live lease fail their reader after this, or six round trips of
/// the primary.
pub const AGGREGATION_TIMEOUT: Duration = Duration::from_secs(5);
/// While a path that was lost or fell silent may come back, that time does not pass, for so long:
/// its redials come in waits of 0.25 to 8 s until then.
pub const RETURN_TIMEOUT: Duration = Duration::from_secs(20);
/// Heartbeat of a path with something outstanding, or with a heartbeat that is not answered: QUIC's
/// own probes wait twice as long each time.
pub const HEARTBEAT_BUSY: Duration = Duration::from_secs(1);
/// The same of a client's primary while something is expected of it and nothing was said.
pub const HEARTBEAT_AWAITED: Duration = Duration::from_millis(500);
/// A primary that has sent payload may have more on its way for so long.
pub const RECEIVING_FOR: Duration = Duration::from_secs(5);
/// Heartbeat of an idle path.
pub const HEARTBEAT_IDLE: Duration = Duration::from_secs(10);

/// Paths that a server keeps track of as their secondary: a second connection replaces the first.
pub const MAX_REGISTERED_PATHS: usize = 16 * 1024;
/// A grant lives this long; a later redial needs a new one.
pub const GRANT_LIFETIME: Duration = Duration::from_secs(120);
/// Tolerated difference between two servers' wall clocks.
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);
/// Text of a grant.
pub const MAX_GRANT: usize = 2048;

/// Bytes of all files in a folder of qlogs: what a disk has to spare. The oldest go first, as who
/// looks for a trouble looks soon after it.
pub const MAX_QLOG_BYTES: u64 = 1024 * 1024 * 1024;
/// ... of one connection, whose qlog stops there, lest a few that live long take all: a third of a
/// million packets.
pub const MAX_QLOG_FILE: u64 = MAX_QLOG_BYTES / 16;
/// ... of what happens to sessions, after which another file is begun.
pub const MAX_QLOG_EVENTS: u64 = MAX_QLOG_BYTES / 64;
/// Files in such a folder: a peer may make many short connections.
pub const MAX_QLOG_FILES: usize = 4096;
/// Connections that are traced at once: each takes one of the process's descriptors.
pub const MAX_QLOG_OPEN: usize = 256;
/// Bytes of records that wait to be written: a second of a few hundred thousand packets, for a disk
/// that is slow for a moment.
pub const MAX_QLOG_QUEUE: usize = 8 * 1024 * 1024;
/// Bytes of records that a connection keeps until its client is let in: a handshake takes a third.
pub const MAX_QLOG_UNNAMED: usize = 16 * 1024;
/// A process that ends waits so long for a disk to take what is left of them.
pub const MAX_QLOG_FLUSH: Duration = Duration::from_secs(5);

const _: () = {
    assert!(MAX_QLOG_OPEN < MAX_QLOG_FILES);
    assert!(MAX_HANDSHAKES * MAX_QLOG_UNNAMED <= MAX_QLOG_QUEUE);
    assert!(MAX_COMMAND + 1024 <= MAX_CONTROL_FRAME);
    assert!(MAX_RAW_PACKET + 1024 <= MAX_CONTROL_FRAME);
    assert!(MAX_EARLY_LEASES * MAX_COMMAND <= 1024 * 1024 && MAX_EARLY_LEASES < MAX_LEASES);
    assert!(2 * MAX_ANSWERS_QUEUED <= MAX_PINNED);
    assert!(MAX_CREDENTIALS + MAX_GRANT + 1024 <= MAX_CONTROL_FRAME);
    assert!(MAX_POOLED + MAX_SECONDARY_STREAMS < MAX_QUIC_STREAMS as usize);
    assert!(MAX_POOLED >= 8);
    assert!(MAX_PROPERTY_BYTES + 1024 <= MAX_CONTROL_FRAME);
    assert!(MIN_SLICE <= COPY_BLOCK);
    assert!(UNAUTHENTICATED_WINDOW <= CONNECTION_WINDOW);
    assert!(MAX_GAPS <= MAX_RUNS);
    assert!(MAX_ORIGINS >= MAX_GAPS);
    assert!(MIN_PIECE <= MAX_PIECE && MAX_PIECE < INITIAL_WINDOW);
    assert!(INITIAL_WINDOW <= MAX_WINDOW);
    assert!(SLIDE_STEP <= STREAM_BUFFER && STREAM_BUFFER <= INITIAL_WINDOW);
    assert!(GAP_TIMEOUT.as_millis() < AGGREGATION_TIMEOUT.as_millis());
    assert!(INITIAL_WINDOW / (2 * 3 * MAX_STREAMS) >= FIRST_FLIGHT_DATA);
    assert!(FIRST_FLIGHT_STREAMS <= MAX_STREAMS);
    assert!(FIRST_FLIGHT_DATA <= FIRST_STREAM_DATA && FIRST_STREAM_DATA <= MAX_FIRST_STREAM_DATA);
    assert!(2 * MAX_FIRST_STREAM_DATA < UNAUTHENTICATED_WINDOW);
    assert!(2 * MAX_HANDSHAKE_TIMEOUT.as_millis() < ANSWER_TIMEOUT.as_millis());
    assert!(MAX_NETWORK_SESSIONS * 4 <= MAX_SESSIONS);
    assert!(MAX_NETWORK_HANDSHAKES * 4 <= MAX_HANDSHAKES);
    assert!(SLOT_CROWDED.as_millis() < SLOT_IDLE.as_millis());
    assert!(SLOT_IDLE.as_millis() < SLOT_STALLED.as_millis());
    assert!(MAX_CONTROL_FRAME + CONTROL_CHUNK <= MAX_CONTROL_KEPT);
    assert!(2 * CONTROL_ACK_FRAMES as usize * CONTROL_ACK_BYTES <= MAX_CONTROL_KEPT);
    assert!(MAX_RESUME_RANGES * 24 + 1024 <= MAX_CONTROL_FRAME);
    assert!(2 * CONTROL_ACK_DELAY.as_millis() < RESUME_SILENCE.as_millis());
    assert!(RESUME_INTERVAL.as_millis() < RESUME_SILENCE.as_millis());
    assert!(RESUME_INTERVAL.as_millis() < RESUME_LATER.as_millis());
    assert!(RESUME_DIALS > 1 && RESUME_DIALS < RESUME_EAGER);
    // A server that has nothing to say has answered before it is believed to be gone.
    assert!(HEARTBEAT_AWAITED.as_millis() + 250 <= RESUME_SILENCE.as_millis());
    assert!(HEARTBEAT_AWAITED.as_millis() <= HEARTBEAT_BUSY.as_millis());
    assert!(SUSPECT_AFTER.as_millis() < DEAD_AFTER.as_millis());
    assert!(DEAD_AFTER.as_millis() < AGGREGATION_TIMEOUT.as_millis());
    assert!(AGGREGATION_TIMEOUT.as_millis() < RETURN_TIMEOUT.as_millis());
    assert!(STALLED_AFTER.as_millis() < MAX_ANSWER_TIME.as_millis());
};

/// The most that a lease's writer will send for a range, repeats included: a client that claims
/// losses for ever gets nothing more.
#[must_use]
pub const fn lease_budget(range: u64) -> u64 {
    range.saturating_add(range / 4).saturating_add(1024 * 1024)
}
