//! What happens, and the `tracing` events and traces of it with the same names of fields.

use std::time::{Instant, SystemTime};

use kwik_proto::path::{PathEvent, PathStatus};
use kwik_proto::presentation::BackpressureReason;
use kwik_proto::session::SessionEvent;
use kwik_proto::{PathId, SessionId, StreamId};

use crate::quic::Qlog;

use super::family::outcome;
use super::role::SessionRole;

/// Something that happened at an endpoint (10.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// To which session, as far as it has an id by then.
    pub session: Option<SessionId>,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A session began.
    SessionBegun {
        /// What this endpoint is in it.
        role: SessionRole,
    },
    /// A session is over.
    SessionEnded {
        /// What this endpoint was in it.
        role: SessionRole,
        /// `local`, `peer` or `transport`.
        by: &'static str,
        /// A name for the code.
        code: &'static str,
        /// The same in words; a peer's are escaped.
        reason: String,
    },
    /// Its primary's connection was lost, and it goes on over another.
    Resumed {
        /// What this endpoint is in it.
        role: SessionRole,
    },
    /// A path changed its status.
    Path {
        /// Which.
        path: PathId,
        /// To what.
        status: PathStatus,
        /// Why; a peer's words.
        reason: String,
        /// It will not come back.
        ended: bool,
    },
    /// A lease ended.
    Lease {
        /// Of which path, and which stream, at the primary.
        of: Option<(PathId, StreamId)>,
        /// `done`, `stopped` or `lost`.
        outcome: &'static str,
    },
    /// Backpressure that this side applies changed.
    Backpressure {
        /// Of which stream; none: of the session.
        stream: Option<StreamId>,
        /// Why; none: it is lifted.
        reason: Option<BackpressureReason>,
    },
    /// A path fell silent, and others are asked for what it owed.
    Switched {
        /// Which.
        path: PathId,
        /// How long it had brought nothing, in microseconds.
        after_micros: u64,
    },
}

impl EventKind {
    /// What is told of it, if that is.
    pub(super) fn of(event: SessionEvent) -> Option<Self> {
        Some(match event {
            SessionEvent::Path(PathEvent { path, status, reason, ended, .. }) => {
                Self::Path { path, status, reason, ended }
            }
            SessionEvent::Lease { of, outcome: how } => Self::Lease { of, outcome: outcome(how) },
            SessionEvent::Backpressure(change) => {
                Self::Backpressure { stream: change.stream, reason: change.reason }
            }
            SessionEvent::Switched { path, after } => {
                let after_micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                Self::Switched { path, after_micros }
            }
            SessionEvent::Answered { .. } => return None,
        })
    }
}

impl EventKind {
    /// All names, each with what it says, for tables.
    pub const NAMES: [(&'static str, &'static str); 7] = [
        ("session_begun", "A session began; `role` is what this endpoint is in it."),
        ("session_ended", "A session is over: `by` whom, with which `code` and `reason`."),
        ("resumed", "A session whose primary's connection was lost goes on over another one."),
        ("path", "A `path` changed its `status`: why, and whether it has `ended` for good."),
        ("lease", "A lease ended: its `outcome`, at a primary with `path` and `stream`."),
        ("backpressure", "Backpressure began, changed, or was lifted (no `reason`)."),
        ("switched", "A silent `path`: others are asked for what it owed, `after_micros`."),
    ];

    /// A word for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SessionBegun { .. } => "session_begun",
            Self::SessionEnded { .. } => "session_ended",
            Self::Resumed { .. } => "resumed",
            Self::Path { .. } => "path",
            Self::Lease { .. } => "lease",
            Self::Backpressure { .. } => "backpressure",
            Self::Switched { .. } => "switched",
        }
    }
}

/// What an event says of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventField {
    /// A word or a text; a peer's is escaped.
    Text(String),
    /// A whole number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Nothing: it has no value here.
    Absent,
}

impl EventField {
    fn text(text: &(impl ToString + ?Sized)) -> Self {
        Self::Text(text.to_string())
    }

    fn of<T: ToString>(text: Option<&T>) -> Self {
        text.map_or(Self::Absent, Self::text)
    }
}

