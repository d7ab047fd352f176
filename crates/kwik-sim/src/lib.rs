//! A simulated UDP network in virtual time, under unmodified KWIK and its QUIC library (11.2).
//!
//! A [`Sim`] has [`Host`]s. Each is on the network by a link with a [`Shape`] either way: rate,
//! queue, delay, loss and more, which may change at any time. A host may also crash, freeze and
//! start again. Everything runs on one thread, and time passes only while nobody has anything to
//! do, so that a scenario of minutes takes milliseconds, and the same seed gives the same trace of
//! packets ([`Sim::trace`]).
//!
//! ```
//! use std::time::Duration;
//! use kwik_sim::{Shape, Sim};
//!
//! let sim = Sim::new(7);
//! let server = sim.host("server");
//! let ms = Duration::from_millis;
//! server.link(Shape::rate_mbit(50).delay(ms(20)).queue(ms(50)));
//! sim.at(Duration::from_secs(3), {
//!     let server = server.clone();
//!     move || server.crash()
//! });
//! sim.block_on({
//!     let sim = sim.clone();
//!     async move { sim.sleep(Duration::from_secs(60)).await }
//! });
//! assert_eq!(sim.elapsed(), Duration::from_secs(60));
//! ```

mod executor;
mod host;
mod link;
mod sim;
mod socket;
mod timer;
mod trace;

pub use host::Host;
pub use link::Shape;
pub use sim::{Elapsed, Sim};
pub use trace::{Fate, Packet, Trace};
