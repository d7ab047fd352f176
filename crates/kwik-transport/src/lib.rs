//! KWIK (QUIC With Intelligent Konnections): one session with the API of a QUIC library, several
//! servers behind it.
//!
//! A client dials a primary server and gets a [`Session`], which has the names and shapes of
//! quinn's `Connection`. The primary may have the client make paths to secondary servers
//! ([`PrimarySession`]) and lease them ranges of the client's streams; secondaries write for their
//! leases ([`SecondarySession`], [`LeaseWriter`]); the client reads one ordered stream.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use std::sync::Arc;
//! use kwik::{ClientConfig, Endpoint, Identity, ServerConfig};
//!
//! let identity = Arc::new(Identity::from_seed([7; 32]));
//! let key = identity.fingerprint();
//! let server = Endpoint::server(ServerConfig::new(identity), "127.0.0.1:0".parse()?)?;
//! let address = server.local_addr()?;
//! tokio::spawn(async move {
//!     let session = server.accept().await.unwrap().await.unwrap();
//!     let (mut send, mut recv) = session.accept_bi().await.unwrap();
//!     let greeting = recv.read_to_end(100).await.unwrap();
//!     send.write_all(&greeting).await.unwrap();
//!     send.finish().unwrap();
//!     session.closed().await;
//! });
//!
//! let client = Endpoint::client("127.0.0.1:0".parse()?)?;
//! let session = client.connect_with(ClientConfig::pinned(key), address, "")?.await?;
//! let (mut send, mut recv) = session.open_bi().await?;
//! send.write_all(b"hello").await?;
//! send.finish()?;
//! assert_eq!(recv.read_to_end(100).await?, b"hello");
//! session.close(0, b"done");
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```

mod driver;
mod endpoint;
mod lease;
mod mapped;
mod metrics;
mod primary;
mod quic;
pub mod runtime;
mod secondary;
mod session;
mod streams;

pub use endpoint::{
    Accepted, Certificate, ClientConfig, Connecting, Credentials, Endpoint, EndpointError,
    Incoming, Primary, ServerConfig, SessionEnd,
};
pub use kwik_proto::auth::{
    AcceptAny, Authenticator, DialPolicy, Fingerprint, Identity, Introduction, PrivateRanges,
};
pub use kwik_proto::bottleneck::{Bottleneck, Marks, Snapshot};
pub use kwik_proto::lease::{IssuedLease, LeaseOutcome};
pub use kwik_proto::mapping::{Mapping, MappingState, Place};
pub use kwik_proto::path::{PathEvent, PathInfo, PathStatus};
pub use kwik_proto::presentation::{
    BackpressureReason, BackpressureStats, BufferUsage, ReasonStats,
};
pub use kwik_proto::session::{Blamed, ClientConfig as SessionConfig, RelayReport, Uncovered};
pub use kwik_proto::stats::{
    CongestionState, CongestionStats, Decision, DuplicateStats, Latencies, PathFigures, PathStats,
    QuicStreams, RecvStats, ScheduleStats, SecondaryStats, SendStats, SessionStats, StreamMap,
    StreamScheduleStats, StreamStats,
};
pub use kwik_proto::stream::{
    Delivered, GapNotice, HalfEnd, MetadataError, Priority, ReadSoFar, Sent, StreamMetadata,
    StreamType,
};
pub use kwik_proto::wire::DataOptions;
pub use kwik_proto::{
    AggregationFallback, Backoff, Code, CodedError, Config, ConfigError, ConflictPolicy, Dir,
    Escaped, LeaseId, MappingRetry, MetadataRecovery, PathId, Recovery, SecondaryStreamConfig,
    SecondaryWrites, SessionId, Side, StreamId, WindowRecovery, escape,
};
pub use lease::{Lease, LeaseWriter};
pub use mapped::{OpenStreamError, SecondaryStream};
pub use metrics::{
    Event, EventField, EventKind, Events, FAMILIES as METRICS, Family, LiveSession, MetricKind,
    Sample, SessionRole, Value,
};
pub use primary::{BlamedEvents, PathError, PathEvents, PrimarySession, UncoveredEvents};
#[cfg(feature = "qlog")]
pub use quic::Qlog;
pub use quic::{
    ClosedStream, CongestionControl, ConnectError, ConnectionError, QuicConfig, SendDatagramError,
    ServerTrust, TlsError,
};
pub use secondary::SecondarySession;
pub use session::{Session, Session as Connection};
pub use streams::{
    Chunk, ReadError, ReadTimeoutError, ReadToEndError, RecvStream, SendStream, Stalled,
    WriteError, Written,
};

/// Keeps the README's examples compiling.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The same of the library's document.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct ByExample;
