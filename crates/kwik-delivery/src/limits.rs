//! Every bound of delivery, with its reason.

use std::time::Duration;

/// Version of the delivery protocol that this build speaks.
pub const DELIVERY_VERSION: u32 = 1;
/// Bytes of a group: what is verified, blamed and fetched again as one.
pub const GROUP_SIZE: u64 = 64 * 1024;
/// Bytes of one chaining value or root.
pub const HASH_SIZE: usize = 32;
/// Groups whose chaining values make a page of the outboard: 128 KiB, for 256 MiB of the object.
/// A server holds a page or two of an object at a time.
pub const PAGE_GROUPS: u64 = 4096;
/// Pages that a download holds beyond the one in use: they cover 4 GiB, which is what comes within
/// QUIC's idle timeout at 1 Gbit/s when the primary is gone without a word.
pub const PAGES_AHEAD: usize = 16;
/// Largest object: what stands above the pages of its outboard is 128 KiB, as large as a page.
pub const MAX_OBJECT: u64 = 1 << 40;
/// Largest single read from a source: large enough for full disk speed, small enough to bound
/// what a slow peer keeps in memory.
pub const MAX_READ: u64 = 1024 * 1024;
/// Bytes of an object's name.
pub const MAX_NAME: usize = 1024;
/// Bytes of a host name (RFC 1035 section 2.3.4).
pub const MAX_HOST: usize = 253;
/// Bytes of a zone, which is an interface's name: IFNAMSIZ without its end.
pub const MAX_ZONE: usize = 15;
/// Bytes of a secret in a link, at the least: nobody guesses so many over a network.
pub const MIN_SECRET: usize = 16;
/// The same at the most: twice what 256 random bits take in hexadecimal digits.
pub const MAX_SECRET: usize = 128;
/// Bytes of a ticket in a link: base64 of a name, a time and a signature, and some to spare.
pub const MAX_PASS: usize = 2048;
/// Bytes of a request or response without its length prefix: refused from the prefix alone.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Bytes of a failure's text.
pub const MAX_TEXT: usize = 512;
/// Bytes of a source's word for an object's state (an entity tag, say).
pub const MAX_STATE: usize = 256;
/// Objects that are looked up or served at once; more are told that the server is busy. One for
/// each request that all sessions may have: with fewer, one client could keep others from all
/// objects but those that it holds.
pub const MAX_LOOKUPS: usize = MAX_REQUESTS * kwik_proto::limits::MAX_SESSIONS;
/// Bytes of manifests that are kept in memory where the catalogue cannot be written: enough for 60
/// GiB of objects.
pub const MAX_KEPT: usize = 32 * 1024 * 1024;
/// What a manifest takes there beside its outboard and its names.
pub const KEPT_BESIDE: usize = 256;
/// Larger objects are hashed one after another, which disks like best; smaller ones take
/// milliseconds.
pub const LARGE_OBJECT: u64 = 16 * 1024 * 1024;
/// Large objects hashed at once: leaves disk and cores for sending.
pub const MAX_HASHING_LARGE: usize = 1;
/// Small objects hashed at once.
pub const MAX_HASHING_SMALL: usize = 4;
/// Objects that are hashed before anybody asks for them: their names take some ten megabytes.
pub const MAX_AHEAD: usize = 100_000;
/// Groups whose chaining values are kept as one while a large object is hashed: 16 MiB are hashed
/// again after a server's end.
pub const KEPT_GROUPS: usize = 256;
/// How often what is hashed ahead looks whether somebody waits for it, or for another.
pub const GIVE_WAY_FOR: Duration = Duration::from_millis(100);
/// While an object is hashed, the operator is told so often how far that is.
pub const SAY_HASHING_EVERY: Duration = Duration::from_secs(10);
/// One in this many of the file descriptors that the process may have is for files that are served;
/// the rest is for sockets, the catalogue and what the program itself opens.
pub const DESCRIPTORS_SHARE: usize = 4;
/// Files read at once: each read has a descriptor for as long as it takes, beside those kept open.
pub const MAX_READS: usize = 16;
/// Requests of one session that are answered at once; more wait on their streams.
pub const MAX_REQUESTS: usize = 16;
/// How far the clocks of a primary and its edge may be apart.
pub use kwik_proto::limits::CLOCK_SKEW;
/// Servers that one names for when it has ended: links of two kilobytes at the most, in one
/// message.
pub const MAX_SUCCESSORS: usize = 8;
/// Servers of one link: more than anybody has who is not to be dialed for a minute in vain, and few
/// enough for a line.
pub const MAX_PRIMARIES: usize = 8;
/// An object that may come on the stream of its answer: one group, which needs no hashes beside its
/// own, and comes from the primary anyway before an edge could be asked.
pub const MAX_INLINE: u64 = GROUP_SIZE;
/// Small objects that one request may ask for: with so many, a request's own cost is little beside
/// theirs.
pub const MAX_PACK: usize = 64;
/// Bytes of them all: what a server has in memory for each request of that kind.
pub const MAX_PACK_SIZE: u64 = 256 * 1024;
/// Bytes of their names: with what stands beside them, they go into a lease's command.
pub const MAX_PACK_NAMES: usize = 8 * 1024;
/// Entries of one listing's answer: a server keeps them while they are sent, some megabytes with
/// long names. A client asks again for more.
pub const MAX_LISTED: usize = 10_000;
/// Bytes of entries in one message, from which on another begins: with one more entry it is below
/// [`MAX_MESSAGE`].
pub const LISTED_MESSAGE: usize = 32 * 1024;
/// Folders that are listed at once, for all clients together: each keeps the names of an answer,
/// and reads the whole of a folder for it.
pub const MAX_LISTINGS: usize = 4;
/// Entries of a folder that a client takes in all: more than file systems are used with, and days
/// of a server that invents them.
pub const MAX_ENTRIES: u64 = 100_000_000;
/// Leases of one session that an edge fills at once; each holds two blocks at the most.
pub const MAX_FILLS: usize = 64;
/// A block read for sending: enough for full disk speed, half of the largest piece.
pub const MAX_SEND: u64 = 512 * 1024;
/// The least of such a block where the operator bounds the rate: a quarter of a group.
pub const MIN_SEND: u64 = 16 * 1024;
/// Blocks a second at such a rate: no pause between them is long enough to look like a stall.
pub const SENDS_A_SECOND: u64 = 20;
/// A block verified and written as one.
pub const WRITE_BLOCK: usize = 1024 * 1024;
/// Blocks that an object has at the least which another download may go on with: with
/// [`WRITE_QUEUE`] blocks that wait, a twentieth is lost at the most when its process is killed.
/// Larger objects have more, and smaller ones as many as they have groups.
pub const RESUMED_BLOCKS: u64 = 128;
/// Blocks of one download that wait to be verified and written.
pub const WRITE_QUEUE: usize = 4;
/// Received slices taken from a stream at once.
pub const READ_BATCH: usize = 64;
/// Ranges that are written down of a file that is not whole yet: bytes arrive in order, so that
/// more are missing only where some were found to be damaged. What is left out is fetched again.
pub const MAX_RANGES: usize = 128;
/// Of a download, one part in so many is made durable as one: what a power cut costs, give or take
/// what is written while the disk works.
pub const SYNC_PARTS: u64 = 50;
/// Less than this is not made durable alone: to fetch it again takes less time.
pub const SYNC_LEAST: u64 = 1024 * 1024;
/// Ranges of one download that are fetched again at once: a window full of a liar's bytes takes few
/// round trips, and each keeps one block.
pub const MAX_REPAIRS: usize = 8;
/// Paths that a request may name: more than a session ever has at once.
pub const MAX_EXCLUDED: usize = 64;
/// Blames in one request: one a path.
pub const MAX_BLAMED: usize = 16;
/// A fetch that makes no progress for so long has failed: as long as QUIC's idle timeout, so that a
/// silence that a session lives through costs no fetch.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The same for what is fetched again from one of several servers: longer than the primary takes to
/// notice that a server brings nothing.
pub const PATIENCE_AGAIN: Duration = Duration::from_secs(10);
/// While an answer takes longer, the client is told so this often: a fraction of [`PATIENCE`].
pub const WORKING_EVERY: Duration = Duration::from_secs(2);
/// Times its patience that a client waits for a primary that says so and hashes nothing: 10 min by
/// default, in which a primary hashes some hundred GiB of what others asked for before.
pub const WORKING_PATIENCE: u32 = 20;
/// How long an edge that sent wrong bytes is leased nothing: long enough that it costs little when
/// it goes on, and one that was mended comes back by itself.
pub const QUARANTINE: Duration = Duration::from_secs(60 * 60);
/// Half round trips of the primary, at the least, from its wish for an edge to that edge's first
/// byte: the request, the answer, the lease.
pub const JOIN_HALF_ROUND_TRIPS: u32 = 3;
/// Round trips of the edge in that time: QUIC's handshake, the grant with its answer, the lease
/// with the first byte.
pub const JOIN_EDGE_ROUND_TRIPS: u32 = 3;
/// What a connection brings in its first round trip (RFC 9002 section 7.2).
pub const INITIAL_WINDOW: u64 = 14_720;
/// Between two looks at whether an edge is worth its joining, at least: a look takes microseconds.
pub const LOOK_LEAST: Duration = Duration::from_millis(10);
/// The same at the most, while something is left to fetch and an edge is missing. So a session
/// notices that another one left an edge with a cap, and that an edge's quarantine is over.
pub const LOOK_MOST: Duration = Duration::from_secs(1);
/// Edges leave a session that fetched nothing for so long: each has room for so many sessions, and
/// to join again takes a moment.
pub const IDLE_LEAVE: Duration = Duration::from_secs(60);
/// Added to the period in which a client admits so many dials: requests do not all take equally
/// long to reach it.
pub const DIAL_MARGIN: Duration = Duration::from_millis(500);
/// Wait before an edge that did not join is tried again: doubled each time, up to the largest, give
/// or take a fifth. A client that is refused by its own dial policy has room again by the fourth.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// See [`RETRY_FIRST`].
pub const RETRY_LAST: Duration = Duration::from_secs(60);
/// An edge that is lost sooner after it joined goes on with the waits where it was.
pub const RETRY_CALM: Duration = Duration::from_secs(10);
/// How long a range that no present server may bring waits for an edge to join.
pub const JOIN_WAIT: Duration = Duration::from_secs(5);
/// A session that had nothing to do for so long is over for a server that drains: a client asks for
/// the next thing within a few round trips.
pub const DRAIN_QUIET: Duration = Duration::from_secs(1);
/// Former addresses of an edge that its paths are told by: those of some moves within the life of a
/// session.
pub const MAX_FORMER_ADDRESSES: usize = 16;
/// Files and folders that a search looks at, for hidden ones or for those left behind: a moment,
/// also in a home folder.
pub const MAX_LOOKED_AT: usize = 10_000;
/// Folders within folders that a listing enters.
pub const MAX_DEPTH: usize = 64;

