//! Priorities of streams (5.4, 8.5).

/// The four named priorities. Any `i32` is one, as in quinn: higher goes first, 0 at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// -1: after all that is normal.
    Low,
    /// 0.
    #[default]
    Normal,
    /// 1: finds room although normal streams have filled the connection.
    High,
    /// 2: before all that is high.
    Critical,
}

impl From<Priority> for i32 {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Low => -1,
            Priority::Normal => 0,
            Priority::High => 1,
            Priority::Critical => 2,
        }
    }
}
