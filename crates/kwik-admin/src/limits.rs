//! Every bound of the administration interface, with its reason.

use std::time::Duration;

/// Connections at once: a scraper, some pages and some shells. Others wait to be accepted.
pub const MAX_CONNECTIONS: usize = 64;
/// Event streams at once: each holds a connection for as long as it likes.
pub const MAX_EVENT_STREAMS: usize = 16;
/// Bytes of a request's body: commands are a line of JSON.
pub const MAX_BODY: usize = 16 * 1024;
/// Bytes of a request's head.
pub const MAX_HEAD: usize = 16 * 1024;
/// How long the head of a request, or its body, may take to come.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command may take: as long as a path takes to be made.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing of an answer for so long is cut off.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a token: 22 of base64, or 32 of hexadecimal, have 128 bits.
pub const MIN_TOKEN: usize = 32;
/// ... at the most.
pub const MAX_TOKEN: usize = 256;
/// Of requests without the token, one line for the log in so long: who guesses fills no disk.
pub const SAY_REFUSED_EVERY: Duration = Duration::from_secs(10);
/// Characters of what such a request asked for that the line has.
pub const MAX_SHOWN_PATH: usize = 200;
/// Bytes of a reason in a command: it travels in one packet.
pub const MAX_REASON: usize = 256;
/// Bytes of receive credit that all sessions of an endpoint share, at the least: with less, nobody
/// gets a window.
pub const MIN_MEMORY_BUDGET: u64 = 1024 * 1024;
/// Sessions of a list; the rest is counted.
pub const MAX_LISTED: usize = 1_000;
/// Streams of one session that are shown.
pub const MAX_STREAMS: usize = 100;
/// Ranges of one stream that are shown, of what is held and of what is asked for: a page asks each
/// second, and shows no more than a few hundred.
pub const MAX_RANGES: usize = 200;
/// How long a look at sessions counts for others who look: half of the time between two looks of a
/// page, so that figures never stand still for it.
pub const SHARED_FOR: Duration = Duration::from_millis(500);
/// Such looks that are kept: more pages than there may be connections ask for no more.
pub const MAX_SHARED: usize = MAX_CONNECTIONS;
/// How often what gives rise to alerts is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Alerts that are kept after they were lifted.
pub const MAX_PAST_ALERTS: usize = 100;