const _: () = {
    assert!(PATIENCE_AGAIN.as_millis() < PATIENCE.as_millis());
    assert!(JOIN_WAIT.as_millis() < PATIENCE_AGAIN.as_millis());
    assert!(4 * WORKING_EVERY.as_millis() < PATIENCE.as_millis());
    assert!(GROUP_SIZE.is_power_of_two() && GROUP_SIZE >= 1024); // whole BLAKE3 chunks
    assert!(MIN_SEND <= MAX_SEND && MAX_SEND <= MAX_READ);
    assert!((WRITE_BLOCK as u64).is_multiple_of(GROUP_SIZE));
    assert!(MAX_READ.is_multiple_of(GROUP_SIZE));
    // What is taken over ends where a page or a read does.
    assert!(PAGE_GROUPS.is_multiple_of(KEPT_GROUPS as u64));
    assert!((KEPT_GROUPS as u64 * GROUP_SIZE).is_multiple_of(MAX_READ));
    assert!(PAGE_GROUPS.is_power_of_two()); // a page is a whole subtree
    assert!((GROUP_SIZE * PAGE_GROUPS).is_multiple_of(WRITE_BLOCK as u64));
    assert!((GROUP_SIZE * PAGE_GROUPS).is_multiple_of(MAX_READ));
    assert!(MAX_OBJECT / GROUP_SIZE / PAGE_GROUPS <= PAGE_GROUPS);
    assert!(LISTED_MESSAGE + MAX_NAME + 256 <= MAX_MESSAGE);
    assert!(MAX_NAME + MAX_TEXT + MAX_STATE + 256 <= MAX_MESSAGE);
    assert!((MAX_NAME + 128) * 4 / 3 < MAX_PASS);
    assert!(MAX_PASS + 256 <= kwik_proto::limits::MAX_CREDENTIALS);
    assert!(MAX_PACK_NAMES + 4 * MAX_PACK + 256 <= kwik_proto::limits::MAX_COMMAND);
    assert!(MAX_INLINE <= MAX_PACK_SIZE && MAX_PACK * (HASH_SIZE + 64) <= MAX_MESSAGE);
    assert!(MAX_NAME <= MAX_PACK_NAMES);
    assert!(MAX_SUCCESSORS * (MAX_PASS + MAX_HOST + MAX_ZONE + 128) <= MAX_MESSAGE);
};
