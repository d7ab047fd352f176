//! The settings of a session (8.8), each with its default, its bounds and whether it changes while
//! the session runs.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::limits;
use crate::wire::DataOptions;
use crate::wire::control::StreamLimits;

/// A setting that cannot be as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value out of its bounds.
    #[error("{setting} cannot be {value}: set it within {bounds}")]
    OutOfBounds {
        /// Which setting.
        setting: &'static str,
        /// What was asked for.
        value: String,
        /// What it may be.
        bounds: String,
    },
    /// Two settings contradict each other.
    #[error("{setting} is too large for {other}: lower {setting}, or raise {other}")]
    TooLarge {
        /// The one that is larger.
        setting: &'static str,
        /// The one that should be.
        other: &'static str,
    },
    /// The floors of so many streams do not fit into the window.
    #[error(
        "initial_window is too small for so many streams: \
         raise it to {least}, or lower max_streams_*"
    )]
    WindowTooSmall {
        /// The least initial window.
        least: u64,
    },
    /// There is no setting of this name.
    #[error("no such setting: there are {}", .known.trim_end())]
    Unknown {
        /// Those that there are.
        known: &'static str,
    },
    /// A text that is no value of the setting.
    #[error("{setting} is {wanted}")]
    Unreadable {
        /// Which setting.
        setting: &'static str,
        /// What it takes.
        wanted: &'static str,
    },
    /// The setting holds for the whole of a session.
    #[error("{setting} is agreed on when a session starts: set it for sessions to come")]
    FixedForSession {
        /// Which setting.
        setting: &'static str,
    },
}

/// Settings that stay as they were agreed on when a session began.
const FIXED: [&str; 4] = ["max_streams_bidi", "max_streams_uni", "checksum", "compression"];

/// A value of a setting as text.
pub(crate) trait Setting: Sized {
    /// What it takes, for people.
    const WANTED: &'static str;
    fn show(&self) -> String;
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! plain {
    ($($type:ty: $wanted:literal;)*) => { $(
        impl Setting for $type {
            const WANTED: &'static str = $wanted;
            fn show(&self) -> String {
                self.to_string()
            }
            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )* };
}
plain! {
    u32: "a whole number";
    u64: "a whole number";
    usize: "a whole number";
    f64: "a number";
    bool: "true or false";
}

impl Setting for Duration {
    const WANTED: &'static str = "a whole number of milliseconds";
    fn show(&self) -> String {
        self.as_millis().to_string()
    }
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self::from_millis)
    }
}

