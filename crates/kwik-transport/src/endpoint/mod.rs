//! Dialing and listening, as in quinn (1.1).

mod accept;
mod config;
mod connect;
mod dial;
mod dialer;
mod handle;
mod primaries;
mod registry;
mod slots;
mod turn;
mod watch;

pub use accept::{Accepted, Incoming};
pub use config::{Certificate, ClientConfig, Credentials, ServerConfig};
pub use connect::Connecting;
pub use handle::{Endpoint, EndpointError};
pub use primaries::SessionEnd;
pub use turn::Primary;