impl EventKind {
    /// What it says, by the names that logs, server-sent events and qlogs have for it.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, EventField)> {
        use EventField::{Absent, Flag, Number};
        let text = |name: &str| EventField::text(name);
        let path_number = |path: PathId| Number(path.0.into());
        match self {
            Self::SessionBegun { role } | Self::Resumed { role } => {
                vec![("role", text(role.name()))]
            }
            Self::SessionEnded { role, by, code, reason } => vec![
                ("role", text(role.name())),
                ("by", text(by)),
                ("code", text(code)),
                ("reason", text(reason)),
            ],
            Self::Path { path, status, reason, ended } => vec![
                ("path", path_number(*path)),
                ("status", text(status.name())),
                ("reason", EventField::text(&kwik_proto::escape(reason))),
                ("ended", Flag(*ended)),
            ],
            Self::Lease { of, outcome } => {
                let (path, stream) = of.unzip();
                vec![
                    ("path", path.map_or(Absent, path_number)),
                    ("stream", EventField::of(stream.as_ref())),
                    ("outcome", text(outcome)),
                ]
            }
            Self::Backpressure { stream, reason } => vec![
                ("stream", EventField::of(stream.as_ref())),
                ("reason", EventField::of(reason.map(BackpressureReason::name).as_ref())),
            ],
            Self::Switched { path, after_micros } => {
                vec![("path", path_number(*path)), ("after_micros", Number(*after_micros))]
            }
        }
    }
}

#[cfg(feature = "qlog")]
impl From<EventField> for serde_json::Value {
    fn from(field: EventField) -> Self {
        match field {
            EventField::Text(text) => text.into(),
            EventField::Number(number) => number.into(),
            EventField::Flag(flag) => flag.into(),
            EventField::Absent => Self::Null,
        }
    }
}

impl Event {
    /// Writes it to a qlog.
    #[cfg(feature = "qlog")]
    pub(super) fn note(&self, now: Instant, qlog: &Qlog) {
        let fields = self.kind.fields().into_iter();
        let fields = fields.filter(|(_, field)| *field != EventField::Absent);
        let fields = fields.map(|(name, field)| (name.to_owned(), field.into()));
        let session = self.session.map(|id| id.to_string());
        let data = serde_json::Value::Object(fields.collect());
        qlog.note((now, self.at), session, self.kind.name(), data);
    }

    /// There is no qlog.
    #[cfg(not(feature = "qlog"))]
    pub(super) fn note(&self, _: Instant, _: &Qlog) {}

    /// The same for logs. A peer decides how many there are, so they are `DEBUG`: what an operator
    /// is told unasked is bounded elsewhere.
    pub(super) fn trace(&self) {
        let session = self.session.map(tracing::field::display);
        let event = self.kind.name();
        match &self.kind {
            EventKind::SessionBegun { role } => {
                tracing::debug!(session, event, role = role.name(), "session begun");
            }
            EventKind::SessionEnded { role, by, code, reason } => {
                let role = role.name();
                tracing::debug!(session, event, role, by, code, reason, "session ended");
            }
            EventKind::Resumed { role } => {
                tracing::debug!(session, event, role = role.name(), "session resumed");
            }
            EventKind::Path { path, status, reason, ended } => {
                let (status, reason) = (status.name(), kwik_proto::escape(reason));
                tracing::debug!(session, event, %path, status, %reason, ended, "path changed");
            }
            EventKind::Lease { of, outcome } => {
                let (path, stream) = of.unzip();
                let (path, stream) =
                    (path.map(tracing::field::display), stream.map(tracing::field::display));
                tracing::debug!(session, event, path, stream, outcome, "lease ended");
            }
            EventKind::Backpressure { stream, reason } => {
                let stream = stream.map(tracing::field::display);
                let reason = reason.map(BackpressureReason::name);
                tracing::debug!(session, event, stream, reason, "backpressure");
            }
            EventKind::Switched { path, after_micros } => {
                tracing::debug!(session, event, %path, after_micros, "path switched");
            }
        }
    }
}
