//! Drives a session's state machine: feeds it what connections bring and does what it asks.
//!
//! One rule: [`Shared::drive`] locks the machine, lets it take an input, moves its control bytes to
//! their paths' queues, takes its actions, unlocks, and acts. Payload goes past it: a reader
//! task puts chunks into a stream's receiving half, and tells the machine once a batch.
//!
//! Each file uses only those of the lines above its own:
//!
//! - what a session is made of: `role`, `pool`, `control`, `link`, `home`, `end`, `alarm`, `marks`,
//!   `waiters`, `datagrams`, `watch`, `writer`, `chunks`
//! - `shared`: the session; and what follows when it is driven: `act`, `close`, `replace`
//! - `held`: who holds it
//! - its tasks: `timer`; `sink`, `secondary` and `reader`; `path`
//! - new connections: `dial`, `redial`

mod act;
mod alarm;
mod chunks;
mod close;
mod control;
mod datagrams;
mod dial;
mod end;
mod held;
mod home;
mod link;
mod marks;
mod path;
mod pool;
mod reader;
mod redial;
mod replace;
mod role;
mod secondary;
mod shared;
mod sink;
mod timer;
mod waiters;
mod watch;
mod writer;

pub(crate) use close::Ended;
pub(crate) use control::{ControlStream, open_control};
pub(crate) use datagrams::Datagrams;
pub(crate) use dial::{SERVER_NAME, dial};
pub(crate) use held::{Held, WeakHeld};
pub(crate) use marks::MarkPair;
pub(crate) use path::start;
pub(crate) use pool::{DataPool, FrameWriter, Room};
pub(crate) use redial::{ToPrimary, farewell, redial, take_up};
pub(crate) use role::{Role, StreamRole};
pub(crate) use shared::{AnyShared, Dialer, Shared, Slot};
pub(crate) use waiters::StreamWaiters;
pub(crate) use watch::Watch;
pub(crate) use writer::StreamWriter;
