//! What the opener of a stream says of it (8.5).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::limits;
use crate::wire::WireError;
use crate::wire::pb::metadata as pb;

use super::Priority;

/// What a stream is for. It changes nothing in how KWIK treats the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StreamType {
    /// Payload.
    #[default]
    Data,
    /// The application's control messages.
    Control,
    /// The application's descriptions of other streams.
    Metadata,
}

/// A property that a stream cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The key is empty or too long.
    #[error("a property's key has between 1 and {} bytes", limits::MAX_PROPERTY_KEY)]
    Key,
    /// There are too many.
    #[error("a stream has at most {} properties", limits::MAX_PROPERTIES)]
    TooMany,
    /// They are too large.
    #[error("a stream's properties have at most {} bytes together", limits::MAX_PROPERTY_BYTES)]
    TooLarge,
}

/// What the opener of a stream says of it (8.5); by default, nothing. It is told to the peer when
/// the stream is opened, and never changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamMetadata {
    stream_type: StreamType,
    priority: Priority,
    max_buffer: Option<u64>,
    created_at: Option<SystemTime>,
    properties: BTreeMap<String, Bytes>,
}

impl StreamMetadata {
    /// Nothing in particular.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the stream is for.
    #[must_use]
    pub fn stream_type(&self) -> StreamType {
        self.stream_type
    }

    /// See [`StreamMetadata::stream_type`].
    pub fn set_stream_type(&mut self, stream_type: StreamType) -> &mut Self {
        self.stream_type = stream_type;
        self
    }

    /// With which priority its opener began to write it.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// See [`StreamMetadata::priority`].
    pub fn set_priority(&mut self, priority: Priority) -> &mut Self {
        self.priority = priority;
        self
    }

    /// Bytes that either side shall have granted and not read at the most; none: what its settings
    /// say. The floor that every stream has is granted all the same.
    #[must_use]
    pub fn max_buffer(&self) -> Option<u64> {
        self.max_buffer
    }

    /// See [`StreamMetadata::max_buffer`]; 0 sets none.
    pub fn set_max_buffer(&mut self, bytes: u64) -> &mut Self {
        self.max_buffer = Some(bytes).filter(|bytes| *bytes > 0);
        self
    }

    /// When it was opened, by its opener's clock, in microseconds.
    #[must_use]
    pub fn created_at(&self) -> Option<SystemTime> {
        self.created_at
    }

    /// See [`StreamMetadata::created_at`]; times before 1970 set none.
    pub fn set_created_at(&mut self, at: SystemTime) -> &mut Self {
        let micros = at.duration_since(SystemTime::UNIX_EPOCH).ok();
        let micros = micros.and_then(|since| u64::try_from(since.as_micros()).ok());
        self.created_at = micros.and_then(from_micros);
        self
    }

    /// The value of one property.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<&Bytes> {
        self.properties.get(key)
    }

    /// All properties, by key.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.properties.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Gives the stream a property, in place of one with the same key.
    ///
    /// # Errors
    /// It is too long, or they are too many; nothing has changed then.
    pub fn set_property(
        &mut self,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<&mut Self, MetadataError> {
        if key.is_empty() || key.len() > limits::MAX_PROPERTY_KEY {
            return Err(MetadataError::Key);
        }
        let value = value.into();
        let others = || self.properties.iter().filter(|(other, _)| *other != key);
        if others().count() >= limits::MAX_PROPERTIES {
            return Err(MetadataError::TooMany);
        }
        let bytes: usize = others().map(|(key, value)| key.len() + value.len()).sum();
        if bytes + key.len() + value.len() > limits::MAX_PROPERTY_BYTES {
            return Err(MetadataError::TooLarge);
        }
        self.properties.insert(key.to_owned(), value);
        Ok(self)
    }

    /// For the notice to the peer; none when there is nothing to say.
    pub(super) fn to_proto(&self) -> Option<pb::StreamMetadata> {
        let created = self.created_at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let properties = self.properties.iter();
        let property = |(key, value): (&String, &Bytes)| pb::StreamProperty {
            key: key.clone(),
            value: value.clone(),
        };
        (*self != Self::default()).then(|| pb::StreamMetadata {
            stream_id: 0,
            stream_type: match self.stream_type {
                StreamType::Data => pb::StreamType::Data,
                StreamType::Control => pb::StreamType::Control,
                StreamType::Metadata => pb::StreamType::Metadata,
            }
            .into(),
            priority: match self.priority {
                Priority::Low => pb::StreamPriority::Low,
                Priority::Normal => pb::StreamPriority::Normal,
                Priority::High => pb::StreamPriority::High,
                Priority::Critical => pb::StreamPriority::Critical,
            }
            .into(),
            max_buffer_size: self.max_buffer.unwrap_or_default(),
            created_at: created.map_or(0, |at| u64::try_from(at.as_micros()).unwrap_or_default()),
            last_activity: 0,
            properties: properties.map(property).collect(),
        })
    }

    /// What a peer's notice says.
    pub(super) fn from_proto(message: Option<pb::StreamMetadata>) -> Result<Self, WireError> {
        let mut metadata = Self::default();
        let Some(m) = message else { return Ok(metadata) };
        metadata.stream_type = match pb::StreamType::try_from(m.stream_type) {
            Ok(pb::StreamType::Data) => StreamType::Data,
            Ok(pb::StreamType::Control) => StreamType::Control,
            Ok(pb::StreamType::Metadata) => StreamType::Metadata,
            Err(_) => return Err(violation("an unknown type of stream")),
        };
        metadata.priority = match pb::StreamPriority::try_from(m.priority) {
            Ok(pb::StreamPriority::Low) => Priority::Low,
            Ok(pb::StreamPriority::Normal) => Priority::Normal,
            Ok(pb::StreamPriority::High) => Priority::High,
            Ok(pb::StreamPriority::Critical) => Priority::Critical,
            Err(_) => return Err(violation("an unknown priority")),
        };
        metadata.set_max_buffer(m.max_buffer_size);
        if m.created_at > 0 {
            let at = from_micros(m.created_at);
            metadata.created_at = Some(at.ok_or_else(|| violation("a time beyond all clocks"))?);
        }
        for property in m.properties {
            if metadata.properties.contains_key(&property.key) {
                return Err(violation("a property twice"));
            }
            let set = metadata.set_property(&property.key, property.value);
            set.map_err(|error| violation(&error.to_string()))?;
        }
        Ok(metadata)
    }
}

