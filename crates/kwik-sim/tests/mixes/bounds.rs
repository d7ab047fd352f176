//! What must hold. It is asserted with `KWIK_MIX_STRICT=1`, and printed beside each table.

/// A figure of a family stays within its limit in that share of its mixes.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) family: &'static str,
    pub(crate) figure: &'static str,
    pub(crate) limit: f64,
    pub(crate) share: f64,
}

const fn bound(family: &'static str, figure: &'static str, limit: f64, share: f64) -> Bound {
    Bound { family, figure, limit, share }
}

const MEDIAN: f64 = 0.5;
const P10: f64 = 0.9;
/// 198 of 200.
const MOST: f64 = 0.99;
const EVERY: f64 = 1.0;

/// `time/bound`: over the best server's own time, three round trips of the primary and two of that
/// server. `time/plain`: over 1.15 times the primary's plain stream and one of its round trips.
pub(crate) const BOUNDS: &[Bound] = &[
    bound("short 100 KB", "time/bound", 1.0, MOST),
    bound("short 100 KB", "time/bound", 2.0, EVERY),
    bound("short 100 KB", "time/plain", 1.0, EVERY),
    bound("short 1 MB", "time/bound", 1.0, MOST),
    bound("short 1 MB", "time/bound", 2.0, EVERY),
    bound("short 1 MB", "time/plain", 1.0, EVERY),
    bound("short 10 MB", "time/bound", 1.0, MOST),
    bound("short 10 MB", "time/bound", 2.0, EVERY),
    bound("short 10 MB", "time/plain", 1.0, EVERY),
    bound("short 100 KB while dialing", "time/bound", 1.0, MOST),
    bound("short 100 KB while dialing", "time/bound", 2.0, EVERY),
    bound("short 100 KB while dialing", "time/plain", 1.0, EVERY),
    bound("short 1 MB while dialing", "time/bound", 1.0, MOST),
    bound("short 1 MB while dialing", "time/bound", 2.0, EVERY),
    bound("short 1 MB while dialing", "time/plain", 1.0, EVERY),
    bound("short 10 MB while dialing", "time/bound", 1.0, MOST),
    bound("short 10 MB while dialing", "time/bound", 2.0, EVERY),
    bound("short 10 MB while dialing", "time/plain", 1.0, EVERY),
    bound("slow", "share of sum", 0.95, MEDIAN),
    bound("slow", "share of sum", 0.85, EVERY),
    bound("slow", "rate/best", 0.97, EVERY),
    bound("slow", "twice", 0.02, EVERY),
    bound("equal slow links", "share of sum", 0.95, EVERY),
    bound("equal slow links", "twice", 0.02, EVERY),
    bound("long", "share of sum", 0.98, MEDIAN),
    bound("long", "share of sum", 0.93, P10),
    bound("long", "rate/best", 0.97, EVERY),
    bound("long", "twice", 0.01, EVERY),
    bound("long", "tail/mean", 0.90, MEDIAN),
    bound("lossy", "share of raw rates", 0.85, MEDIAN),
    bound("lossy", "twice", 0.03, EVERY),
    bound("rtt ratios", "share of sum", 0.99, EVERY),
    bound("shared access link", "rate/best", 0.99, EVERY),
    bound("loss of 10 %", "twice", 0.03, EVERY),
    bound("20 clients", "bytes/payload", 1.02, EVERY),
    bound("20 clients", "time/one server", 1.1, EVERY),
    bound("100 clients", "bytes/payload", 1.02, EVERY),
    bound("100 clients", "time/one server", 1.1, EVERY),
    bound("tiny 1 B", "first byte, ms late", 5.0, EVERY),
    bound("tiny 1 B", "whole, ms late", 5.0, EVERY),
    bound("tiny 10 KB", "first byte, ms late", 5.0, EVERY),
    bound("tiny 10 KB", "whole, ms late", 5.0, EVERY),
    bound("tiny 1 B while dialing", "first byte, ms late", 5.0, EVERY),
    bound("tiny 1 B while dialing", "whole, ms late", 5.0, EVERY),
    bound("tiny 10 KB while dialing", "first byte, ms late", 5.0, EVERY),
    bound("tiny 10 KB while dialing", "whole, ms late", 5.0, EVERY),
];
