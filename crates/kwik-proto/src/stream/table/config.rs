//! The settings of a session's streams, while it runs (8.8).

use std::time::Instant;

use crate::sync::lock;
use crate::{Config, ConfigError};

use super::StreamTable;

impl StreamTable {
    /// The settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Goes on with other settings; what was granted stays so.
    ///
    /// # Errors
    /// They contradict each other, or one of them holds for the whole session; nothing has changed
    /// then.
    pub fn set_config(&mut self, config: Config, now: Instant) -> Result<(), ConfigError> {
        self.config.check_change(&config)?;
        self.window.set_bounds(config.initial_window(), config.max_window());
        for entry in self.streams.values_mut() {
            let buffer = entry.buffer.clamp(config.stream_buffer(), config.max_stream_buffer());
            entry.buffer = buffer.min(entry.max_buffer);
            if let Some(recv) = &entry.halves.recv {
                lock(recv).set_policy(&config);
            }
        }
        self.config = config;
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.judge(id, now);
            self.grant(id);
        }
        Ok(())
    }
}