fn from_micros(micros: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}

fn violation(what: &str) -> WireError {
    WireError::Metadata(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use proptest::prelude::*;

    #[test]
    fn what_is_said_arrives_and_nothing_costs_nothing() {
        let mut metadata = StreamMetadata::new();
        assert_eq!(metadata.to_proto(), None);
        assert_eq!(StreamMetadata::from_proto(None), Ok(metadata.clone()));
        metadata.set_stream_type(StreamType::Control).set_priority(Priority::Critical);
        metadata.set_max_buffer(7).set_created_at(SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        metadata.set_property("name", &b"video"[..]).unwrap().set_property("x", "").unwrap();
        let wire = metadata.to_proto();
        assert_eq!(StreamMetadata::from_proto(wire), Ok(metadata));
    }

    #[test]
    fn malformed_metadata_is_a_violation() {
        let good = pb::StreamMetadata { max_buffer_size: 1, ..Default::default() };
        assert!(StreamMetadata::from_proto(Some(good.clone())).is_ok());
        let property =
            |key: &str, len| pb::StreamProperty { key: key.into(), value: vec![0; len].into() };
        let many = (0..=limits::MAX_PROPERTIES).map(|index| property(&index.to_string(), 0));
        let broken = [
            pb::StreamMetadata { stream_type: 3, ..good.clone() },
            pb::StreamMetadata { priority: -1, ..good.clone() },
            pb::StreamMetadata { properties: many.collect(), ..good.clone() },
            pb::StreamMetadata { properties: vec![property("", 1)], ..good.clone() },
            pb::StreamMetadata { properties: vec![property("a", 1); 2], ..good.clone() },
            pb::StreamMetadata { properties: vec![property(&"k".repeat(65), 1)], ..good.clone() },
            pb::StreamMetadata {
                properties: vec![property("a", limits::MAX_PROPERTY_BYTES)],
                ..good
            },
        ];
        for m in broken {
            let error = StreamMetadata::from_proto(Some(m.clone())).unwrap_err();
            assert_eq!(error.code(), Code::MetadataProtocolViolation, "{m:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_peer_says_is_bounded(
            stream_type in -1..4i32,
            priority in -1..5i32,
            numbers in any::<(u64, u64)>(),
            properties in prop::collection::vec(("[a-z]{0,70}", 0..600usize), 0..20),
        ) {
            let property = |(key, len): (String, usize)| {
                pb::StreamProperty { key, value: vec![0; len].into() }
            };
            let message = pb::StreamMetadata {
                stream_id: 0,
                stream_type,
                priority,
                max_buffer_size: numbers.0,
                created_at: numbers.1,
                last_activity: 0,
                properties: properties.into_iter().map(property).collect(),
            };
            if let Ok(metadata) = StreamMetadata::from_proto(Some(message)) {
                let all = metadata.properties();
                let bytes: usize = all.map(|(key, value)| key.len() + value.len()).sum();
                prop_assert!(bytes <= limits::MAX_PROPERTY_BYTES);
                prop_assert!(metadata.properties().count() <= limits::MAX_PROPERTIES);
                let wire = metadata.to_proto();
                prop_assert_eq!(StreamMetadata::from_proto(wire), Ok(metadata));
            }
        }
    }
}