/// Choices, by their names.
macro_rules! choices {
    ($($type:ident: $wanted:literal, $($name:ident = $text:literal),*;)*) => { $(
        impl Setting for $type {
            const WANTED: &'static str = $wanted;
            fn show(&self) -> String {
                match self { $(Self::$name => $text,)* }.to_owned()
            }
            fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    )* };
}
choices! {
    ConflictPolicy: "first-wins, last-wins, primary-wins or reject",
        FirstWins = "first-wins", LastWins = "last-wins", PrimaryWins = "primary-wins",
        Reject = "reject";
    AggregationFallback: "ignore-corrupt, ask-again, close-stream or isolate-source",
        IgnoreCorrupt = "ignore-corrupt", AskAgain = "ask-again", CloseStream = "close-stream",
        IsolateSource = "isolate-source";
    MetadataRecovery: "close-path, resend, use-defaults, close-stream or ignore-stream",
        ClosePath = "close-path", Resend = "resend", UseDefaults = "use-defaults",
        CloseStream = "close-stream", IgnoreStream = "ignore-stream";
    WindowRecovery: "wait, reallocate or cleanup",
        Wait = "wait", Reallocate = "reallocate", Cleanup = "cleanup";
    Backoff: "constant, linear or exponential",
        Constant = "constant", Linear = "linear", Exponential = "exponential";
    SecondaryWrites: "leased or open", Leased = "leased", Open = "open";
}

pub(crate) fn check<T: PartialOrd + fmt::Debug>(
    setting: &'static str,
    value: &T,
    bounds: &RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if bounds.contains(value) {
        return Ok(());
    }
    let (value, bounds) = (format!("{value:?}"), format!("{bounds:?}"));
    Err(ConfigError::OutOfBounds { setting, value, bounds })
}

/// One line a setting: its documentation, name, setter, type, default and bounds. Behind
/// `=>` come sets of settings of their own, whose setters have checked them.
macro_rules! settings {
    ($(#[$head:meta])* $config:ident;
        $($(#[$doc:meta])* $name:ident, $set:ident: $type:ty = $default:expr, $bounds:expr;)*
        $(=> $($(#[$part_doc:meta])* $part:ident, $set_part:ident: $part_type:ty;)*)?) => {
        $(#[$head])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $config {
            $($name: $type,)*
            // None where all are as by default: each session keeps some copies.
            $($($part: Option<Box<$part_type>>,)*)?
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($name: $default,)* $($($part: None,)*)? }
            }
        }

        impl $config {
            /// Every setting: its name, what it is now, and whether it changes while a session
            /// lives.
            #[must_use]
            pub fn settings(&self) -> Vec<(&'static str, String, bool)> {
                vec![$((
                    stringify!($name),
                    $crate::config::Setting::show(&self.$name),
                    !$crate::config::FIXED.contains(&stringify!($name)),
                ),)*]
            }

            /// Sets the setting of this name to what the text says: a number, `true` or `false`, a
            /// time in milliseconds.
            ///
            /// # Errors
            /// There is no such setting, the text is no such value, or it is out of bounds.
            pub fn set(
                &mut self,
                name: &str,
                text: &str,
            ) -> Result<&mut Self, $crate::ConfigError> {
                use $crate::config::{ConfigError, Setting};
                match name {
                    $(stringify!($name) => {
                        let value = Setting::parse(text).ok_or_else(|| ConfigError::Unreadable {
                            setting: stringify!($name),
                            wanted: <$type as Setting>::WANTED,
                        })?;
                        self.$set(value)
                    })*
                    _ => Err(ConfigError::Unknown { known: concat!($(stringify!($name), " "),*) }),
                }
            }

            $(
                $(#[$doc])*
                #[must_use]
                pub const fn $name(&self) -> $type {
                    self.$name
                }

                #[doc = concat!(
                    "Sets [`", stringify!($config), "::", stringify!($name), "`].\n\n# Errors\n",
                    "[`ConfigError::OutOfBounds`](crate::ConfigError::OutOfBounds); ",
                    "the setting stays as it was.",
                )]
                pub fn $set(&mut self, value: $type) -> Result<&mut Self, $crate::ConfigError> {
                    $crate::config::check(stringify!($name), &value, &($bounds))?;
                    self.$name = value;
                    Ok(self)
                }
            )*
            $($(
                $(#[$part_doc])*
                #[must_use]
                pub fn $part(&self) -> $part_type {
                    self.$part.as_deref().cloned().unwrap_or_default()
                }

                #[doc = concat!("Sets [`", stringify!($config), "::", stringify!($part), "`].")]
                pub fn $set_part(&mut self, value: $part_type) -> &mut Self {
                    let changed = value != <$part_type>::default();
                    self.$part = changed.then(|| Box::new(value));
                    self
                }
            )*)?
        }
    };
}

mod recovery;
mod secondary;

pub use recovery::{
    AggregationFallback, Backoff, ConflictPolicy, MappingRetry, MetadataRecovery, Recovery,
    WindowRecovery,
};
pub use secondary::{SecondaryStreamConfig, SecondaryWrites};

settings! {
    /// Settings of sessions (8.8). Getters have the settings' names; setters check the bounds,
    /// and [`Config::validate`] how settings relate.
    ///
    /// The design documents' workers are the async runtime's, and there is nothing to clean up
    /// at intervals: memory is given back when it falls free.
    Config;
    /// Bidirectional streams that the peer may have open at once; 100. Fixed for a session.
    max_streams_bidi, set_max_streams_bidi: u64 = limits::MAX_STREAMS,
        limits::FIRST_FLIGHT_STREAMS..=limits::MAX_STREAMS;
    /// Unidirectional streams that the peer may have open at once; 100. Fixed for a session.
    max_streams_uni, set_max_streams_uni: u64 = limits::MAX_STREAMS,
        limits::FIRST_FLIGHT_STREAMS..=limits::MAX_STREAMS;
    /// Session receive window in bytes, at the start and at the least; 4 MiB (the design documents'
    /// window size). With [`Config::max_window`] the same, the window's size is fixed. Changes
    /// live: a smaller window grows to it at once.
    initial_window, set_initial_window: u64 = limits::INITIAL_WINDOW, 1..=limits::MAX_OFFSET;
    /// Session receive window in bytes that it may grow to by itself; 32 MiB. Changes live: a
    /// larger window shrinks to it as credit comes back, but not below the floors told to the peer
    /// at the start.
    max_window, set_max_window: u64 = limits::MAX_WINDOW, 1..=limits::MAX_OFFSET;
    /// What one stream may have granted and not read, in bytes, until its reader proves fast; 1 MiB
    /// (the design documents' maximum per stream). Changes live: what was granted stays so.
    stream_buffer, set_stream_buffer: u64 = limits::STREAM_BUFFER,
        limits::FIRST_FLIGHT_DATA..=limits::MAX_OFFSET;
    /// What a stream's buffer may grow to, in bytes; 32 MiB. Changes live: what was granted stays
    /// so.
    max_stream_buffer, set_max_stream_buffer: u64 = limits::MAX_WINDOW,
        limits::FIRST_FLIGHT_DATA..=limits::MAX_OFFSET;
    /// The share of a stream's buffer that waits unread from which on it is under backpressure
    /// (8.3); 0.75. Changes live.
    stream_threshold, set_stream_threshold: f64 = 0.75, 0.1..=1.0;
    /// The share of the window that waits unread from which on the session is under backpressure
    /// (8.3); 0.80. Changes live.
    window_threshold, set_window_threshold: f64 = 0.80, 0.1..=1.0;
    /// A stream is told of credit in steps of this many bytes, of up to four at once while that is
    /// less than a sixteenth of what it may have in flight; 64 KiB (the design documents' slide
    /// size). Changes live.
    slide_step, set_slide_step: u64 = limits::SLIDE_STEP, 1..=limits::MAX_OFFSET;
    /// A gap that keeps a reader waiting for this long is reported and acted on (8.4); 100 ms (the
    /// design documents' gap timeout). Changes live.
    gap_timeout, set_gap_timeout: Duration = limits::GAP_TIMEOUT,
        Duration::from_millis(1)..=limits::AGGREGATION_TIMEOUT;
    /// Logical streams of equal priority that share a QUIC stream; 4, and 1 shares none (5.2).
    /// Changes live, for frames to come.
    streams_per_quic_stream, set_streams_per_quic_stream: u64 = limits::STREAMS_PER_QUIC_STREAM,
        1..=limits::MAX_STREAMS;
    /// Frames of small writes that leave in one packet at most; 256 (the design documents' batch
    /// size). Changes live, for frames to come.
    batch_size, set_batch_size: usize = limits::MAX_PACKET_FRAMES, 1..=limits::MAX_PACKET_FRAMES;
    /// Bytes sent on a path and not acknowledged beyond which bulk writers wait; 7 MiB. Changes
    /// live.
    max_unacked, set_max_unacked: u64 = limits::MAX_UNACKED,
        2 * limits::MAX_PACKET_PAYLOAD as u64..=limits::MAX_OFFSET;
    /// Whether data packets carry a CRC32C, if the peer takes it (4.7); off. Fixed for a session.
    checksum, set_checksum: bool = false, false..=true;
    /// Whether payload that shrinks by it is compressed, if the peer takes it (4.7); off. Fixed for
    /// a session.
    compression, set_compression: bool = false, false..=true;
    /// Which copy of a byte counts when two sources bring different ones and none is read yet
    /// (7.4); the first. Changes live.
    conflict_policy, set_conflict_policy: ConflictPolicy = ConflictPolicy::FirstWins,
        ConflictPolicy::FirstWins..=ConflictPolicy::Reject;
    =>
    /// Secondary streams (7.5). Changes live.
    secondary, set_secondary: SecondaryStreamConfig;
    /// What is done about errors of sources (9.2). Changes live.
    recovery, set_recovery: Recovery;
}

impl Config {
    /// Checks that a live session may go on with `new` in place of these settings.
    ///
    /// # Errors
    /// [`ConfigError::FixedForSession`], and those of [`Config::validate`].
    pub fn check_change(&self, new: &Self) -> Result<(), ConfigError> {
        let fixed = |name: &&str| FIXED.contains(name);
        let (before, after) = (self.settings(), new.settings());
        let changed = before.iter().zip(&after).find(|(old, new)| fixed(&old.0) && old.1 != new.1);
        if let Some(((setting, ..), _)) = changed {
            return Err(ConfigError::FixedForSession { setting });
        }
        new.validate()
    }

    /// Checks how the settings relate.
    ///
    /// # Errors
    /// What to change.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (setting, least, other, most) in [
            ("initial_window", self.initial_window, "max_window", self.max_window),
            ("stream_buffer", self.stream_buffer, "max_stream_buffer", self.max_stream_buffer),
        ] {
            if least > most {
                return Err(ConfigError::TooLarge { setting, other });
            }
        }
        // Floors take half of it, and the first stream of each kind more of the other half.
        let floors = limits::FIRST_FLIGHT_DATA * 2 * self.max_receiving();
        let least = floors.max(4 * limits::FIRST_STREAM_DATA);
        if self.initial_window < least {
            return Err(ConfigError::WindowTooSmall { least });
        }
        Ok(())
    }

    /// Receiving halves that can exist at once: the peer's streams, and our own bidirectional ones.
    pub(crate) fn max_receiving(&self) -> u64 {
        2 * self.max_streams_bidi + self.max_streams_uni
    }

    /// What each stream is granted before anything is said: its floor.
    pub(crate) fn floor(&self) -> u64 {
        self.initial_window / (2 * self.max_receiving())
    }

    /// What the very first stream of each kind that the peer opens is granted before anything is
    /// said: a small part of what the window lends.
    pub(crate) fn first_stream_data(&self) -> u64 {
        let (least, most) = (limits::FIRST_STREAM_DATA, limits::MAX_FIRST_STREAM_DATA);
        (self.initial_window / 64).clamp(least, most).max(self.floor())
    }

    /// What [`limits::FIRST_STREAM_DATA`] is beyond a floor.
    pub(crate) fn first_loan(&self) -> u64 {
        limits::FIRST_STREAM_DATA.saturating_sub(self.floor())
    }

    /// For how many streams of each kind that the peer may open next a first loan is kept: one
    /// at least.
    pub(crate) fn first_streams(&self) -> u64 {
        let lent = self.initial_window - self.max_receiving() * self.floor();
        let kept = lent / limits::FIRST_STREAMS_SHARE;
        let streams = kept.checked_div(2 * self.first_loan()).unwrap_or(limits::MAX_STREAMS);
        streams.clamp(1, limits::MAX_STREAMS)
    }

    /// What is wanted of the packets of a session's paths.
    pub(crate) fn data_options(&self) -> DataOptions {
        DataOptions { checksum: self.checksum, compression: self.compression }
    }

    /// The limits to tell the peer in the first flight.
    #[must_use]
    pub fn stream_limits(&self) -> StreamLimits {
        StreamLimits {
            max_streams_bidi: self.max_streams_bidi,
            max_streams_uni: self.max_streams_uni,
            initial_max_stream_data: self.floor(),
            first_streams: self.first_streams(),
            initial_max_first_stream_data: self.first_stream_data(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_setters_keep_their_bounds() {
        let mut config = Config::default();
        assert_eq!(config.validate(), Ok(()));
        config.set_max_streams_uni(8).unwrap().set_stream_threshold(0.5).unwrap();
        assert_eq!((config.max_streams_uni(), config.stream_threshold()), (8, 0.5));
        let error = config.set_max_streams_uni(7).unwrap_err();
        assert_eq!(error.to_string(), "max_streams_uni cannot be 7: set it within 8..=100");
        assert!(config.set_stream_threshold(f64::NAN).is_err());
        assert!(config.set_gap_timeout(Duration::ZERO).is_err());
        assert_eq!((config.max_streams_uni(), config.stream_threshold()), (8, 0.5));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let mut config = Config::default();
        config.set_max_window(1 << 20).unwrap();
        let error = config.validate().unwrap_err();
        assert_eq!(error, ConfigError::TooLarge { setting: "initial_window", other: "max_window" });
        config.set_initial_window(1 << 19).unwrap();
        let ConfigError::WindowTooSmall { least } = config.validate().unwrap_err() else {
            panic!("the floors are too small")
        };
        config.set_initial_window(least).unwrap();
        assert_eq!(config.validate(), Ok(()));
        config.set_max_stream_buffer(1 << 16).unwrap();
        assert!(config.validate().is_err());
    }

    #[test]
    fn what_is_agreed_on_at_the_start_stays() {
        let config = Config::default();
        let mut new = config.clone();
        new.set_max_window(1 << 23).unwrap().set_slide_step(1 << 10).unwrap();
        assert_eq!(config.check_change(&new), Ok(()));
        new.set_compression(true).unwrap();
        let setting = "compression";
        assert_eq!(config.check_change(&new), Err(ConfigError::FixedForSession { setting }));
    }
}
