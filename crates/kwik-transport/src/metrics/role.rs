//! What endpoints are in sessions.

/// What an endpoint is in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionRole {
    /// It dialed.
    Client,
    /// It owns the session.
    Primary,
    /// It serves a session of another server's.
    Secondary,
}

impl SessionRole {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Client, Self::Primary, Self::Secondary];

    /// A word for it, which labels of metrics have.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}
