//! Public types may be sent to other threads and shared between them, and so may their futures.

use kwik::{
    Accepted, BackpressureReason, BackpressureStats, Certificate, Chunk, ClientConfig,
    ClosedStream, Code, CodedError, Config, ConfigError, ConnectError, Connecting, ConnectionError,
    Endpoint, EndpointError, GapNotice, Identity, Incoming, IssuedLease, Lease, LeaseOutcome,
    LeaseWriter, Mapping, MetadataError, OpenStreamError, PathError, PathInfo, PathStats,
    PrimarySession, Priority, QuicConfig, ReadError, ReadTimeoutError, ReadToEndError, ReasonStats,
    RecvStats, RecvStream, RelayReport, SecondarySession, SecondaryStream, SendDatagramError,
    SendStats, SendStream, ServerConfig, ServerTrust, Session, SessionConfig, SessionStats,
    Stalled, StreamMetadata, StreamStats, StreamType, TlsError, WriteError, Written,
};

const fn shared<T: Send + Sync + 'static>() {}
const fn sent<T: Send>(_: &T) {}

macro_rules! assert_shared {
    ($($name:ty),+ $(,)?) => { $(const _: () = shared::<$name>();)+ };
}

assert_shared!(
    BackpressureReason,
    BackpressureStats,
    GapNotice,
    MetadataError,
    Priority,
    ReadTimeoutError,
    ReasonStats,
    RecvStats,
    SendStats,
    Stalled,
    StreamMetadata,
    StreamStats,
    StreamType,
    Accepted,
    Certificate,
    Chunk,
    ClientConfig,
    ClosedStream,
    Code,
    CodedError,
    Config,
    ConfigError,
    ConnectError,
    ConnectionError,
    Endpoint,
    EndpointError,
    Identity,
    Incoming,
    IssuedLease,
    Lease,
    LeaseOutcome,
    LeaseWriter,
    Mapping,
    OpenStreamError,
    PathError,
    PathInfo,
    PathStats,
    PrimarySession,
    QuicConfig,
    ReadError,
    ReadToEndError,
    RecvStream,
    RelayReport,
    SecondarySession,
    SecondaryStream,
    SendDatagramError,
    SendStream,
    ServerConfig,
    ServerTrust,
    Session,
    SessionConfig,
    SessionStats,
    TlsError,
    WriteError,
    Written,
);

const fn unpin<T: Unpin>() {}
const _: () = {
    unpin::<SendStream>();
    unpin::<RecvStream>();
    unpin::<Connecting>();
};

/// Futures that tasks on several threads may run; only compiled.
#[allow(dead_code, reason = "compiling it is the test")]
fn futures(
    (endpoint, session, primary): (&Endpoint, &Session, &PrimarySession),
    (edge, send, recv): (&SecondarySession, &mut SendStream, &mut RecvStream),
    (lease, writer, mapped): (&mut Lease, &mut LeaseWriter, &mut SecondaryStream),
) {
    sent(&endpoint.accept());
    sent(&endpoint.wait_idle());
    sent(&session.open_bi());
    sent(&session.accept_uni());
    sent(&session.read_datagram());
    sent(&session.closed());
    sent(&primary.relay_report());
    sent(&primary.path_changed());
    sent(&edge.accept_lease());
    sent(&edge.recv_raw());
    sent(&send.write_all(b""));
    sent(&send.stopped());
    sent(&recv.read_to_end(0));
    sent(&recv.read_chunk(0, true));
    sent(&lease.outcome());
    sent(&writer.activated());
    sent(&edge.open_stream(writer.stream(), 0));
    sent(&mapped.write_all(b""));
    sent(&mapped.set_mapping(writer.stream(), 0));
}

const fn sent_type<T: Send>() {}
const _: () = sent_type::<Connecting>();

#[test]
fn errors_are_errors() {
    fn error<E: std::error::Error + Send + Sync + 'static>() {}
    error::<ConnectError>();
    error::<ConnectionError>();
    error::<EndpointError>();
    error::<OpenStreamError>();
    error::<PathError>();
    error::<ReadError>();
    error::<ReadToEndError>();
    error::<WriteError>();
    error::<ClosedStream>();
    error::<SendDatagramError>();
    error::<CodedError>();
    error::<TlsError>();
}
