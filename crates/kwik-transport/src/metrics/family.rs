//! Figures in the shape that exporters want, and the words for labels: few, whatever peers do.

use std::time::Duration;

use kwik_proto::Code;
use kwik_proto::stats::Latencies;
use kwik_proto::wire::control::LeaseOutcome;

use crate::quic::{ConnectError, ConnectionError};

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only rises; `_total` is added to its name.
    Counter,
    /// It rises and falls.
    Gauge,
    /// Times.
    Histogram,
}

/// Numbers of one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// What its numbers mean.
    pub kind: MetricKind,
    /// The same in words.
    pub help: &'static str,
    /// One for each set of labels.
    pub samples: Vec<Sample>,
}

/// One number.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its labels: words of this library, never a peer's.
    pub labels: Vec<(&'static str, &'static str)>,
    /// What it is.
    pub value: Value,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A whole number.
    Number(u64),
    /// Seconds.
    Time(Duration),
    /// A histogram.
    Times(Latencies),
}

/// How a lease ended.
pub(super) const fn outcome(outcome: LeaseOutcome) -> &'static str {
    match outcome {
        LeaseOutcome::Done => "done",
        LeaseOutcome::Stopped => "stopped",
        LeaseOutcome::Lost => "lost",
    }
}

/// Who ended a session, and with which code.
pub(super) fn end(error: &ConnectionError) -> (&'static str, &'static str) {
    match error {
        ConnectionError::LocallyClosed => ("local", "closed"),
        // What is no code of ours is QUIC's, or TLS's.
        ConnectionError::TransportError { code, .. } => {
            ("local", Code::from_u64(*code).map_or("quic", Code::name))
        }
        ConnectionError::ApplicationClosed { code, .. } => ("peer", code_name(*code)),
        ConnectionError::Busy => ("peer", Code::Busy.name()),
        ConnectionError::ConnectionClosed { .. } => ("transport", "quic"),
        ConnectionError::VersionMismatch => ("transport", "version"),
        ConnectionError::SessionUnknown => ("peer", "session_unknown"),
        ConnectionError::ServerRestarted => ("peer", "server_restarted"),
        ConnectionError::Reset => ("transport", "reset"),
        ConnectionError::TimedOut => ("transport", "timed_out"),
        ConnectionError::CidsExhausted => ("transport", "ids"),
    }
}

/// A code of ours by its name, 0 as `closed`, and all that applications choose as one.
fn code_name(code: u64) -> &'static str {
    match Code::from_u64(code) {
        _ if code == 0 => "closed",
        Some(code) => code.name(),
        None => "application",
    }
}

/// Why a handshake failed.
pub(super) fn failure(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::PinMismatch { .. } => "pin",
        ConnectError::Refused(_) => "refused",
        ConnectError::InvalidConfig(_) | ConnectError::NoDefaultClientConfig => "configuration",
        ConnectError::Connection(error) => match end(error) {
            (_, "closed") => "closed",
            (_, code) => code,
        },
        _ => "address",
    }
}
